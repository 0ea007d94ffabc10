"""Codes of directions that no dictionary holds: random ones, and the coordinates themselves.

    a_i = ReLU(x . r_i - t_i)        t_i: the value that a given share of the tokens exceeds

A direction alone has no density: a latent's is set by its bias and by the competition with other
latents. So each direction gets a threshold of its own, at which it is active on as many tokens of
the explain split as the latent that it is matched with. It is read off that split exactly (the
(k + 1)-th largest projection of n, k = n times the density) and kept on every other. Where many
tokens have the very same projection (a coordinate behind a ReLU, mostly 0), fewer may exceed it;
the density that was reached is what the direction has.

Source: random directions as the null of input-side scores, after Heap et al. 2025
(arXiv:2501.17727), who ask it of models; raw neurons as the rival, after Bricken et al. 2023. Equal
density is ours: scores depend on it (docs/interpretation.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.store.rows import Rows
from components.store.shards import ActivationShards, Codes, CodeShards

ENTRIES_AT_ONCE = 2**24
"""Projections in memory while codes are made."""
ENTRIES_HELD = 2**26
"""Projections in memory while thresholds are found: the split is read once more for every so
many."""


def gaussian_directions(n: int, d: int, generator: np.random.Generator) -> Float[Tensor, "n d"]:
    """n directions drawn uniformly from the unit sphere."""
    drawn = torch.from_numpy(generator.standard_normal((n, d))).float()
    return drawn / drawn.norm(dim=1, keepdim=True)


def signed_coordinates(n: int, d: int, generator: np.random.Generator) -> Float[Tensor, "drawn d"]:
    """Drawn coordinates, each sign a direction of its own: n of the 2 d, or all where there are
    fewer."""
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    return both[torch.from_numpy(np.sort(generator.permutation(2 * d)[:n]))]


class DirectionCodes:
    """Codes of some directions on captured activations, made while they are read; read like
    `CodeShards`.

    Attributes:
        d_sae: number of directions.
        splits: the splits that there are activations of.
        hook_point: where they are read.
        directions: unit vectors.
        thresholds: above which each is active.
        density: share of the tokens on which each is active, where thresholds were found.
    """

    def __init__(
        self,
        activations: ActivationShards,
        hook_point: str,
        directions: Float[Tensor, "d_sae d"],
        density: Float[np.ndarray, " d_sae"],
        split: str,
        limit: int,
    ) -> None:
        """Finds the thresholds.

        Args:
            activations: what is projected.
            hook_point: where.
            directions: unit vectors.
            density: share of tokens on which each is to be active.
            split: the split whose tokens those are.
            limit: at most so many of its first tokens.
        """
        assert len(directions) == len(density)
        self._activations, self.hook_point = activations, hook_point
        self.directions, self.d_sae = directions, len(directions)
        self.splits = activations.splits
        n = min(limit, activations.n_rows(split))
        wanted = torch.from_numpy(np.round(density * n).astype(np.int64)).clamp(0, n - 1)
        at_once = max(1, ENTRIES_HELD // n)
        parts = [
            self._thresholds(split, n, part, counts)
            for part, counts in zip(directions.split(at_once), wanted.split(at_once), strict=True)
        ]
        self.thresholds = torch.cat([threshold for threshold, _ in parts])
        self.density = torch.cat([above for _, above in parts]).double().numpy() / n

    def n_rows(self, split: str) -> int:
        """Rows (tokens) of one split."""
        return self._activations.n_rows(split)

    def iterate(self, split: str) -> Iterator[Codes]:
        """The codes of a split part by part, rows in order."""
        for projections in self._projections(split, self.directions, self.n_rows(split)):
            yield Codes.from_dense((projections - self.thresholds).relu())

    def codes(self, split: str) -> Codes:
        """All codes of a split in memory."""
        return Codes.cat(list(self.iterate(split)))

    def _thresholds(
        self, split: str, n: int, directions: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of each direction the threshold, and how many tokens exceed it."""
        whole = torch.cat(list(self._projections(split, directions, n))).T.contiguous()
        # of n values the (k + 1)-th largest is the (n - k)-th smallest
        threshold = torch.tensor(
            [
                float(row.kthvalue(n - k).values)
                for row, k in zip(whole, wanted.tolist(), strict=True)
            ]
        )
        return threshold, (whole > threshold[:, None]).sum(1)

    def _projections(
        self, split: str, directions: Tensor, n: int
    ) -> Iterator[Float[Tensor, "row d_sae"]]:
        rows = Rows(self._activations, split, (self.hook_point,))
        at_once = max(1, ENTRIES_AT_ONCE // max(1, len(directions), directions.shape[1]))
        for index in torch.arange(n).split(at_once):
            yield rows.take(index)[self.hook_point].float() @ directions.T


def hook_point_of(codes: CodeShards | DirectionCodes) -> str:
    """Where the activations are that these codes were made of; empty where nobody says."""
    if isinstance(codes, DirectionCodes):
        return codes.hook_point
    return codes.artifact.facts.get("hook_point", "")
