"""Scores of explanations that are not worth ranking with, as `benchmarks/which_score.py` found.

A score is worth ranking with where it tells a right explanation from a wrong one and says the same
when windows are drawn again (docs/which-score.md). What lacks either is shown grey, with what it
lacks. The command writes the file `worth.json` beside this one; nothing in it is typed by hand.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import polars as pl

FILE = "worth.json"
DOUBT = "not worth ranking with"
"""With which the note of such a row begins."""
GREY = "#8a8a8a"
"""How pages write a row that nobody should rank with."""


@functools.cache
def lacking() -> Mapping[str, Mapping[str, str]]:
    """Scorer -> predictor -> what the score lacks, for those that were measured and lack it."""
    return json.loads(files("components.report").joinpath(FILE).read_text(encoding="utf-8"))


def doubt(row: Mapping[str, Any]) -> str | None:
    """Why a row of a table of scores is not to be ranked with; None where nothing was found against
    it.

    Args:
        row: with the columns `scorer` and `predictor`; a row of no scorer has no doubt.
    """
    why = lacking().get(row["scorer"] or "", {}).get(row["predictor"] or "")
    return why and f"{DOUBT}: {why} (docs/which-score.md)"


def sentences(scores: pl.DataFrame) -> list[str]:
    """Which scores in a table of scores have such a doubt, once each."""
    return list(
        dict.fromkeys(
            f"{row['scorer']} by {row['predictor']} is {why}"
            for row in scores.iter_rows(named=True)
            if (why := doubt(row))
        )
    )
