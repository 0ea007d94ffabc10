"""Decoder directions in the plane in which they differ most: exact principal components.

The covariance of d_in x d_in is summed a block of directions at a time, so no second copy of a
large dictionary is made; its two largest eigenvectors are the axes. Directions have norm 1 first,
so that their length, which is arbitrary, draws nothing. Each axis points to where its largest entry
is positive, so that the same dictionary is always drawn the same way round.

Source: Pearson (1901), Philosophical Magazine 2, 559-572.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 8192


def plane(
    directions: Float[Tensor, "latent d_in"], step: Callable[[], None] = lambda: None
) -> tuple[Float[Tensor, "latent 2"], Float[Tensor, " 2"]]:
    """Coordinates of each direction, and the share of the variance that each axis holds.

    Args:
        directions: any scale; one of norm 0 lies where the mean direction's opposite would.
        step: called before each block, and may raise to end the work.
    """
    n, width = directions.shape
    total = torch.zeros(width, dtype=torch.float64)
    products = torch.zeros(width, width, dtype=torch.float64)
    for part in directions.split(BLOCK):
        step()
        unit = torch.nn.functional.normalize(part.float(), dim=1)
        total += unit.double().sum(0).cpu()
        products += (unit.T @ unit).double().cpu()
    mean = total / n
    values, vectors = torch.linalg.eigh(products / n - torch.outer(mean, mean))
    axes = vectors[:, -2:].flip(1)
    if axes.shape[1] < 2:  # a model of width 1
        axes = torch.nn.functional.pad(axes, (0, 2 - axes.shape[1]))
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = (axes * torch.where(largest < 0, -1.0, 1.0)).float()
    parts = []
    for part in directions.split(BLOCK):
        step()
        unit = torch.nn.functional.normalize(part.float(), dim=1).cpu()
        parts.append((unit - mean.float()) @ axes)
    largest_two = torch.nn.functional.pad(values.flip(0)[:2], (0, max(0, 2 - width)))
    shares = largest_two.clamp_min(0) / values.sum().clamp_min(1e-30)
    return torch.cat(parts), shares.float()
