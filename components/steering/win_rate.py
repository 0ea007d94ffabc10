"""AxBench's win rate: how often a method's text is rated above that of prompting, after the same
prompt.

Source: Wu et al., AxBench (2025), arXiv:2501.17148, section 3.2. Deviations: a method stands at the
KL budget of its row and `prompt` at its own cost, where theirs stand at the best factor each; samples
of a prompt are averaged first; a tie counts one half and is told beside it, and the interval is
Student's over targets.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from components.steering.comparison import Comparison, at
from components.steering.contract import Concept

RATED, RIVAL = "ratings", "prompt"
"""The judge whose values are compared, and the method that all others are compared with."""
TIE = 1e-6
"""Ratings that differ by less are alike."""


def applies(comparison: Comparison, method: str) -> bool:
    """Whether a method has a win rate: texts are rated, prompting is there, and it is another."""
    return (
        RATED in comparison.told
        and RIVAL in comparison.methods
        and RIVAL not in comparison.absent
        and method != RIVAL
        and method not in comparison.lowering  # prompting asks for the target
    )


def by_target(
    results: pl.DataFrame, method: str, budget: float | None, concepts: list[Concept]
) -> pl.DataFrame:
    """For each target: how often the method was above prompting.

    Args:
        results: texts with their judgements (`components.store.judgements.judged`).
        method: its name in tables.
        budget: where it stands.
        concepts: targets.

    Returns:
        concept, n (prompts of which both were rated), wins, ties, in the order of the concepts'
            names; a text that was rated and has no value counts as 0.
    """
    place = ["concept", "prompt"]
    of_test = results.filter(
        pl.col("split") == "test", pl.col("concept").is_in([c.name for c in concepts])
    )
    # NaN: nobody was asked about it, so it is no part of the mean
    rated = (
        pl.when(pl.col(RATED).is_nan().fill_null(False))
        .then(None)
        .otherwise(pl.col(RATED).fill_null(0.0))
    )
    own, rival = (
        of_test.filter(pl.col("method") == name, at(where))
        .group_by(place)
        .agg(rated.mean().alias(side))
        .drop_nulls(side)
        for side, name, where in (("own", method, budget), ("rival", RIVAL, None))
    )
    above = pl.col("own") - pl.col("rival")
    return (
        own.join(rival, on=place)
        .group_by("concept")
        .agg(
            pl.len().alias("n"),
            (above > TIE).sum().alias("wins"),
            (above.abs() <= TIE).sum().alias("ties"),
        )
        .sort("concept")
    )


def told(found: pl.DataFrame) -> dict[str, Any]:
    """Target -> its win rate, a tie counting one half; and in words what happened."""
    rates = found.select("concept", (pl.col("wins") + pl.col("ties") / 2) / pl.col("n"))
    n, wins, ties = (int(found[name].sum()) for name in ("n", "wins", "ties"))
    return {
        "rates": dict(rates.iter_rows()),
        "reason": f"of {n} prompts above prompting on {wins}, alike on {ties}, below on "
        f"{n - wins - ties}",
    }
