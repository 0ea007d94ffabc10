"""Every score of an experiment in one table: in the terminal, as a Prefect artifact, in MLflow, as JSON."""

from __future__ import annotations

import polars as pl
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from rich.console import Console
from rich.table import Table

from components.experiment import ExperimentConfig
from components.store import report as reports
from components.store.artifact import Artifact
from components.store.tables import REPORT
from flows import environment, windows
from flows.steps import Chain, Reference

WIDTH = 150


@flow(name="report", flow_run_name=windows.name)
def report(config: ExperimentConfig) -> Reference:
    """Every score of an experiment in one table."""
    with Chain(config) as chain:
        artifact = chain.report()
        publish(artifact)
        return artifact.reference()


def publish(artifact: Artifact) -> None:
    """The table as a markdown artifact of this flow run, with links to the other two windows."""
    create_markdown_artifact(
        reports.markdown(REPORT.read(artifact)), key="report", description=f"report {artifact.key}"
    )
    address = f"{environment.address('streamlit')}/?report={artifact.key}"
    windows.link("dashboard", address, "Read this run in Streamlit")


def show(artifact: Artifact, console: Console) -> None:
    """The table in the terminal, headline rows first, and below it what came out against us."""
    frame = REPORT.read(artifact)
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(title=f"report {artifact.key}", title_justify="left", header_style="bold", expand=False)
    for column in ("score", "kind", "value", "95% interval", "n", "failed", "baseline", ""):
        right = column in ("value", "95% interval", "n", "failed")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "baseline")
    stage = None
    for row in reports.headline(frame).iter_rows(named=True):
        if row["stage"] != stage and stage is not None:
            table.add_section()
        stage = row["stage"]
        table.add_row(*_cells(row))
    console.print(table)
    console.print("↑ higher is better, ↓ lower is better; every row: latentflow report --json", highlight=False)
    for sentence in reports.against_us(frame):
        console.print(f"[yellow]against us:[/] {sentence}", highlight=False)


def _cells(row: dict) -> list[str]:
    value = "-" if row["value"] is None else f"{row['value']:.4g}"
    interval = "-" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"
    baseline = "" if row["baseline"] is None else f"{row['baseline']:.3g} {row['baseline_name']}"
    n = f"{row['n']} {row['unit_of_replication']}s" if row["n"] is not None else "-"
    arrow = {"higher": "↑", "lower": "↓"}.get(row["better"], "")
    return [row["name"], row["concept_kind"] or "", value, interval, n, str(row["n_failed"] or 0), baseline, arrow]


def rows(frame: pl.DataFrame) -> list[dict]:
    """The report as plain rows, for `--json`."""
    return frame.to_dicts()
