"""Scores of steering, from the generations table alone: uplift on test prompts beside the largest of the controls.

Uplift is the concept judge's probability minus that of plain text of the same prompt and sample; a generation that
failed counts as no uplift and is counted. The replicate is the concept: prompts and samples are averaged inside it, and
intervals are over concept means (Student's below 30 concepts, where the percentile bootstrap covers too little; the
bootstrap from 30 on). A concept's own interval is over prompts. The baseline takes, for every concept, the largest
uplift that any control direction reaches on it, which favours the baseline.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from components.seeds import numpy_generator
from components.statistics import Interval, bootstrap_mean, t_interval, wilson
from components.steering.contract import Concept

KINDS = ("all", "document", "contextual", "surface")
UNSTEERED = "unsteered"
ENOUGH_FOR_BOOTSTRAP = 30


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the scores are about.

    Attributes:
        concepts: every candidate concept.
        refused: those that the gate kept out, with the reason.
        methods: names of the methods that have directions of their own for each concept.
        controls: names of those whose directions belong to no concept.
        budgets: KL budgets, nats a token.
        judges: names of the judges that judged; without `fluency` there is no fluency.
        unsteered: why (concept, method, budget) has no steering, where it has none.
        seed: of the bootstrap.
        columns: what every row says (dictionary, hook_point, n_seeds).
        limit: that not all concepts of the corpus are candidates, where that is so.
    """

    concepts: Sequence[Concept]
    refused: Mapping[str, str]
    methods: Sequence[str]
    controls: Sequence[str]
    budgets: Sequence[float]
    judges: Sequence[str]
    unsteered: Mapping[tuple[str | None, str, float], str]
    seed: int
    columns: Mapping[str, Any]
    limit: str | None = None

    def passed(self, kind: str) -> list[Concept]:
        """Concepts of a kind (or all) that the gate let through."""
        return [c for c in self.concepts if kind in ("all", c.kind) and c.name not in self.refused]


def score_rows(generations: pl.DataFrame, strengths: pl.DataFrame, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Rows of the scores table; a kind of concept that is not in the inventory has none.

    Args:
        generations: the GENERATIONS table.
        strengths: the STRENGTHS table.
        comparison: what the scores are about.
    """
    means = concept_means(generations)
    of_plain = generations.filter(pl.col("method") == UNSTEERED, pl.col("split") == "test")
    judged = of_plain.drop_nulls("fluency")  # a failed judgement of plain text must not lower the baseline
    plain = dict(judged.group_by("concept").agg(pl.col("fluency").mean()).iter_rows())
    kinds = [kind for kind in KINDS if kind == "all" or any(c.kind == kind for c in comparison.concepts)]
    yield from (_gate(comparison, kind) for kind in kinds)
    for budget in comparison.budgets:
        controls = means.filter(pl.col("method").is_in(list(comparison.controls)), pl.col("kl_budget") == budget)
        floor = _Floor.of(controls)
        for method in comparison.methods:
            of_method = means.filter(pl.col("method") == method, pl.col("kl_budget") == budget)
            for kind in kinds:
                yield from _method(of_method, comparison, method, budget, kind, floor, plain)
                yield _cost(strengths, comparison, method, budget, kind)
        for control in comparison.controls:
            of_control = means.filter(pl.col("method") == control, pl.col("kl_budget") == budget)
            averaged = of_control.group_by("concept").agg(pl.col("uplift", "fluency", "n", "n_failed").mean())
            for kind in kinds:
                yield _control(averaged, comparison, control, budget, kind)
        for method in comparison.methods:
            for concept in comparison.passed("all"):
                yield _concept(generations, comparison, method, budget, concept, floor)


def absent_row(columns: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The one row of a steering that could not begin."""
    nothing = dataclasses.asdict(Interval(None, None, None, 0))
    about = {"unit_of_replication": "concept", "better": "neither", "split": "validate", "concept_kind": "all"}
    return {"name": "steer.gate.passed", **nothing, **about, "n_failed": 0, "reason": reason, **columns}


def concept_means(generations: pl.DataFrame, split: str = "test") -> pl.DataFrame:
    """Mean uplift and fluency of each (concept, method, replicate, kl_budget) on one split, failures as 0, counted."""
    return (
        generations.filter(pl.col("split") == split, pl.col("kl_budget").is_not_null())
        .group_by("concept", "method", "replicate", "kl_budget")
        .agg(
            pl.col("uplift").fill_null(0.0).mean(),
            pl.col("fluency").fill_null(0.0).mean(),
            pl.len().alias("n"),
            pl.col("uplift").is_null().sum().alias("n_failed"),
        )
        .sort("concept", "method", "replicate", "kl_budget")
    )


@dataclasses.dataclass(frozen=True)
class _Floor:
    """What controls reach at one budget.

    Attributes:
        largest: for each concept the largest mean uplift of any control direction.
        n: control directions that have a strength.
    """

    largest: Mapping[str, float]
    n: int

    @classmethod
    def of(cls, controls: pl.DataFrame) -> _Floor:
        largest = dict(controls.group_by("concept").agg(pl.col("uplift").max()).iter_rows())
        return cls(largest, controls.select("method", "replicate").unique().height)

    @property
    def name(self) -> str:
        return f"largest of {self.n} Gaussian directions"


def _method(
    means: pl.DataFrame,
    comparison: Comparison,
    method: str,
    budget: float,
    kind: str,
    floor: _Floor,
    plain: Mapping[str, float],
) -> Iterator[dict[str, Any]]:
    """Uplift, share of concepts above every control, and fluency."""
    concepts, name = comparison.passed(kind), f"steer.{method}.kl_{budget:g}"
    found = {row["concept"]: row for row in means.to_dicts()}
    uplift, fluency = (
        np.array([found[c.name][column] if c.name in found else 0.0 for c in concepts], dtype=np.float64)
        for column in ("uplift", "fluency")
    )
    worked = _worked(found, concepts)
    about = {
        "concept_kind": kind,
        "n_failed": int((~worked).sum()),
        "reason": _caveat([found[c.name] for c in concepts if c.name in found], concepts, comparison),
    }
    largest = np.array([floor.largest[c.name] for c in concepts if c.name in floor.largest], dtype=np.float64)
    controlled = len(largest) == len(concepts) > 0
    baseline = (float(largest.mean()), floor.name) if controlled else None
    yield _row(comparison, name, _over_concepts(uplift, comparison, name, kind), **about, baseline=baseline)
    above = int((worked & (uplift > largest)).sum()) if controlled else 0  # what failed is above nothing
    share = wilson(above, len(concepts)) if controlled else Interval(None, None, None, 0)
    equals = 1 + floor.n
    chance = (1 / equals, f"chance of being the largest of {equals} equals") if controlled else None
    absent = "no control direction to compare with" if concepts and not controlled else about["reason"]
    yield _row(comparison, f"{name}.share_above_random", share, **{**about, "reason": absent}, baseline=chance)
    if "fluency" not in comparison.judges:
        nothing = {"n_failed": 0, "reason": "steer.judges does not list fluency"}
        yield _row(comparison, f"{name}.fluency", Interval(None, None, None, 0), **{**about, **nothing})
        return
    unsteered = [plain[c.name] for c in concepts if c.name in plain]
    beside = (float(np.mean(unsteered)), "unsteered text") if unsteered else None
    interval = _over_concepts(fluency, comparison, f"{name}.fluency", kind)
    yield _row(comparison, f"{name}.fluency", interval, **about, baseline=beside)


def _control(means: pl.DataFrame, comparison: Comparison, control: str, budget: float, kind: str) -> dict[str, Any]:
    """Mean uplift of a control's directions, over concepts."""
    concepts, name = comparison.passed(kind), f"steer.{control}.kl_{budget:g}"
    found = {row["concept"]: row for row in means.to_dicts() if row["concept"] in {c.name for c in concepts}}
    told = concepts if found else []  # without any strength there is no value; a concept left out counts as 0
    uplift = np.array([found[c.name]["uplift"] if c.name in found else 0.0 for c in told], dtype=np.float64)
    n_failed = int((~_worked(found, told)).sum())
    absent = "no direction of it has a strength" if concepts and not found else None
    reason = absent or _caveat(list(found.values()), concepts, comparison)
    about = {"concept_kind": kind, "n_failed": n_failed, "better": "neither", "reason": reason}
    interval = _over_concepts(uplift, comparison, name, kind)
    return _row(comparison, name, interval, baseline=(0.0, "unsteered"), **about)


def _worked(found: Mapping[str, Mapping[str, Any]], concepts: Sequence[Concept]) -> Bool[np.ndarray, " concept"]:
    """Which concepts have a generation that did not fail."""
    return np.array([c.name in found and found[c.name]["n_failed"] < found[c.name]["n"] for c in concepts], dtype=bool)


def _cost(strengths: pl.DataFrame, comparison: Comparison, method: str, budget: float, kind: str) -> dict[str, Any]:
    """What the chosen steerings cost on neutral text on which nothing was set, beside what they were to cost."""
    concepts, name = comparison.passed(kind), f"steer.{method}.kl_{budget:g}.cost"
    own = strengths.filter(
        pl.col("method") == method,
        pl.col("kl_budget") == budget,
        pl.col("concept").is_in([c.name for c in concepts]),
        pl.col("kl_elsewhere").is_not_null(),
    )
    measured = own.sort("concept")["kl_elsewhere"].to_numpy()
    why = "no neutral text is left to measure it on" if concepts else "no concept passed the gate"
    absent = None if len(measured) else why
    about = {"concept_kind": kind, "n_failed": len(concepts) - len(measured), "better": "neither", "split": "neutral"}
    interval = _over_concepts(measured, comparison, name, kind)
    return _row(comparison, name, interval, baseline=(budget, "KL budget"), reason=absent, **about)


def _concept(
    generations: pl.DataFrame, comparison: Comparison, method: str, budget: float, concept: Concept, floor: _Floor
) -> dict[str, Any]:
    """One concept's uplift, with an interval over prompts."""
    own = generations.filter(
        pl.col("concept") == concept.name,
        pl.col("method") == method,
        pl.col("kl_budget") == budget,
        pl.col("split") == "test",
    )
    by_prompt = own.group_by("prompt").agg(
        pl.col("uplift").fill_null(0.0).mean(), pl.col("uplift").is_null().all().alias("failed")
    )
    uplift, n_failed = by_prompt.sort("prompt")["uplift"].to_numpy(), int(by_prompt["failed"].sum())
    name = f"steer.{method}.kl_{budget:g}.{concept.name}"
    about = {"concept_kind": concept.kind, "n_failed": n_failed, "unit_of_replication": "prompt"}
    baseline = (floor.largest[concept.name], floor.name) if concept.name in floor.largest else None
    reason = comparison.unsteered.get((concept.name, method, budget)) if own.is_empty() else None
    return _row(comparison, name, _interval(uplift, comparison, name), baseline=baseline, reason=reason, **about)


def _gate(comparison: Comparison, kind: str) -> dict[str, Any]:
    """The share of candidate concepts that a probe decodes and the concept judge judges."""
    concepts = [c for c in comparison.concepts if kind in ("all", c.kind)]
    passed = len(comparison.passed(kind))
    about = {"concept_kind": kind, "n_failed": 0, "split": "validate", "better": "neither"}
    reason = "; ".join(told for told in (_refusals(comparison, concepts), comparison.limit) if told) or None
    return _row(comparison, "steer.gate.passed", wilson(passed, len(concepts)), reason=reason, **about)


def _over_concepts(values: Float[np.ndarray, " concept"], comparison: Comparison, name: str, kind: str) -> Interval:
    return _interval(values, comparison, f"{name}.{kind}")


def _interval(values: Float[np.ndarray, " replicate"], comparison: Comparison, name: str) -> Interval:
    if len(values) < ENOUGH_FOR_BOOTSTRAP:
        return t_interval(values)
    return bootstrap_mean(values, numpy_generator(comparison.seed, "interval", name))


def _row(
    comparison: Comparison, name: str, interval: Interval, *, baseline: tuple[float, str] | None = None, **about: Any
) -> dict[str, Any]:
    return {
        "name": name,
        **dataclasses.asdict(interval),
        "unit_of_replication": "concept",
        "baseline": baseline[0] if baseline else None,
        "baseline_name": baseline[1] if baseline else None,
        "better": "higher",
        "split": "test",
        **comparison.columns,
        **about,
    }


def _refusals(comparison: Comparison, concepts: Sequence[Concept]) -> str | None:
    """How many concepts the gate kept out, by its first words."""
    counted = Counter(comparison.refused[c.name].partition(":")[0] for c in concepts if c.name in comparison.refused)
    if not counted:
        return None
    told = ", ".join(f"{n} by the {who}" for who, n in sorted(counted.items()))
    return f"{sum(counted.values())} of {len(concepts)} concepts did not pass the gate ({told})"


def _caveat(means: Sequence[Mapping[str, Any]], concepts: Sequence[Concept], comparison: Comparison) -> str | None:
    """What a reader of the row must know: refusals, concepts without a direction, failed generations."""
    if not concepts:
        return "no concept passed the gate"
    told = []
    if len(means) < len(concepts):
        told.append(f"{len(concepts) - len(means)} of {len(concepts)} concepts had no usable direction and count as 0")
    if failed := sum(row["n_failed"] for row in means):
        told.append(f"{failed:g} of {sum(row['n'] for row in means):g} generations failed and count as 0")
    if len(concepts) < 2:
        told.append("one concept gives no interval")
    return "; ".join(told) or None
