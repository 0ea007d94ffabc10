"""What each method reaches on each concept, from texts and judgements alone: one row for concept,
method and budget.

A generation that failed counts as nothing gained and is counted. These rows are what scores are
means over, and what two methods are compared by, concept for concept.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from components.steering.comparison import Comparison, at
from components.store import tables
from components.store.judgements import COMPOSITE, UNSTEERED, column, others, with_falls

COUNTS = r"^(n|.*_failed|.*_missing)$"
"""Columns of `concept_means` that are counts."""


def concept_means(results: pl.DataFrame, split: str = "test") -> pl.DataFrame:
    """Means over the texts of each (concept, method, replicate, kl_budget) on one split.

    Composite, uplift and every judge's column with failures as 0; the KL on the steered text of
    what was measured. `n_failed` counts texts without an uplift; `<column>_failed` those, and texts
    without a value of this judge; `<column>_missing` texts that it was not asked about, which are
    no part of its mean.
    """
    failed, judges = pl.col("uplift").is_null(), others(results)
    unasked = {name: pl.col(name).is_nan().fill_null(False) for name in judges}
    return (
        results.filter(pl.col("split") == split, pl.col("method") != UNSTEERED)
        .group_by("concept", "method", "replicate", "kl_budget")
        .agg(
            pl.col(COMPOSITE, "uplift", *judges).fill_null(0.0).drop_nans().mean(),
            pl.col("kl").mean().alias("kl_written"),
            pl.col("kl_reverse").mean().alias("kl_written_reverse"),
            pl.len().alias("n"),
            failed.sum().alias("n_failed"),
            *(
                ((failed | pl.col(name).is_null()) & ~unasked[name]).sum().alias(f"{name}_failed")
                for name in judges
            ),
            *(unasked[name].sum().alias(f"{name}_missing") for name in judges),
        )
        .sort("concept", "method", "replicate", "kl_budget")
    )


def means_beside(
    results: pl.DataFrame, comparison: Comparison, split: str = "test"
) -> dict[bool, pl.DataFrame]:
    """`concept_means`, as it stands beside a method that raises its targets (False) and one that
    lowers them (True): there composites of controls are of the fall, and uplift is counted down."""
    means = {False: concept_means(results, split)}
    if comparison.lowering:
        means[True] = concept_means(with_falls(results), split).with_columns(-pl.col("uplift"))
    return means


def by_concept(
    results: pl.DataFrame, strengths: pl.DataFrame, comparison: Comparison
) -> pl.DataFrame:
    """Every method, and the mean of each control's directions, on each concept that passed the
    gate.

    Args:
        results: texts with their judgements (`components.store.judgements.judged`).
        strengths: the STRENGTHS table.
        comparison: what the scores are about.

    Returns:
        The columns of STEERED, and four for each judge that has none there: `<column>`,
        `<column>_unsteered`, `<column>_failed` and `<column>_missing`.
    """
    beside = means_beside(results, comparison)
    means = beside[False]
    plain = results.filter(pl.col("method") == UNSTEERED, pl.col("split") == "test")
    # what failed must not lower it
    plain = plain.group_by("concept").agg(pl.col(others(results)).drop_nans().mean())
    unsteered = {row["concept"]: row for row in plain.iter_rows(named=True)}
    judges = [column(name) for name in comparison.judges]
    of_place = {
        (row["concept"], row["method"], row["kl_budget"]): row for row in _own(means, comparison)
    }
    cost = {tuple(row[name] for name in tables.STRENGTHS.key): row for row in strengths.to_dicts()}
    rows = []
    for budget, methods in comparison.places:
        largest_of = {less: _largest(of, comparison, budget) for less, of in beside.items()}
        for method in (m for m in methods if m not in comparison.absent):
            largest = largest_of[method in comparison.lowering]
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
                        "kl_validate": measured.get("kl"),
                        **{name: measured.get(name) for name in _OF_STRENGTHS},
                        **{column(name): own.get(column(name)) for name in comparison.told},
                        **_with_sign(largest.get(concept.name, {}), method in comparison.lowering),
                        **{
                            f"{name}_unsteered": unsteered.get(concept.name, {}).get(name)
                            for name in judges
                        },
                        **{
                            f"{name}_failed": own.get(f"{name}_failed", own.get("n_failed"))
                            for name in judges
                        },
                        **{f"{name}_missing": own.get(f"{name}_missing", 0) for name in judges},
                        "reason": None
                        if own
                        else comparison.unsteered.get((concept.name, method, budget)),
                    }
                )
    kinds = {"": pl.Float64, "_unsteered": pl.Float64, "_failed": pl.Int64, "_missing": pl.Int64}
    of_judges = {f"{name}{end}": kind for name in judges for end, kind in kinds.items()}
    return pl.DataFrame(rows, schema=of_judges | dict(tables.STEERED.schema))


def by_judge(reached: pl.DataFrame, comparison: Comparison) -> pl.DataFrame:
    """The FURTHER_JUDGES table: of what `by_concept` returns, what STEERED has no columns for."""
    parts = [
        reached.select(
            *("concept", "concept_kind", "method", "kl_budget", "reason"),
            pl.col("n") - pl.col(f"{column(judge)}_missing"),
            pl.lit(judge).alias("judge"),
            pl.col(column(judge)).alias("value"),
            pl.col(f"{column(judge)}_unsteered").alias("unsteered"),
            pl.col(f"{column(judge)}_failed").alias("n_failed"),
        )
        for judge in comparison.judges
        if column(judge) not in tables.STEERED.columns
    ]
    return tables.FURTHER_JUDGES.frame(pl.concat(parts) if parts else [])


def n_compared(means: pl.DataFrame, comparison: Comparison, budget: float | None) -> int:
    """Control directions with a strength that a method must exceed."""
    return _compared(means, comparison, budget).select("method", "replicate").unique().height


_OF_STRENGTHS = ("latent", "kl_elsewhere", "kl_whole", "loss_whole", "dose", "kl_95")
_OF_MEANS = ("replicate", "n", "n_failed", "kl_written", "kl_written_reverse")


def _own(means: pl.DataFrame, comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of methods as they are; of controls the mean over their directions, stand-ins among
    them."""
    controls = pl.col("method").is_in(list(comparison.controls))
    # a direction that a judge was asked about more often weighs more
    asked = [name for name in means.columns if f"{name}_missing" in means.columns]
    partly = [name for name in asked if means[f"{name}_missing"].sum()]
    weights = {name: pl.col("n") - pl.col(f"{name}_missing") for name in partly}
    averaged = (
        means.filter(controls)
        .group_by("concept", "method", "kl_budget")
        .agg(
            pl.exclude("replicate", COUNTS, *partly).mean(),
            pl.col(COUNTS).sum(),
            *(
                ((pl.col(name) * n).sum() / pl.when(n.sum() > 0).then(n.sum())).alias(name)
                for name, n in weights.items()
            ),
        )
    )
    return [*means.filter(~controls).to_dicts(), *averaged.to_dicts()]


def _compared(means: pl.DataFrame, comparison: Comparison, budget: float | None) -> pl.DataFrame:
    of_controls = means.filter(pl.col("method").is_in(comparison.floor), at(budget))
    steerings = of_controls.select("method", "replicate").unique()
    compared = [s not in comparison.stand_ins for s in steerings.iter_rows()]
    return of_controls.join(
        steerings.filter(compared), on=["method", "replicate"], how="semi", maintain_order="left"
    )


def _with_sign(largest: dict[str, float], lowers: bool) -> dict[str, float]:
    """Of what is meant to lower its targets the largest fall as the uplift that it is."""
    if not lowers or "uplift_largest" not in largest:
        return largest
    return largest | {"uplift_largest": -largest["uplift_largest"]}


def _largest(
    means: pl.DataFrame, comparison: Comparison, budget: float | None
) -> dict[str, dict[str, float]]:
    """For each concept the largest composite, and the largest uplift, that a control direction
    reaches."""
    maxima = (
        _compared(means, comparison, budget)
        .group_by("concept")
        .agg(pl.col("composite", "uplift").max())
    )
    silent = comparison.silent
    return {
        row["concept"]: {
            f"{name}_largest": row[name] for name in ("composite", "uplift") if name not in silent
        }
        for row in maxima.to_dicts()
    }
