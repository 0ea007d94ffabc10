"""One steering tried by hand on a prompt: text with it, text without it from the same seed, and
what it costs.

Text comes from the stage's own `Writer`: the same prompt number, sample and seed meet the same luck.
The cost is not the stage's: here it is measured on neutral text, which is fast enough to wait for,
there on the text that the steering writes, which costs more (`components.steering.strength`). What
is tried is a mixture of latents, or a steering that the stage saved.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from typing import TypeVar

import torch

from components.dictionary.contract import Dictionary
from components.errors import InputError
from components.model.language_model import LanguageModel
from components.steering.contract import Continuation, Steering
from components.steering.neutral import Neutral
from components.steering.strength import calibrate, costs
from components.steering.vector import AddVector
from components.steering.writer import Job, Prompt, Writer

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Strength:
    """How strong a steering is.

    Attributes:
        coefficient: of an added vector in units of the mean activation norm at the hook point.
        kl: what it costs on neutral text, nats a token; None where that was not measured.
    """

    coefficient: float
    kl: float | None


@dataclasses.dataclass(frozen=True)
class Trial:
    """Continuations of one prompt, sample by sample.

    Attributes:
        steered: under the steering.
        plain: without it, from the same seeds.
    """

    steered: Sequence[Continuation]
    plain: Sequence[Continuation]


def mixture(dictionary: Dictionary, weights: Mapping[int, float], unit: float) -> AddVector:
    """The direction of the weighted sum of latents' decoder directions, each taken with norm 1.

    One latent of weight 1 is what `add_direction` proposes for it; a negative weight steers away.

    Raises:
        InputError: a latent that the dictionary lacks, or a sum without a direction.
    """
    hook_point = dictionary.writes[0]
    latents = list(weights)
    if beyond := [latent for latent in latents if not 0 <= latent < dictionary.d_sae]:
        raise InputError(
            f"no latent {beyond[0]} in dictionary {dictionary.name}; it has 0 to "
            f"{dictionary.d_sae - 1}"
        )
    rows = dictionary.decoder_directions(hook_point)[latents].detach().float().cpu()
    if len(latents) == 1 and weights[latents[0]] == 1:
        total = rows[0]
    else:
        norms = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        total = (torch.tensor(list(weights.values()))[:, None] * rows / norms).sum(dim=0)
    steering = AddVector.along(hook_point, total, unit)
    if steering is None:
        raise InputError(
            "these latents and weights add up to no direction; change a weight or leave a latent "
            "out"
        )
    return steering


def at_coefficient(
    model: LanguageModel, steering: Steering, coefficient: float, neutral: Neutral | None
) -> Strength:
    """The strength, with its mean KL over all neutral tokens, divided once; no KL without neutral
    text."""
    if neutral is None or not neutral.mask.any():
        return Strength(coefficient, None)
    measured = _end_of(costs(model, [(steering, coefficient)], neutral))
    return Strength(coefficient, float(measured[0, 0]))


def at_budget(
    model: LanguageModel, steering: Steering, budget: float, neutral: Neutral | None
) -> Strength:
    """The strength that costs so many nats a token on neutral text. The stage's strength for the
    same budget is smaller, mostly: its budget is of the text that the steering writes, which costs
    more.

    Raises:
        InputError: no neutral text to measure on, or no strength that was tried costs as much.
    """
    if neutral is None or not neutral.mask.any():
        raise InputError(
            "the corpus of this experiment has no neutral text to measure a KL on; give a "
            "coefficient"
        )
    coefficient, kl = _end_of(calibrate(model, [steering], neutral, [budget]))[0, 0].tolist()
    if not math.isfinite(coefficient):
        raise InputError(
            f"no strength that was tried costs {budget:g} nats a token; ask for less, or give a "
            "coefficient"
        )
    return Strength(coefficient, kl)


def write(
    writer: Writer, prompt: Prompt, steering: Steering, coefficient: float, n_samples: int
) -> Trial:
    """Steered and plain continuations of a prompt; sample i of both has the seed of sample i in the
    stage."""
    steered = [Job(prompt, sample, steering, coefficient) for sample in range(n_samples)]
    plain = [Job(prompt, sample) for sample in range(n_samples)]
    written = _end_of(writer.write([*steered, *plain]))
    return Trial(written[:n_samples], written[n_samples:])


def _end_of(work: Generator[int, None, Result]) -> Result:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
