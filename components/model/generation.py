"""Generation in batches, cached where that is exact, under an intervention, each row with a seed of
its own.

What a row says does not depend on who shares its batch: its random numbers are a function of (its
seed, the step), made by a counter-based generator (SplitMix64; Steele, Lea and Flood 2014,
https://doi.org/10.1145/2714064.2660195), and a token is the inverse of the cumulative distribution
in float64 at that number. What is left is the rounding of batched matrix products (about 1e-6 of a
logit in float32), which moves a token only when the number falls that near a boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from components.errors import InputError
from components.model.continuation import ContinuedRows
from components.model.intervention import NOTHING, Intervention
from components.model.language_model import LanguageModel


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    intervention: Intervention = NOTHING,
    stop: Collection[int] | None = None,
    watch: Callable[[Float[Tensor, "row V"]], object] | None = None,
) -> list[list[int]]:
    """Continues every prompt.

    Args:
        model: the model.
        prompts: token ids, special tokens included; lengths may differ (shorter ones are padded on
            the left).
        max_new_tokens: longest continuation.
        temperature: logits are divided by it; 0 takes the likeliest token.
        seeds: one for each prompt; not used at temperature 0.
        intervention: applied to the prompt and at every step, its edits each at their own
            positions; what it has for each row goes by prompt.
        stop: token ids that end a row; those of the model when absent.
        watch: is given the logits of each step that tokens are drawn from, before the temperature;
            not where the intervention has a decoding of its own, which writes several times.

    Returns:
        The new token ids of each row, without the one that ended it.

    Raises:
        CapabilityError: the model cannot generate.
        InputError: an empty prompt, or prompt and continuation do not fit the model's positions.
    """
    model.require("generation")
    assert len(seeds) == len(prompts), f"{len(seeds)} seeds for {len(prompts)} prompts"
    if not prompts or max_new_tokens == 0:
        return [[] for _ in prompts]
    ends = torch.tensor(
        sorted(model.eos if stop is None else stop), dtype=torch.long, device=model.device
    )

    def write(rows: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[list[int]]:
        seen = None if intervention.decoding else watch
        return _sampled(model, rows, max_new_tokens, temperature, seeds, intervention, ends, seen)

    return (
        intervention.decoding(write, prompts, seeds)
        if intervention.decoding
        else write(prompts, seeds)
    )


def _sampled(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    intervention: Intervention,
    ends: Int64[Tensor, " end"],
    watch: Callable[[Tensor], object] | None,
) -> list[list[int]]:
    """Token after token for all rows, until each has ended."""
    rows = intervention.prefixed(model, prompts)
    _refuse_what_does_not_fit(model, rows, max_new_tokens, intervention)
    streams = torch.tensor(seeds, dtype=torch.long, device=model.device)
    done = torch.zeros_like(streams, dtype=torch.bool)
    made: list[Tensor] = []
    look = 1 if model.device.type == "cpu" else 8  # asking a GPU whether all are done waits for it
    continuation = ContinuedRows(model, rows)
    with intervention.applied(model):
        for step in range(max_new_tokens):
            logits = continuation.next_logits()
            if intervention.logits:
                logits = intervention.logits(logits[:, None], continuation.tokens)[:, 0]
            if watch:
                watch(logits)
            chosen = _choose(logits, temperature, streams, step)
            made.append(torch.where(done, -1, chosen))
            done |= torch.isin(chosen, ends)
            if step + 1 == max_new_tokens or (step % look == look - 1 and bool(done.all())):
                break
            continuation.append(chosen)
    ended = set(ends.tolist())
    return [
        [t for t in row if t >= 0 and t not in ended] for row in torch.stack(made, dim=1).tolist()
    ]


def _refuse_what_does_not_fit(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    intervention: Intervention,
) -> None:
    lengths = [len(row) for row in rows]
    if min(lengths) == 0:
        raise InputError(
            f"prompt {lengths.index(0)} has no tokens; begin it with the model's first token (bos)"
        )
    if model.context_length is not None and max(lengths) + max_new_tokens > model.context_length:
        before = max(map(len, intervention.prefix), default=0)
        told = f" (up to {before} of them put before it by the intervention)" if before else ""
        raise InputError(
            f"a prompt of {max(lengths)} tokens{told} and {max_new_tokens} new ones do not fit the "
            f"model's {model.context_length} positions; shorten the prompt, or lower "
            "max_new_tokens"
        )


def uniform(seeds: Int64[Tensor, " row"], step: int) -> Float64[Tensor, " row"]:
    """One number in [0, 1) for each (seed, step), the same on every device: 53 bits of
    SplitMix64."""
    z = _mix(seeds) + _signed(0x9E3779B97F4A7C15 * (step + 1))
    return _shifted(_mix(z), 11).double() * 2.0**-53


def _choose(
    logits: Float[Tensor, "row V"], temperature: float, seeds: Tensor, step: int
) -> Int64[Tensor, " row"]:
    if temperature == 0:
        return logits.argmax(dim=1)
    cumulative = (logits.double() / temperature).softmax(dim=1).cumsum(dim=1)
    at = uniform(seeds, step)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 products wrap, as they should."""
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
