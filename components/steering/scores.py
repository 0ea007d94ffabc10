"""Scores of steering: for each method and KL budget the composite of gain and fluency, and beside
it what judges say.

The replicate is the concept: prompts and samples are averaged inside it, and intervals are
Student's over concept means, cut to the range of the score. A concept's own interval is over
prompts. Kinds of concept are told apart; where there are several, `all` is the mean of their means,
each kind weighing the same. The baseline of the composite is what Gaussian directions reach when
they are chosen as the method chooses (the clip makes that positive); the share of concepts on which
a method exceeds every Gaussian direction stands beside what chance gives the same choice. Of a method
that is meant to lower its targets all this is of the fall, its own and that of the directions, and
a lower uplift is better.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Bool

from components.statistics import (
    ABSENT,
    Interval,
    binomial_tail,
    permutation_p,
    t_interval,
    t_interval_of_groups,
    wilson,
)
from components.steering import win_rate
from components.steering.by_concept import means_beside
from components.steering.comparison import CONTROLS, Comparison, at
from components.steering.composite import FLUENCY, RELEVANCE
from components.steering.contract import Concept
from components.steering.contrasts import contrasts
from components.steering.floor import Floor
from components.steering.measures import COSTS
from components.store.judgements import AGAIN, COMPOSITE, PANEL, column

LEVEL = 0.05
FEWEST_PAIRS = 6
"""Below so many pairs not even differences of one sign are significant at 0.05 (2 of 2^5 flips are
as extreme)."""
MASKED = "concept_masked"
"""The judge that reads text without the concept's own words."""
COMPOSITES = {COMPOSITE: "composite of two", PANEL: "composite of three"}
"""What a row says of the composite that its difference is of."""
BESIDE = ("logit_bias", "prompt")
"""Methods that read no activation: no other method's headline ought to stand without them."""
Rows = Mapping[str, Mapping[str, Any]]
"""Concept -> its row of what `by_concept` returns."""


def score_rows(
    results: pl.DataFrame,
    by_concept: pl.DataFrame,
    comparison: Comparison,
    against: pl.DataFrame | None = None,
    of_others: pl.DataFrame | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of the scores table; a kind of concept that is not in the inventory has none.

    Args:
        results: texts with their judgements (`components.store.judgements.judged`).
        by_concept: what each method reaches on each concept, made of it
            (`components.steering.by_concept`).
        comparison: what the scores are about.
        against: the CONTRASTS table made of it; made here where it is absent.
        of_others: what text gains of every concept (`components.store.judgements.off_target`);
            absent, nothing is told of it.
    """
    against = contrasts(results, by_concept, comparison) if against is None else against
    means, validated = (means_beside(results, comparison, of) for of in ("test", "validate"))
    kinds = [*(["all"] if len(comparison.kinds) > 1 else []), *comparison.kinds]
    yield from (_gate(comparison, kind) for kind in dict.fromkeys(["all", *kinds]))
    for budget, here in comparison.places:
        found: dict[str, Rows] = {}
        for (method,), part in by_concept.filter(at(budget)).group_by(
            "method", maintain_order=True
        ):
            found[str(method)] = {row["concept"]: row for row in part.iter_rows(named=True)}
        of = {
            method: _Scores(
                *(comparison, method, budget, found.get(method, {})),
                *(of[method in comparison.lowering] for of in (means, validated)),
            )
            for method in here
        }
        methods = [method for method in comparison.methods if method in here]
        for method in methods:
            scores = of[method]
            if method in comparison.absent:
                yield from (scores.absent(kind) for kind in comparison.kinds)
                continue
            for kind in kinds:
                yield from scores.over_concepts(kind)
                yield from scores.over_controls(kind, against, kinds[0])
                yield from scores.over_untrained(kind, found)
                # prompting raises the targets, so it is no rival of what lowers them
                if win_rate.applies(comparison, method) and not scores.lowers:
                    yield scores.win_rate(kind, results)
                if of_others is not None:
                    yield scores.specificity(kind, of_others)
            for kind in comparison.kinds:
                yield scores.share_above_random(kind)
                yield from scores.costs(kind)
        for control in (name for name in (*comparison.controls, AGAIN) if name in here):
            for kind in kinds:
                yield from of[control].of_control(kind)
        for method in methods:
            if method not in comparison.untrained.values() and method not in comparison.spoilt:
                yield from (
                    of[method].of_concept(results, concept) for concept in comparison.passed()
                )


def absent_row(columns: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The one row of a steering that could not begin."""
    nothing = dataclasses.asdict(ABSENT)
    about = {"unit_of_replication": "concept", "split": "validate", "concept_kind": "all"}
    return {
        "measure": "gate.passed",
        **nothing,
        **about,
        "n_failed": 0,
        "reason": reason,
        **columns,
    }


class _Scores:
    """Scores of one method at one budget."""

    def __init__(
        self,
        comparison: Comparison,
        method: str,
        budget: float | None,
        found: Rows,
        means: pl.DataFrame,
        validated: pl.DataFrame,
    ) -> None:
        self.comparison, self.method, self.budget, self.found = comparison, method, budget, found
        self.lowers = method in comparison.lowering
        self.who = comparison.who(method) | {"budget": budget}
        self.concepts = comparison.passed()
        floor = Floor.under(comparison, method, budget, means, validated)
        self.n_others, self.rivals, self.chance = floor.n_others, floor.rivals, floor.chance
        self.floor = floor.reached
        self.floor_of_panel: dict[str, float] = {}
        if PANEL in comparison.told:
            of_panel = Floor.under(comparison, method, budget, means, validated, measure=PANEL)
            self.floor_of_panel = dict(of_panel.reached)

    def absent(self, kind: str) -> dict[str, Any]:
        """The one row of a method with which nothing was steered."""
        about = {"concept_kind": kind, "n_failed": 0, "reason": self.comparison.absent[self.method]}
        return self._row("composite", ABSENT, **about)

    def over_concepts(self, kind: str) -> Iterator[dict[str, Any]]:
        """Composite, uplift, and what each judge beside the one that measures says."""
        concepts = self.comparison.passed(kind)
        choice = "chosen likewise" if self.rivals.max(initial=1) > 1 else "mean"
        floor = self._mean(concepts, self.floor), f"Gaussian directions, {choice}"
        largest = {
            n: row["uplift_largest"]
            for n, row in self.found.items()
            if row["uplift_largest"] is not None
        }
        most = "lowest" if self.lowers else "largest"
        above = self._mean(concepts, largest), f"{most} of {self.n_others} Gaussian directions"
        beside = [
            (judge, (self._unsteered(column(judge), concepts), "unsteered text"))
            if judge != PANEL
            else (PANEL, (self._mean(concepts, self.floor_of_panel), floor[1]))
            for judge in self.comparison.judges
        ]
        for measure, baseline in (("composite", floor), ("uplift", above), *beside):
            about, given = (
                self._about(kind, concepts, measure),
                baseline if baseline[0] is not None else None,
            )
            left = self._asked(concepts, measure)
            if self.lowers and measure not in ("composite", PANEL, FLUENCY, RELEVANCE):
                # what judges say of a target that is to go
                about["better"] = "lower" if measure == "uplift" else "neither"
            if measure == MASKED and (lexical := self._lexical(concepts)):
                about["reason"] = "; ".join(filter(None, (lexical, about["reason"])))
            if measure in self.comparison.silent:
                silent = {"n_failed": 0, "reason": self.comparison.silent[measure]}
                yield self._row(measure, ABSENT, **{**about, **silent})
            else:
                yield self._row(
                    measure, self._estimate(measure, kind, left), **about, baseline=given
                )

    def _lexical(self, concepts: Sequence[Concept]) -> str | None:
        """On how many concepts less than half of the uplift is left without the concept's own
        words."""
        if self.comparison.measure != "concept":
            return None
        rows = [self.found[c.name] for c in concepts if c.name in self.found]
        judged = [row for row in rows if row["uplift"] and row[f"{MASKED}_unsteered"] is not None]
        gained = [row for row in judged if row["uplift"] > 0]
        lexical = sum(
            (row[MASKED] or 0.0) - row[f"{MASKED}_unsteered"] < row["uplift"] / 2 for row in gained
        )
        return f"lexical on {lexical} of {len(gained)} concepts that gained" if gained else None

    def _unsteered(self, judge: str, concepts: Sequence[Concept]) -> float | None:
        """What the judge of this column says of plain text, over the concepts for which it says
        anything."""
        plain = {
            n: row[f"{judge}_unsteered"]
            for n, row in self.found.items()
            if row[f"{judge}_unsteered"] is not None
        }
        return self._mean([c for c in concepts if c.name in plain], plain)

    def over_controls(
        self, kind: str, against: pl.DataFrame, whole: str
    ) -> Iterator[dict[str, Any]]:
        """The headline: how much more the method reaches than the mean of controls that went
        through the same choice, by concept.

        Args:
            kind: of concepts.
            against: the CONTRASTS table.
            whole: the kind that holds all concepts; its row tells the tests.
        """
        measure = self.comparison.headline
        if self.method in self.comparison.ungraded or measure in self.comparison.silent:
            return  # it stands at no budget where controls stand: see CONTRASTS
        concepts = self.comparison.passed(kind)
        about, interval = self._about(kind, concepts, weighs="target"), ABSENT
        floor = self.floor_of_panel if measure == PANEL else self.floor
        names = [c.name for c in concepts]
        choice = ", chosen likewise" if self.rivals.max(initial=1) > 1 else ""
        baseline = 0.0, f"mean of {self.n_others} controls{choice}, {COMPOSITES[measure]}"
        if names and all(name in floor for name in names):
            values = {n: (self.found[n][measure] or 0.0) - floor[n] for n in names}
            # the tests are of targets that weigh alike, so the value and its interval are too
            interval = t_interval(np.array([values[name] for name in names]))
        elif names:
            absent = (
                f"no mean of controls is known: {self.n_others} are too few for the same choice"
            )
            about["reason"] = "; ".join(filter(None, (absent, about["reason"])))
        if kind == whole and interval.value is not None:
            tested = against.filter(
                pl.col("method") == self.method, pl.col("other") == CONTROLS, at(self.budget)
            )
            told = [_tested(row) for row in tested.iter_rows(named=True)]
            told += [self._chosen(), self._alone()]
            about["reason"] = "; ".join(filter(None, (*told, about["reason"])))
        yield self._row("over_controls", interval, **about, baseline=baseline)

    def _chosen(self) -> str | None:
        """That the judge that chose among steerings is the one that scores, where one chose."""
        most = int(self.rivals.max(initial=1))
        if most == 1:
            return None
        return f"chosen among up to {most} on validate prompts by the judges that score here"

    def _alone(self) -> str | None:
        """Which of the two baselines that read no activation do not stand beside it."""
        lacking = [name for name in BESIDE if name not in self.comparison.methods]
        is_control = self.comparison.who(self.method)["role"] == "control"
        if self.method in BESIDE or is_control or self.lowers or not lacking:
            return None
        return f"without {' and '.join(lacking)} beside it (steer.methods)"

    def over_untrained(self, kind: str, found: Mapping[str, Rows]) -> Iterator[dict[str, Any]]:
        """How much more a trained dictionary reaches than an untrained one that goes through the
        same, by concept."""
        other = found.get(self.comparison.untrained.get(self.method, ""))
        measure = self.comparison.headline
        if (
            other is None
            or self.method in self.comparison.untrained.values()
            or measure in self.comparison.silent
        ):
            return
        concepts = self.comparison.passed(kind)
        difference = [
            (self.found[c.name][measure] or 0.0) - (other[c.name][measure] or 0.0) for c in concepts
        ]
        interval = over(
            dict(zip([c.name for c in concepts], difference, strict=True)), kind, concepts
        )
        about = self._about(kind, concepts)
        if 0 < len(concepts) < FEWEST_PAIRS:
            interval = Interval(interval.value, None, None, interval.n)
            few = f"n too small: not even {len(concepts)} differences of one sign would be significant at {LEVEL:g}"
            about["reason"] = "; ".join(filter(None, (few, about["reason"])))
        baseline = 0.0, f"untrained dictionary, {COMPOSITES[measure]}"
        yield self._row("over_untrained", interval, **about, baseline=baseline)

    def win_rate(self, kind: str, results: pl.DataFrame) -> dict[str, Any]:
        """How often its text is rated above that of prompting, by concept."""
        concepts = self.comparison.passed(kind)
        found = win_rate.by_target(results, self.method, self.budget, concepts)
        about: dict[str, Any] = {"concept_kind": kind, "n_failed": 0}
        baseline = 0.5, "as often below prompting as above it"
        if not found.height:
            why = "no prompt has rated text of both" if concepts else "no concept passed the gate"
            return self._row("win_rate", ABSENT, **about, reason=why)
        told = win_rate.told(found)
        there = [c for c in concepts if c.name in told["rates"]]
        about |= {"n_failed": len(concepts) - len(there), "reason": told["reason"]}
        interval = over(told["rates"], kind, there)
        return self._row("win_rate", interval, **about, baseline=baseline)

    def specificity(self, kind: str, of_others: pl.DataFrame) -> dict[str, Any]:
        """How much more the concept that is steered towards gains than the other concepts do on the
        same texts, by concept; of what is meant to lower its targets how much more it falls.

        Args:
            kind: of concepts.
            of_others: what text gains of every concept (`components.store.judgements.off_target`).
        """
        concepts = self.comparison.passed(kind)
        own = pl.col("concept") == pl.col("other")
        gained = (
            of_others.filter(pl.col("method") == self.method, at(self.budget))
            .group_by("concept")
            .agg(
                pl.col("uplift").filter(own).mean().alias("own"),
                pl.col("uplift").filter(~own).mean().alias("others"),
            )
            .drop_nulls()
            .filter(pl.col("concept").is_in([c.name for c in concepts]))
            .sort("concept")
        )
        absent, measure = None, self.comparison.measure
        if not gained.height and not concepts:
            absent = "no concept passed the gate"
        elif not gained.height and len(self.comparison.passed()) == 1:
            absent = "one concept passed the gate, so there is no other to compare it with"
        elif not gained.height:
            absent = self.comparison.silent.get(measure) or (
                f"no text that the judge {measure} reads for several concepts"
            )
        about = {"concept_kind": kind, "reason": absent}
        about["n_failed"] = 0 if absent else len(concepts) - gained.height
        difference = (gained["own"] - gained["others"]).to_numpy()
        if self.method in self.comparison.lowering:
            difference = -difference
        values = dict(zip(gained["concept"], difference.tolist(), strict=True))
        there = [c for c in concepts if c.name in values]
        interval = over(values, kind, there) if there else ABSENT
        return self._row(
            "specificity", interval, **about, baseline=(0.0, "as much for every concept")
        )

    def share_above_random(self, kind: str) -> dict[str, Any]:
        """On which share of concepts the composite exceeds that of every Gaussian direction, beside
        chance."""
        concepts, measure = self.comparison.passed(kind), "share_above_random"
        about = self._about(kind, concepts)
        largest = [
            self.found[c.name]["composite_largest"] for c in concepts if c.name in self.found
        ]
        absent = (
            "no control direction to compare with"
            if not self.n_others
            else self.comparison.silent.get("composite")
        )
        if not concepts or absent or None in largest or len(largest) < len(concepts):
            reason = (
                about["reason"]
                if not concepts
                else absent or "a control direction has no text for some concepts"
            )
            return self._row(measure, ABSENT, **{**about, "reason": reason})
        worked = _worked(self.found, concepts)  # what failed is above nothing
        value = np.array([self.found[c.name]["composite"] or 0.0 for c in concepts])
        n, above = len(concepts), int((worked & (value > np.array(largest))).sum())
        share, told = wilson(above, n), []
        if self.rivals.max(initial=1) == 1:
            chance = 1 / (1 + self.n_others)
            baseline = chance, f"chance of being the largest of {1 + self.n_others} equals"
            p, least = binomial_tail(above, n, chance), chance**n
        elif self.chance is None:
            few = f"no chance is known: {self.n_others} Gaussian directions are too few for a choice among candidates"
            return self._row(
                measure,
                share,
                **{**about, "reason": "; ".join(filter(None, (few, about["reason"])))},
            )
        else:
            of_kind = np.array([c in concepts for c in self.concepts])
            draws = self.chance.above[:, of_kind].mean(axis=1)
            most = int(self.rivals.max())
            baseline = (
                float(draws.mean()),
                f"chance of the best of {most} Gaussian directions against {self.n_others}",
            )
            p, least = permutation_p(share.value or 0.0, draws), permutation_p(1.0, draws)
            told.append(f"95% of draws of chance reach at most {np.quantile(draws, 0.95):.2g}")
        if least is not None and least >= LEVEL:
            share = Interval(share.value, None, None, n)
            told = [f"n too small: even {n} of {n} would come by chance (p {least:.2g})"]
        else:
            told.append(f"p {p:.2g} against chance")
        return self._row(
            measure,
            share,
            **{**about, "reason": "; ".join(filter(None, [*told, about["reason"]]))},
            baseline=baseline,
        )

    def costs(self, kind: str) -> Iterator[dict[str, Any]]:
        """What the chosen steerings cost where nothing was set, and on the text that they wrote,
        beside the budget."""
        concepts = self.comparison.passed(kind)
        budget = None if self.budget is None else (self.budget, "KL budget")
        for measure, (cost, split, why) in COSTS.items():
            own = {c.name: self.found[c.name][cost] for c in concepts if c.name in self.found}
            measured = {name: kl for name, kl in own.items() if kl is not None}
            absent = None
            if not measured:
                steered = any(self.found.get(c.name, {}).get("n") for c in concepts)
                absent = why if steered else "no usable direction, so nothing was steered"
                absent = absent if concepts else "no concept passed the gate"
            interval = t_interval(np.array(list(measured.values())))
            about = {"concept_kind": kind, "split": split, "reason": absent}
            about["n_failed"] = len(concepts) - len(measured)
            of_budget = (0.0, "unsteered") if measure == "loss_whole" else budget
            yield self._row(measure, interval, **about, baseline=of_budget)

    def of_control(self, kind: str) -> Iterator[dict[str, Any]]:
        """Means of a control's directions, over concepts."""
        concepts = self.comparison.passed(kind)
        there = [c for c in concepts if self.found.get(c.name, {}).get("n")]
        for measure in self.comparison.measures:
            about = self._about(kind, concepts, measure) | {"better": "neither"}
            if concepts and not there:
                about |= {"reason": "no direction of it has a strength", "n_failed": 0}
            silent = self.comparison.silent.get(measure)
            interval = ABSENT
            # without any strength there is no value; a concept left out counts as 0
            if there and not silent:
                interval = self._estimate(measure, kind, self._asked(concepts, measure))
            given = about | ({"reason": silent, "n_failed": 0} if silent else {})
            of_judge = measure in self.comparison.judges and measure != PANEL
            baseline = None if of_judge else (0.0, "unsteered")
            yield self._row(measure, interval, **given, baseline=baseline)

    def of_concept(self, results: pl.DataFrame, concept: Concept) -> dict[str, Any]:
        """One concept's composite, with an interval over prompts."""
        row = self.found.get(concept.name, {})
        about: dict[str, Any] = {
            "concept": concept.name,
            "concept_kind": concept.kind,
            "n_failed": 0,
        }
        about["unit_of_replication"] = "prompt"
        reason = self.comparison.silent.get("composite") or row.get("reason")
        if self.comparison.silent.get("composite") or row.get("n") is None:
            return self._row("composite", ABSENT, **about, reason=reason)
        own = results.filter(
            pl.col("concept") == concept.name,
            pl.col("method") == self.method,
            at(self.budget),
            pl.col("split") == "test",
        )
        by_prompt = own.group_by("prompt").agg(
            pl.col("composite").fill_null(0.0).mean(),
            pl.col("uplift").is_null().all().alias("failed"),
        )
        about["n_failed"] = int(by_prompt["failed"].sum())
        interval = t_interval(by_prompt.sort("prompt")["composite"].to_numpy())
        baseline = (row["composite_largest"], f"largest of {self.n_others} Gaussian directions")
        return self._row(
            "composite", interval, **about, baseline=baseline if baseline[0] is not None else None
        )

    def _estimate(self, measure: str, kind: str, concepts: Sequence[Concept]) -> Interval:
        values = {name: row[column(measure)] or 0.0 for name, row in self.found.items()}
        return over(values, kind, concepts)

    def _mean(self, concepts: Sequence[Concept], values: Mapping[str, float]) -> float | None:
        """The mean over these concepts, kinds weighing the same; None where a concept has no
        value."""
        if not concepts or any(c.name not in values for c in concepts):
            return None
        kinds = dict.fromkeys(c.kind for c in concepts)
        return float(
            np.mean(
                [np.mean([values[c.name] for c in concepts if c.kind == kind]) for kind in kinds]
            )
        )

    def _about(
        self,
        kind: str,
        concepts: Sequence[Concept],
        measure: str = "composite",
        weighs: Literal["kind", "target"] = "kind",
    ) -> dict[str, Any]:
        failed = f"{column(measure)}_failed" if measure in self.comparison.judges else "n_failed"
        missing = {name: self._missing(row, measure) for name, row in self.found.items()}
        rows = {
            name: {**row, "n": row["n"] and row["n"] - missing[name], "n_failed": row[failed]}
            for name, row in self.found.items()
        }
        left = self._asked(concepts, measure)
        told = None
        if left or not concepts:
            told = _caveat([rows[c.name] for c in left if c.name in rows], left)
        if n_missing := sum(missing.get(c.name, 0) for c in concepts):
            n = sum(self.found[c.name]["n"] or 0 for c in concepts if c.name in self.found)
            unasked = f"{n_missing:g} of {n:g} generations are missing: nobody was asked about them"
            if len(left) < len(concepts):
                unasked += f", and so are {len(concepts) - len(left)} of {len(concepts)} concepts"
            told = "; ".join(filter(None, (unasked, told)))
        if kind == "all" and concepts:
            counted = Counter(c.kind for c in concepts)
            kinds = ", ".join(f"{n} {of}" for of, n in counted.items())
            over = f"the mean over {weighs}s, each weighing the same: {kinds} concepts"
            told = "; ".join(filter(None, (over, told)))
        return {
            "concept_kind": kind,
            "n_failed": int((~_worked(rows, left)).sum()),
            "reason": told,
        }

    def _asked(self, concepts: Sequence[Concept], measure: str) -> list[Concept]:
        """Concepts of which a judge that asks was asked about some text; of others all."""
        rows = {c.name: self.found.get(c.name, {}) for c in concepts}
        return [
            c
            for c in concepts
            if not (n := rows[c.name].get("n")) or self._missing(rows[c.name], measure) < n
        ]

    def _missing(self, row: Mapping[str, Any], measure: str) -> int:
        """Texts that were not asked about."""
        of_judge = measure in self.comparison.judges and measure != PANEL
        return row.get(f"{column(measure)}_missing") or 0 if of_judge else 0

    def _row(self, measure: str, interval: Interval, **about: Any) -> dict[str, Any]:
        return score_row(self.comparison, measure, interval, **self.who, **about)


def _tested(row: Mapping[str, Any]) -> str | None:
    """What the tests of a row of CONTRASTS say, in words."""
    told = []
    if row["p"] is not None:
        told.append(f"p {row['p']:.2g} by flips of sign")
    if row["p_holm"] is not None:
        told.append(f"{row['p_holm']:.2g} after Holm over the methods at this budget")
    if row["visible"] is not None:
        told.append(f"a difference of {row['visible']:.2g} could have been seen")
    return "; ".join(filter(None, [", ".join(told), row["reason"]])) or None


def over(values: Mapping[str, float], kind: str, concepts: Sequence[Concept]) -> Interval:
    """Mean over these concepts with Student's interval, 0 where one has no value; of `all`, kinds
    weigh the same."""
    kinds = dict.fromkeys(c.kind for c in concepts)
    groups = [
        np.array([values.get(c.name, 0.0) for c in concepts if c.kind == of], np.float64)
        for of in kinds
    ]
    if kind == "all":
        return t_interval_of_groups(groups)
    return t_interval(groups[0] if groups else np.zeros(0))


def _worked(found: Rows, concepts: Sequence[Concept]) -> Bool[np.ndarray, " concept"]:
    """Which concepts have a generation that did not fail."""
    of = [found.get(c.name, {}) for c in concepts]
    return np.array([bool(row.get("n")) and row["n_failed"] < row["n"] for row in of], dtype=bool)


def _gate(comparison: Comparison, kind: str) -> dict[str, Any]:
    """The share of candidate concepts that a probe decodes and the concept judge judges."""
    concepts = [c for c in comparison.concepts if kind in ("all", c.kind)]
    passed = len(comparison.passed(kind))
    about = {"concept_kind": kind, "n_failed": 0, "split": "validate"}
    reason = (
        "; ".join(told for told in (_refusals(comparison, concepts), comparison.limit) if told)
        or None
    )
    return score_row(
        comparison, "gate.passed", wilson(passed, len(concepts)), reason=reason, **about
    )


def score_row(
    comparison: Comparison,
    measure: str,
    interval: Interval,
    *,
    baseline: tuple[float, str] | None = None,
    **about: Any,
) -> dict[str, Any]:
    """A row of the scores table; an interval without width is left out, with the reason."""
    # without width it would claim to be sure
    if interval.low is not None and interval.low == interval.high:
        interval = dataclasses.replace(interval, low=None, high=None)
        sure = f"all {interval.n} are alike, which tells no interval"
        about["reason"] = "; ".join(filter(None, (sure, about.get("reason"))))
    return {
        "measure": measure,
        **dataclasses.asdict(interval),
        "unit_of_replication": "concept",
        "baseline": baseline[0] if baseline else None,
        "baseline_name": baseline[1] if baseline else None,
        "split": "test",
        **comparison.columns,
        **about,
    }


def _refusals(comparison: Comparison, concepts: Sequence[Concept]) -> str | None:
    """How many concepts the gate kept out, by its first words."""
    counted = Counter(
        comparison.refused[c.name].partition(":")[0]
        for c in concepts
        if c.name in comparison.refused
    )
    if not counted:
        return None
    told = ", ".join(f"{n} by the {who}" for who, n in sorted(counted.items()))
    return f"{sum(counted.values())} of {len(concepts)} concepts did not pass the gate ({told})"


def _caveat(means: Sequence[Mapping[str, Any]], concepts: Sequence[Concept]) -> str | None:
    """What a reader of the row must know: refusals, concepts without a direction, failed
    generations."""
    if not concepts:
        return "no concept passed the gate"
    told, there = [], [row for row in means if row.get("n")]
    if len(there) < len(concepts):
        told.append(
            f"{len(concepts) - len(there)} of {len(concepts)} concepts had no usable direction "
            "and count as 0"
        )
    if failed := sum(row["n_failed"] for row in there):
        told.append(
            f"{failed:g} of {sum(row['n'] for row in there):g} generations failed and count as 0"
        )
    if len(concepts) < 2:
        told.append("one concept gives no interval")
    return "; ".join(told) or None
