"""Passes over whole weight matrices, some rows at a time so that what is computed between stays in
the cache.

A weight-sized temporary costs twice: its memory is asked for page by page, and written and read
once more. At 16,384 latents of width 512 the projection takes an eighth of the time of the plain
expression.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

ENTRIES_AT_ONCE = 1 << 18


def project_(gradient: Float[Tensor, "row d"], directions: Float[Tensor, "row d"]) -> None:
    """Takes out of each gradient row what lies along its direction, a row of norm 1: it turns the
    row, no more."""
    for part, along in zip(_blocks(gradient), _blocks(directions), strict=True):
        part.addcmul_(along, (part * along).sum(1, keepdim=True), value=-1)


def normalise_(directions: Float[Tensor, "row d"]) -> None:
    """Gives every row norm 1."""
    for part in _blocks(directions):
        part.div_(part.norm(dim=1, keepdim=True))


def norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """Norm of all gradients together."""
    return torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    """Rows in blocks; on an accelerator all at once, since there each call costs a launch."""
    yield from matrix.split(
        max(1, ENTRIES_AT_ONCE // matrix.shape[1]) if matrix.is_cpu else len(matrix)
    )
