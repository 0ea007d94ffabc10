"""What steering reaches beside what it costs, where in the model it was tried, and whether its judges
can be gamed, as tables that a page shows. Pure functions of tables, without Streamlit."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from components.report.scores import KINDS, SINGLE
from components.statistics import ABSENT, Interval, bounded, t_interval, t_interval_of_groups
from components.store.judgements import COMPOSITE, PANEL, method_of
from dashboards.measures import NOTHING, estimate, number

FLUENCY = "fluency"
ASKED = {"has_target": "target", "fluent": "fluent", "goes_on": "goes on"}
"""Question that a person answers about a text -> what a column calls it."""
METHOD, CONTROL = "method", "control"
"""What a point is to the reader: only methods can be the best."""
AXES = ("success", "cost", "fluency")
POINT_COLUMNS = {
    "method": pl.String,
    "standing": pl.String,
    "budget": pl.Float64,
    **{f"{axis}{end}": pl.Float64 for axis in AXES for end in ("", "_low", "_high")},
    "n": pl.Int64,
    "n_failed": pl.Int64,
}
SWEEP_COLUMNS = {
    **dict.fromkeys(("method", "standing", "hook_point"), pl.String),
    **dict.fromkeys(("budget", "value", "low", "high"), pl.Float64),
    "n": pl.Int64,
    "unit": pl.String,
    **dict.fromkeys(("n_failed", "n_chosen"), pl.Int64),
    "chosen": pl.Boolean,
    "reason": pl.String,
}


def headline(report: pl.DataFrame) -> str:
    """The composite that methods are compared by: of three parts where some text has it, else of
    two."""
    three = _of_steer(report).filter(pl.col("measure") == PANEL)
    return PANEL if three.height else COMPOSITE


def kinds(report: pl.DataFrame) -> list[str]:
    """Kinds of concept for which a method has a value, in reading order."""
    rows = _of_steer(report).filter(pl.col("measure") == headline(report))
    there = set(rows["concept_kind"].fill_null("all"))
    return [kind for kind in KINDS if kind in there]


def floors(report: pl.DataFrame) -> list[str]:
    """Controls that belong to no concept, in the order of the report."""
    rows = _of_steer(report).filter(pl.col("role") == "floor", pl.col("budget").is_not_null())
    return rows["entry"].unique(maintain_order=True).to_list()


def tradeoff(
    report: pl.DataFrame, reached: pl.DataFrame | None, facts: Mapping[str, Any], kind: str
) -> pl.DataFrame:
    """Success beside cost and fluency: a row for each method, or control, at each budget.

    Args:
        report: the REPORT table.
        reached: the STEERED table; None where it cannot be read, and no cost is known.
        facts: of the artifact of `steer`: names of methods under controls.
        kind: of concept; `all` is the mean over kinds, each weighing the same.

    Returns:
        POINT_COLUMNS, and whether a method is the best for its cost (`best_cost`) and for its
        fluency (`best_fluency`): no other reaches as much for less, or more for as much. `cost` is
        KL(steered || plain) of the steered test text, nats a token, with Student's interval over
        concepts. `budget` is null for what has no strength.
    """
    of_kind = _of_steer(report).filter(pl.col("concept_kind").fill_null("all") == kind)
    fluent = {_place(row): row for row in of_kind.filter(measure=FLUENCY).iter_rows(named=True)}
    rows = []
    for row in of_kind.filter(measure=headline(report)).iter_rows(named=True):
        name = method_of(row, facts)
        cost = ABSENT if reached is None else _cost(reached, name, row["budget"], kind)
        fluency = fluent.get(_place(row), {})
        rows.append(
            {
                "method": name,
                "standing": METHOD if row["role"] in ("entry", "baseline") else CONTROL,
                "budget": row["budget"],
                "success": row["value"],
                "success_low": row["low"],
                "success_high": row["high"],
                "cost": cost.value,
                "cost_low": cost.low,
                "cost_high": cost.high,
                "fluency": fluency.get("value"),
                "fluency_low": fluency.get("low"),
                "fluency_high": fluency.get("high"),
                "n": row["n"],
                "n_failed": row["n_failed"],
            }
        )
    points = pl.DataFrame(rows, schema=POINT_COLUMNS).sort("standing", "method", "budget")
    points = points.sort(pl.col("standing") != METHOD, maintain_order=True)
    return points.with_columns(
        _best(points, -points["cost"]).alias("best_cost"),
        _best(points, points["fluency"]).alias("best_fluency"),
    )


def cloud(
    generations: pl.LazyFrame,
    judgements: pl.LazyFrame,
    controls: Sequence[str],
    kind_of: Mapping[str, str],
    measure: str,
    kind: str,
) -> pl.DataFrame:
    """Every single control direction at each budget, means over test texts, failures as 0.

    Args:
        generations: the GENERATIONS table.
        judgements: the JUDGEMENTS table.
        controls: names of methods that belong to no concept.
        kind_of: concept -> its kind, of those that passed the gate.
        measure: the composite.
        kind: of concept; `all` is the mean over kinds, each weighing the same.

    Returns:
        method, replicate, budget, success, cost, fluency.
    """
    concepts = pl.LazyFrame(
        {"concept": list(kind_of), "concept_kind": list(kind_of.values())},
        schema={"concept": pl.String, "concept_kind": pl.String},
    )
    if kind != "all":
        concepts = concepts.filter(pl.col("concept_kind") == kind)
    texts = generations.filter(pl.col("split") == "test", pl.col("method").is_in(list(controls)))
    texts = texts.select("generation", "method", "replicate", "kl_budget", "kl_reverse")
    place = ["method", "replicate", "kl_budget"]
    said = judgements.filter(pl.col("judge").is_in([measure, FLUENCY]))
    means = (
        said.select("generation", "concept", "judge", pl.col("value").fill_null(0.0))
        .join(texts.drop("kl_reverse"), on="generation")
        .join(concepts, on="concept")
        .group_by(*place, "judge", "concept_kind", "concept")
        .agg(pl.col("value").mean())
        .group_by(*place, "judge", "concept_kind")
        .agg(pl.col("value").mean())
        .group_by(*place, "judge")
        .agg(pl.col("value").mean())
    )
    costs = texts.group_by(place).agg(pl.col("kl_reverse").mean().alias("cost"))
    of = [
        means.filter(pl.col("judge") == judge).select(*place, pl.col("value").alias(axis))
        for judge, axis in ((measure, "success"), (FLUENCY, "fluency"))
    ]
    joined = of[0].join(of[1], on=place, how="left", nulls_equal=True)
    joined = joined.join(costs, on=place, how="left", nulls_equal=True).sort(place)
    return joined.select(
        "method", "replicate", pl.col("kl_budget").alias("budget"), *AXES
    ).collect()


def told(points: pl.DataFrame, success: str) -> pl.DataFrame:
    """The points of `tradeoff` as a reader's table.

    Args:
        points: `tradeoff`.
        success: what a reader calls the composite.
    """
    rows = []
    for row in points.iter_rows(named=True):
        told: dict[str, Any] = {
            "method": row["method"],
            "is a": row["standing"],
            "budget": "own cost" if row["budget"] is None else number(row["budget"]),
        }
        for axis, title in (
            ("success", success),
            ("cost", "KL, nats a token"),
            ("fluency", "fluency"),
        ):
            value, interval = estimate(*(row[f"{axis}{end}"] for end in ("", "_low", "_high")))
            told |= {title: value, f"95% of {title}": interval}
        told |= {"targets": row["n"], "failed": row["n_failed"]}
        best = [axis for axis in ("cost", "fluency") if row[f"best_{axis}"]]
        rows.append(told | {"none better for its": " and ".join(best) or NOTHING})
    return pl.DataFrame(rows)


def hook_points(tried: pl.DataFrame, controls: Collection[str] = ()) -> pl.DataFrame:
    """The HOOK_POINTS table with a control's directions taken together: a row for each method at
    each hook point and budget.

    Args:
        tried: the HOOK_POINTS table.
        controls: names of methods under controls.

    Returns:
        SWEEP_COLUMNS. Of a control `value` is the mean over its directions with Student's interval
            over these, `n` their number, `n_chosen` by how many the hook point was chosen; failures
            are those of the direction that has most.
    """
    rows = []
    place = ["method", "hook_point", "kl_budget"]
    for (method, name, budget), part in tried.group_by(place, maintain_order=True):
        row = part.sort("n_failed", descending=True, maintain_order=True).row(0, named=True)
        is_control = row["direction"] is not None
        over = t_interval(part["value"].to_numpy()) if is_control else None
        ends = (
            dataclasses.asdict(over) if over else {k: row[k] for k in ("value", "low", "high", "n")}
        )
        rows.append(
            {
                "method": method,
                "standing": CONTROL if is_control or method in controls else METHOD,
                "hook_point": name,
                "budget": budget,
                **ends,
                "unit": "directions" if is_control else "targets",
                "n_failed": row["n_failed"],
                "n_chosen": int(part["chosen"].sum()),
                "chosen": bool(row["chosen"]) and not is_control,
                "reason": row["reason"],
            }
        )
    return pl.DataFrame(rows, schema=SWEEP_COLUMNS)


def told_of_sweep(swept: pl.DataFrame) -> pl.DataFrame:
    """`hook_points` as a reader's table."""
    rows = []
    for row in swept.iter_rows(named=True):
        value, interval = estimate(row["value"], row["low"], row["high"])
        of_directions = f"by {row['n_chosen']} of {row['n']}"
        rows.append(
            {
                "method": row["method"],
                "is a": row["standing"],
                "hook point": row["hook_point"],
                "budget": "own cost" if row["budget"] is None else number(row["budget"]),
                "on validate": value,
                "95% interval": interval,
                "n": row["n"],
                "of": row["unit"],
                "targets without text": row["n_failed"],
                "chosen": of_directions
                if row["unit"] == "directions"
                else "chosen" * row["chosen"] or NOTHING,
                "note": row["reason"] or "",
            }
        )
    return pl.DataFrame(rows)


def battery(tried: pl.DataFrame) -> pl.DataFrame:
    """The BATTERY table as a reader's: real text first, then a row for each trick; beside what the
    composite says, the mean of each judge alone.

    (!) stands where real text is not above the trick.
    """
    law = law_of(tried)
    judges = [name for name in tried["judge"].unique(maintain_order=True) if name != law]
    of = {(row["trick"], row["judge"]): row for row in tried.iter_rows(named=True)}
    tricks = tried.filter(judge=law)["trick"].to_list()
    tested = [trick for trick in tricks if of[trick, law]["value"] is not None]
    rows = []
    if tested:
        first = of[tested[0], law]
        alone = {name: number(of[tested[0], name]["real"], 2) for name in judges}
        counts = {"targets": first["n"], "cells": first["n_cells"], "failed": NOTHING}
        real = {"text": "real text", law: number(first["real"], 2), "real minus it": NOTHING}
        real |= {"95% interval": NOTHING, "law": NOTHING}
        rows.append(real | counts | alone | {"note": ""})
    for trick in tricks:
        row = of[trick, law]
        value, interval = estimate(row["value"], row["low"], row["high"])
        rows.append(
            {
                "text": trick.replace("_", " "),
                law: number(row["fake"], 2),
                "real minus it": value,
                "95% interval": interval,
                "law": _law(row),
                "targets": row["n"],
                "cells": row["n_cells"],
                "failed": str(row["n_failed"]),
                **{name: _alone(of.get((trick, name))) for name in judges},
                "note": row["reason"] or "",
            }
        )
    return pl.DataFrame(rows)


def people(agreed: pl.DataFrame) -> pl.DataFrame:
    """How far people and judges agree (`components.report.text_agreement`) as a reader's table."""
    rows = []
    for row in agreed.iter_rows(named=True):
        told: dict[str, Any] = {
            "judge": row["judge"],
            "beside": " and ".join(ASKED[name] for name in row["questions"]),
            "person": row["author"] or "no name",
            "texts": row["n"],
            "targets": row["n_targets"],
            "person says yes": number(row["yes"], 2),
            "judge says yes": f"above {number(row['threshold'])}",
            "agree": number(row["agree"], 2),
        }
        for name, title in (("kappa", "kappa"), ("auroc", "AUROC")):
            value, interval = estimate(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))
            told |= {title: value, f"95% of {title}": interval}
        told |= {"note": row["reason"] or ""}
        rows.append(told | {"no value": row["n_failed"], "left out": row["n_left_out"]})
    return pl.DataFrame(rows)


def pairs_of_people(agreed: pl.DataFrame) -> pl.DataFrame:
    """How far two people agree (`components.report.text_agreement.between_people`) as a reader's
    table."""
    rows = []
    for row in agreed.iter_rows(named=True):
        value, interval = estimate(*(row[f"kappa{end}"] for end in ("", "_low", "_high")))
        rows.append(
            {
                "question": ASKED[row["question"]],
                "person": row["author"] or "no name",
                "and": row["other"] or "no name",
                "texts": row["n"],
                "targets": row["n_targets"],
                "agree": number(row["agree"], 2),
                "kappa": value,
                "95% of kappa": interval,
                "note": row["reason"] or "",
                "left out": row["n_left_out"],
            }
        )
    return pl.DataFrame(rows)


def law_of(tried: pl.DataFrame) -> str:
    """The composite that the battery's law is on."""
    return PANEL if PANEL in set(tried["judge"]) else COMPOSITE


def _law(row: Mapping[str, Any]) -> str:
    """Whether the law holds, is broken (the whole interval is below 0), or neither is shown."""
    if row["holds"] is None:
        return NOTHING
    return "holds" if row["holds"] else "BROKEN" if row["high"] < 0 else "not shown"


def _alone(row: Mapping[str, Any] | None) -> str:
    if row is None or row["fake"] is None:
        return NOTHING
    return number(row["fake"], 2) + ("" if row["holds"] is not False else " (!)")


def _of_steer(report: pl.DataFrame) -> pl.DataFrame:
    """Means over concepts of the stage, of methods and controls."""
    return report.filter(
        ~SINGLE,
        pl.col("stage") == "steer",
        pl.col("value").is_not_null(),
        pl.col("entry").is_not_null(),
    )


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["entry"], row["subject"], row["budget"]


def _cost(reached: pl.DataFrame, method: str, budget: float | None, kind: str) -> Interval:
    """KL(steered || plain) on steered test text over concepts; of a kind, or of all kinds with the
    same weight."""
    of = reached.filter(
        pl.col("method") == method,
        pl.col("kl_budget").eq_missing(pl.lit(budget, pl.Float64)),
        pl.col("kl_written_reverse").is_not_null(),
    )
    if kind != "all":
        interval = t_interval(of.filter(concept_kind=kind)["kl_written_reverse"].to_numpy())
    else:
        groups = of.partition_by("concept_kind", maintain_order=True)
        interval = t_interval_of_groups([part["kl_written_reverse"].to_numpy() for part in groups])
    return bounded(interval, 0.0, np.inf)


def _best(points: pl.DataFrame, other: pl.Series) -> pl.Series:
    """Which methods no other method exceeds: in success without less of the other axis, or in the
    other axis without less success."""
    value = points["success"].to_numpy()
    beside = other.cast(pl.Float64).fill_null(np.nan).to_numpy()
    in_question = (points["standing"] == METHOD).to_numpy() & np.isfinite(beside)
    best = [
        bool(here)
        and not any(
            in_question[j]
            and value[j] >= value[i]
            and beside[j] >= beside[i]
            and (value[j] > value[i] or beside[j] > beside[i])
            for j in range(len(value))
        )
        for i, here in enumerate(in_question)
    ]
    return pl.Series(best, dtype=pl.Boolean)
