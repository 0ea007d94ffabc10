"""Candidates at their strengths, and which of them the validate prompts choose.

A method may propose several steerings for a concept; the one with the largest mean composite on
validate prompts is used (failures count as none; on a tie, and where no composite was judged, the
larger uplift, then the better on select). Where a steering is meant to lower its target, the composite
is of the fall, and the smaller uplift is the better one. Controls are not chosen among: each is
reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from components.steering.by_concept import concept_means
from components.steering.contract import Candidate
from components.steering.writer import Job, Prompt


@dataclasses.dataclass(frozen=True, eq=False)
class Steered:
    """One candidate at one budget.

    Attributes:
        method: its method.
        candidate: what is steered.
        budget: nats a token; None where no strength can be set.
        strength: of the steering, in its own units; None where there is none, with the reason.
        kl: what the text costs that it writes after validate prompts at that strength.
        kl_elsewhere: measured on other neutral text, once it was chosen.
        kl_whole: measured over whole contexts of neutral text, likewise.
        loss_whole: how much the loss rises there.
        dose: length of the edit over that of the activation, mean over edited tokens of neutral
            text, likewise; None where no activation is edited there.
        kl_95: the 95% quantile of the KL of single tokens, on the same text.
        reason: why there is no strength.
    """

    method: str
    candidate: Candidate
    budget: float | None
    strength: float | None = None
    kl: float | None = None
    kl_elsewhere: float | None = None
    kl_whole: float | None = None
    loss_whole: float | None = None
    dose: float | None = None
    kl_95: float | None = None
    reason: str | None = None

    def jobs(self, prompts: Sequence[Prompt], n_samples: int) -> list[Job]:
        """Every prompt and sample under this steering; none where it has no strength."""
        if self.strength is None:
            return []
        steering, strength = self.candidate.steering, self.strength
        return [
            Job(prompt, sample, steering, strength)
            for prompt in prompts
            for sample in range(n_samples)
        ]

    def row(self) -> dict[str, object]:
        """Its row of the strengths table."""
        return {
            "concept": self.candidate.concept,
            "method": self.method,
            "replicate": self.candidate.replicate,
            "latent": self.candidate.latent,
            "sign": self.candidate.sign if self.candidate.steering else None,
            "kl_budget": self.budget,
            "coefficient": self.strength,
            "kl": self.kl,
            "kl_elsewhere": self.kl_elsewhere,
            "kl_whole": self.kl_whole,
            "loss_whole": self.loss_whole,
            "dose": self.dose,
            "kl_95": self.kl_95,
            "select_score": self.candidate.select_score,
            "reason": self.reason,
        }


def entered(
    steered: Sequence[Steered], final: Sequence[Steered], found: Mapping[int, Mapping[str, Any]]
) -> tuple[list[Steered], list[Steered]]:
    """All, and the chosen among them, with what was found of some.

    Args:
        steered: all.
        final: the chosen, themselves among all.
        found: identity of a chosen one -> attribute -> value.
    """
    changed = {id(s): dataclasses.replace(s, **found.get(id(s), {})) for s in steered}
    return [changed[id(s)] for s in steered], [changed[id(s)] for s in final]


def contested(steered: Sequence[Steered], controls: Collection[str]) -> list[Steered]:
    """Those with a rival: another candidate of the same method, concept and budget that has a
    strength."""
    return [s for group in _rivals(steered, controls).values() if len(group) > 1 for s in group]


def choose(
    validated: pl.DataFrame, steered: Sequence[Steered], controls: Collection[str]
) -> list[Steered]:
    """One for each concept, method and budget, and every control.

    Args:
        validated: texts of validate prompts with their judgements (`components.store.judgements`),
            and no others.
        steered: all that have, or lack, a strength.
        controls: methods whose steerings are all kept.
    """
    of_controls = [s for s in steered if s.method in controls and s.strength is not None]
    return of_controls + Merits(validated).best(steered, controls)


class Merits:
    """What the texts that steerings wrote after validate prompts say of them."""

    def __init__(self, validated: pl.DataFrame) -> None:
        """`validated` is that of `choose`."""
        assert (validated["split"] == "validate").all(), "only validate prompts choose"
        keys = ("concept", "method", "replicate", "kl_budget")
        self._means = {
            tuple(row[key] for key in keys): row
            for row in concept_means(validated, "validate").to_dicts()
        }

    def reached(self, s: Steered, concept: str | None) -> Mapping[str, Any]:
        """Its row of `concept_means` for a concept; empty where no text was judged for that."""
        return self._means.get((concept, s.method, s.candidate.replicate, s.budget), {})

    def best(self, steered: Sequence[Steered], controls: Collection[str] = ()) -> list[Steered]:
        """The best for each concept, method and budget, of those that have a strength and are no
        control's."""

        def merit(s: Steered) -> tuple[float, float, int]:
            of = self.reached(s, s.candidate.concept)
            sign = -1 if s.candidate.lowers else 1
            return of.get("composite", 0.0), sign * of.get("uplift", 0.0), -s.candidate.replicate

        return [max(group, key=merit) for group in _rivals(steered, controls).values()]


def _rivals(steered: Sequence[Steered], controls: Collection[str]) -> Mapping[tuple, list[Steered]]:
    groups: dict[tuple, list[Steered]] = {}
    for s in steered:
        if s.method not in controls and s.strength is not None:
            groups.setdefault((s.method, s.candidate.concept, s.budget), []).append(s)
    return groups
