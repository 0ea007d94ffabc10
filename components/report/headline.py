"""Steering's headline in sentences: each method against the mean of the controls that went through
the same choice, read from the table `contrasts` as the stage `steer` wrote it.

Nothing is computed here. The methods against controls at the headline budget are the family that
the stage tested together; what stands at other budgets is told with it, without a claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from components.report.names import number
from components.report.scores import SINGLE
from components.store.judgements import COMPOSITE, PANEL

OVER_CONTROLS = "over_controls"
"""The measure of `steer` whose rows bear the name of a headline."""
CONTROLS, PRIMARY = "controls", "primary"
"""What `contrasts` calls the mean of the controls, and the family of tests against it."""
LEVEL = 0.05
IN_WORDS = {
    COMPOSITE: "composite of target and fluency",
    PANEL: "composite of target, relevance and fluency",
}


def compared_measures(contrasts: pl.DataFrame) -> set[str]:
    """The measures whose comparison with controls this table holds."""
    return set(_against_controls(contrasts)["measure"])


def against_controls(contrasts: pl.DataFrame, frame: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """(outcome, sentence) for each method of ours that was tested against the controls.

    Args:
        contrasts: the CONTRASTS table.
        frame: the REPORT table: its rows of the measure `over_controls` name the methods, and say
            which are ours.
    """
    ours = frame.filter(
        ~SINGLE,
        pl.col("stage") == "steer",
        pl.col("measure") == OVER_CONTROLS,
        pl.col("role") == "entry",
    )
    names: dict[tuple[str, float], str] = {}
    for method, budget, name in ours.select("entry", "budget", "name").iter_rows():
        names.setdefault((method, budget), name)
    several_kinds = (ours["concept_kind"] == "all").any()
    against = _against_controls(contrasts)
    tested = against.filter(pl.col("family") == PRIMARY)
    n_tests = tested["p_holm"].count()
    for row in tested.iter_rows(named=True):
        name = names.get((row["method"], row["kl_budget"]))
        if name is None:
            continue
        told = row["p_holm"] is not None and row["p_holm"] < LEVEL
        outcome = "undecided" if not told else "for us" if row["value"] > 0 else "against us"
        elsewhere = against.filter(
            pl.col("method") == row["method"], pl.col("kl_budget") != row["kl_budget"]
        )
        yield outcome, _sentence(name, row, outcome, n_tests, several_kinds, elsewhere)


def _against_controls(contrasts: pl.DataFrame) -> pl.DataFrame:
    return contrasts.filter(pl.col("other") == CONTROLS, pl.col("value").is_not_null())


def _sentence(
    name: str,
    row: Mapping[str, Any],
    outcome: str,
    n_tests: int,
    several_kinds: bool,
    elsewhere: pl.DataFrame,
) -> str:
    verb = {
        "for us": "better than",
        "against us": "worse than",
        "undecided": "not told apart from",
    }[outcome]
    holm = f", Holm over {n_tests} methods" if n_tests > 1 else ""
    measure = IN_WORDS.get(row["measure"], row["measure"])
    told = (
        f"{name}: {verb} the mean of {row['n_controls']} controls that went through the same "
        f"choice ({measure}, paired by target{holm}): difference {_difference(row)}"
    )
    told += "" if row["p_holm"] is None else f", p {row['p_holm']:.2g}"
    told += f", {row['n']} target{'' if row['n'] == 1 else 's'}"
    # the score of this name lets each kind of target weigh the same instead
    told += ", each weighing the same" if several_kinds else ""
    told += f", {row['n_failed']} of them without text (counted as 0)" if row["n_failed"] else ""
    if outcome == "undecided":
        # signs that all agree are one flip in so many
        if 2.0 ** (1 - row["n"]) > LEVEL:
            told += ", n too small to see any"
        elif row["visible"] is not None:
            told += f", {row['visible']:.2g} would be seen"
    others = [
        f"KL {number(other['kl_budget'])} {_difference(other)}"
        for other in elsewhere.sort("kl_budget").iter_rows(named=True)
    ]
    told += f"; at other budgets, not tested: {', '.join(others)}" if others else ""
    return told + (f"; {row['reason']}" if row["reason"] else "")


def _difference(row: Mapping[str, Any]) -> str:
    ends = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['value']:+.3g}{ends}"
