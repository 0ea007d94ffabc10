"""Which tokens a direction of the residual stream writes: the logit lens, through the final norm.

Source: nostalgebraist (2020), interpreting GPT: the logit lens; through the final norm as in Arad
et al. (2025), arXiv 2505.20063. The tokens of the table `latents` are without the norm: they say
what a small step adds, these what the direction says alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.model.language_model import LanguageModel

ENTRIES_AT_ONCE = 2**25
"""Logits that are held at a time: 128 MiB."""


def set_size(model: LanguageModel, share: float) -> int:
    """How many tokens a set has: this share of the vocabulary, at least one."""
    return max(1, round(share * model.vocab_size))


def token_sets(
    model: LanguageModel, directions: Float[Tensor, "direction d"], size: int
) -> Int64[Tensor, "direction token"]:
    """The tokens that the final norm and the unembedding give each direction most, the most
    first."""
    at_once = max(1, ENTRIES_AT_ONCE // model.vocab_size)
    parts = []
    for part in directions.split(at_once):
        nothing = torch.zeros(len(part), 1, dtype=torch.long)
        logits = model.resume(nothing, model.n_layers, part[:, None])[:, 0]
        parts.append(logits.topk(size, dim=1).indices.cpu())
    return torch.cat(parts)


def random_like(
    direction: Float[Tensor, " d"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """Directions uniform on the sphere, of the same norm."""
    drawn = torch.randn(n, len(direction), generator=generator)
    return drawn * (direction.norm().cpu() / drawn.norm(dim=1, keepdim=True))
