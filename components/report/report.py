"""Every score of one experiment in one table, and in plain sentences what came out for us, against
us, or undecided.

The stage copies the SCORES tables of whatever artifacts it is given, adds where each row came from,
and chooses nothing: a score that was measured is in the table, good or bad. Beside it stands the
table of differences, ours against each rival, item by item (`components.report.differences`). What
has no value is told in a line with its reason and the setting that would change it. What the stages
declare of their measures goes into the report's facts. The terminal, Prefect, MLflow, README and
pages read what is written here. Polars only, no torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from components.config import Config
from components.errors import InputError
from components.report import tables
from components.report.differences import compared
from components.report.measure import FACT, Measures
from components.report.order import shortened
from components.report.reasons import absent, caveats, plain
from components.report.scores import STAGES
from components.report.sentences import Told, interval, number, rank, replicates, tell
from components.store.artifact import Artifact
from components.store.stage import Facts, Inputs, Parent, Progress, Stage, Work
from components.store.table import Table
from components.store.tables import CONCEPTS, CONTRASTS


class ReportConfig(Config):
    """Nothing to choose: every score is reported."""


def make(folder: Path, config: ReportConfig, inputs: Inputs, settings: Any) -> Work:
    """Writes report.parquet, differences.parquet, report.json (a list of rows) and report.md.

    Optional inputs: `train`, whose facts say whether training had converged, and `corpus`, whose
    inventory says which concepts belong together.

    Raises:
        InputError: no input has scores, an earlier version wrote them, or two artifacts measured
            the same score.
    """
    scored = {
        role: given
        for role, given in inputs.items()
        if given is not None and _holds(given, tables.SCORES)
    }
    if not scored:
        raise InputError(
            f"a report wants artifacts with {tables.SCORES.file} (evaluate, interpret, steer); "
            f"got {', '.join(inputs) or 'none'}"
        )
    parts = []
    for role in sorted(scored, key=lambda role: (rank(STAGES, scored[role].stage), role)):
        artifact = scored[role]
        parts.append(scores_of(artifact).with_columns(pl.lit(artifact.key).alias("artifact")))
        yield Progress(len(parts), len(scored), "artifacts")
    frame, measures = pl.concat(parts), Measures.read(*scored.values())
    _refuse_repeats(frame)
    frame = tables.REPORT.write(folder, frame)
    corpus = inputs.get("corpus")
    inventory = CONCEPTS.read(corpus) if corpus is not None and _holds(corpus, CONCEPTS) else None
    families = (
        {}
        if inventory is None
        else dict(inventory.select("concept", "family").drop_nulls().iter_rows())
    )
    of_stage = {artifact.stage: artifact for artifact in scored.values()}
    differences = compared(frame, measures, of_stage, families)
    tables.DIFFERENCES.write(folder, differences)
    steer = of_stage.get("steer")
    contrasts = CONTRASTS.read(steer) if steer is not None and _holds(steer, CONTRASTS) else None
    trained = getattr(inputs.get("train"), "facts", {})
    told = tell(frame, measures, differences, trained, contrasts)
    _write(folder / "report.json", json.dumps(frame.to_dicts(), indent=1, allow_nan=False) + "\n")
    _write(folder / "report.md", markdown(frame, measures, told))
    named = frame["dictionary"].drop_nulls().unique(maintain_order=True).to_list()
    facts: Facts = {
        "n_scores": frame.height,
        "dictionaries": named,
        **dataclasses.asdict(told),
        **measures.facts(),
    }
    return facts


REPORT = Stage(
    "report",
    version=4,
    make=make,
    inputs={
        "corpus": Parent("read", optional=True),
        "train": Parent("train", optional=True),
        "encode": Parent("encode", optional=True),
    },
    gathers=True,
    computes=False,
)


def scores_of(artifact: Artifact) -> pl.DataFrame:
    """The scores of one artifact.

    Raises:
        InputError: an earlier version wrote them: without columns, or without what is declared of
            their measures.
    """
    if FACT not in artifact.facts:
        raise InputError(
            f"the scores of {artifact.stage}/{artifact.key} were written by an earlier version of "
            "Latentflow, which named them without columns; run the same command again to make new "
            "ones (these stay as they are)"
        )
    return tables.SCORES.read(artifact)


def markdown(frame: pl.DataFrame, measures: Measures, told: Told) -> str:
    """The short table, how training ended, what came out for and against us, and why values are
    absent."""
    lines = [
        "| score | kind | value | 95% interval | n | failed | baseline | better |",
        "|---|---|---:|---|---:|---:|---|---|",
    ]
    for row in shortened(frame, measures).to_dicts():
        cells = [
            row["name"],
            row["concept_kind"] or "",
            number(row["value"]),
            interval(row),
            replicates(row),
        ]
        cells += [str(row["n_failed"] or 0), _baseline(row), row["better"] or ""]
        lines.append(f"| {' | '.join(map(plain, cells))} |")
    if told.training:
        lines += ["", plain(told.training)]
    for heading, sentences, nothing in (
        (
            "Against us",
            told.against_us,
            "Nothing: no rival does better beyond what chance explains.",
        ),
        ("For us", told.for_us, "Nothing: no rival does worse beyond what chance explains."),
        ("No difference can be told at this n", told.undecided, ""),
        ("Not measured", absent(frame, measures), ""),
        ("To know of these rows", caveats(frame, measures), ""),
    ):
        listed = [f"- {plain(sentence)}" for sentence in sentences] or (
            [nothing] if nothing else []
        )
        lines += ["", f"**{heading}**", "", *listed] if listed else []
    return "\n".join(lines) + "\n"


def _refuse_repeats(frame: pl.DataFrame) -> None:
    repeated = frame.filter(pl.struct(tables.REPORT.key).is_duplicated())
    if repeated.height:
        name, artifacts = (
            repeated["name"][0],
            ", ".join(repeated["artifact"].unique(maintain_order=True).to_list()),
        )
        raise InputError(
            f"one report wants each score once; {name!r} for the same dictionary and hook point "
            f"came from {artifacts}; make a report for each experiment"
        )


def _holds(given: Any, table: Table) -> bool:
    return table.file in getattr(given, "files", ())


def _baseline(row: Mapping[str, Any]) -> str:
    return "" if row["baseline"] is None else f"{row['baseline']:.3g} ({row['baseline_name']})"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
