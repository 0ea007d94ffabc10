"""The reading order of scores, and which of them the short table holds: both follow from what
measures declare.

The terminal, Prefect's and MLflow's table, the README and the pages sort by `placed`. Polars only,
no torch.
"""

from __future__ import annotations

import polars as pl

from components.report.measure import TENS, Measures
from components.report.scores import HOLDING, KINDS, ROLES, SINGLE, STAGES


def placed(report: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """The rows in reading order, with the column `tier`: stage, measure, role, who was measured,
    kind of concept; single concepts last in their stage.

    A kind of concept that is the only one is told once: the row over all concepts goes where a row
    of the same score with the same value stands beside it. In the short table the row of a measure
    over the concepts that its headline is over comes first. Its rivals come with it where the
    measure is of the first tier, else two tiers later; a floor always two.
    """
    numbered = report.with_row_index("_row")
    known = [
        {
            "stage": stage,
            "measure": name,
            "_rank": m.rank,
            "_tier": m.tier(False),
            "_kinds": m.tier(True),
            "_over": m.over,
        }
        for (stage, name), m in measures.items()
    ]
    schema = {"stage": pl.String, "measure": pl.String, "_over": pl.String}
    schema |= dict.fromkeys(("_rank", "_tier", "_kinds"), pl.Int64)
    numbered = numbered.join(
        pl.DataFrame(known, schema=schema),
        on=["stage", "measure"],
        how="left",
        maintain_order="left",
    ).with_columns(
        pl.col("_rank").fill_null(9 * TENS),
        pl.col("_tier").fill_null(2),
        pl.col("_kinds").fill_null(4),
        pl.col("_over").fill_null("all"),
    )
    kind = pl.col("concept_kind").fill_null("all")
    budgets = numbered["budget"].drop_nulls().unique(maintain_order=True).to_list()
    later_budget = (
        pl.col("budget").replace_strict(_ranks(budgets), default=0, return_dtype=pl.Int64) * 2
    )
    key = ["name", "split", "dictionary", "hook_point"]
    narrow = ~kind.is_in(HOLDING)
    of_tokens = narrow & (kind != "document")
    only = {  # the one kind that a holding one holds, by its value
        "all": pl.when(narrow.sum().over(key) == 1).then(
            pl.col("value").filter(narrow).first().over(key)
        ),
        "token": pl.when(of_tokens.sum().over(key) == 1).then(
            pl.col("value").filter(of_tokens).first().over(key)
        ),
    }
    alone = {"all": narrow.sum().over(key) == 1, "token": of_tokens.sum().over(key) == 1}
    same = [
        (pl.col("concept_kind") == name) & alone[name] & pl.col("value").eq_missing(only[name])
        for name in HOLDING
    ]
    repeated = pl.any_horizontal(same)
    over = kind == pl.col("_over")
    whole = over | ((kind == "all") & ~over.any().over(key)) | alone["all"]
    rival = pl.col("role") != "entry"
    later = 2 * ((rival & (pl.col("_tier") > 0)) | (pl.col("role") == "floor"))
    tier = pl.when(whole).then(pl.col("_tier") + later).otherwise(pl.col("_kinds") + 3 * rival)
    ranks = {
        name: pl.col(name).replace_strict(
            _ranks(listed), default=len(listed), return_dtype=pl.Int64
        )
        for name, listed in (("stage", STAGES), ("role", ROLES), ("concept_kind", KINDS))
    }
    order = [
        ranks["stage"],
        SINGLE,
        "_rank",
        ranks["role"],
        "_first",
        ranks["concept_kind"],
        "_row",
    ]
    return (
        numbered.with_columns(
            pl.when(SINGLE).then(9).otherwise(tier + later_budget.fill_null(0)).alias("tier"),
            repeated.alias("_repeated"),
        )
        .filter(~pl.col("_repeated"))
        .with_columns(pl.col("_row").min().over("name").alias("_first"))
        .sort(*order, maintain_order=True)
        .drop("_row", "_repeated", "_rank", "_tier", "_kinds", "_over", "_first")
    )


ROWS, TIERS = 30, 3
"""Rows that the short table has at most, and the last tier of scores that may fill it."""


def ordered(frame: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """Every row that has a value, in reading order; the kind of concept that is the only one is
    told once."""
    return placed(frame, measures).drop("tier").filter(pl.col("value").is_not_null())


def shortened(frame: pl.DataFrame, measures: Measures, most: int = ROWS) -> pl.DataFrame:
    """The rows of the short table, at most so many, in reading order; single concepts and absent
    values have none."""
    rows = placed(frame, measures).filter(pl.col("value").is_not_null(), ~SINGLE)
    return (
        rows.filter(pl.col("tier") <= TIERS)
        .filter(pl.col("tier").rank("ordinal") <= most)
        .drop("tier")
    )


def _ranks(listed: tuple[str, ...] | list) -> dict:
    return {name: rank for rank, name in enumerate(listed)}
