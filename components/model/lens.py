"""Which tokens a direction of the residual stream writes: the logit lens, through the final norm;
and whether the model says them.

Source: nostalgebraist (2020), interpreting GPT: the logit lens; through the final norm as in Arad
et al. (2025), arXiv 2505.20063. The tokens of the table `latents` are without the norm: they say
what a small step adds, these what the direction says alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from components.model.intervention import Intervention, add, logits_under
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


def written_when_pushed(
    model: LanguageModel,
    tokens: Int[Tensor, "opening token"],
    directions: Float[Tensor, "direction d"],
    unit: Float[Tensor, " opening"],
    hook_point: str,
    size: int,
    batch: int = 512,
) -> Float[Tensor, "2 direction opening"]:
    """Whether the model says what a direction writes once it is added behind an opening: the
    reciprocal rank of the likeliest of the direction's own tokens, and their probability together.

    Source: the output score of Arad et al. (2025), arXiv 2505.20063; for the deviations see
    components/interpretation/latent_scorers/output_score.py.

    Args:
        model: the model.
        tokens: openings.
        directions: of the residual stream.
        unit: by how much of a direction the last token of each opening is moved.
        hook_point: where.
        size: tokens that a direction writes (`token_sets`).
        batch: rows of a pass, at most.
    """
    written = token_sets(model, directions, size)
    n, width = len(tokens), tokens.shape[1]
    rows = min(batch, max(1, ENTRIES_AT_ONCE // (width * model.vocab_size)))
    pairs = torch.cartesian_prod(torch.arange(len(directions)), torch.arange(n))
    parts = []
    for part in pairs.split(rows):
        of, opening = part.T
        added = directions[of] * unit[opening][:, None]
        edit = add(hook_point, added, positions=(-1,))
        logits = logits_under(model, tokens[opening], Intervention((edit,)))[:, -1]
        own = written[of].to(logits.device)
        best = logits.gather(1, own).max(dim=1, keepdim=True).values
        rank = 1 / (1 + (logits > best).sum(dim=1))
        mass = logits.softmax(dim=1).gather(1, own).sum(dim=1)
        parts.append(torch.stack([rank, mass]).cpu())
    return torch.cat(parts, dim=1).unflatten(1, (len(directions), n))
