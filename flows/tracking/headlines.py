"""The few scores by which runs are sorted and compared, under short names that stay."""

from __future__ import annotations

import polars as pl

from components.report import scores
from components.report.measure import Measures

LISTED = ("loss_recovered", "l0", "fvu", "concepts_found")
"""The headlines that a terminal has room for."""


def headlines(report: pl.DataFrame, measures: Measures) -> dict[str, float]:
    """The few scores by which runs are sorted and compared, under short names that stay the same
    for ever, so that old and new runs sort together; none overwrites another. Scores that were not
    measured are left out."""
    return {name: row["value"] for name, _, row in scores.headlines(report, measures)}
