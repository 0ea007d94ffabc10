"""What the scores of steering are about: concepts, methods, controls, budgets and judges, and what
is absent and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from components.steering.contract import Concept
from components.store.judgements import AGAIN, COMPOSITE, PANEL

KINDS = ("document", "contextual", "surface", "latent", "set")
UNTRAINED = "untrained"
"""What tables call a method that the untrained dictionary goes through."""
CONTROLS = "controls"
"""What tables call the mean of the controls that went through a method's choice."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the scores are about.

    Attributes:
        concepts: every candidate concept.
        refused: those that the gate kept out, with the reason.
        methods: names of the methods that have directions of their own for each concept.
        controls: names of those whose directions belong to no concept; the first is what the others
            are compared with.
        budgets: KL budgets, nats a token.
        silent: why a measure (fluency, and with it the composite) is judged for no text, where that
            is so.
        unsteered: why (concept, method, budget) has no steering, where it has none.
        seed: of the deals of chance.
        columns: what every row says (dictionary, hook_point, n_seeds).
        untrained: method -> the name, among `methods`, under which the untrained dictionary goes
            through it.
        spoilt: name, among `methods`, of a method under a control -> (method, control).
        absent: name among `methods` -> why nothing was steered by it at all.
        stand_ins: (control, replicate) of directions that stand in for candidates and are compared
            with nobody.
        competitors: names among `methods` that read no dictionary: what a dictionary's latents
            stand against.
        limit: that not all concepts of the corpus are candidates, where that is so.
        ungraded: names whose steerings have no strength: they stand at no budget.
        measure: the judge that measures.
        judges: whose own scores stand beside composite and uplift (`SteerConfig.beside`).
        headline_budget: the budget at which methods are tested together.
        again: whether plain text from other seeds stands beside the methods (`AGAIN`).
        lowering: names, among `methods`, of what is meant to lower its targets: its composites are
            of the fall, and controls stand beside it with theirs.
    """

    concepts: Sequence[Concept]
    refused: Mapping[str, str]
    methods: Sequence[str]
    controls: Sequence[str]
    budgets: Sequence[float]
    silent: Mapping[str, str]
    unsteered: Mapping[tuple[str | None, str, float], str]
    seed: int
    columns: Mapping[str, Any]
    untrained: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spoilt: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stand_ins: frozenset[tuple[str, int]] = frozenset()
    competitors: frozenset[str] = frozenset()
    limit: str | None = None
    ungraded: frozenset[str] = frozenset()
    judges: Sequence[str] = ("fluency",)
    headline_budget: float = 0.2
    again: bool = False
    measure: str = "concept"
    lowering: frozenset[str] = frozenset()

    @property
    def measures(self) -> list[str]:
        """What is averaged over texts: the composite, the uplift, and what each of these judges
        says."""
        return [COMPOSITE, "uplift", *self.judges]

    @property
    def headline(self) -> str:
        """The composite that methods are compared by: of three parts where relevance is judged,
        else of two."""
        return PANEL if PANEL in self.told else COMPOSITE

    @property
    def told(self) -> list[str]:
        """Those that some text has."""
        return [name for name in self.measures if name not in self.silent]

    @property
    def places(self) -> list[tuple[float | None, list[str]]]:
        """Each budget with the methods and controls that stand at it; at no budget those that are
        not graded."""
        names = [*self.methods, *self.controls]
        graded = [name for name in names if name not in self.ungraded]
        rest = [name for name in names if name in self.ungraded]
        rest += [AGAIN] if self.again else []
        return [*((budget, graded) for budget in self.budgets), *([(None, rest)] if rest else [])]

    @property
    def floor(self) -> list[str]:
        """The control that methods are compared with: the first one; others stand beside it."""
        return list(self.controls[:1])

    def who(self, method: str) -> dict[str, str | None]:
        """Of which entry the rows of a method are, and what they are to it."""
        if method in self.spoilt:
            entry, control = self.spoilt[method]
            return {"entry": entry, "subject": control, "role": "control"}
        if method in (*self.controls, AGAIN):
            return {"entry": method, "subject": None, "role": "floor"}
        bare = next((entry for entry, name in self.untrained.items() if name == method), None)
        if bare:
            return {"entry": bare, "subject": UNTRAINED, "role": "control"}
        return {
            "entry": method,
            "subject": None,
            "role": "baseline" if method in self.competitors else "entry",
        }

    def passed(self, kind: str = "all") -> list[Concept]:
        """Concepts of a kind (or all) that the gate let through."""
        return [c for c in self.concepts if kind in ("all", c.kind) and c.name not in self.refused]

    @property
    def kinds(self) -> list[str]:
        """The kinds of the candidate concepts."""
        return [kind for kind in KINDS if any(c.kind == kind for c in self.concepts)]


def at(budget: float | None) -> pl.Expr:
    """Rows of this budget."""
    return pl.col("kl_budget").eq_missing(pl.lit(budget, pl.Float64))
