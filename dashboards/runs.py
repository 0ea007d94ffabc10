"""Which experiments and artifacts exist, and which MLflow run belongs to them: the only file that
reads MLflow.

An experiment is one `report` artifact; its manifest leads to every artifact it rests on. Addresses
come from the environment: LATENTFLOW_STORE, MLFLOW_TRACKING_URI, LATENTFLOW_MLFLOW_URL. Whatever is
read is remembered by artifact key: an artifact never changes, so neither does what was read from
it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import streamlit as st

from components.errors import shortened
from components.report.measure import Measures
from components.report.tables import TABLES
from components.service import Service
from components.store import lineage
from components.store.artifact import Artifact, Store
from components.store.table import Table
from dashboards import workflow

log = logging.getLogger(__name__)

SECONDS_FOR_MLFLOW = 4.0
"""How long a page waits for MLflow's server; after that it does without for minutes."""
SECONDS_FOR_A_DATABASE = 20.0
REPORT_TAG = "report"
FLOW_RUN_TAG = "prefect.flow_run"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One finished experiment.

    Attributes:
        report: its report artifact.
        artifacts: stage -> the artifact of this experiment; the untrained control is left out.
        missing: stages whose artifact is named by a manifest but is not in the store.
        closure: every artifact behind it, the untrained control included.
    """

    report: Artifact
    artifacts: Mapping[str, Artifact]
    missing: tuple[str, ...]
    closure: tuple[Artifact, ...]

    @property
    def key(self) -> str:
        """The report's key: what deep links carry."""
        return self.report.key

    @property
    def file(self) -> str | None:
        """Where its activations come from without a model and without text; None where a model was
        run."""
        capture = self.artifacts.get("capture")
        return capture.facts.get("arrays") if capture else None

    @property
    def measures(self) -> Measures:
        """What its stages declare of what they measured."""
        return Measures.read(self.report)

    @property
    def control(self) -> Artifact | None:
        """The codes of the untrained dictionary of equal size; None where the experiment made
        none."""
        evaluate = self.artifacts.get("evaluate")
        place = lineage.inputs(evaluate.manifest).get(lineage.UNTRAINED) if evaluate else None
        return next((each for each in self.closure if (each.stage, each.key) == place), None)

    @property
    def label(self) -> str:
        """Which dictionary and which report, short enough for a column or a legend."""
        return f"{self.artifacts['train'].facts['name'] if 'train' in self.artifacts else 'experiment'} · {self.key[:6]}"

    @property
    def title(self) -> str:
        """Which dictionary, when, where in the model, which key."""
        facts = self.artifacts["train"].facts if "train" in self.artifacts else {}
        made = self.report.manifest["made"]["at"].replace("T", " ")[:16] + " UTC"
        parts = (facts.get("name"), made, facts.get("hook_point"), self.key[:6])
        return " · ".join(str(part) for part in parts if part)


def store() -> Store:
    """The store that the pages show."""
    return Store(os.environ.get("LATENTFLOW_STORE") or "data/artifacts")


def mlflow_url() -> str:
    """Where a browser finds MLflow."""
    return os.environ.get("LATENTFLOW_MLFLOW_URL") or "http://127.0.0.1:5001"


def experiments() -> list[Experiment]:
    """Every experiment with a report, newest first."""
    return _experiments(str(store().root))


def sweeps() -> list[Artifact]:
    """The comparison of every sweep, newest first."""
    return sorted(store().artifacts("compare"), key=lambda sweep: sweep.age, reverse=True)


def steered() -> list[Artifact]:
    """Every steer artifact, newest first."""
    return sorted(store().artifacts("steer"), key=lambda steer: steer.age, reverse=True)


def titled(steer: Artifact) -> str:
    """Which dictionary a steer artifact steered with, when, where in the model, which key."""
    made = steer.manifest["made"]["at"].replace("T", " ")[:16] + " UTC"
    facts = steer.facts
    parts = (facts.get("dictionary"), made, facts.get("hook_point"), steer.key[:6])
    return " · ".join(str(part) for part in parts if part)


def table(wanted: Table, artifact: Artifact) -> pl.DataFrame:
    """One table of one artifact; treat it as read-only.

    Raises:
        MissingArtifactError: the artifact, or the file in it, is gone.
        DamagedArtifactError: its bytes differ from the manifest.
        StoreError: an earlier version wrote it, and columns are missing.
    """
    return _table(str(artifact.folder.parent.parent), artifact.stage, artifact.key, wanted.name)


def scan(wanted: Table, artifact: Artifact) -> pl.LazyFrame:
    """One table of one artifact, lazily, for what needs few columns or rows of a large one.

    Raises:
        MissingArtifactError: the artifact, or the file in it, is gone.
        DamagedArtifactError: its bytes differ from the manifest.
        StoreError: an earlier version wrote it, and columns are missing.
    """
    return _scan(str(artifact.folder.parent.parent), artifact.stage, artifact.key, wanted.name)


def rows(wanted: Table, artifact: Artifact, **where: Any) -> pl.DataFrame:
    """The rows of a table whose columns have these values, read without loading the others."""
    given = tuple(sorted(where.items()))
    return _rows(
        str(artifact.folder.parent.parent), artifact.stage, artifact.key, wanted.name, given
    )


def distinct(wanted: Table, artifact: Artifact, column: str) -> list[Any]:
    """The values of one column, sorted; [] where the artifact does not hold the table."""
    if wanted.file not in artifact.files:
        return []
    return _distinct(
        str(artifact.folder.parent.parent), artifact.stage, artifact.key, wanted.name, column
    )


def tracked(report_key: str) -> dict[str, str]:
    """Links from a report to what tracked it: {"MLflow": address, "Prefect": address}, as far as
    they are known."""
    uri = (
        os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{Path('data/state/mlflow.db').absolute()}"
    )
    run = _mlflow_run(uri, report_key)
    links = {}
    if run:
        place = f"{mlflow_url()}/#/experiments/{run['experiment_id']}/runs"
        links["MLflow"] = f"{place}/{run['run_id']}"
        links["MLflow, beside all other runs"] = f"{place}?viewStateShareKey=headlines"
        if run["flow_run_id"]:
            links["Prefect"] = f"{workflow.url()}/runs/flow-run/{run['flow_run_id']}"
    return links


@st.cache_resource(ttl=5, max_entries=4, show_spinner=False)
def _experiments(root: str) -> list[Experiment]:
    shown = Store(root)
    reports = sorted(shown.artifacts("report"), key=lambda report: report.age, reverse=True)
    return [_experiment(shown, report) for report in reports]


def _experiment(shown: Store, report: Artifact) -> Experiment:
    made_of = lineage.behind(shown, report)
    closure = tuple(lineage.closure(shown, [report]).values())
    return Experiment(report, made_of.artifacts, made_of.missing, closure)


@st.cache_resource(max_entries=64, show_spinner="Reading the table …")
def _table(root: str, stage: str, key: str, name: str) -> pl.DataFrame:
    return _scan(root, stage, key, name).collect()


def _scan(root: str, stage: str, key: str, name: str) -> pl.LazyFrame:
    return TABLES[name].scan(Store(root).get(stage, key))


@st.cache_resource(max_entries=256, show_spinner=False)
def _rows(
    root: str, stage: str, key: str, name: str, where: tuple[tuple[str, Any], ...]
) -> pl.DataFrame:
    found = _scan(root, stage, key, name)
    return found.filter(*(pl.col(column) == value for column, value in where)).collect()


@st.cache_data(max_entries=256, show_spinner=False)
def _distinct(root: str, stage: str, key: str, name: str, column: str) -> list[Any]:
    found = _scan(root, stage, key, name).select(pl.col(column).drop_nulls().unique().sort())
    return found.collect().to_series().to_list()


@st.cache_resource(max_entries=4, show_spinner=False)
def _mlflow(uri: str) -> Service:
    return Service(
        f"MLflow at {uri}", SECONDS_FOR_MLFLOW if uri.startswith("http") else SECONDS_FOR_A_DATABASE
    )


@st.cache_data(ttl=30, max_entries=64, show_spinner=False)
def _mlflow_run(uri: str, report_key: str) -> dict[str, str] | None:
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.exists():
        return None  # asking MLflow would create the file
    if _mlflow(uri).rest:
        return None

    from mlflow.tracking import MlflowClient  # takes seconds, which are not MLflow's answer

    def look() -> Any:
        client = MlflowClient(uri)
        where = [experiment.experiment_id for experiment in client.search_experiments()]
        return client.search_runs(where, f"tags.`{REPORT_TAG}` = '{report_key}'", max_results=1)

    try:
        runs = _mlflow(uri).ask(look)
    except (
        Exception
    ) as error:  # a client's, a database's or none in time: a page shows what the store has
        told = shortened(str(error))
        log.warning("MLflow at %s cannot be read, so pages show no link to it: %s", uri, told)
        return None
    if not runs:
        return None
    return {
        "experiment_id": runs[0].info.experiment_id,
        "run_id": runs[0].info.run_id,
        "flow_run_id": runs[0].data.tags.get(FLOW_RUN_TAG, ""),
    }
