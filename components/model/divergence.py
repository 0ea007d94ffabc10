"""How far an edit moves a model's predictions on given text, and how strong an edit may be for a budget of that.

The measure is KL(plain || edited) between next-token distributions, in nats a token, from float32 log-probabilities;
special tokens and padding are masked out, and a mean sums over all tokens and divides once. Strengths are found by
bracketing in log coefficient and log KL: KL grows as the square of a small coefficient, so interpolation in these
coordinates needs far fewer measurements than halving. Text is run once up to the hook point; every measurement runs
only the blocks behind it, for many directions at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from components.model.intervention import Edit, add
from components.model.language_model import LanguageModel


def kl_per_token(
    model: LanguageModel,
    tokens: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    edits: Sequence[Edit],
    attention_mask: Tensor | None = None,
) -> Float32[Tensor, "b t"]:
    """KL(plain || edited) of the prediction made after each token, in nats; 0 where the mask is false."""
    plain = model.logits(tokens, attention_mask).log_softmax(dim=-1)
    return _divergence(plain, model.logits(tokens, attention_mask, edits)) * mask.to(model.device)


def strengths_for_budgets(
    model: LanguageModel,
    hook_point: str,
    directions: Float[Tensor, "n d"],
    tokens: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    budgets: Sequence[float],
    unit: float,
    *,
    tolerance: float = 0.03,
    maximum: float = 64.0,
    rounds: int = 10,
) -> tuple[Float64[Tensor, "n budget"], Float64[Tensor, "n budget"]]:
    """The coefficient at which adding each direction everywhere costs each KL budget, within 3 times the tolerance.

    Args:
        model: the model.
        hook_point: where the direction is added, at every token.
        directions: of unit norm.
        tokens: neutral text; padding, if any, on the right.
        mask: tokens whose predictions count.
        budgets: mean nats a token.
        unit: what coefficient 1 stands for: the mean activation norm at the hook point.
        tolerance: relative distance from the budget that is near enough.
        maximum: largest coefficient that is tried.
        rounds: largest number of measurements for each direction and budget.

    Returns:
        Coefficients, and the KL measured at them. Both nan where the budget lies beyond the largest coefficient, or
        where no measurement came near it.
    """
    measure = _ruler(model, hook_point, directions * unit, tokens, mask)
    n, wanted = len(directions), torch.tensor(list(budgets), dtype=torch.float64)
    coefficient = torch.full((n, 1), 0.5, dtype=torch.float64)  # every measurement so far, nan where there was none
    kl = measure(torch.arange(n), coefficient[:, 0])[:, None]
    for number in range(rounds - 1):
        proposed = _propose(coefficient, kl, wanted, tolerance, maximum, number)
        of, budget = (~proposed.isnan()).nonzero(as_tuple=True)
        if not len(of):
            break
        measured = torch.full_like(proposed, torch.nan)
        measured[of, budget] = measure(of, proposed[of, budget])
        coefficient, kl = torch.cat([coefficient, proposed], dim=1), torch.cat([kl, measured], dim=1)
    distance = (kl[:, :, None].clamp(min=1e-12) / wanted).log().abs().nan_to_num(torch.inf)  # [n, measurement, budget]
    nearest = distance.argmin(dim=1)
    missed = distance.min(dim=1).values > math.log1p(3 * tolerance)
    return (
        coefficient.gather(1, nearest).masked_fill(missed, torch.nan),
        kl.gather(1, nearest).masked_fill(missed, torch.nan),
    )


def kl_of_directions(
    model: LanguageModel,
    hook_point: str,
    vectors: Float[Tensor, "n d"],
    tokens: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
) -> Float64[Tensor, " n"]:
    """Mean nats a token that adding each vector everywhere costs on this text; arguments as above."""
    return _ruler(model, hook_point, vectors, tokens, mask)(torch.arange(len(vectors)), torch.ones(len(vectors)))


def _ruler(
    model: LanguageModel, hook_point: str, vectors: Tensor, tokens: Tensor, mask: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """(numbers of vectors, coefficients) -> mean KL of each; the blocks before the hook point are run once, here."""
    layer, entry = _entry(model, hook_point)
    residual = model.read(tokens, [f"resid_pre.{layer}"])[f"resid_pre.{layer}"]
    plain = model.resume(tokens, layer, residual).log_softmax(dim=-1)
    weight = mask.to(model.device) / mask.sum()
    vectors = vectors.to(model.device, model.dtype)
    together = max(1, (2**25 if model.device.type == "cpu" else 2**30) // (plain.numel() * 4))

    def measure(of: Tensor, coefficients: Tensor) -> Tensor:
        found = []
        for chunk, strength in zip(of.split(together), coefficients.split(together), strict=True):
            n, b = len(chunk), len(tokens)
            steps = vectors[chunk] * strength.to(vectors)[:, None]
            edit = add(entry, steps.repeat_interleave(b, dim=0))
            logits = model.resume(tokens.repeat(n, 1), layer, residual.repeat(n, 1, 1), edits=[edit])
            divergence = _divergence(plain, logits.unflatten(0, (n, b)))
            found.append((divergence * weight).sum(dim=(1, 2)))
        return torch.cat(found).double().cpu()

    return measure


def _propose(
    coefficient: Tensor, kl: Tensor, wanted: Tensor, tolerance: float, maximum: float, number: int
) -> Float64[Tensor, "n budget"]:
    """The next coefficient for every direction and budget; nan where one is near enough or nothing is left to try.

    Works in logs x (coefficient) and y (KL over budget) on the measurements nearest below and above the budget: between
    the two by interpolation (every third time by halving, lest one end stay), beyond the one by the square law, in
    steps that grow where KL has stopped to.
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


def _entry(model: LanguageModel, hook_point: str) -> tuple[int, str]:
    """The block from which a pass must run for this hook point to be met, and the hook point's name there."""
    point = model.hook_point(hook_point)
    if point.layer is None:
        return 0, hook_point
    if point.name.startswith("resid_post") and point.layer + 1 < model.n_layers:
        return point.layer + 1, f"resid_pre.{point.layer + 1}"
    return point.layer, point.name


def _divergence(plain: Float[Tensor, "b t V"], logits: Float[Tensor, "*n b t V"]) -> Float[Tensor, "*n b t"]:
    return (plain.exp() * (plain - logits.log_softmax(dim=-1))).sum(dim=-1)
