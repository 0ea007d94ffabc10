"""Terms of training losses: plain functions of tensors, each saying what it sums and by what it
divides.

Sums of squares run over all tokens and dimensions of a batch and are divided once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def squared_error(
    x: Float[Tensor, "token d"], reconstruction: Float[Tensor, "token d"]
) -> Float[Tensor, ""]:
    """Squared error summed over dimensions, mean over tokens (the scale of SAELens and
    dictionary_learning)."""
    return (x - reconstruction).square().sum() / x.shape[0]


def fvu(x: Float[Tensor, "token d"], reconstruction: Float[Tensor, "token d"]) -> Float[Tensor, ""]:
    """Fraction of variance unexplained: sum of squared errors over sum of squared deviations from
    the batch mean."""
    return (x - reconstruction).square().sum() / (x - x.mean(0)).square().sum()


def weighted_l1(
    values: Float[Tensor, "token d_sae"], directions: Float[Tensor, "d_sae d"]
) -> Float[Tensor, ""]:
    """Sum over latents of value times norm of the decoder direction, mean over tokens.

    The gradient flows through the norm too, so codes cannot shrink by growing the decoder.

    Source: Anthropic, "Update on how we train SAEs" (April 2024).
    """
    return (values.sum(0) @ directions.norm(dim=1)) / values.shape[0]


def auxk(
    error: Float[Tensor, "token d"],
    prediction: Float[Tensor, "token d"],
    n_dead: Int[Tensor, ""],
    k_aux: int,
) -> Float[Tensor, ""]:
    """How badly dead latents predict what the live ones leave over; zero when none is dead.

    sum ||e - prediction||^2 / sum ||e - mean e||^2 * min(1, n_dead / k_aux), where e is constant:
    only the prediction receives a gradient. No host synchronisation.

    Source: Gao et al. 2024 (arXiv:2406.04093), section A.2; normalised by the variance of the error
    as there, and faded in with the number of dead latents as in sparsify and SAELens.
    """
    error = error.detach()
    spread = (error - error.mean(0)).square().sum()
    ratio = (error - prediction).square().sum() / spread.clamp_min(torch.finfo(spread.dtype).tiny)
    return torch.where(spread > 0, ratio, 0.0) * (n_dead / k_aux).clamp(max=1)
