"""How large the edits of a steering are, and what it costs where it costs most: two numbers beside
its mean cost.

    dose     mean over edited tokens of |new - old| / |old|, at every hook point that is edited
    kl_95    the 95% quantile over tokens of KL(plain || steered) of the prediction made after each

Equal mean costs may hide a few tokens that are moved much.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from components.model.intervention import Edit, logits_under
from components.model.language_model import LanguageModel
from components.steering.choice import Steered, entered
from components.steering.contract import Steering
from components.steering.neutral import Neutral

QUANTILE = 0.95
N_TOKENS = 1024
"""Of text on which each chosen steering is measured, about."""


def with_doses(
    model: LanguageModel, steered: Sequence[Steered], final: Sequence[Steered], text: Neutral
) -> tuple[list[Steered], list[Steered]]:
    """All, and the chosen among them, with dose and 95% quantile of the chosen on this text."""
    few = max(1, N_TOKENS // text.tokens.shape[1])
    text = text.first(few)
    plain = model.logits(text.tokens).log_softmax(dim=-1) if text.mask.any() else None
    found = {
        id(s): dict(
            zip(
                ("dose", "kl_95"),
                measured(model, s.candidate.steering, s.strength, text, plain),
                strict=True,
            )
        )
        for s in final
        if s.candidate.steering and s.strength is not None and plain is not None
    }
    return entered(steered, final, found)


def measured(
    model: LanguageModel,
    steering: Steering,
    strength: float,
    text: Neutral,
    plain: Float[Tensor, "context position V"],
) -> tuple[float | None, float | None]:
    """Dose (None where no activation is edited) and 95% quantile of the KL (None where it is not
    finite), given the plain log-probabilities of the text."""
    rows = [steering] * len(text.tokens)
    intervention = type(steering).intervention(rows, torch.full((len(rows),), float(strength)))
    shares: list[Tensor] = []

    def watched(edit: Edit) -> Edit:
        def function(x: Tensor, mask: Tensor) -> Tensor:
            new = edit.function(x, mask)
            length = x.float().norm(dim=2).clamp(min=1e-12)
            share = (new.float() - x.float()).norm(dim=2) / length
            shares.append(share[mask[:, :, 0].expand_as(share)].cpu())
            return new

        return dataclasses.replace(edit, function=function)

    edits = tuple(watched(edit) for edit in intervention.edits)
    changed = dataclasses.replace(intervention, edits=edits)
    steered = logits_under(model, text.tokens, changed).log_softmax(dim=-1)
    kl = (plain.exp() * (plain - steered)).sum(dim=-1)[text.mask.to(plain.device)]
    dose = float(torch.cat(shares).mean()) if shares and sum(map(len, shares)) else math.nan
    quantile = float(kl.float().quantile(QUANTILE))
    return tuple(value if math.isfinite(value) else None for value in (dose, quantile))  # type: ignore[return-value]
