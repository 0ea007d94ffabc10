"""What each method reaches on each concept, from texts and judgements alone: one row for concept, method and budget.

A generation that failed counts as nothing gained and is counted. These rows are what scores are means over, and what two
methods are compared by, concept for concept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from components.steering.contract import Concept
from components.store import tables
from components.store.judgements import UNSTEERED

KINDS = ("document", "contextual", "surface")
UNTRAINED = "untrained"
MEASURES = ("composite", "uplift", "fluency")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the scores are about.

    Attributes:
        concepts: every candidate concept.
        refused: those that the gate kept out, with the reason.
        methods: names of the methods that have directions of their own for each concept.
        controls: names of those whose directions belong to no concept.
        budgets: KL budgets, nats a token.
        silent: why a measure (fluency, and with it the composite) is judged for no text, where that is so.
        unsteered: why (concept, method, budget) has no steering, where it has none.
        seed: of the deals of chance.
        columns: what every row says (dictionary, hook_point, n_seeds).
        untrained: method -> the name, among `methods`, under which the untrained dictionary goes through it.
        absent: name among `methods` -> why nothing was steered by it at all.
        stand_ins: (control, replicate) of directions that stand in for candidates and are compared with nobody.
        competitors: names among `methods` that read no dictionary: what a dictionary's latents stand against.
        limit: that not all concepts of the corpus are candidates, where that is so.
        ungraded: names whose steerings have no strength: they stand at no budget.
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
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stand_ins: frozenset[tuple[str, int]] = frozenset()
    competitors: frozenset[str] = frozenset()
    limit: str | None = None
    ungraded: frozenset[str] = frozenset()

    @property
    def places(self) -> list[tuple[float | None, list[str]]]:
        """Each budget with the methods and controls that stand at it; at no budget those that are not graded."""
        names = [*self.methods, *self.controls]
        graded = [name for name in names if name not in self.ungraded]
        rest = [name for name in names if name in self.ungraded]
        return [*((budget, graded) for budget in self.budgets), *([(None, rest)] if rest else [])]

    def who(self, method: str) -> dict[str, str | None]:
        """Of which entry the rows of a method are, and what they are to it."""
        if method in self.controls:
            return {"entry": method, "subject": None, "role": "floor"}
        bare = next((entry for entry, name in self.untrained.items() if name == method), None)
        if bare:
            return {"entry": bare, "subject": UNTRAINED, "role": "control"}
        return {"entry": method, "subject": None, "role": "baseline" if method in self.competitors else "entry"}

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


def concept_means(results: pl.DataFrame, split: str = "test") -> pl.DataFrame:
    """Mean composite, uplift and fluency of each (concept, method, replicate, kl_budget) on one split, failures as 0 and
    counted, and the mean KL on the steered text, of what was measured.
    """
    return (
        results.filter(pl.col("split") == split, pl.col("method") != UNSTEERED)
        .group_by("concept", "method", "replicate", "kl_budget")
        .agg(
            *(_value(results, name).fill_null(0.0).mean().alias(name) for name in MEASURES),
            pl.col("kl").mean().alias("kl_written"),
            pl.col("kl_reverse").mean().alias("kl_written_reverse"),
            pl.len().alias("n"),
            pl.col("uplift").is_null().sum().alias("n_failed"),
        )
        .sort("concept", "method", "replicate", "kl_budget")
    )


def by_concept(results: pl.DataFrame, strengths: pl.DataFrame, comparison: Comparison) -> pl.DataFrame:
    """The STEERED table: every method, and the mean of each control's directions, on every concept that passed the gate.

    Args:
        results: texts with their judgements (`components.store.judgements.judged`).
        strengths: the STRENGTHS table.
        comparison: what the scores are about.
    """
    means = concept_means(results)
    plain = results.filter(pl.col("method") == UNSTEERED, pl.col("split") == "test")
    plain = plain.select("concept", _value(results, "fluency").alias("fluency")).drop_nulls("fluency")
    fluent = dict(plain.group_by("concept").agg(pl.col("fluency").mean()).iter_rows())  # what failed must not lower it
    of_place = {(row["concept"], row["method"], row["kl_budget"]): row for row in _own(means, comparison)}
    cost = {tuple(row[name] for name in tables.STRENGTHS.key): row for row in strengths.to_dicts()}
    rows = []
    for budget, methods in comparison.places:
        largest = _largest(means, comparison, budget)
        for method in (m for m in methods if m not in comparison.absent):
            for concept in comparison.passed():
                own = of_place.get((concept.name, method, budget), {})
                measured = cost.get((concept.name, method, own.get("replicate"), budget), {})
                rows.append(
                    {
                        "concept": concept.name,
                        "concept_kind": concept.kind,
                        "method": method,
                        "kl_budget": budget,
                        **{name: own.get(name) for name in _OF_MEANS},
                        **{name: measured.get(name) for name in ("latent", "kl_elsewhere", "kl_whole")},
                        **{name: own.get(name) for name in MEASURES if name not in comparison.silent},
                        **largest.get(concept.name, {}),
                        "fluency_unsteered": fluent.get(concept.name),
                        "reason": None if own else comparison.unsteered.get((concept.name, method, budget)),
                    }
                )
    return tables.STEERED.frame(rows)


def _value(results: pl.DataFrame, measure: str) -> pl.Expr:
    """The column of a measure; null where no judge of that name is listed."""
    return pl.col(measure) if measure in results.columns else pl.lit(None, pl.Float64)


def n_compared(means: pl.DataFrame, comparison: Comparison, budget: float | None) -> int:
    """Control directions with a strength that a method must exceed."""
    return _compared(means, comparison, budget).select("method", "replicate").unique().height


_OF_MEANS = ("replicate", "n", "n_failed", "kl_written", "kl_written_reverse")


def _own(means: pl.DataFrame, comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of methods as they are; of controls the mean over their directions, stand-ins among them."""
    controls = pl.col("method").is_in(list(comparison.controls))
    averaged = (
        means.filter(controls)
        .group_by("concept", "method", "kl_budget")
        .agg(pl.col(*MEASURES, "kl_written", "kl_written_reverse").mean(), pl.col("n", "n_failed").sum())
    )
    return [*means.filter(~controls).to_dicts(), *averaged.to_dicts()]


def _compared(means: pl.DataFrame, comparison: Comparison, budget: float | None) -> pl.DataFrame:
    of_controls = means.filter(pl.col("method").is_in(list(comparison.controls)), at(budget))
    steerings = of_controls.select("method", "replicate").unique()
    compared = [s not in comparison.stand_ins for s in steerings.iter_rows()]
    return of_controls.join(steerings.filter(compared), on=["method", "replicate"], how="semi", maintain_order="left")


def _largest(means: pl.DataFrame, comparison: Comparison, budget: float | None) -> dict[str, dict[str, float]]:
    """For each concept the largest composite, and the largest uplift, that a control direction reaches."""
    maxima = _compared(means, comparison, budget).group_by("concept").agg(pl.col("composite", "uplift").max())
    silent = comparison.silent
    return {
        row["concept"]: {f"{name}_largest": row[name] for name in ("composite", "uplift") if name not in silent}
        for row in maxima.to_dicts()
    }
