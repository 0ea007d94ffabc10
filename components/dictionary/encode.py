"""The stage `encode`: activations and a dictionary -> sparse codes, statistics of every latent,
codes pooled by document.

Activations are read once, a batch at a time, and nothing dense outlives the encoder's product.
Statistics come from the sparse shards: one pass for counts, sums and maxima, one for the
histograms, whose bins need the maximum. Row i of the codes of a split is row i of its activations.
Neighbours by decoder cosine are found a block of rows at a time, so that no table of d_sae x d_sae
ever exists. A killed run continues at the shard.

Where the capture wrote no activations (`capture.from_model`), no codes are written either: whoever
stands above this package says how activations are read then (`Opening`), and each token of one
split, that from which latents are drawn, passes the model once for the statistics. Histograms,
which would take a second pass, and codes pooled by document are left out.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import PositiveInt
from safetensors.torch import load_file
from torch import Tensor

from components.config import Config, execution
from components.device import Execution, resolve
from components.dictionary.contract import Dictionary, architectures, untrained
from components.dictionary.estimate import ENCODED, pace, rows_of
from components.errors import DictionaryError
from components.seeds import torch_generator
from components.spelling import Bytes
from components.store.estimate import Estimate, Estimator, lower
from components.store.rows import Rows
from components.store.shards import (
    FROM_MODEL,
    ActivationShards,
    Codes,
    CodeShards,
    Opening,
    activations_of,
    is_stored,
    shard_rows,
    write_codes,
)
from components.store.stage import Inputs, Parent, Progress, Stage, Work
from components.store.tables import LATENTS, NEIGHBOURS, POOLED

log = logging.getLogger(__name__)

SHARD_ROWS = 65_536
BINS = 20
PROMOTED, PROMOTED_AT_ONCE = 10, 256
BY_ENTRY = 6e-7  # seconds of an entry of the codes in tables and on disk, on one core of a server
NEAREST = 10
COSINES = 1 << 24
"""Cosines held at a time while neighbours are looked for: 64 MiB."""
RESIDUAL_WRITERS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
SAMPLED_FROM = "explain"
"""The split whose densities say which latents are drawn."""


class EncodeConfig(Config):
    """Encoding captured activations with a trained dictionary."""

    splits: tuple[str, ...] = ("select", "explain", "calibrate", "validate", "test")
    """Splits to encode, each captured before."""
    batch: PositiveInt = execution(4096)
    """Tokens encoded at a time."""


class _Statistics:
    """Sums over the codes of one split, latent by latent."""

    def __init__(self, d_sae: int) -> None:
        self.n_active, self.total = np.zeros(d_sae, np.int64), np.zeros(d_sae)
        self.maximum = torch.zeros(d_sae)
        self.histogram: np.ndarray | None = None
        """Needs the maxima, so a pass of its own."""

    def add(self, codes: Codes) -> None:
        """The codes of one shard."""
        latents, d_sae = codes.indices.long(), len(self.total)
        self.n_active += np.bincount(latents, minlength=d_sae)
        self.total += np.bincount(latents, codes.values, minlength=d_sae)
        self.maximum.scatter_reduce_(0, latents, codes.values, "amax")


class Encoding:
    """Codes of captured activations, made when first asked for and kept in memory; read like
    `CodeShards`.

    For a dictionary that is measured once and whose codes nobody reads again.
    """

    def __init__(
        self, dictionary: Dictionary, activations: ActivationShards, batch: int = 4096
    ) -> None:
        self.dictionary, self.activations, self.batch = dictionary, activations, batch
        self.d_sae: int = dictionary.d_sae
        self._made: dict[str, Codes] = {}

    def n_rows(self, split: str) -> int:
        """Rows (tokens) of one split."""
        return self.activations.n_rows(split)

    def iterate(self, split: str) -> Iterator[Codes]:
        """The codes of a split, rows in order."""
        yield self.codes(split)

    def codes(self, split: str) -> Codes:
        """All codes of a split."""
        if split not in self._made:
            rows = Rows(self.activations, split, self.dictionary.reads)
            parts = [self.dictionary.encode(batch).to("cpu") for batch in rows.in_order(self.batch)]
            self._made[split] = Codes.cat(parts)
        return self._made[split]


Encoded = CodeShards | Encoding
"""Codes of every split, on disk or in memory."""


def make(
    folder: Path,
    config: EncodeConfig,
    inputs: Inputs,
    settings: Execution | None,
    opening: Opening | None = None,
) -> Work:
    """Writes `<split>/<NNNNN>.safetensors`, `latents.parquet`, `neighbours.parquet` and
    `pooled.parquet`.

    Raises:
        DictionaryError: the dictionary's hook point was not captured, or with another width.
        InputError: activations that are not stored, and no `opening`.
    """
    settings, stored = settings or Execution(), is_stored(inputs["activations"])
    shards = activations_of(inputs, settings, opening)
    trained = inputs["dictionary"]
    dictionary = Dictionary.load(trained, resolve(settings.device))
    name = trained.facts["name"]
    for read in dictionary.reads:
        if read not in shards.hook_points:
            raise DictionaryError(
                f"dictionary {name} reads {read}, but these activations were captured at "
                f"{', '.join(shards.hook_points)}; add it to capture.hook_points"
            )
    rows = {split: Rows(shards, split, dictionary.reads) for split in config.splits}
    n_rows = {split: each.n_rows for split, each in rows.items()}
    read = measured_splits(config, stored)
    running = {split: _Statistics(dictionary.d_sae) for split in (() if stored else read)}
    done, total = 0, sum(n_rows[split] for split in read)
    for split in read:
        each = rows[split]
        for number, shard in enumerate(torch.arange(each.n_rows).split(SHARD_ROWS)):
            if not stored or shard_rows(folder, split, number) != len(shard):
                parts = [
                    dictionary.encode(each.take(index)).to("cpu")
                    for index in shard.split(config.batch)
                ]
                codes = Codes.cat(parts)
                running[split].add(codes) if running else write_codes(folder, split, number, codes)
            done += len(shard)
            yield Progress(done, total, "tokens", f"encoding {split}")

    latents, pooled = [], []
    directions = dictionary.decoder_directions()
    promoted = promoted_tokens(
        directions, dictionary.reconstructs[0], inputs.get("model"), settings
    )
    norms = directions.norm(dim=1).cpu()
    n_active: dict[str, np.ndarray] = {}
    for split in read:
        statistics = running.get(split) or _statistics(folder, split, dictionary.d_sae)
        n_active[split] = statistics.n_active
        latents.append(_latents(split, n_rows[split], statistics, norms, promoted))
        if stored:
            pooled.append(
                _pooled(folder, split, shards.provenance(split)["document"], dictionary.d_sae)
            )
        yield Progress(done, done, "tokens", f"statistics of {split}")
    LATENTS.write(folder, pl.concat(latents))
    near = []
    for start, part in _neighbours(directions):
        near.append(part)
        yield Progress(start, dictionary.d_sae, "latents", "neighbours")
    NEIGHBOURS.write(folder, pl.concat(near))
    POOLED.write(folder, pl.concat(pooled) if stored else [])
    from_model = {} if stored else {FROM_MODEL: True}
    return from_model | {
        "name": name,
        "architecture": dictionary.kind,
        "hook_point": dictionary.hook_point,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "n_seeds": trained.facts.get("n_seeds", 1),
        "rows": n_rows,
        "l0": {split: float(counts.sum() / n_rows[split]) for split, counts in n_active.items()},
        "dead_latents": {split: int((counts == 0).sum()) for split, counts in n_active.items()},
        "dead_latents_everywhere": int((np.sum(list(n_active.values()), axis=0) == 0).sum()),
    }


def measured_splits(config: EncodeConfig, stored: bool) -> tuple[str, ...]:
    """The splits that are read: all, or where each token has to pass the model the one that latents
    are drawn from."""
    if stored:
        return config.splits
    return (SAMPLED_FROM if SAMPLED_FROM in config.splits else config.splits[0],)


def formula(config: EncodeConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """Sparse shards by the dictionary's L0, which of a dictionary that is not trained yet is its k,
    or else d_in. Where activations are not stored, no shards, and one pass of the model."""
    captured, trained, model = (
        inputs["activations"].facts,
        inputs["dictionary"].facts,
        inputs.get("model"),
    )
    rows = {split: rows_of(captured, split) for split in config.splits}
    d_sae, d_in, l0 = trained["d_sae"], trained["d_in"], trained["l0"]
    stored = is_stored(inputs["activations"])
    read = measured_splits(config, stored)
    n_rows, of_latents = sum(rows[split] for split in read), d_sae * len(read)
    vocabulary, n_bytes = (model.shape.vocab_size, model.n_bytes) if model else (0, 0)
    documents = sum(
        captured["splits"][split].get("documents", -(-rows[split] // 120)) for split in read
    )
    # documents share few latents among their tokens: about a sixth of their entries are new, and
    # never all latents
    pooled = round(documents * min(d_sae, n_rows / max(1, documents) * l0 / 6)) * stored
    memory = {
        "weights": 2 * 4 * 2 * d_sae * d_in,
        "model": n_bytes,
        "forward pass": captured.get("pass_bytes", 0),
        "pre-activations": 2
        * 4
        * max(min(ENCODED, config.batch * d_sae), min(COSINES, d_sae * d_sae)),
        "codes": 200 * round(min(SHARD_ROWS, max(rows.values())) * l0),
        "pooled": 48 * pooled,
        "logits": 4 * 4 * min(PROMOTED_AT_ONCE, d_sae) * vocabulary,
        "latents": of_latents * (160 + 800 * bool(model)),
    }
    disk = {
        "codes": 8 * (n_rows + len(rows) + round(n_rows * l0)) * stored,
        "latents": of_latents * (30 + 40 * bool(model)) + 60 * d_sae + 10 * pooled,
    }
    facts = {"d_sae": d_sae, "d_in": d_in, "rows": rows, "l0": dict.fromkeys(read, float(l0))}
    facts |= {} if stored else {FROM_MODEL: True}
    # the cosines of a latent take as long as the codes of a row, and all logits as long as those of
    # the vocabulary's rows
    work = n_rows + d_sae + vocabulary
    told_of_work = "rows, latents and tokens"
    if not stored:
        told_of_work += f", of which the {n_rows:,} tokens of {read[0]} pass the model once"
    alike = (trained["architecture"], d_sae, d_in, bool(model), stored)

    def probe(seconds: float) -> tuple[float, str]:
        # what encoding costs depends on little but size and sparsity
        options, name = (
            architectures["topk"].config(d_sae=d_sae, k=max(1, round(l0))),
            trained["hook_point"],
        )
        x = {name: torch.randn(config.batch, d_in, device=resolve(settings.device))}
        by_row, n = pace(
            untrained(options, name, {name: d_in}, x, torch_generator(0)).encode,
            x,
            config.batch,
            seconds,
        )
        seconds_taken = (by_row + BY_ENTRY * l0) * work
        told = f"encoded {n:,} rows in {by_row * n:.2g} s"
        if not stored and model:
            passed = captured["splits"][read[0]]
            length = max(1, passed["rows"] // max(1, passed["contexts"]))
            loading, by_token, paced = model.pace(settings, length, seconds, trained["reads"])
            seconds_taken += loading + by_token * n_rows
            told += f"; {paced}"
        return seconds_taken, told

    return Estimate(memory, disk, {}, facts, (work, told_of_work), alike, probe)


def _read(folder: Path, split: str, d_sae: int) -> Iterator[Codes]:
    for path in sorted((folder / split).glob("[0-9]*.safetensors")):
        yield Codes(**load_file(path), d_sae=d_sae)


def _statistics(folder: Path, split: str, d_sae: int) -> _Statistics:
    statistics = _Statistics(d_sae)
    for codes in _read(folder, split, d_sae):
        statistics.add(codes)
    histogram = np.zeros(d_sae * BINS, np.int64)
    width = statistics.maximum.clamp_min(torch.finfo(torch.float32).tiny) / BINS
    for codes in _read(folder, split, d_sae):
        latents = codes.indices.long()
        bins = (codes.values / width[latents]).long().clamp(0, BINS - 1)
        histogram += np.bincount(latents * BINS + bins, minlength=d_sae * BINS)
    statistics.histogram = histogram.reshape(d_sae, BINS)
    return statistics


def _latents(
    split: str,
    n_rows: int,
    statistics: _Statistics,
    norms: Tensor,
    promoted: Mapping[str, Any] | None,
) -> pl.DataFrame:
    active = statistics.n_active > 0
    columns = {
        "latent": np.arange(len(active)),
        "n_active": statistics.n_active,
        "density": statistics.n_active / n_rows,
        "maximum": pl.Series(statistics.maximum.numpy()).set(pl.Series(~active), None),
        "mean_active": pl.Series(statistics.total / np.maximum(1, statistics.n_active)).set(
            pl.Series(~active), None
        ),
        "decoder_norm": norms.numpy(),
    }
    if statistics.histogram is not None:
        columns["histogram"] = statistics.histogram.tolist()
    frame = pl.DataFrame(columns | dict(promoted or {})).with_columns(pl.lit(split).alias("split"))
    return LATENTS.frame(frame)


def _pooled(folder: Path, split: str, document: Tensor, d_sae: int) -> pl.DataFrame:
    """Sums by (document, latent), shard by shard, over the number of the document's rows."""
    sums, start = [], 0
    for codes in _read(folder, split, d_sae):
        of = document[start : start + codes.n_rows]
        start += codes.n_rows
        entries = {"document": of[codes.row_index()].numpy(), "latent": codes.indices.numpy()}
        frame = pl.DataFrame(entries | {"sum": codes.values.double().numpy()})
        sums.append(frame.group_by("document", "latent").agg(pl.col("sum").sum()))
    counts = pl.DataFrame({"document": document.numpy()}).group_by("document").len()
    pooled = (
        pl.concat(sums)
        .filter(pl.col("document") >= 0)
        .group_by("document", "latent")
        .agg(pl.col("sum").sum())
    )
    pooled = pooled.join(counts, on="document").sort("document", "latent")
    return POOLED.frame(
        pooled.select("document", "latent", mean=pl.col("sum") / pl.col("len"), split=pl.lit(split))
    )


def _neighbours(directions: Tensor) -> Iterator[tuple[int, pl.DataFrame]]:
    """(latents done, rows of the table), block by block; a latent is no neighbour of its own."""
    unit = torch.nn.functional.normalize(directions, dim=1)
    d_sae = len(unit)
    nearest = min(NEAREST, d_sae - 1)
    for start in range(0, d_sae, block := max(1, COSINES // d_sae)):
        cosines = unit[start : start + block] @ unit.T
        rows = torch.arange(len(cosines), device=unit.device)
        cosines[rows, start + rows] = -torch.inf
        values, nearest_latents = cosines.topk(nearest, dim=1)
        n = len(rows)
        columns = {
            "latent": np.repeat(np.arange(start, start + n), nearest),
            "rank": np.tile(np.arange(nearest), n),
            "neighbour": nearest_latents.flatten().cpu().numpy(),
            "cosine": values.flatten().clamp(-1, 1).cpu().numpy(),
        }
        yield start + n, NEIGHBOURS.frame(pl.DataFrame(columns))


def promoted_tokens(
    directions: Tensor, hook_point: str, model: Any, settings: Execution
) -> dict[str, list[Any]] | None:
    """What each direction does to the logits, as columns of LATENTS; None where that means nothing:
    no model, no logits, or a hook point that does not write to the residual stream.

    Args:
        directions: [latent, d_model], at the hook point.
        hook_point: where they are added.
        model: the reference of the model.
        settings: where to run it.
    """
    if model is None or hook_point.partition(".")[0] not in RESIDUAL_WRITERS:
        return None
    loaded = model.load(settings)
    if "causal_loss" not in loaded.capabilities:
        return None
    parts = Bytes(getattr(loaded.tokenizer, "backend_tokenizer", None))
    columns: dict[str, list[Any]] = {
        "promoted": [],
        "promoted_logits": [],
        "suppressed": [],
        "suppressed_logits": [],
    }
    for part in directions.split(PROMOTED_AT_ONCE):
        logits = loaded.direction_logits(part).cpu()
        for name, largest in (("promoted", True), ("suppressed", False)):
            values, tokens = logits.topk(min(PROMOTED, logits.shape[1]), dim=1, largest=largest)
            columns[name] += [
                [_text_of(token, loaded.tokenizer, parts) for token in row]
                for row in tokens.tolist()
            ]
            columns[f"{name}_logits"] += values.tolist()
    return columns


def _text_of(token: int, tokenizer: Any, parts: Bytes) -> str:
    """A token alone as text: bytes that are no whole character as `<0xE6>`, a row that no token has
    as its number."""
    text = tokenizer.decode([token])
    if text and "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    written = tokenizer.convert_ids_to_tokens(token)
    return f"[{token}]" if written is None else parts.text(written) or text


def stage(opening: Opening | None = None) -> Stage:
    """The stage; with `opening` it encodes activations that are not stored."""
    return Stage(
        "encode",
        version=2,
        make=functools.partial(make, opening=opening),
        inputs={
            "activations": Parent("capture"),
            "dictionary": Parent("train"),
            "model": Parent("model", optional=True),
        },
        estimator=Estimator(formula, for_memory=lower("batch"), on_device=True),
    )


ENCODE = stage()
