"""Every score of one experiment in one table, and in plain sentences what came out against us.

The stage copies the SCORES tables of whatever artifacts it is given, adds where each row came from, and chooses
nothing: a score that was measured is in the table, good or bad. `headline`, `markdown` and `against_us` are pure
functions of that table, so the terminal, Prefect, MLflow and the pages say the same. Polars only, no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from components.config import Config
from components.errors import InputError
from components.store import tables
from components.store.artifact import Facts, Inputs, Progress, Stage, Work

STAGES = ("evaluate", "interpret", "steer")
KINDS = ("all", "surface", "contextual", "document")
FIRST = ("evaluate.fvu", "evaluate.loss_recovered", "evaluate.cross_entropy", "evaluate.l0", "evaluate.dead_share")
"""What the table begins with."""
DETAIL = ("evaluate.concepts_auroc.", "evaluate.concepts_ap.")
"""Scores of which the headline shows all concepts together; the full table holds each kind."""
SINGLE = (pl.col("stage") == "steer") & (pl.col("unit_of_replication").fill_null("") == "prompt")
"""Rows of single concepts: in the full table only."""
RIVALS = {
    "neuron": "raw neurons",
    "untrained": "the untrained dictionary",
    "shuffled": "shuffled explanations",
    "random_direction": "random directions",
    "mean_difference": "mean difference",
}
"""Controls and competitors, by the part of a score's name that says so. A probe is a ceiling, not a rival."""
CEILINGS = ("probe",)


class ReportConfig(Config):
    """Nothing to choose: every score is reported."""


def make(folder: Path, config: ReportConfig, inputs: Inputs, settings: Any) -> Work:
    """Writes report.parquet, report.json (a list of rows) and report.md.

    Raises:
        InputError: no input has scores, or two artifacts measured the same score.
    """
    scored = {role: given for role, given in inputs.items() if given is not None and _has_scores(given)}
    if not scored:
        raise InputError(
            f"a report wants artifacts with {tables.SCORES.file} (evaluate, interpret, steer); got {', '.join(inputs) or 'none'}"
        )
    parts = []
    for role in sorted(scored, key=lambda role: (_rank(STAGES, scored[role].stage), role)):
        artifact = scored[role]
        origin = {"stage": artifact.stage, "artifact": artifact.key}
        parts.append(
            tables.SCORES.read(artifact).with_columns(pl.lit(text).alias(name) for name, text in origin.items())
        )
        yield Progress(len(parts), len(scored), "artifacts")
    frame = pl.concat(parts)
    _refuse_repeats(frame)
    frame = tables.REPORT.write(folder, frame)
    against = against_us(frame)
    _write(folder / "report.json", json.dumps(frame.to_dicts(), indent=1, allow_nan=False) + "\n")
    _write(folder / "report.md", markdown(frame))
    named = frame["dictionary"].drop_nulls().unique(maintain_order=True).to_list()
    facts: Facts = {"n_scores": frame.height, "dictionaries": named, "against_us": against}
    return facts


REPORT = Stage("report", version=1, make=make, computes=False)


def headline(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of the short table, in reading order: what is kept, found, explained, steered; all kinds, then each."""
    by_kind = pl.any_horizontal(pl.col("name").str.starts_with(prefix) for prefix in DETAIL)
    kept = frame.filter(~SINGLE & ~(by_kind & (pl.col("concept_kind").fill_null("all") != "all")))
    first_seen = pl.col("row").min().over("name")
    order = {"stage": STAGES, "concept_kind": KINDS}
    ranks = {name: pl.col(name).replace_strict(_ranks(known), default=len(known)) for name, known in order.items()}
    numbered = kept.with_row_index("row")
    leading = pl.coalesce(
        *(pl.when(pl.col("name").str.starts_with(name)).then(rank) for rank, name in enumerate(FIRST)), len(FIRST)
    )
    return numbered.sort(ranks["stage"], leading, first_seen, ranks["concept_kind"], maintain_order=True).drop("row")


def markdown(frame: pl.DataFrame) -> str:
    """The short table, then what came out against us, then why values are absent."""
    lines = [
        "| score | kind | value | 95% interval | n | failed | baseline | better |",
        "|---|---|---:|---|---:|---:|---|---|",
    ]
    rows = headline(frame).to_dicts()
    for row in rows:
        cells = [row["name"], row["concept_kind"] or "", _number(row["value"]), _interval(row), _replicates(row)]
        cells += [str(row["n_failed"] or 0), _baseline(row), row["better"] or ""]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += ["", "**Against us**", ""]
    lines += [f"- {sentence}" for sentence in against_us(frame)] or ["Nothing: no rival does better."]
    absent = [f"- `{_title(row)}`: {row['reason']}" for row in rows if row["value"] is None]
    if absent:
        lines += ["", "**Not measured**", "", *absent]
    return "\n".join(lines) + "\n"


def against_us(frame: pl.DataFrame) -> list[str]:
    """Plain sentences for every score of ours that its baseline beats beyond the interval, or that a rival beats at all.

    A rival is a row of the same name but for the part that says who was measured (`concepts_found.neuron` beside
    `concepts_found.latent`), of the same kind, split, dictionary and hook point; the sentence says whether the
    difference lies within our interval. Rows of rivals and ceilings are no scores of ours. Single concepts are counted
    and named, not told one by one.
    """
    rows = headline(frame).to_dicts()
    rivals: dict[tuple, list[tuple[str, dict[str, Any]]]] = {}
    for row in rows:
        if (who := _part(row["name"], RIVALS)) and row["value"] is not None:
            rivals.setdefault(_place(row, who), []).append((who, row))
    sentences = []
    for row in rows:
        if row["value"] is None or row["better"] not in ("higher", "lower") or _part(row["name"], (*RIVALS, *CEILINGS)):
            continue
        for who, theirs in _beaten_by(row, rivals):
            beyond = _outside(row, theirs)
            where = "outside" if beyond else "within"
            interval = (
                f"{where} our interval {_interval(row)}" if row["low"] is not None else "our value has no interval"
            )
            sentences.append(
                f"{_title(row)}: {who} {_number(theirs)}, ours {_number(row['value'])} "
                f"({row['better']} is better, over {_replicates(row)}; {interval})"
            )
    return sentences + _single_concepts(frame, [row["name"] for row in rows])


def _single_concepts(frame: pl.DataFrame, names: list[str]) -> list[str]:
    """For each score, on how many single concepts its baseline does better beyond the interval, and on which."""
    counted: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for row in frame.filter(SINGLE, pl.col("value").is_not_null(), pl.col("baseline").is_not_null()).to_dicts():
        if _part(row["name"], (*RIVALS, *CEILINGS)):
            continue
        score = max((name for name in names if row["name"].startswith(f"{name}.")), key=len, default="")
        n, beaten = counted.get((score, row["baseline_name"]), (0, []))
        if _better(row, row["baseline"]) and _outside(row, row["baseline"]):
            beaten = [*beaten, row["name"].removeprefix(f"{score}.")]
        counted[score, row["baseline_name"]] = n + 1, beaten
    return [
        f"{score}: on {len(beaten)} of {n} single concepts the {who} does better, outside our interval: {', '.join(beaten)}"
        for (score, who), (n, beaten) in counted.items()
        if beaten
    ]


def _beaten_by(row: Mapping[str, Any], rivals: Mapping[tuple, list]) -> Iterator[tuple[str, float]]:
    """(who, their value) for everyone who does better than this row of ours."""
    baseline = row["baseline"]
    if baseline is not None and _better(row, baseline) and _outside(row, baseline):
        yield row["baseline_name"] or "the baseline", baseline
    for part in row["name"].split("."):
        for who, rival in rivals.get(_place(row, part), []):
            told = baseline is not None and math.isclose(rival["value"], baseline) and _outside(row, baseline)
            if _better(row, rival["value"]) and not told:
                yield RIVALS[who], rival["value"]


def _better(row: Mapping[str, Any], other: float) -> bool:
    return other > row["value"] if row["better"] == "higher" else other < row["value"]


def _outside(row: Mapping[str, Any], other: float) -> bool:
    return row["low"] is None or other < row["low"] or other > row["high"]


def _place(row: Mapping[str, Any], part: str) -> tuple:
    """What a row has in common with its rivals: the name with one part left open, and everything else of the key."""
    open_name = tuple("*" if piece == part else piece for piece in row["name"].split("."))
    return (open_name, *(row[column] for column in tables.REPORT.key if column != "name"))


def _part(name: str, parts: Any) -> str | None:
    return next((piece for piece in name.split(".") if piece in parts), None)


def _refuse_repeats(frame: pl.DataFrame) -> None:
    repeated = frame.filter(pl.struct(tables.REPORT.key).is_duplicated())
    if repeated.height:
        name, artifacts = repeated["name"][0], ", ".join(repeated["artifact"].unique(maintain_order=True).to_list())
        raise InputError(
            f"one report wants each score once; {name!r} for the same dictionary and hook point came from {artifacts}; "
            "make a report for each experiment"
        )


def _has_scores(given: Any) -> bool:
    return tables.SCORES.file in getattr(given, "files", ())


def _rank(known: tuple[str, ...], name: str) -> int:
    return known.index(name) if name in known else len(known)


def _ranks(known: tuple[str, ...]) -> dict[str, int]:
    return {name: rank for rank, name in enumerate(known)}


def _title(row: Mapping[str, Any]) -> str:
    return row["name"] + (f" ({row['concept_kind']})" if row["concept_kind"] else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(row: Mapping[str, Any]) -> str:
    return "–" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"


def _replicates(row: Mapping[str, Any]) -> str:
    return "–" if row["n"] is None else f"{row['n']} {row['unit_of_replication'] or 'replicate'}s"


def _baseline(row: Mapping[str, Any]) -> str:
    return "" if row["baseline"] is None else f"{row['baseline']:.3g} ({row['baseline_name']})"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
