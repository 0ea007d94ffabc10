"""One steering tried by hand on a prompt: text with it, text without it from the same seed, and what it costs.

A trial goes through the parts of the stage (`Writer`, `calibrate`, `Neutral`), so that its numbers are the stage's: the
same prompt number, sample and seed meet the same luck, the same text measures the cost. What is tried is a mixture of
latents, or a direction that the stage kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from typing import TypeVar

import polars as pl
import torch
from safetensors import safe_open

from components.dictionary.contract import Dictionary
from components.errors import InputError, UnknownNameError
from components.model.language_model import LanguageModel
from components.registry import nearest
from components.steering.contract import AddVector, Continuation, Steering
from components.steering.protocol import Job, Neutral, Prompt, Writer, calibrate, costs
from components.store import tables
from components.store.artifact import Artifact

Result = TypeVar("Result")
DIRECTIONS = "directions.safetensors"


@dataclasses.dataclass(frozen=True)
class Strength:
    """How strong a steering is.

    Attributes:
        coefficient: in units of the mean activation norm at the hook point.
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
        raise InputError(f"no latent {beyond[0]} in dictionary {dictionary.name}; it has 0 to {dictionary.d_sae - 1}")
    rows = dictionary.decoder_directions(hook_point)[latents].detach().float().cpu()
    if len(latents) == 1 and weights[latents[0]] == 1:
        total = rows[0]
    else:
        norms = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        total = (torch.tensor(list(weights.values()))[:, None] * rows / norms).sum(dim=0)
    found = AddVector.along(hook_point, total, unit)
    if found is None:
        raise InputError("these latents and weights add up to no direction; change a weight or leave a latent out")
    return found


def kept_direction(steer: Artifact, method: str, concept: str | None, replicate: int | None = None) -> AddVector:
    """A direction that the stage `steer` used, by default the one that its validate prompts chose.

    Args:
        steer: its artifact.
        method: the steering method.
        concept: None for a control, whose directions belong to no concept.
        replicate: which of the method's candidates.

    Raises:
        UnknownNameError: the artifact holds no such direction; what it holds of that method, or which methods.
    """
    with safe_open(steer.path(DIRECTIONS), framework="pt") as file:
        held = set(file.keys())
        if replicate is None:
            replicate = _chosen(steer, method, concept)
        name = "/".join(part for part in (method, concept, str(replicate)) if part)
        if name in held:
            return AddVector(steer.facts["hook_point"], file.get_tensor(name), steer.facts["unit"])
    methods = sorted({key.partition("/")[0] for key in held})
    if method not in methods:
        raise UnknownNameError(
            f"artifact steer/{steer.key} holds no direction of {method!r}; {nearest(method, methods)}"
        )
    concepts = sorted({key.split("/", 1)[1].rpartition("/")[0] for key in held if key.startswith(f"{method}/")} - {""})
    what = f"{concept!r} (number {replicate})" if concept else f"no concept (number {replicate})"
    raise UnknownNameError(
        f"artifact steer/{steer.key} holds no direction of {method} for {what}; {nearest(concept or '', concepts)}"
    )


def at_coefficient(model: LanguageModel, steering: Steering, coefficient: float, neutral: Neutral | None) -> Strength:
    """The strength, with its mean KL over all neutral tokens, divided once; no KL without neutral text."""
    if neutral is None or not neutral.mask.any():
        return Strength(coefficient, None)
    found = _end_of(costs(model, [(steering, coefficient)], neutral))
    return Strength(coefficient, float(found[0]))


def at_budget(model: LanguageModel, steering: Steering, budget: float, neutral: Neutral | None) -> Strength:
    """The strength that costs so many nats a token, as the stage finds it.

    Raises:
        InputError: no neutral text to measure on, or no strength that was tried costs as much.
    """
    if neutral is None or not neutral.mask.any():
        raise InputError("the corpus of this experiment has no neutral text to measure a KL on; give a coefficient")
    coefficient, kl = _end_of(calibrate(model, [steering], neutral, [budget]))[0, 0].tolist()
    if not math.isfinite(coefficient):
        raise InputError(
            f"no strength that was tried costs {budget:g} nats a token; ask for less, or give a coefficient"
        )
    return Strength(coefficient, kl)


def write(writer: Writer, prompt: Prompt, steering: Steering, coefficient: float, n_samples: int) -> Trial:
    """Steered and plain continuations of a prompt; sample i of both has the seed of sample i in the stage."""
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


def _chosen(steer: Artifact, method: str, concept: str | None) -> int:
    """The candidate whose text the test prompts saw (at the lowest budget); 0 where none was written."""
    of = tables.GENERATIONS.scan(steer).filter(
        pl.col("method") == method,
        pl.col("concept").eq_missing(concept) | pl.lit(concept is None),
        pl.col("split") == "test",
    )
    found = of.sort("kl_budget", "replicate").select("replicate").head(1).collect()
    return int(found["replicate"][0]) if found.height else 0
