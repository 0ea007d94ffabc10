"""What capture will cost: its own forecast, made before the corpus is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from components.capture import arrays
from components.capture.capture import CaptureConfig, memory_bytes, speed
from components.capture.matrix import Matrix
from components.capture.written import row_bytes
from components.device import Execution
from components.errors import CorpusError
from components.model.hook_point import translate
from components.model.reference import ModelReference
from components.paths import expanded
from components.registry import nearest
from components.store.forecast import Forecast, Foreteller, Knob, Timing, lower

PASS = 12  # tensors of the width of the residual stream that a block holds while it runs, those of its MLP among them


def formula(config: CaptureConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """Shards of every split, the model, and the shards in memory."""
    if config.arrays.path:
        return _of_file(config)
    model, corpus = inputs["model"], inputs["corpus"].facts
    counts = _counts(config, corpus)
    widths = {translate(name): model.width(name, settings) for name in config.hook_points}
    own = getattr(torch, model.config.dtype)
    dtype = own if config.dtype == "model" else getattr(torch, config.dtype)
    length, longest = corpus["context_length"], max(count["contexts"] for count in counts.values())
    memory = {
        "model": model.n_bytes,
        "shards": memory_bytes(config, longest, length, list(widths.values()), own),
        "forward pass": min(config.batch_size, longest) * length * PASS * model.shape.d_model * own.itemsize,
    }
    n_tokens = sum(count["rows"] for count in counts.values())
    facts = {
        "hook_points": {name: {"d_in": width} for name, width in widths.items()},
        "splits": counts,
        "dtype": str(dtype).removeprefix("torch."),
    }
    return Forecast(memory, {"activations": n_tokens * row_bytes(list(widths.values()), dtype)}, facts=facts)


def probe(config: CaptureConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """Loads the model and runs a few batches of random tokens; of a file its first rows are read."""
    if config.arrays.path:
        return _time_of_file(config, seconds)
    started = time.perf_counter()
    reference: ModelReference = inputs["model"]
    model = reference.load(settings)
    loading = time.perf_counter() - started
    points = [model.hook_point(name).name for name in config.hook_points]
    rate = speed(model, config, points, inputs["corpus"].facts["context_length"])
    n_tokens = sum(count["rows"] for count in _counts(config, inputs["corpus"].facts).values())
    return Timing(
        loading + n_tokens / rate,
        f"loaded the model in {loading:.1f} s, ran a few batches at {rate:,.0f} tokens a second",
        f"in proportion to {n_tokens:,} tokens",
    )


def _of_file(config: CaptureConfig) -> Forecast:
    """What lies in the file, and what of it each split gets; its rows are not read."""
    matrix = Matrix(expanded(config.arrays.path), config.hook_points)
    where = arrays.places(config.arrays, matrix.n_rows, config.splits, config.tokens)
    dtype = matrix.dtype if config.dtype == "model" else getattr(torch, config.dtype)
    n_bytes = row_bytes(list(matrix.widths.values()), dtype)
    counts = arrays.counts(where, config.splits)
    memory = {
        "places of the rows": 4 * arrays.COLUMNS * matrix.n_rows,
        "shards": len(config.splits) * arrays.SHARD_BYTES,
    }
    facts = {
        "hook_points": {name: {"d_in": width} for name, width in matrix.widths.items()},
        "splits": counts,
        "dtype": str(dtype).removeprefix("torch."),
    }
    n_rows = sum(count["rows"] for count in counts.values())
    return Forecast(memory, {"activations": n_rows * n_bytes}, facts=facts)


def _time_of_file(config: CaptureConfig, seconds: float) -> Timing:
    matrix = Matrix(expanded(config.arrays.path), config.hook_points)
    started, n_read = time.perf_counter(), 0
    for start, rows in matrix.blocks():
        n_read = start + len(next(iter(rows.values())))
        if time.perf_counter() - started > min(1.0, seconds):
            break
    rate = n_read / (time.perf_counter() - started)
    return Timing(
        3 * matrix.n_rows / rate,
        f"read {n_read:,} rows at {rate:,.0f} a second",
        f"in proportion to {matrix.n_rows:,} rows, three times: read, written, and their norms counted",
    )


def _counts(config: CaptureConfig, corpus: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Rows and contexts of each split that is captured; a limit is taken in whole contexts."""
    counts = {}
    for name in config.splits:
        if name not in corpus["splits"]:
            raise CorpusError(f"the corpus will have no split {name!r}; {nearest(name, corpus['splits'])}")
        split = corpus["splits"][name]
        limit = config.tokens.get(name, 0)
        share = min(1.0, limit / split["tokens"]) if limit else 1.0
        counts[name] = {
            "rows": round(split["tokens"] * share),
            "contexts": max(1, -(-int(split["contexts"] * share) // 1)),
            "documents": max(1, round(split["documents"] * share)),
        }
    return counts


def _narrower(config: CaptureConfig, forecast: Forecast) -> list[str]:
    size = getattr(torch, forecast.facts["dtype"]).itemsize
    return ["float16"] if size > torch.float16.itemsize else []


def _fewer(config: CaptureConfig, forecast: Forecast) -> list[dict[str, int]]:
    """Every split is cut to the same number of tokens, where it has more."""
    rows = {name: forecast.facts["splits"][name]["rows"] for name in config.splits}
    cuts = sorted({largest * share // 100 for largest in rows.values() for share in range(1, 100)} - {0}, reverse=True)
    return [{**config.tokens, **{name: cut for name, n in rows.items() if n > cut}} for cut in cuts]


CAPTURE_FORETELLER = Foreteller(
    formula,
    probe,
    for_memory=(lower("contexts_per_shard"), lower("batch_size")),
    for_disk=(Knob("dtype", _narrower), Knob("tokens", _fewer)),
    on_device=True,
)
