"""Capture: runs the model over contexts and writes the activations at several hook points in one
pass.

The pass stops behind the last hook point. Whole contexts go in, kept tokens come out, in context
order. The loop only queues work: on CUDA tokens and activations travel through pinned memory
without a wait, and a single thread behind the loop picks the kept rows, counts norms and writes
shards, so that writing overlaps the forward pass. A shard that an interrupted run finished is not
computed again, and what comes out is the same. A capture that the disk cannot hold is refused
before anything is written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from components.capture import arrays, written
from components.capture.arrays import ArraysConfig
from components.capture.contexts import (
    Queued,
    SplitContexts,
    arrived,
    contexts_of,
    in_batches,
    queued,
)
from components.capture.matrix import Matrix
from components.config import Config, execution
from components.device import Execution
from components.errors import ConfigError, CorpusError
from components.model.language_model import LanguageModel
from components.model.reference import ModelReference
from components.paths import expanded
from components.registry import nearest
from components.store.artifact import content_number
from components.store.estimate import Estimate, Estimator, lower
from components.store.shards import FROM_MODEL, shard_rows, write_activations
from components.store.stage import Parent, Progress, Stage, Work

MEDIAN_CONTEXTS = 64  # contexts whose median norm says what an outlier is
# tensors of the width of the residual stream that a block holds while it runs, those of its MLP
# among them
PASS = 12
FROM_FILE = 2e8  # bytes a second that are read, written and read once more for their norms


class CaptureConfig(Config):
    """Which activations are kept."""

    hook_points: tuple[str, ...] = Field(("resid_post.2",), min_length=1)
    """Places in the model, canonical or TransformerLens names; all are read in one pass."""
    splits: tuple[str, ...] = Field(
        ("train", "select", "explain", "calibrate", "validate", "test"), min_length=1
    )
    """Splits of the corpus that are captured."""
    tokens: dict[str, NonNegativeInt] = {}
    """At most about this many tokens of a split, in whole contexts; a split that is not named, or
    0, is taken whole."""
    dtype: Literal["model", "float32", "float16", "bfloat16"] = "model"
    """Type on disk; `model` keeps that of the model."""
    drop_special: bool = True
    """Leaves out special tokens (begin and end of a text), whose activations are outliers; padding
    never counts."""
    drop_outlier_norms: PositiveFloat | None = None
    """Leaves out tokens whose norm at any hook point exceeds this many times the median there (over
    the first 64 contexts of the first split); absent keeps all."""
    arrays: ArraysConfig = ArraysConfig()
    """Activations of your own in place of a model's."""
    from_model: bool = False
    """Writes no activations and no codes: `encode` and `interpret` run the model again over the
    contexts that they read. For a dictionary that exists already (`dictionary`)."""
    contexts_per_shard: PositiveInt = 512
    """Contexts in one shard: the step in which an interrupted capture resumes."""
    batch_size: PositiveInt = execution(32)
    """Contexts in one forward pass."""

    @model_validator(mode="after")
    def _once(self) -> CaptureConfig:
        for name, listed in (("hook_points", self.hook_points), ("splits", self.splits)):
            if len(set(listed)) < len(listed):
                raise ConfigError(
                    f"capture.{name} lists something twice: {', '.join(listed)}; name each once"
                )
        if self.arrays.path and self.drop_outlier_norms:
            raise ConfigError(
                "capture.drop_outlier_norms looks at the model's first contexts, and "
                "capture.arrays has none; take the rows out of the file yourself"
            )
        if self.from_model and self.arrays.path:
            raise ConfigError(
                "capture.from_model runs a model wherever activations are read, and with "
                "capture.arrays.path there is none; set one of the two"
            )
        if self.from_model and self.drop_outlier_norms:
            raise ConfigError(
                "capture.drop_outlier_norms leaves out rows by their activations, and with "
                "capture.from_model nothing is captured that could say which; set "
                "capture.drop_outlier_norms=null, or capture.from_model=false"
            )
        return self


def make(
    folder: Path, config: CaptureConfig, inputs: Mapping[str, Any], settings: Execution | None
) -> Work:
    """Writes the shards of every split; yields the bytes first, then tokens done and tokens a
    second. With `from_model` it writes nothing, and its facts say what there is to read.

    Raises:
        HookPointError: an unknown hook point.
        CorpusError: a split that the corpus lacks, or one without a token to keep.
        InputError: contexts that do not fit the model.
        NoSpaceError: the disk cannot hold what would be written.
    """
    if config.arrays.path:
        return (yield from arrays.make(folder, config))
    model: LanguageModel = inputs["model"].load(settings)
    points = list(dict.fromkeys(model.hook_point(name).name for name in config.hook_points))
    dtype = model.dtype if config.dtype == "model" else getattr(torch, config.dtype)
    splits = [contexts_of(inputs["corpus"], name, config, model) for name in config.splits]
    of_model = {
        "model": inputs["model"].key,
        "model_config": inputs["model"].config.model_dump(mode="json"),
    }
    if config.from_model:
        in_batch = config.batch_size * max(split.token.shape[1] for split in splits)
        held = pass_bytes(inputs["model"], in_batch)
        there = _to_be_read(splits, {name: model.width(name) for name in points}, dtype)
        return there | of_model | {"pass_bytes": held}
    work = [
        (
            split,
            number,
            slice(number * config.contexts_per_shard, (number + 1) * config.contexts_per_shard),
        )
        for split in splits
        for number in range(-(-len(split.token) // config.contexts_per_shard))
    ]
    missing = [
        (s, number, part)
        for s, number, part in work
        if not _is_there(folder, s, number, part, config)
    ]
    n_tokens = sum(int(split.kept[part].sum()) for split, _, part in missing)
    widths = [model.width(name) for name in points]
    n_bytes = n_tokens * written.row_bytes(widths, dtype)
    written.refuse_what_does_not_fit(folder, n_bytes, n_tokens)
    limits = _limits(model, splits[0], points, config, dtype) if missing else {}
    message = (
        f"{n_tokens:,} tokens at {len(points)} hook points: {n_bytes / 2**20:,.0f} MiB on disk; "
        f"{len(work) - len(missing)} of {len(work)} shards are there already"
    )
    yield Progress(0, n_tokens, "tokens", message, {"bytes": n_bytes})

    started, done, shown_at = time.perf_counter(), 0, time.perf_counter()
    with ThreadPoolExecutor(1) as behind:
        writing: Future[None] | None = None
        for split, number, part in missing:
            batches = []
            for rows in in_batches(part, len(split.token), config.batch_size):
                batches.append(queued(model, split, rows, points, dtype))
                done += int(split.kept[rows].sum())
                if time.perf_counter() - shown_at > 1:
                    shown_at = time.perf_counter()
                    yield Progress(
                        done,
                        n_tokens,
                        "tokens",
                        "",
                        {"tokens_per_second": done / (shown_at - started)},
                    )
            if writing is not None:
                writing.result()  # at most one shard waits to be written; its error is raised here
            writing = behind.submit(_write, folder, split, number, part, batches, limits)
        if writing is not None:
            writing.result()
    seconds = time.perf_counter() - started
    speed = done / seconds if done else None
    yield Progress(done, n_tokens, "tokens", "", {"tokens_per_second": speed} if speed else {})
    shards = Counter(split.name for split, _, _ in work)
    facts = written.facts(folder, shards, dict(zip(points, widths, strict=True)), dtype)
    for split in splits:
        n_rows = facts["splits"][split.name]["rows"]
        facts["splits"][split.name] |= {
            "contexts": len(split.token),
            "dropped": int(split.kept.sum()) - n_rows,
        }
    return facts | of_model | {"tokens_per_second": speed}


def _to_be_read(
    splits: Sequence[SplitContexts], widths: Mapping[str, int], dtype: torch.dtype
) -> dict[str, Any]:
    """The facts of a capture that wrote nothing. Mean norms are those of activations that nobody
    has seen yet."""
    counts = {split.name: (int(split.kept.sum()), len(split.token)) for split in splits}
    return {
        FROM_MODEL: True,
        "hook_points": {name: {"d_in": width, "mean_norm": None} for name, width in widths.items()},
        "splits": {
            name: {"rows": n_rows, "contexts": n_contexts, "dropped": 0}
            for name, (n_rows, n_contexts) in counts.items()
        },
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_second": None,
    }


def _entries(config: CaptureConfig) -> Mapping[str, int]:
    """For activations from a file a number for its bytes, so that a changed file is read again;
    where the model runs again, the size of its batches, which whoever reads takes from here: another
    one would find the artifact of the old one, and change nothing."""
    if config.from_model:
        return {"batch_size": config.batch_size}
    files = arrays.files(config.arrays)
    return {"arrays": arrays.VERSION, "arrays.bytes": content_number(files)} if files else {}


def _runs_a_model(config: CaptureConfig) -> bool:
    return not config.arrays.path


def formula(config: CaptureConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """Shards of every split; in memory a few of them, and the model or where a file's rows
    belong."""
    if config.arrays.path:
        matrix = Matrix(expanded(config.arrays.path), config.hook_points)
        widths, dtype = matrix.widths, matrix.dtype
        where = arrays.places(config.arrays, matrix.n_rows, config.splits, config.tokens)
        counts = arrays.counts(where, config.splits)
        memory = {
            "places of the rows": 4 * arrays.COLUMNS * matrix.n_rows,
            "shards": len(config.splits) * arrays.SHARD_BYTES,
        }
        alike: tuple[Any, ...] = (tuple(widths.values()),)

        def probe(seconds: float) -> tuple[float, str]:
            return disk["activations"] / FROM_FILE, "files are read and written at 200 MB a second"
    else:
        model, corpus = inputs["model"], inputs["corpus"].facts
        counts, length = _counts(config, corpus), corpus["context_length"]
        widths = {name: model.width(name, settings) for name in config.hook_points}
        dtype, longest = (
            getattr(torch, model.config.dtype),
            max(count["contexts"] for count in counts.values()),
        )
        in_shard, in_batch = (
            min(n, longest) * length for n in (config.contexts_per_shard, config.batch_size)
        )
        memory = {
            "model": model.n_bytes,
            # one that is being read, one that is being picked, one that is being written
            "shards": 3 * in_shard * sum(widths.values()) * dtype.itemsize,
            "forward pass": pass_bytes(model, in_batch),
        }
        alike = (model.key, tuple(widths), length)

        def probe(seconds: float) -> tuple[float, str]:
            loading, by_token, told = model.pace(settings, length, seconds, config.hook_points)
            return loading + by_token * n, told

    dtype = dtype if config.dtype == "model" else getattr(torch, config.dtype)
    facts = {
        "hook_points": {name: {"d_in": width} for name, width in widths.items()},
        "splits": counts,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if config.from_model:
        facts |= {FROM_MODEL: True, "pass_bytes": memory["forward pass"]}
        held = {"model": memory["model"]}
        told = "nothing is captured: the model runs where activations are read"
        return Estimate(held, {"activations": 0}, {}, facts, probe=lambda _: (0.0, told))
    n = sum(count["rows"] for count in counts.values())
    disk = {"activations": n * written.row_bytes(list(widths.values()), dtype)}
    return Estimate(memory, disk, {}, facts, (n, "tokens"), alike, probe)


def pass_bytes(model: ModelReference, n_tokens: int) -> int:
    """Bytes that the model's forward pass holds while so many tokens pass it."""
    itemsize = getattr(torch, model.config.dtype).itemsize
    return n_tokens * PASS * model.shape.d_model * itemsize


def _counts(config: CaptureConfig, corpus: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Rows, contexts and documents of each split that is captured; a limit is taken in whole
    contexts."""
    counts = {}
    for name in config.splits:
        if name not in corpus["splits"]:
            raise CorpusError(
                f"the corpus will have no split {name!r}; {nearest(name, corpus['splits'])}"
            )
        split = corpus["splits"][name]
        share = min(1.0, (config.tokens.get(name) or split["tokens"]) / split["tokens"])
        cut = {part: max(1, round(split[part] * share)) for part in ("contexts", "documents")}
        counts[name] = {"rows": round(split["tokens"] * share), **cut}
    return counts


def _fewer(config: CaptureConfig, estimate: Estimate) -> list[dict[str, int]]:
    """Every split is cut to the same number of tokens, where it has more."""
    rows = {name: count["rows"] for name, count in estimate.facts["splits"].items()}
    cuts = [max(1, max(rows.values()) * share // 100) for share in range(99, 0, -1)]
    return [{**config.tokens, **{name: cut for name, n in rows.items() if n > cut}} for cut in cuts]


CAPTURE = Stage(
    "capture",
    version=1,
    make=make,
    entries=_entries,
    inputs={
        "model": Parent("model", wanted=_runs_a_model),
        "corpus": Parent("read", wanted=_runs_a_model),
    },
    estimator=Estimator(
        formula,
        for_memory={**lower("contexts_per_shard"), **lower("batch_size")},
        for_disk={
            "dtype": lambda config, estimate: (
                ["float16"] if estimate.facts["dtype"] == "float32" else []
            ),
            "tokens": _fewer,
        },
        on_device=True,
    ),
)


def _is_there(
    folder: Path, split: SplitContexts, number: int, part: slice, config: CaptureConfig
) -> bool:
    rows = shard_rows(folder, split.name, number)
    wanted = int(split.kept[part].sum())
    return rows == wanted or (
        rows is not None and config.drop_outlier_norms is not None and rows <= wanted
    )


def _limits(
    model: LanguageModel,
    split: SplitContexts,
    points: Sequence[str],
    config: CaptureConfig,
    dtype: torch.dtype,
) -> dict[str, float]:
    """By hook point the norm above which a token is left out, if any is."""
    if config.drop_outlier_norms is None:
        return {}
    norms: dict[str, list[Tensor]] = {name: [] for name in points}
    for rows in in_batches(slice(0, MEDIAN_CONTEXTS), len(split.token), config.batch_size):
        for name, x in arrived(queued(model, split, rows, points, dtype)).items():
            norms[name].append(x[split.kept[rows, : x.shape[1]]].float().norm(dim=1))
    return {
        name: config.drop_outlier_norms * float(torch.cat(parts).median())
        for name, parts in norms.items()
    }


def _write(
    folder: Path,
    split: SplitContexts,
    number: int,
    part: slice,
    batches: Sequence[Queued],
    limits: Mapping[str, float],
) -> None:
    """Picks the kept rows of one shard and writes them."""
    kept = split.kept[part]
    n_rows, context_at, row = int(kept.sum()), 0, 0
    activations: dict[str, Tensor] = {}
    for batch in batches:
        for name, x in arrived(batch).items():
            into = activations.setdefault(name, x.new_empty(n_rows, x.shape[2]))
            assert x.shape[2] == into.shape[1], "`out` would be resized, and its rows misplaced"
            inside = kept[context_at : context_at + len(x), : x.shape[1]].flatten().nonzero()[:, 0]
            torch.index_select(x.flatten(0, 1), 0, inside, out=into[row : row + len(inside)])
        context_at, row = context_at + len(x), row + len(inside)
    provenance = split.provenance(part)
    if limits:
        small = torch.stack(
            [x.float().norm(dim=1) <= limits[name] for name, x in activations.items()]
        ).all(dim=0)
        activations = {name: x[small] for name, x in activations.items()}
        provenance = {name: column[small] for name, column in provenance.items()}
    write_activations(folder, split.name, number, activations, provenance)
