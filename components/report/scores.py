"""Scores as rows: how a stage writes them, what bounds them, and the few that stand for a whole
run.

Polars only, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from components.report.measure import Measure, Measures
from components.report.names import BY_ENTRY, number
from components.report.tables import PLACE, SCORES

KINDS = ("all", "token", "surface", "contextual", "document", "latent", "set")
"""Kinds of concepts in reading order; `all` and `token` (all but document) hold others."""
HOLDING = ("all", "token")
STAGES = ("evaluate", "interpret", "steer")
"""In reading order."""
SINGLE = pl.col("concept").is_not_null()
"""Rows of single concepts: in the full table only."""
RIVALS = ("floor", "control", "baseline")
"""Roles that stand against the entry. A ceiling does not."""
ROLES = ("entry", "baseline", "control", "floor", "ceiling", "own_judge")
"""In reading order."""


def write(
    folder: Path, stage: str, rows: Iterable[Mapping[str, Any]], measures: Measures
) -> pl.DataFrame:
    """Writes scores.parquet and returns its frame; arguments and errors are those of `table`."""
    return SCORES.write(folder, table(stage, rows, measures))


def table(stage: str, rows: Iterable[Mapping[str, Any]], measures: Measures) -> pl.DataFrame:
    """The SCORES table of one stage, every interval inside the range of its measure.

    Args:
        stage: that measured them.
        rows: columns of SCORES but `stage` and `name`; the role is `entry` unless said, the
            direction the measure's.
        measures: what the entries of this stage declare; they belong into the artifact's facts too
            (`Measures.facts`).

    Raises:
        AssertionError: a measure that nobody declared, an absent value without a reason, or a
            number that is not finite.
    """
    full = [_checked({"role": "entry", **row, "stage": stage}, measures) for row in rows]
    return bounded(SCORES.frame(full), measures)


def _checked(row: dict[str, Any], measures: Measures) -> dict[str, Any]:
    assert (row["stage"], row["measure"]) in measures, (
        f"{row['stage']}: nobody declares the measure {row['measure']!r}"
    )
    assert row.get("value") is not None or row.get("reason"), (
        f"an absent value needs its reason: {row}"
    )
    numbers = [row.get(column) for column in ("value", "low", "high", "baseline")]
    assert all(each is None or math.isfinite(each) for each in numbers), f"not finite: {row}"
    return {"better": measures.of(row).better, **row}


def bounded(scores: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """The same rows, no interval beyond the range that its measure can take: Student's interval of
    a share may leave it.

    The value itself is never moved.
    """
    ranges = [
        {"stage": stage, "measure": name, "_least": m.least, "_most": m.most}
        for (stage, name), m in measures.items()
    ]
    schema = {"stage": pl.String, "measure": pl.String, "_least": pl.Float64, "_most": pl.Float64}
    # a bound that is null bounds nothing
    low = pl.min_horizontal(pl.max_horizontal("low", "_least"), "value")
    high = pl.max_horizontal(pl.min_horizontal("high", "_most"), "value")
    return (
        scores.join(
            pl.DataFrame(ranges, schema=schema),
            on=["stage", "measure"],
            how="left",
            maintain_order="left",
        )
        .with_columns(
            pl.when(pl.col("low").is_not_null()).then(low).alias("low"),
            pl.when(pl.col("high").is_not_null()).then(high).alias("high"),
        )
        .drop("_least", "_most")
    )


def flat(scores: pl.DataFrame) -> dict[str, float]:
    """Every measured score under its name and kind of concept, as MLflow and DVC want them; none
    lost where names meet."""
    values: dict[str, float] = {}
    for row in scores.filter(pl.col("value").is_not_null()).iter_rows(named=True):
        kind = row["concept_kind"]
        name = first = row["name"] if kind in (None, "all") else f"{row['name']}.{kind}"
        count = 1
        while name in values:
            count += 1
            name = f"{first} {count}"
        values[name] = row["value"]
    return values


def whole(scores: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """The one row of each score that stands for it: over the kind of concepts that its measure's
    headline is over, else over all, else over the one kind that there is."""
    over = {f"{stage} {name}": measure.over for (stage, name), measure in measures.items()}
    measure = pl.concat_str("stage", "measure", separator=" ")
    kind = pl.col("concept_kind").fill_null("all")
    wanted = kind == measure.replace_strict(over, default="all", return_dtype=pl.String)
    place = [column for column in PLACE if column != "concept_kind" and column in scores.columns]
    groups = [
        column
        for column in scores.columns
        if column in ("run", "label", "sparsity", "at_l0", "d_sae")
    ]
    by = [*groups, *place]
    rank = (
        pl.when(wanted)
        .then(0)
        .when(kind == "all")
        .then(1)
        .when(pl.len().over(by) == 1)
        .then(2)
        .otherwise(3)
    )
    chosen = rank == rank.min().over(by)
    return scores.filter(~SINGLE).filter(chosen & (rank < 3))


def headlines(
    scores: pl.DataFrame, measures: Measures
) -> Iterator[tuple[str, Measure, dict[str, Any]]]:
    """(short name, measure, row) of the few scores that say how an experiment came out, in reading
    order.

    The short name is the same for ever, so that old and new runs sort together: that of the
    measure, then the subject or, where entries are compared, the entry, then every further setting
    but the first of each.
    """
    rows = whole(scores.filter(pl.col("value").is_not_null()), measures)
    first: dict[tuple[str, str], Any] = {}
    ranks = {"stage": STAGES, "role": ROLES}

    def rank(row: Mapping[str, Any]) -> tuple[int, int, int]:
        stage, role = (
            listed.index(row[c]) if row[c] in listed else len(listed) for c, listed in ranks.items()
        )
        return stage, measures.of(row).rank, role

    for row in sorted(rows.to_dicts(), key=rank):
        measure = measures.of(row)
        if (
            not measure.short
            or row["role"] in ("ceiling", "own_judge")
            or (row["role"] == "floor" and row["subject"])
        ):
            continue  # neither what nobody is expected to reach, nor the entry's own floor
        parts = [measure.short, *_who(row)]
        base = " ".join(parts)
        for column in ("explainer", "predictor", "budget", "hook_point", "dictionary"):
            value = row[column]
            if first.setdefault((base, column), value) != value:
                parts.append(_budget(value) if column == "budget" else str(value))
        yield " ".join(parts).lower().replace(" ", "_"), measure, row


def _budget(value: float | None) -> str:
    """A budget, or that a method without strength stands at its own cost."""
    return "own cost" if value is None else f"kl {number(value)}"


def _who(row: Mapping[str, Any]) -> list[str]:
    """What a headline says of who was measured: of explainers and dictionaries nothing, unless it
    is a rival of theirs."""
    if row["role"] == "entry" and (row["stage"] not in BY_ENTRY or row["explainer"] is not None):
        return []
    name = row["subject"] or (row["entry"] if row["stage"] in BY_ENTRY else None)
    return [name] if name else []
