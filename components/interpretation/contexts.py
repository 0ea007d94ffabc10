"""Which latents are looked at, and through which windows of text.

Every split is cut once into windows (components/interpretation/tiling.py), and each latent gets
some of them (components/interpretation/drawing.py). The codes are read once for each split, keeping
the entries of sampled latents only. Explain, calibrate and test are disjoint by document
(asserted).
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping

import numpy as np
from jaxtyping import Int

from components.interpretation.contract import LatentRecord
from components.interpretation.directions import DirectionCodes
from components.interpretation.drawing import draw_windows
from components.interpretation.sample import Sample
from components.interpretation.tiling import ContextsConfig, Tiling
from components.interpretation.windows import Vocabulary, Windows
from components.seeds import numpy_generator
from components.store.shards import ActivationShards, CodeShards
from components.store.stage import Progress

SPLITS = ("explain", "calibrate", "test")


def cut_splits(
    activations: ActivationShards, vocabulary: Vocabulary, config: ContextsConfig
) -> dict[str, Tiling]:
    """The splits as windows: the same for every dictionary that is read on these activations.

    Raises:
        InputError: a split without a single window.
    """
    cut = {
        split: Tiling.cut(activations.provenance(split), vocabulary, split, config)
        for split in SPLITS
    }
    for split, other in (("explain", "calibrate"), ("explain", "test"), ("calibrate", "test")):
        common = np.intersect1d(cut[split].document, cut[other].document)
        assert not len(common), f"documents {common[:5]} are in both {split} and {other}"
    return cut


def choose(
    codes: CodeShards | DirectionCodes, cut: Mapping[str, Tiling], sample: Sample, seed: int
) -> Generator[Progress, None, list[LatentRecord]]:
    """The windows of every sampled latent, from the windows that its splits are cut into."""
    config = cut["test"].config
    active = {split: _active(codes, split, sample.latents, config.rows) for split in SPLITS}
    records = []
    for number, latent in enumerate(sample.latents.tolist()):
        chosen: dict[str, Windows] = {}
        favourite = -1
        for split in SPLITS:
            rows, values = active[split][number]
            if split == "explain" and len(rows):
                words = cut[split].vocabulary.word_of[cut[split].token[rows]]
                favourite = int(np.bincount(words, weights=values).argmax())
            generator = numpy_generator(seed, "windows", split, latent)
            chosen[split] = draw_windows(
                cut[split], rows, values, favourite, list(chosen.values()), split, generator
            )
        reason = _too_few(chosen, config.fewest)
        facts = (latent, float(sample.density[number]), int(sample.decile[number]))
        records.append(LatentRecord(*facts, **chosen, reason=reason))
        yield Progress(number + 1, len(sample.latents), "latents", "windows chosen")
    return records


def _active(
    codes: CodeShards | DirectionCodes, split: str, latents: Int[np.ndarray, " latent"], limit: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and activations of each latent, from one pass over the codes."""
    number_of = np.full(codes.d_sae, -1)
    number_of[latents] = np.arange(len(latents))
    parts, base = [], 0
    for shard in codes.iterate(split):
        part = shard.rows(0, min(shard.n_rows, limit - base))
        number = number_of[part.indices.numpy()]
        wanted = number >= 0
        parts.append(
            (number[wanted], part.row_index().numpy()[wanted] + base, part.values.numpy()[wanted])
        )
        base += part.n_rows
        if base == limit:
            break
    number, row, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(len(latents) + 1))
    return [(row[order[a:b]], value[order[a:b]]) for a, b in itertools.pairwise(bounds)]


def _too_few(chosen: Mapping[str, Windows], fewest: int) -> str | None:
    for split in ("explain", "test"):
        n_active = int(chosen[split].active.sum())
        for kind, n in (("active", n_active), ("silent", len(chosen[split]) - n_active)):
            if n < fewest:
                few = f"{n} {kind} windows in the {split} split, wanted at least {fewest} (interpret.contexts.fewest)"
                if kind == "active":
                    return f"{few}; more text there would give more (read.splits.{split})"
                return f"{few}; shorter windows would give more (interpret.contexts.width and shortest)"
    return None
