"""What a sweep says, read off its table: which kind is best at equal sparsity, and each kind's
curve.

Pure functions of the table `comparison` and of what its measures declare, so that the terminal,
MLflow, the page and docs/findings.md say the same. Polars only, no torch.
"""

from __future__ import annotations

import polars as pl

from components.report.measure import TENS, Measures
from components.report.scores import whole

COLOURS = ("#2b83ba", "#e08a00", "#00a37a", "#c2669b", "#d95f02", "#6a5acd", "#8c6d31", "#17a2b8", "#b22222", "#666666",
           "#7fae3a", "#3b3b98", "#ad8a56")  # fmt: skip
"""As many as a sweep has labels; shapes and the legend say the same."""
SHORT = 6
"""Measures that a terminal has room for."""


def titled(comparison: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """The rows by which dictionaries are compared, in the measures' reading order, with the column
    `title`: what a measure is called for short, and its settings."""
    ours = comparison.filter(pl.col("role") == "entry", pl.col("better") != "neither")
    rows = whole(ours, measures)
    several = rows["hook_point"].n_unique() > 1
    listed = []
    for row in rows.iter_rows(named=True):
        measure = measures.of(row)
        number = "" if row["k"] is None else f", k = {row['k']}"
        where = f", {row['hook_point']}" if several else ""
        listed.append((measure.short and measure.short + number + where, measure.rank))
    titles = pl.DataFrame(listed, schema={"title": pl.String, "_rank": pl.Int64}, orient="row")
    return rows.hstack(titles).filter(pl.col("title") != "").sort("_rank", maintain_order=True)


def titles(comparison: pl.DataFrame, measures: Measures, drawn: bool = False) -> list[str]:
    """What the measures of a sweep are called, in reading order.

    Args:
        comparison: the COMPARISON table.
        measures: what its stages declare.
        drawn: only those of the first rank, which are drawn as frontiers.
    """
    rows = titled(comparison, measures)
    rows = rows.filter(pl.col("_rank") < TENS) if drawn else rows
    return rows["title"].unique(maintain_order=True).to_list()


def headline(comparison: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """One row for each label, width and matched L0 (baselines: their own L0), one column for each
    measure: mean and half the width of the interval as text."""
    rows = titled(comparison, measures).filter(
        pl.col("is_baseline") | pl.col("at_l0").is_not_null()
    )
    order = rows["title"].unique(maintain_order=True).to_list()
    index = ["label", "d_sae", "is_baseline", "l0"]
    wide = rows.with_columns(said()).pivot(
        "title", index=index, values="said", aggregate_function="first"
    )
    return wide.sort("is_baseline", "l0", "label").select(
        "label", "d_sae", pl.col("l0").round(1).alias("L0"), *order
    )


def best(comparison: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """At each matched L0, for each measure, the label that does best, the next, and whether their
    intervals are apart."""
    rows = titled(comparison, measures).filter(
        pl.col("at_l0").is_not_null(), pl.col("value").is_not_null()
    )
    ranking = []
    for (title, level, d_sae), part in rows.group_by(
        ["title", "at_l0", "d_sae"], maintain_order=True
    ):
        ranked = part.sort("value", descending=part["better"][0] == "higher")
        first = ranked.row(0, named=True)
        second = ranked.row(1, named=True) if ranked.height > 1 else None
        ranking.append(
            {
                "measure": title,
                "L0": level,
                "d_sae": d_sae,
                "better": first["better"],
                "best": first["label"],
                "value": first["value"],
                "low": first["low"],
                "high": first["high"],
                "next": second and second["label"],
                "next_value": second and second["value"],
                "apart": second and _apart(first, second),
                "compared": ranked.height,
            }
        )
    frame = pl.DataFrame(ranking, infer_schema_length=None)
    if frame.is_empty():
        return frame
    order = {
        title: rank
        for rank, title in enumerate(rows["title"].unique(maintain_order=True).to_list())
    }
    return frame.sort(pl.col("measure").replace_strict(order), "d_sae", "L0")


def points(comparison: pl.DataFrame, measures: Measures, title: str) -> pl.DataFrame:
    """The settings' own rows of one measure, with a value and an L0: what a frontier is drawn
    through."""
    rows = titled(comparison, measures).filter(pl.col("title") == title, pl.col("at_l0").is_null())
    return rows.filter(pl.col("value").is_not_null(), pl.col("l0") > 0).sort("label", "d_sae", "l0")


def said() -> pl.Expr:
    """Mean and half the width of the interval, as text."""
    value = pl.col("value").map_elements(lambda number: f"{number:.3g}", return_dtype=pl.String)
    reach = ((pl.col("high") - pl.col("low")) / 2).map_elements(
        lambda number: f"{number:.1g}", return_dtype=pl.String
    )
    return (
        pl.when(pl.col("low").is_null())
        .then(value)
        .otherwise(pl.format("{} ± {}", value, reach))
        .alias("said")
    )


def _apart(one: dict, other: dict) -> bool | None:
    """Whether two intervals do not meet; None where one has none."""
    if one["low"] is None or other["low"] is None:
        return None
    return one["low"] > other["high"] or one["high"] < other["low"]
