"""How far an intervention moves a model's predictions on given text, and how strong it may be for a
budget of that.

The measure is KL(plain || steered) between next-token distributions, in nats a token, from float32
log-probabilities; special tokens and padding are masked out, and a mean sums over all tokens and
divides once. Strengths are found by bracketing in log coefficient and log KL: KL grows as the
square of a small coefficient, so interpolation in these coordinates needs far fewer measurements
than halving. A ruler runs the plain text once and measures many interventions in one pass; that for
added vectors runs only the blocks behind the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from components.model.intervention import Intervention, add, logits_under
from components.model.language_model import LanguageModel

Ruler: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(numbers [n] of what is measured, strengths [n]) -> what each costs [n]: mean nats a token,
float64. With `loss` [n, 2]: the rise of the loss beside it."""


def kl_per_token(
    model: LanguageModel,
    tokens: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    intervention: Intervention,
) -> Float32[Tensor, "b t"]:
    """KL(plain || steered) of the prediction made after each token, in nats; 0 where the mask is
    false."""
    plain = model.logits(tokens).log_softmax(dim=-1)
    steered = logits_under(model, tokens, intervention).log_softmax(dim=-1)
    return _divergence(plain, steered) * mask.to(model.device)


def ruler(
    model: LanguageModel,
    tokens: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    intervention: Callable[[Int[Tensor, " row"], Float[Tensor, " row"]], Intervention],
    loss: bool = False,
) -> Ruler:
    """Measures any interventions, as many in one pass as fit, on text whose plain predictions are
    made once, here.

    Args:
        model: the model.
        tokens: text; padding, if any, on the right.
        mask: tokens whose predictions count.
        intervention: (the number and the strength of what is applied to each row) -> the
            intervention of that batch.
        loss: whether the rise of the loss on this text is measured beside the KL.
    """
    plain = model.logits(tokens).log_softmax(dim=-1)
    b = len(tokens)

    def logits(numbers: Tensor, strengths: Tensor) -> Tensor:
        rows = intervention(numbers.repeat_interleave(b), strengths.repeat_interleave(b))
        return logits_under(model, tokens.repeat(len(numbers), 1), rows)

    return _ruler(plain, mask, logits, tokens if loss else None)


def ruler_of_vectors(
    model: LanguageModel,
    vectors: Mapping[str, Float[Tensor, "n d"]],
    tokens: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    loss: bool = False,
) -> Ruler:
    """The same of vectors added at every token; the blocks before the first hook point are run
    once, here.

    Args:
        model: the model.
        vectors: by hook point, what each of n steerings adds there at strength 1.
        tokens: text; padding, if any, on the right.
        mask: tokens whose predictions count.
        loss: whether the rise of the loss on this text is measured beside the KL.
    """
    layer, places = entry(model, list(vectors))
    residual = model.read(tokens, [f"resid_pre.{layer}"])[f"resid_pre.{layer}"]
    plain = model.resume(tokens, layer, residual).log_softmax(dim=-1)
    steps = [(places[name], step.to(model.device, model.dtype)) for name, step in vectors.items()]

    def logits(numbers: Tensor, strengths: Tensor) -> Tensor:
        n, b = len(numbers), len(tokens)
        edits = [
            add(place, (step[numbers] * strengths.to(step)[:, None]).repeat_interleave(b, dim=0))
            for place, step in steps
        ]
        return model.resume(tokens.repeat(n, 1), layer, residual.repeat(n, 1, 1), edits=edits)

    return _ruler(plain, mask, logits, tokens if loss else None)


def strengths_for_budgets(
    measure: Ruler,
    n: int,
    budgets: Sequence[float],
    *,
    tolerance: float = 0.03,
    maximum: float = 64.0,
    rounds: int = 10,
) -> tuple[Float64[Tensor, "n budget"], Float64[Tensor, "n budget"]]:
    """The strength at which each of n steerings costs each KL budget, within 3 times the tolerance.

    Args:
        measure: what a steering costs at a strength; a cost that is not finite counts as beyond
            every budget.
        n: steerings.
        budgets: mean nats a token.
        tolerance: relative distance from the budget that is near enough.
        maximum: largest strength that is tried.
        rounds: largest number of measurements for each steering and budget.

    Returns:
        Strengths, and the KL measured at them. Both nan where the budget lies beyond the largest
            strength, or where no
        measurement came near it.
    """
    wanted = torch.tensor(list(budgets), dtype=torch.float64)
    # every measurement so far, nan where there was none
    coefficient = torch.full((n, 1), 0.5, dtype=torch.float64)
    kl = measure(torch.arange(n), coefficient[:, 0]).nan_to_num(nan=torch.inf)[:, None]
    for number in range(rounds - 1):
        proposed = _propose(coefficient, kl, wanted, tolerance, maximum, number)
        of, budget = (~proposed.isnan()).nonzero(as_tuple=True)
        if not len(of):
            break
        measured = torch.full_like(proposed, torch.nan)
        measured[of, budget] = measure(of, proposed[of, budget]).nan_to_num(nan=torch.inf)
        coefficient, kl = (
            torch.cat([coefficient, proposed], dim=1),
            torch.cat([kl, measured], dim=1),
        )
    # [n, measurement, budget]
    distance = (kl[:, :, None].clamp(min=1e-12) / wanted).log().abs().nan_to_num(torch.inf)
    nearest = distance.argmin(dim=1)
    missed = distance.min(dim=1).values > math.log1p(3 * tolerance)
    return (
        coefficient.gather(1, nearest).masked_fill(missed, torch.nan),
        kl.gather(1, nearest).masked_fill(missed, torch.nan),
    )


def _ruler(
    plain: Float[Tensor, "b t V"],
    mask: Tensor,
    logits: Callable[[Tensor, Tensor], Tensor],
    tokens: Int[Tensor, "b t"] | None = None,
) -> Ruler:
    """Measures in parts whose logits fit beside the plain ones; `logits` gives those of all texts,
    steering by steering; with `tokens` the rise of the loss beside the KL."""
    weight = mask.to(plain.device) / mask.sum()
    together = max(1, (2**25 if plain.device.type == "cpu" else 2**30) // (plain.numel() * 4))

    def measure(numbers: Tensor, strengths: Tensor) -> Tensor:
        measured = []
        for part, strength in zip(numbers.split(together), strengths.split(together), strict=True):
            steered = logits(part, strength).unflatten(0, (len(part), len(plain)))
            steered = steered.log_softmax(dim=-1)
            cost = (_divergence(plain, steered) * weight).sum(dim=(1, 2))
            if tokens is not None:
                cost = torch.stack([cost, _rise(plain, steered, tokens, mask)], dim=1)
            measured.append(cost)
        return torch.cat(measured).double().cpu()

    return measure


def _propose(
    coefficient: Tensor, kl: Tensor, wanted: Tensor, tolerance: float, maximum: float, number: int
) -> Float64[Tensor, "n budget"]:
    """The next coefficient for every direction and budget; nan where one is near enough or nothing
    is left to try.

    Works in logs x (coefficient) and y (KL over budget) on the measurements nearest below and above
    the budget: between the two by interpolation (every third time by halving, lest one end stay),
    beyond the one by the square law, in steps that grow where KL has stopped to.
    """
    x = coefficient.log()[:, :, None]
    y = (kl.clamp(min=1e-12)[:, :, None] / wanted).log()
    below, above = y < 0, y >= 0
    low, low_at = torch.where(below, x, -torch.inf).max(dim=1)
    high, high_at = torch.where(above & (x > low[:, None]), x, torch.inf).min(dim=1)
    y_low, y_high = y.gather(1, low_at[:, None])[:, 0], y.gather(1, high_at[:, None])[:, 0]
    share = 0.5 if number % 3 == 2 else (y_low / (y_low - y_high)).clamp(0.05, 0.95)
    between = low + (high - low) * share
    least, most = min(math.log(1.2) * 2**number, math.log(8)), math.log(8)
    further = low + (-y_low / 2).clamp(least, most)
    nearer = high - (y_high / 2).clamp(least, most)
    proposed = torch.where(high.isinf(), further, torch.where(low.isinf(), nearer, between)).clamp(
        max=math.log(maximum)
    )
    near = (y.abs() <= math.log1p(tolerance)).any(dim=1)
    exhausted = high.isinf() & (low >= math.log(maximum) - 1e-9)
    return proposed.exp().masked_fill(near | exhausted, torch.nan)


def entry(model: LanguageModel, hook_points: Sequence[str]) -> tuple[int, dict[str, str]]:
    """The block from which a pass must run for these hook points to be met, and what each of them
    is called there."""
    layers, places = [], {}
    for name in hook_points:
        point = model.hook_point(name)
        layer, places[name] = point.layer or 0, name if point.layer is None else point.name
        if (
            point.layer is not None
            and point.name.startswith("resid_post")
            and point.layer + 1 < model.n_layers
        ):
            layer, places[name] = point.layer + 1, f"resid_pre.{point.layer + 1}"
        layers.append(layer)
    return min(layers), places


def _divergence(
    plain: Float[Tensor, "b t V"], steered: Float[Tensor, "*n b t V"]
) -> Float[Tensor, "*n b t"]:
    """KL(plain || steered), given both as log-probabilities."""
    return (plain.exp() * (plain - steered)).sum(dim=-1)


def _rise(
    plain: Float[Tensor, "b t V"],
    steered: Float[Tensor, "n b t V"],
    tokens: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
) -> Float[Tensor, " n"]:
    """How much the mean loss on the text's own next tokens rises, given log-probabilities."""
    following = tokens[:, 1:, None].to(plain.device)
    # a prediction has a loss where the text goes on with a token that counts too
    counts = (mask[:, :-1] & mask[:, 1:]).to(plain.device)
    before = plain[:, :-1].gather(2, following)
    after = steered[:, :, :-1].gather(3, following.expand(len(steered), *following.shape))
    return ((before - after)[..., 0] * (counts / counts.sum())).sum(dim=(1, 2))
