"""Judgements beside the texts that they are of: one row for each text and each concept that it is
judged for.

`uplift` is what a text has more of the measured judge's value than the unsteered text of the same
prompt and sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from components.store.tables import GENERATIONS, STEERED

UNSTEERED = "unsteered"
"""The method of text that nothing steered."""
AGAIN = "unsteered_again"
"""The same from other seeds, measured as if something had steered it: what luck alone gains."""
COMPOSITE = "composite"
"""The judge whose value is made of others': the harmonic mean of the gain in the measured judge's
value and of fluency."""
PANEL = "panel"
"""The judge whose value is the composite of three: the harmonic mean of the gain in the target, of
relevance and of fluency (`components.steering.composite`)."""
OF_FALL = {COMPOSITE: "composite_of_fall", PANEL: "panel_of_fall"}
"""Composite -> the judge that holds the same of the fall of the target, of text that belongs to no
concept: what a steering that lowers its target is compared with."""
TARGET = "target"
"""What the measured judge says, whichever that is, as a column."""
NOT_ASKED = "not asked"
"""How the reason begins where a judge that asks a language model was not asked about a text: it is
missing, and no part of any mean."""
UNPAIRED = "the unsteered text of this prompt and sample failed"
CONCEPT_JUDGE = "concept_judge"
"""The column of the judge `concept` beside others, because `concept` is the column of concepts."""
TAKEN = frozenset(
    {TARGET, CONCEPT_JUDGE, "judge", *OF_FALL.values(), *GENERATIONS.columns, *STEERED.columns}
    - {"concept", "fluency"}
)
"""Names that no judge may have, because columns have them."""


def column(judge: str) -> str:
    """The column of a judge beside others: its name, but for CONCEPT_JUDGE."""
    return CONCEPT_JUDGE if judge == "concept" else judge


def method_of(row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What the tables of `steer` call the method of a row of its scores.

    Args:
        row: with `entry` and `subject`: the untrained dictionary, or a control that the method went
            through.
        facts: of the artifact: `untrained` (method -> name) and `spoilt` (name -> method, control).
    """
    entry, subject = row["entry"], row["subject"]
    if subject is None:
        return entry
    spoilt = {tuple(of): name for name, of in facts.get("spoilt", {}).items()}
    name = spoilt.get((entry, subject)) or facts.get("untrained", {}).get(entry)
    return name or f"{subject}_{entry}"


def others(results: pl.DataFrame) -> list[str]:
    """Columns of what `judged` returns that hold what a judge says, but for the one that
    measures."""
    return [
        name
        for name in results.columns
        if name not in TAKEN - {CONCEPT_JUDGE} and name != "concept"
    ]


def judged(generations: pl.DataFrame, judgements: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Texts with what was said of them, in the order of the judgements.

    Args:
        generations: rows of the GENERATIONS table; for an uplift, the unsteered ones among them.
        judgements: rows of the JUDGEMENTS table.
        measure: the judge whose difference is the uplift (fact `measure` of the artifact).

    Returns:
        The columns of GENERATIONS (`concept` is the one that is judged for), `target`, `uplift`,
            `composite` and one column for each other judge (`column`): null where it failed, NaN
            where nobody was asked (NOT_ASKED).
    """
    place = ["generation", "concept"]
    of = judgements.filter(pl.col("judge") == measure)
    rows = of.select(*place, pl.col("value").alias(TARGET), pl.col("reason").alias("_reason"))
    names = judgements["judge"].unique(maintain_order=True).to_list()
    for name in dict.fromkeys([COMPOSITE, *(name for name in names if name != measure)]):
        unasked = pl.col("value").is_null() & pl.col("reason").str.starts_with(NOT_ASKED)
        value = pl.when(unasked).then(pl.lit(math.nan)).otherwise(pl.col("value"))
        other = judgements.filter(pl.col("judge") == name).select(*place, value.alias(column(name)))
        rows = rows.join(other, on=place, how="left", maintain_order="left")
    rows = rows.join(
        generations.drop("concept"), on="generation", how="inner", maintain_order="left"
    )
    at = ["concept", "split", "prompt", "sample"]
    plain = rows.filter(pl.col("method") == UNSTEERED).select(*at, pl.col(TARGET).alias("_before"))
    rows = rows.join(plain, on=at, how="left", maintain_order="left")
    unpaired = pl.when(pl.col("_before").is_null()).then(pl.lit(UNPAIRED))
    return rows.with_columns(
        (pl.col(TARGET) - pl.col("_before")).alias("uplift"),
        pl.coalesce("reason", "_reason", unpaired).alias("reason"),
    ).drop("_before", "_reason")


def with_falls(results: pl.DataFrame) -> pl.DataFrame:
    """What `judged` returns, as a steering that lowers its target is compared with it: composites of
    text that belongs to no concept are those of the fall (`OF_FALL`)."""
    there = {name: fall for name, fall in OF_FALL.items() if fall in results.columns}
    return results.with_columns(pl.coalesce(fall, name).alias(name) for name, fall in there.items())


def off_target(
    generations: pl.DataFrame, judgements: pl.DataFrame, measure: str, concepts: list[str]
) -> pl.DataFrame:
    """How much text that is steered towards one concept gains of every other: mean uplift on test
    prompts.

    Args:
        generations: the GENERATIONS table.
        judgements: the JUDGEMENTS table.
        measure: the judge whose difference is the uplift.
        concepts: names in the order of `off_target` (fact `judged` of the artifact).

    Returns:
        method, kl_budget, concept (steered towards), other (judged for), uplift; failures are left
            out.
    """
    of = judgements.filter(pl.col("judge") == measure)
    texts = generations.filter(pl.col("split") == "test").drop("concept")
    at = ["prompt", "sample", "other"]
    plain = of.join(texts.filter(pl.col("method") == UNSTEERED), on="generation")
    before = plain.select(
        "prompt", "sample", pl.col("concept").alias("other"), pl.col("value").alias("before")
    )
    values = (
        of.drop_nulls("off_target")
        .with_columns(pl.lit(concepts, dtype=pl.List(pl.String)).alias("other"))
        .explode("off_target", "other")
    )
    key = ["method", "kl_budget", "concept", "other"]
    return (
        values.join(texts, on="generation")
        .join(before, on=at)
        .group_by(key)
        .agg((pl.col("off_target") - pl.col("before")).mean().alias("uplift"))
        .sort(key)
    )
