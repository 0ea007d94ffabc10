"""One experiment under several training seeds, and one table with the interval over them.

Each seed is an ordinary experiment: it has its own report, and shares reading and capture by key
with every other, so what `latentflow experiment` has made is found. What is made stays when a run
is stopped; run again, it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow
from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.config import override
from components.errors import ConfigError
from components.experiment import ExperimentConfig
from components.report.measure import Measures
from components.report.order import ordered, shortened
from components.report.reasons import absent
from components.report.replicates import ReplicateConfig
from components.report.sentences import number
from components.report.tables import REPLICATES
from components.store.artifact import Artifact, Store
from flows.chain import Chain
from flows.experiment import experiment
from flows.stack import windows
from flows.steps import Reference
from flows.terminal import for_tables


@flow(name="replicate", flow_run_name=windows.name)
def replicate(config: ExperimentConfig, seeds: list[int]) -> Reference:
    """The experiment under each training seed, one after another, and one table over the seeds."""
    reports = [experiment(each) for each in seeded(config, seeds)]
    with Chain(config) as chain:
        return table(
            chain, seeds, [chain.store.get(**reference) for reference in reports]
        ).reference()


def plainly(config: ExperimentConfig, seeds: Sequence[int]) -> Artifact:
    """The same without Prefect and MLflow."""
    reports = []
    for each in seeded(config, seeds):
        with Chain(each, plain=True) as chain:
            reports.append(chain.artifact("report"))
    with Chain(config, plain=True) as chain:
        return table(chain, seeds, reports)


def seeded(config: ExperimentConfig, seeds: Sequence[int]) -> list[ExperimentConfig]:
    """The experiment under each seed.

    Raises:
        ConfigError: fewer than two seeds, one twice, or a dictionary that is not trained here.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"replicate wants at least two training seeds, each once, got {list(seeds)}: --seeds "
            "0,1,2"
        )
    if config.dictionary:
        raise ConfigError(
            f"replicate trains a dictionary for each seed, and dictionary={config.dictionary} "
            "names one that is made; leave it out"
        )
    return [override(config, {"train.seed": seed}) for seed in seeds]


def table(chain: Chain, seeds: Sequence[int], reports: Sequence[Artifact]) -> Artifact:
    """The artifact with every score over the seeds."""
    inputs = {f"report.{place}": report for place, report in enumerate(reports)}
    return chain.step("replicate", ReplicateConfig(seeds=tuple(seeds)), **inputs)


def newest(store: Store) -> Artifact | None:
    """The replicates that were made last."""
    return max(store.artifacts("replicate"), key=lambda artifact: artifact.age, default=None)


def show(artifact: Artifact, console: Console, everything: bool = False) -> None:
    """The table in the terminal: mean, interval over seeds, and each seed's value."""
    frame, measures = REPLICATES.read(artifact), Measures.read(artifact)
    console = for_tables(console)
    seeds = artifact.facts["seeds"]
    title = f"{len(seeds)} training seeds, 95% Student interval over them"
    shown = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in (
        "score",
        "kind",
        "mean",
        "95% interval",
        *(f"seed {seed}" for seed in seeds),
        "baseline",
        "",
    ):
        left = column in ("score", "kind", "baseline", "")
        shown.add_column(column, justify="left" if left else "right", no_wrap=column != "baseline")
    stage = None
    every = ordered(frame, measures)
    rows = every if everything else shortened(frame, measures)
    for row in rows.iter_rows(named=True):
        if row["stage"] != stage and stage is not None:
            shown.add_section()
        stage = row["stage"]
        ends = "" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"
        baseline = (
            "" if row["baseline"] is None else f"{row['baseline']:.3g} {row['baseline_name']}"
        )
        arrow = {"higher": "↑", "lower": "↓"}.get(row["better"], "")
        cells = [row["name"], row["concept_kind"] or "", number(row["value"]), ends]
        shown.add_row(*map(Text, [*cells, *map(number, row["values"]), baseline, arrow]))
    console.print(shown)
    if left_out := every.height - rows.height:
        console.print(Text(f"{left_out} more rows: --all; machine-readable: --json"))
    for sentence in absent(frame, measures):
        console.print(Text(f"not measured: {sentence}"))
    for seed, key in zip(seeds, artifact.facts["reports"], strict=True):
        console.print(Text(f"seed {seed}: report {key}"))
