"""Activations whose latents are known: sparse non-negative mixtures of random unit directions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

HOOK = "resid_post.1"


def directions(n: int = 40, d: int = 24, seed: int = 77) -> Tensor:
    """The planted directions [n, d], unit norm."""
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def rows(
    n_rows: int, planted: Tensor, active: float = 2.0, seed: int = 1, offset: float = 0.3
) -> Tensor:
    """Rows [n_rows, d]: each direction present with probability active / n, with length 3 to 6,
    around an offset."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(n_rows, len(planted), generator=generator) < active / len(planted)
    lengths = 3 + 3 * torch.rand(n_rows, len(planted), generator=generator)
    return (present * lengths) @ planted + offset


def recovered(planted: Tensor, found: Tensor) -> Tensor:
    """For each planted direction the cosine of the nearest found one."""
    return (planted @ normalize(found, dim=1).T).amax(1)
