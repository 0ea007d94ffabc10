"""Whitening of what a dictionary learns from: the directions of little variance count as much as
those of much.

    w = (x - mean) A        A = (C + floor * mean variance * I)^(-1/2)        C the covariance of a sample

The dictionary learns rows `w`; at the end A is folded into its weights, so that the saved
dictionary reads and reconstructs activations as any other: W_enc A and W_dec A^-1, and the
pre-activations are the same numbers.

A concept that moves the activation by a hundredth of a percent of its variance is worth nothing to
a squared error, and a whole direction to a whitened one. `floor` keeps directions that are nearly
noise from being blown up without bound.

Source: Saraswatula & Klindt 2025, "Data Whitening Improves Sparse Autoencoder Learning"
(arXiv:2511.13981). Deviations: the floor is a share of the mean variance; the symmetric (ZCA) root,
which turns nothing.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from components.errors import DictionaryError


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """An affine map of rows and the way back.

    Attributes:
        mean: what is subtracted first.
        into: symmetric, applied to centred rows.
        back: its inverse.
    """

    mean: Float[Tensor, " d"]
    into: Float[Tensor, "d d"]
    back: Float[Tensor, "d d"]

    def whitened(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """Activations, in the units that the dictionary learns in."""
        return (rows.to(self.mean) - self.mean) @ self.into

    def restored(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """The way back to activations."""
        return rows @ self.back + self.mean

    def directions(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """Differences on the way back: no mean is added."""
        return rows @ self.back


def whitening_of(rows: Float[Tensor, "row d"], floor: float) -> Whitening:
    """The map that whitens these rows, on their device, computed in float64.

    Args:
        rows: a sample of activations.
        floor: share of the mean variance that is added to the variance of every direction.

    Raises:
        DictionaryError: rows that do not vary at all.
    """
    exact = rows.double()
    mean = exact.mean(0)
    centred = exact - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(exact))
    variances = variances.clamp_min(0)
    if not variances.mean() > 0:
        raise DictionaryError(
            f"the {len(rows)} activations sampled do not vary, so they cannot be whitened; "
            "capture other text, or set train.normalise=scale"
        )
    spread = (variances + floor * variances.mean()).sqrt()
    into, back = (axes / spread) @ axes.T, (axes * spread) @ axes.T
    return Whitening(mean.float(), into.float(), back.float())
