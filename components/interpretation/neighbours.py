"""The latents next to each sampled one: by the tokens on which both are active, and by the cosine
of decoder directions.

Co-occurrence is the Jaccard index of the sets of tokens on which two latents are active, on the
explain split: the test split chooses nothing. Cosines are those of the table that `encode` wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse
import torch
from jaxtyping import Float, Int

from components.interpretation.directions import DirectionCodes
from components.store import tables
from components.store.shards import Codes, CodeShards

NEAREST = 10
"""Co-occurring latents that are told of each."""
USED = 5
"""Neighbours of each kind whose windows are taken."""
ROWS = 1 << 18
"""Tokens on which co-occurrence is counted, at most, spread evenly over the split."""
AT_ONCE = 512
COUNTED_ON = "explain"
"""The split on which co-occurrence is counted."""


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """Latents next to each sampled one, the nearest first, -1 where there are fewer.

    Attributes:
        latents: the sampled latents.
        co_occurring: those that are active on the same tokens.
        jaccard: tokens on which both are active, of those on which either is.
        by_cosine: those whose decoder directions are nearest.
    """

    latents: Int[np.ndarray, " latent"]
    co_occurring: Int[np.ndarray, "latent near"]
    jaccard: Float[np.ndarray, "latent near"]
    by_cosine: Int[np.ndarray, "latent used"]

    def kinds(self, number: int) -> list[Int[np.ndarray, " _"]]:
        """The neighbours of a sampled latent whose windows are taken, by kind."""
        both = (self.co_occurring[number, :USED], self.by_cosine[number, :USED])
        return [near[near >= 0] for near in both]

    def watched(self) -> Int[np.ndarray, " watched"]:
        """The sampled latents and all whose windows are taken, ascending."""
        near = np.concatenate([self.co_occurring[:, :USED], self.by_cosine[:, :USED]], axis=1)
        return np.union1d(self.latents, near[near >= 0])

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Rows of the table of co-occurring latents."""
        for latent, near, shares in zip(
            self.latents.tolist(), self.co_occurring, self.jaccard, strict=True
        ):
            for rank, (other, share) in enumerate(zip(near, shares, strict=True)):
                if other >= 0:
                    yield {"latent": latent, "rank": rank, "neighbour": other, "jaccard": share}


def find(
    codes: CodeShards | DirectionCodes,
    latents: Int[np.ndarray, " latent"],
    limit: int,
    split: str = COUNTED_ON,
) -> Neighbours:
    """The neighbours of some latents.

    Args:
        codes: of the dictionary.
        latents: which latents.
        limit: tokens of the split that are looked at, from its beginning.
        split: where co-occurrence is counted.
    """
    active = _active(codes, split, limit)
    counts = np.asarray(active.sum(0)).ravel()
    columns, nearest = active.tocsc(), max(0, min(NEAREST, codes.d_sae - 1))
    near = np.full((len(latents), nearest), -1, np.int64)
    jaccard = np.zeros((len(latents), nearest))
    for start in range(0, len(latents) if nearest else 0, AT_ONCE):
        part = latents[start : start + AT_ONCE]
        both = (columns[:, part].T @ active).toarray()
        both[np.arange(len(part)), part] = 0  # a latent is no neighbour of its own
        shares = both / np.maximum(counts[part][:, None] + counts - both, 1)
        best = np.argpartition(-shares, nearest - 1, axis=1)[:, :nearest]
        for row, (of, places) in enumerate(zip(shares, best, strict=True), start):
            ordered = places[np.lexsort((places, -of[places]))]
            near[row] = np.where(of[ordered] > 0, ordered, -1)
            jaccard[row] = of[ordered]
    return Neighbours(latents, near, jaccard, _by_cosine(codes, latents))


def step_of(n_rows: int) -> int:
    """Of so many tokens every so many is counted, from the first on."""
    return max(1, -(-n_rows // ROWS))


def patterns(
    codes: Iterable[Codes], limit: int, step: int = 1
) -> Iterator[scipy.sparse.csr_matrix]:
    """Which latents are active on which tokens, as [token, latent] with ones, part by part.

    Args:
        codes: of a split, in order.
        limit: tokens that are looked at, from its beginning.
        step: every so many of these tokens one is taken.
    """
    base = 0
    for shard in codes:
        matrix = shard.rows(0, min(shard.n_rows, limit - base)).matrix()
        if step > 1:
            matrix = matrix[(-base) % step :: step]
        yield (matrix > 0).astype(np.float32)
        base += shard.n_rows
        if base >= limit:
            return


def _active(codes: CodeShards | DirectionCodes, split: str, limit: int) -> scipy.sparse.csr_matrix:
    """Which latents are active on tokens of the split, as [token, latent]."""
    n_rows = min(limit, codes.n_rows(split))
    parts = list(patterns(codes.iterate(split), n_rows, step_of(n_rows)))
    return scipy.sparse.csr_matrix(scipy.sparse.vstack(parts))


def _by_cosine(
    codes: CodeShards | DirectionCodes, latents: Int[np.ndarray, " latent"]
) -> Int[np.ndarray, "latent used"]:
    """The nearest decoder directions of each, none where `encode` wrote no such table."""
    near = np.full((len(latents), USED), -1, np.int64)
    if isinstance(codes, DirectionCodes):
        cosines = (codes.directions[torch.from_numpy(latents)] @ codes.directions.T).numpy()
        cosines[np.arange(len(latents)), latents] = -1  # a direction is no neighbour of its own
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :USED]
        there = np.take_along_axis(cosines, nearest, axis=1) > 0
        near[:, : nearest.shape[1]] = np.where(there, nearest, -1)
        return near
    encoded = codes.artifact
    if tables.NEIGHBOURS.file in encoded.files:
        rows = tables.NEIGHBOURS.scan(encoded).filter(
            pl.col("latent").is_in(latents.tolist()), pl.col("rank") < USED, pl.col("cosine") > 0
        )
        found = rows.select("latent", "rank", "neighbour").collect()
        number = np.searchsorted(latents, found["latent"].to_numpy())
        near[number, found["rank"].to_numpy()] = found["neighbour"].to_numpy()
    return near
