"""Each method against controls that went through the same choice, and against each other method,
paired by target: the CONTRASTS table.

The headline is the difference to the mean of the controls at the budget that `steer.headline_budget`
fixed before anything ran. Its tests form one primary family (the methods, against controls, there),
corrected after Holm; pairs of methods there form a second one. Everything else is described.

A method without strength stands at no budget. It is compared at its own cost, target by target: the
other's value is interpolated between budgets, linearly in the logarithm of the cost. Targets at
whose cost the other was not tried are left out, and counted.

A method that is meant to lower its targets is measured by the fall, and so are its controls. It is
not compared with a method that raises them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from components.seeds import numpy_generator
from components.statistics import Interval, detectable, holm, sign_flip_test, t_interval
from components.steering.by_concept import means_beside
from components.steering.comparison import CONTROLS, Comparison, at
from components.steering.floor import Floor
from components.store import tables

FEWEST_TARGETS = 12
FEWEST_CONTROLS = 20
PRIMARY, PAIRS = "primary", "pairs"
Values = Mapping[str, float]
"""Target -> value."""


def contrasts(
    results: pl.DataFrame, by_concept: pl.DataFrame, comparison: Comparison
) -> pl.DataFrame:
    """The CONTRASTS table; empty where the composite is judged for no text.

    Args:
        results: texts with their judgements (`components.store.judgements.judged`).
        by_concept: what each method reaches on each target (`components.steering.by_concept`).
        comparison: what the scores are about.
    """
    if comparison.headline in comparison.silent or not comparison.passed():
        return tables.CONTRASTS.frame([])
    found = Contrasts(results, by_concept, comparison)
    rows = [*found.against_controls(), *found.pairs()]
    return tables.CONTRASTS.frame(corrected(rows))


def corrected(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The rows with p-values corrected within each family, and what a test of a family sees.

    The smallest difference that is seen is Bonferroni's, the first and hardest step of Holm's.
    """
    for family in (PRIMARY, PAIRS):
        tested = [row for row in rows if row["family"] == family and row["p"] is not None]
        for row, p in zip(tested, holm(np.array([r["p"] for r in tested])), strict=True):
            row["p_holm"] = float(p)
            interval = Interval(row["value"], row["low"], row["high"], row["n"])
            row["visible"] = detectable(interval, row["n"] - 1, len(tested))
    return rows


class Contrasts:
    """Values of all methods and controls, and what is made of two."""

    def __init__(
        self, results: pl.DataFrame, by_concept: pl.DataFrame, comparison: Comparison
    ) -> None:
        self.comparison, self.measure = comparison, comparison.headline
        self.names = [concept.name for concept in comparison.passed()]
        self.means, self.validated = (
            means_beside(results, comparison, split) for split in ("test", "validate")
        )
        self._reached: dict[tuple[str, float | None], dict[str, dict[str, Any]]] = {}
        for row in by_concept.iter_rows(named=True):
            place = self._reached.setdefault((row["method"], row["kl_budget"]), {})
            place[row["concept"]] = row
        self.methods = [name for name in comparison.methods if name not in comparison.absent]

    def against_controls(self) -> Iterator[dict[str, Any]]:
        """Each method against the mean of controls that went through its choice."""
        for method in self.methods:
            if method in self.comparison.ungraded:
                floors = {
                    budget: Floor.under(
                        *(self.comparison, method, None, *self._beside(method), budget),
                        measure=self.measure,
                    )
                    for budget in self.comparison.budgets
                }
                found = {budget: floor.reached for budget, floor in floors.items()}
                n = min((floor.n for floor in floors.values()), default=0)
                yield self._told(method, CONTROLS, None, self._at_own_cost(method, found), n)
                continue
            for budget in self.comparison.budgets:
                floor = Floor.under(
                    *(self.comparison, method, budget, *self._beside(method)),
                    measure=self.measure,
                )
                row = self._told(method, CONTROLS, budget, floor.reached, floor.n)
                if budget == self.comparison.headline_budget and self._enters(method):
                    row["family"] = PRIMARY
                yield row | self._empirical(method, budget)

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Each method against each other; of two, one without strength stands second."""
        ungraded = self.comparison.ungraded
        methods = [name for name in self.methods if self._enters(name)]
        lowering = self.comparison.lowering
        for one, other in itertools.combinations(methods, 2):
            if (one in lowering) != (other in lowering):
                continue
            if one in ungraded and other in ungraded:
                yield self._told(one, other, None, self._values(other, None))
            elif one in ungraded or other in ungraded:
                plain, graded = (one, other) if one in ungraded else (other, one)
                found = {budget: self._values(graded, budget) for budget in self.comparison.budgets}
                # the graded one first, whichever was listed first
                yield self._told(graded, plain, None, self._at_own_cost(plain, found), swapped=True)
            else:
                for budget in self.comparison.budgets:
                    row = self._told(one, other, budget, self._values(other, budget))
                    if budget == self.comparison.headline_budget:
                        row["family"] = PAIRS
                    yield row

    def _beside(self, method: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Means over test and over validate prompts, as they stand beside a method."""
        lowers = method in self.comparison.lowering
        return self.means[lowers], self.validated[lowers]

    def _enters(self, method: str) -> bool:
        """Whether it is a method of its own, no control of one."""
        return method not in {*self.comparison.untrained.values(), *self.comparison.spoilt}

    def _values(self, method: str, budget: float | None) -> dict[str, float]:
        """What a method reaches on each target; without text nothing."""
        rows = self._reached.get((method, budget), {})
        return {name: rows.get(name, {}).get(self.measure) or 0.0 for name in self.names}

    def _at_own_cost(self, method: str, found: Mapping[float, Values]) -> dict[str, float]:
        """The values of something graded, where it costs on each target what a method without
        strength costs there; targets outside the budgets that were tried are left out."""
        own = self._reached.get((method, None), {})
        interpolated = {}
        for name in self.names:
            cost = own.get(name, {}).get("kl_validate")
            there = sorted((budget, of[name]) for budget, of in found.items() if name in of)
            if cost and there and there[0][0] <= cost <= there[-1][0]:
                budgets, values = zip(*there, strict=True)
                interpolated[name] = float(np.interp(np.log(cost), np.log(budgets), values))
        return interpolated

    def _told(
        self,
        method: str,
        other: str,
        budget: float | None,
        others: Values,
        n_controls: int | None = None,
        swapped: bool = False,
    ) -> dict[str, Any]:
        """One row: the method's values minus the other's; `swapped` where `others` are the
        method's, interpolated to the other's cost."""
        place = other if swapped else method
        own = self._values(place, budget)
        left = [name for name in self.names if name in others]
        signs = -1 if swapped else 1
        differences = signs * np.array([own[name] - others[name] for name in left])
        interval = t_interval(differences)
        rows = self._reached.get((place, budget), {})
        draw = numpy_generator(self.comparison.seed, "flips", f"{method} {other} {budget}")
        p = sign_flip_test(differences, draw) if len(left) > 1 else None
        return {
            "method": method,
            "other": other,
            "kl_budget": budget,
            "measure": self.measure,
            **dataclasses.asdict(interval),
            "n_failed": sum(not rows.get(name, {}).get("n") for name in left),
            "n_left_out": len(self.names) - len(left),
            "p": p,
            "family": None,
            "p_holm": None,
            "p_controls": None,
            "n_controls": n_controls,
            "visible": detectable(interval, len(left) - 1) if len(left) > 1 else None,
            "reason": self._reason(left, budget, n_controls),
        }

    def _reason(
        self, left: Sequence[str], budget: float | None, n_controls: int | None
    ) -> str | None:
        told = []
        if len(left) < len(self.names):
            budgets = ", ".join(f"{b:g}" for b in self.comparison.budgets)
            told.append(
                f"on {len(self.names) - len(left)} of {len(self.names)} targets nothing stands at "
                f"the same cost (steer.kl_budgets: {budgets} nats a token)"
            )
        if n_controls is not None and n_controls < FEWEST_CONTROLS:
            told.append(
                f"the mean of {n_controls} controls, wanted at least {FEWEST_CONTROLS} "
                "(steer.method_settings.random_direction.n_directions)"
            )
        if 0 < len(left) < FEWEST_TARGETS:
            told.append(f"{len(left)} targets, wanted at least {FEWEST_TARGETS}")
        return "; ".join(told) or None

    def _empirical(self, method: str, budget: float | None) -> dict[str, Any]:
        """The method's mean over targets among those of single control steerings."""
        controls = pl.col("method").is_in(self.comparison.floor) & at(budget)
        found = (
            self._beside(method)[0]
            .filter(controls, pl.col("concept").is_in(self.names))
            .group_by("method", "replicate")
            .agg(pl.col(self.measure).sum() / len(self.names))
        )[self.measure].to_numpy()
        if not len(found):
            return {}
        own = float(np.mean(list(self._values(method, budget).values())))
        return {"p_controls": (1 + int((found >= own - 1e-12).sum())) / (1 + len(found))}
