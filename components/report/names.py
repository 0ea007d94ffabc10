"""The dotted name of a score, made from its columns in this one place; nothing reads a name back
into parts.

    evaluate.<measure>[.<subject>][.k<number>]
    interpret.<explainer or subject>.<measure>
    steer.<method or subject>.kl_<budget>[.<measure>][.concept.<concept>]

Rows of one table that would share a name are told apart by what else they are of (the entry, the
predictor, the hook point, ...): the first value in the table stays unsaid, every other stands at
the end of the name. So a name stays what it is when an experiment grows by one more predictor or
hook point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

BY_ENTRY = ("interpret", "steer")
"""Stages whose entries are compared with one another: explainers, steering methods. Their names
begin with the entry."""
UNSAID = {"steer": "uplift"}
"""The measure of a stage that its names leave out."""
APART = ("entry", "predictor", "hook_point", "split", "dictionary")
"""What may tell two rows of one name apart, in this order."""
PARTS = ("stage", "entry", "measure", "subject", "budget", "k", "concept")


def named(scores: pl.DataFrame) -> pl.DataFrame:
    """The same rows with their column `name`."""
    first: dict[tuple[str, str], Any] = {}
    names = []
    columns = [column for column in dict.fromkeys((*PARTS, *APART)) if column in scores.columns]
    for row in scores.select(columns).iter_rows(named=True):
        name = name_of(row)
        others = {column: row[column] for column in APART if column in row}
        said = [c for c, value in others.items() if first.setdefault((name, c), value) != value]
        further = [str(others[column]) for column in said if column != "entry"]
        names.append(".".join([name_of(row, entry="entry" in said), *further]))
    return scores.with_columns(pl.Series("name", names, dtype=pl.String))


def name_of(row: Mapping[str, Any], entry: bool = False) -> str:
    """The name of one row, of which nothing is known of any other.

    Args:
        row: of a table of scores.
        entry: whether the entry is said also where the name begins with the subject.
    """
    by_entry = row["stage"] in BY_ENTRY
    parts = [row["stage"]]
    if by_entry:
        parts += [row["subject"], row["entry"] if entry or not row["subject"] else None]
    if row.get("budget") is not None:
        parts.append(f"kl_{number(row['budget'])}")
    if row["measure"] != UNSAID.get(row["stage"]):
        parts.append(row["measure"])
    if not by_entry:
        parts += [row["subject"], row["entry"] if entry else None]
    if row.get("k") is not None:
        parts.append(f"k{row['k']}")
    if row["concept"] is not None:
        parts += ["concept", row["concept"]]
    return ".".join(part for part in parts if part is not None)


def number(value: float) -> str:
    """A number as a part of a name, with as many digits as tell it from every other; MLflow takes
    no plus in a name."""
    short = f"{value:g}"
    return (short if float(short) == value else repr(value)).replace("e+", "e")
