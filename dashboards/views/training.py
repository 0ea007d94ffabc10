"""Curves of a training, densities of its latents, and which are dead. Pure functions of tables,
without Streamlit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from components.report.measure import Measure, Measures


def panels(curve: pl.DataFrame, points: int = 400) -> dict[str, pl.DataFrame]:
    """Training curves by what they measure (`loss` holds `loss.reconstruction` too), thinned to
    `points` each."""
    first = ("fvu", "l0", "dead_share", "loss", "learning_rate")
    found: dict[str, pl.DataFrame] = {}
    for (name,), series in curve.sort("step").group_by("name", maintain_order=True):
        every = max(1, math.ceil(series.height / points))
        kept = series.with_row_index("row").filter(
            (pl.col("row") % every == 0) | (pl.col("row") == series.height - 1)
        )
        panel = str(name).split(".")[0]
        found[panel] = (
            pl.concat([found[panel], kept.drop("row")]) if panel in found else kept.drop("row")
        )
    return dict(
        sorted(
            found.items(), key=lambda item: first.index(item[0]) if item[0] in first else len(first)
        )
    )


def densities(
    latents: pl.DataFrame | pl.LazyFrame, split: str, per_decade: int = 5
) -> pl.DataFrame:
    """How many latents are active on which share of tokens, in logarithmic bins; dead latents are
    in none of them.

    Returns:
        from, to (shares of tokens), latents.
    """
    alive = latents.lazy().filter(pl.col("split") == split, pl.col("density") > 0)
    place = (pl.col("density").log10() * per_decade).floor().cast(pl.Int32)
    counts = alive.group_by(place.alias("bin")).len("latents").sort("bin").collect()
    edge = pl.col("bin").cast(pl.Float64) / per_decade
    return counts.select(
        pl.lit(10.0).pow(edge).alias("from"),
        pl.lit(10.0).pow(edge + 1 / per_decade).alias("to"),
        "latents",
    )


def dead(facts: Mapping[str, Any]) -> pl.DataFrame:
    """Dead latents split by split, from the facts of an encode artifact: split, tokens, dead,
    share, L0."""
    d_sae, rows = facts.get("d_sae") or 0, facts.get("rows") or {}
    counted = facts.get("dead_latents") or {}
    return pl.DataFrame(
        [
            {
                "split": split,
                "tokens": n,
                "dead latents": counted.get(split),
                "share": counted[split] / d_sae if d_sae and split in counted else None,
                "L0": (facts.get("l0") or {}).get(split),
            }
            for split, n in rows.items()
        ],
        schema={
            "split": pl.String,
            "tokens": pl.Int64,
            "dead latents": pl.Int64,
            "share": pl.Float64,
            "L0": pl.Float64,
        },
    )


def curves(budgets: pl.DataFrame, declared: Measures) -> list[Measure]:
    """The measures of `budgets` that are worth a chart, in reading order: no costs, no
    differences."""
    drawn = [
        declared["steer", name] for name in set(budgets["what"]) if ("steer", name) in declared
    ]
    drawn = [measure for measure in drawn if measure.better != "neither" and not measure.part_of]
    return sorted(drawn, key=lambda measure: (measure.rank, measure.name))
