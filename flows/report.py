"""Every score of an experiment in one table: in the terminal, as a Prefect artifact, in MLflow, as
JSON."""

from __future__ import annotations

import polars as pl
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.experiment import ExperimentConfig
from components.report import worth
from components.report.measure import Measures
from components.report.order import ordered, shortened
from components.report.reasons import absent, caveats
from components.report.sentences import Told, interval, number, replicates
from components.report.tables import REPORT
from components.store.artifact import Artifact
from flows.chain import Chain
from flows.stack import environment, windows
from flows.steps import Reference
from flows.terminal import for_tables

UNDECIDED = 4
"""Comparisons without a difference that the short form tells."""


@flow(name="report", flow_run_name=windows.name)
def report(config: ExperimentConfig) -> Reference:
    """Every score of an experiment in one table."""
    with Chain(config) as chain:
        artifact = chain.artifact("report")
        publish(artifact)
        return artifact.reference()


def publish(artifact: Artifact) -> None:
    """The table as a markdown artifact of this flow run, with links to the other two windows."""
    text = artifact.path("report.md").read_text(encoding="utf-8")
    create_markdown_artifact(text, key="report", description=f"report {artifact.key}")
    address = f"{environment.address('streamlit')}/?report={artifact.key}"
    windows.link("dashboard", address, "Read this run in Streamlit")


def show(artifact: Artifact, console: Console, everything: bool = False) -> None:
    """The table in the terminal, and below it what came out for and against us, and what has no
    value.

    Args:
        artifact: the report.
        console: where to; what it gets is data and never markup.
        everything: every row and sentence, not only the short table.
    """
    frame, measures, told = REPORT.read(artifact), Measures.read(artifact), Told.of(artifact)
    console = for_tables(console)
    table = Table(
        title=f"report {artifact.key}", title_justify="left", header_style="bold", expand=False
    )
    for column in ("score", "kind", "value", "95% interval", "n", "failed", "baseline", ""):
        right = column in ("value", "95% interval", "n", "failed")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "baseline")
    every = ordered(frame, measures)
    shown = every if everything else shortened(frame, measures)
    stage = None
    for row in shown.iter_rows(named=True):
        if row["stage"] != stage and stage is not None:
            table.add_section()
        stage = row["stage"]
        table.add_row(*map(Text, _cells(row)), style="dim" if worth.doubt(row) else None)
    if shown.height:
        console.print(table)
        left_out = every.height - shown.height
        rest = f"; {left_out} more rows: latentflow report --all" if left_out else ""
        console.print(
            Text(
                f"↑ higher is better, ↓ lower is better{rest}; machine-readable: latentflow "
                "report --json"
            )
        )
    lines = [("", told.training or "", "")]
    lines += [("against us: ", sentence, "yellow") for sentence in told.against_us]
    lines += [("for us: ", sentence, "green") for sentence in told.for_us]
    undecided = told.undecided if everything else told.undecided[:UNDECIDED]
    lines += [("no difference can be told: ", sentence, "bold") for sentence in undecided]
    if hidden := len(told.undecided) - len(undecided):
        lines.append(
            (
                "no difference can be told: ",
                f"{hidden} more comparisons, latentflow report --all",
                "bold",
            )
        )
    lines += [("not measured: ", sentence, "bold") for sentence in absent(frame, measures)]
    lines += [("note: ", sentence, "bold") for sentence in caveats(frame, measures)]
    lines += [("grey: ", sentence, "bold") for sentence in worth.sentences(shown)]
    for begin, sentence, style in lines:
        if sentence:
            console.print(Text.assemble((begin, style), sentence))


def _cells(row: dict) -> list[str]:
    ends = "" if row["low"] is None else interval(row)
    baseline = "" if row["baseline"] is None else f"{row['baseline']:.3g} {row['baseline_name']}"
    arrow = {"higher": "↑", "lower": "↓"}.get(row["better"], "")
    value, n = number(row["value"]), replicates(row)
    return [
        row["name"],
        row["concept_kind"] or "",
        value,
        ends,
        n,
        str(row["n_failed"] or 0),
        baseline,
        arrow,
    ]


def rows(frame: pl.DataFrame) -> list[dict]:
    """The report as plain rows, for `--json`."""
    return frame.to_dicts()
