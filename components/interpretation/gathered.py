"""Codes from the running model: one pass over a split, of which all stays that interpretation asks
of codes, and nothing is written.

Kept in memory are the codes of the sampled latents everywhere, and those of every latent in the
windows that are searched for silent ones and, on the explain split, on the tokens on which
co-occurrence is counted. From these the same passes as over stored codes (relatives, neighbours,
activity, windows) find the same numbers. So each split passes the model once for all dictionaries
of the same activations together, and that is the least: windows come from all of a split. Which
latents are sampled was found before, in the pass of `encode` over the explain split: a pass more,
and it cannot be had for less either, since a latent is drawn by its density there.

Memory: for each token 8 bytes and the sampled latents that are active on it (8 bytes each, of n
latents on average L0 n / d_sae), and for each searched or counted token its L0 (likewise), of which
there are at most a number that does not grow with the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.capture.running import RunningActivations
from components.dictionary.contract import Dictionary
from components.dictionary.encode import SHARD_ROWS
from components.interpretation.neighbours import COUNTED_ON, step_of
from components.interpretation.searched import Searched
from components.store.artifact import Artifact
from components.store.rows import Rows
from components.store.shards import ActivationShards, Codes, CodeShards
from components.store.stage import Progress


class GatheredCodes(CodeShards):
    """What was kept of the codes of one dictionary, read like `CodeShards`.

    Attributes:
        artifact: the artifact of `encode`, which holds no shards.
        splits: the splits that were read.
        d_sae: number of latents.
    """

    def __init__(self, artifact: Artifact, parts: Mapping[str, Sequence[Codes]]) -> None:
        self.artifact, self.splits = artifact, sorted(parts)
        self.d_sae = artifact.facts["d_sae"]
        self._parts = parts

    def n_rows(self, split: str) -> int:
        """Rows (tokens) of one split, read or not."""
        return self.artifact.facts["rows"][split]

    def iterate(self, split: str) -> Iterator[Codes]:
        """What was kept of a split part by part, rows in order."""
        yield from self._parts[split]


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """One dictionary whose codes are gathered.

    Attributes:
        encoded: the artifact of `encode`.
        dictionary: itself, where it is to run.
        latents: the sampled ones.
    """

    encoded: Artifact
    dictionary: Dictionary
    latents: Int[np.ndarray, " latent"]

    @property
    def batch(self) -> int:
        """Tokens that are encoded at a time: as many as a stage that stores codes would, since
        their number changes the last digit."""
        return self.encoded.config["batch"]


def gather_codes(
    wanted: Sequence[Wanted],
    activations: ActivationShards,
    cut: Mapping[str, Searched],
    limit: int,
) -> Generator[Progress, None, list[GatheredCodes]]:
    """One pass over each split.

    Where the splits are searched in these very activations, the mean activation vectors of the
    searched windows are remembered there.

    Args:
        wanted: dictionaries that read the same activations, encoded in batches of one size.
        activations: these.
        cut: the splits.
        limit: tokens of each split that are read, at least.
    """
    parts: list[dict[str, list[Codes]]] = [{} for _ in wanted]
    n_rows = {split: min(limit, activations.n_rows(split)) for split in cut}
    done = 0
    for split, searched in cut.items():
        for of_dictionary in parts:
            of_dictionary[split] = []
        for n, codes in _by_shard(wanted, activations, searched, n_rows[split]):
            for of_dictionary, kept in zip(parts, codes, strict=True):
                of_dictionary[split].append(kept)
            done += n
            yield Progress(done, sum(n_rows.values()), "tokens", f"{split} passes the model")
    return [GatheredCodes(each.encoded, own) for each, own in zip(wanted, parts, strict=True)]


def _by_shard(
    wanted: Sequence[Wanted], activations: ActivationShards, searched: Searched, n_rows: int
) -> Iterator[tuple[int, list[Codes]]]:
    """How many rows come next, and what is kept there of each dictionary's codes.

    Shards and batches are those that `encode` makes, so the last batch may go beyond `n_rows`.
    """
    everywhere = _rows_of_every_latent(searched, activations.n_rows(searched.split))
    latents = [_mask(each.latents, each.dictionary.d_sae) for each in wanted]
    means = _Means(searched, _hook_points(wanted, activations, searched))
    names = dict.fromkeys(name for each in wanted for name in each.dictionary.reads)
    rows = Rows(activations, searched.split, [*names, *means.sums])
    for shard in torch.arange(rows.n_rows).split(SHARD_ROWS):
        if shard[0] >= n_rows:
            break
        kept: list[list[Codes]] = [[] for _ in wanted]
        for index in shard.split(wanted[0].batch):
            if index[0] >= n_rows:
                break
            x = rows.take(index)
            means.add(index, x)
            for each, sampled, parts in zip(wanted, latents, kept, strict=True):
                batch = {name: x[name] for name in each.dictionary.reads}
                codes = each.dictionary.encode(batch).to("cpu")
                here = everywhere[index][codes.row_index()]
                parts.append(codes.entries(here | sampled[codes.indices.long()]))
        yield min(len(shard), n_rows - int(shard[0])), [Codes.cat(parts) for parts in kept]
    means.remember()


def _rows_of_every_latent(searched: Searched, n_rows: int) -> Bool[Tensor, " row"]:
    """The rows on which all latents are kept: of searched windows, and those that co-occurrence is
    counted on."""
    kept = np.zeros(n_rows, bool)
    tile_of = searched.tiling.tile_of
    kept[: len(tile_of)] = (tile_of >= 0) & (searched.place_of[tile_of] >= 0)
    if searched.split == COUNTED_ON:
        counted = min(searched.tiling.config.rows, n_rows)
        kept[: counted : step_of(counted)] = True
    return torch.from_numpy(kept)


def _mask(latents: Int[np.ndarray, " latent"], d_sae: int) -> Bool[Tensor, " d_sae"]:
    mask = torch.zeros(d_sae, dtype=torch.bool)
    mask[torch.from_numpy(latents)] = True
    return mask


def _hook_points(
    wanted: Sequence[Wanted], activations: ActivationShards, searched: Searched
) -> list[str]:
    """Where mean vectors will be asked for."""
    if searched.activations is not activations:
        return []
    places = dict.fromkeys(each.encoded.facts["hook_point"] for each in wanted)
    return [place for place in places if place in activations.hook_points]


class _Means:
    """Mean activation vectors of the searched windows, as they are met in a pass over the rows."""

    def __init__(self, searched: Searched, hook_points: Sequence[str]) -> None:
        self.searched, n = searched, len(searched.tiles)
        self.sums = {name: torch.zeros(n, searched.activations.d_in(name)) for name in hook_points}

    def add(self, index: Int[Tensor, " row"], x: Mapping[str, Tensor]) -> None:
        """The next rows."""
        tile_of = self.searched.tiling.tile_of
        tile = tile_of[int(index[0]) : min(int(index[-1]) + 1, len(tile_of))]
        place = np.where(tile >= 0, self.searched.place_of[tile], -1)
        rows = torch.from_numpy(np.flatnonzero(place >= 0))
        window = torch.from_numpy(place[place >= 0]).long()
        for name, sums in self.sums.items():
            sums.index_add_(0, window, x[name][rows].float())

    def remember(self) -> None:
        """All rows were met."""
        length = torch.from_numpy(self.searched.length)[:, None]
        for name, sums in self.sums.items():
            self.searched.remembered[name] = (sums / length).numpy()


def passes(read: Sequence[ActivationShards]) -> dict[str, int]:
    """What a manifest says of passes over the running model: tokens that passed it, all in all."""
    running = [each.tokens_run for each in read if isinstance(each, RunningActivations)]
    return {"tokens_run": sum(running)} if running else {}
