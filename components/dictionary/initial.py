"""First values that architectures share: a robust centre for the decoder bias, directions for the
decoder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def geometric_median(
    rows: Float[Tensor, "row d"], iterations: int = 100, tolerance: float = 1e-5
) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to the rows: a centre that a few huge activations
    do not move.

    Weiszfeld's iteration in float64 from the mean; it stops when a step is shorter than `tolerance`
    times the mean distance.
    """
    rows = rows.double()
    median = rows.mean(0)
    for _ in range(iterations):
        distances = (rows - median).norm(dim=1).clamp_min(1e-12)
        weights = 1 / distances
        moved = (weights @ rows) / weights.sum()
        done = (moved - median).norm() <= tolerance * distances.mean()
        median = moved
        if done:
            break
    return median


def random_directions(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """n directions drawn uniformly from the unit sphere; drawn on the CPU, so the same on every
    device."""
    directions = torch.randn(n, d, generator=generator)
    return directions / directions.norm(dim=1, keepdim=True)


def both_signs(directions: Float[Tensor, "n d"]) -> Float[Tensor, "twice_n d"]:
    """Every direction, then its opposite: a signed code as two latents that are never active
    together."""
    return torch.cat([directions, -directions])


def linear_parameters(dictionary: Any) -> None:
    """Registers `W_enc`, `b_enc`, `W_dec` and `b_dec`, all zero until `start`."""
    d_sae, d_in = dictionary.d_sae, dictionary.d_in
    shapes = {"W_enc": (d_sae, d_in), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for name, shape in shapes.items():
        dictionary.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def start_tied(
    dictionary: Any, rows: Float[Tensor, "row d_in"], generator: torch.Generator, norm: float = 1.0
) -> None:
    """First values that most architectures share, for `W_enc`, `W_dec` and `b_dec`.

    The bias at the geometric median of the rows, random directions of this norm, the encoder their
    transpose.
    """
    dictionary.b_dec.copy_(geometric_median(rows))
    dictionary.W_dec.copy_(norm * random_directions(*dictionary.W_dec.shape, generator))
    dictionary.W_enc.copy_(dictionary.W_dec)
