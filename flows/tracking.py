"""The only file that writes MLflow: a parent run for an experiment, a nested run for each stage, the registry.

MLflow gets parameters under their dotted names, metrics in batches, the artifact key and the parents' keys. Curves are
thinned (the full series is the parquet file in the store). A dictionary is logged without pickle: models-from-code
beside safetensors and JSON.
"""

from __future__ import annotations

import contextlib
import logging
import math
import textwrap
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from components.config import flatten
from components.errors import ConfigError, UnknownNameError
from components.experiment import ExperimentConfig
from components.registry import nearest
from components.store.artifact import Artifact, git_commit
from components.store.tables import CURVE, REPORT, SCORES
from flows import environment

log = logging.getLogger(__name__)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its traceback beside our sentence

EXPERIMENT = "latentflow"
POINTS = 200
BATCH = 1000
SECONDS_TO_END = 2.0
SECONDS_TO_COME_BACK = 90.0
ADDRESSES = ("model.path",)


class Tracker:
    """One experiment's runs in MLflow. A tracking server that does not answer costs the numbers, never the run.

    What it could not take is kept and offered again after each further stage, and at the end for a minute and a half if it
    had answered before. If it is still away then, running the same command again records everything: the stages are found
    in the store.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.client = MlflowClient()
        self.parent: str | None = None
        self.experiment: str | None = None
        self._missed: list[tuple[str, Artifact, bool, float]] = []
        self._runs: dict[str, str] = {}

    @property
    def page(self) -> str | None:
        """The path of the parent run's page in MLflow, when it has one."""
        return f"#/experiments/{self.experiment}/runs/{self.parent}" if self.parent else None

    def open(self) -> None:
        """Starts the parent run with every parameter."""
        with _forgiving("start the run"):
            self.experiment = _experiment(self.client)
            if self.parent is None:
                tags = {"mlflow.runName": self.config.name, "git_commit": git_commit() or "unknown", **_prefect_tags()}
                self.parent = self.client.create_run(self.experiment, tags=tags, run_name=self.config.name).info.run_id
            parameters = [Param(name, str(value)[:6000]) for name, value in flatten(self.config).items()]
            for start in range(0, len(parameters), 100):
                self.client.log_batch(self.parent, params=parameters[start : start + 100])

    def close(self, status: str) -> None:
        """Ends the parent run as FINISHED, FAILED or KILLED, after what MLflow has missed so far.

        Who was killed has no time: the signal may have left a transaction of this process open, which would lock it out
        of the database for half a minute. What is not written then, `reap` writes later.
        """
        if status == "KILLED":
            ending = threading.Thread(target=self._end, args=(status,), daemon=True)
            ending.start()
            ending.join(SECONDS_TO_END)
            return
        end = time.monotonic() + SECONDS_TO_COME_BACK
        while self._missed:
            self._catch_up()
            if not self._missed or self.parent is None or time.monotonic() > end:
                break
            log.info("waiting for MLflow to come back, at most %.0f s more", end - time.monotonic())
            time.sleep(5)
        self._end(status)
        if self._missed or not self.parent:
            missed = ", ".join(label for label, *_ in self._missed) or "this run"
            log.warning(
                "MLflow has no record of %s; the store has everything. Once MLflow answers again, run the same command: "
                "it finds what is made and records it",
                missed,
            )

    def _end(self, status: str) -> None:
        if self.parent:
            with _forgiving("end the run"):
                self.client.set_terminated(self.parent, status)

    def stage(self, label: str, artifact: Artifact, hit: bool, seconds: float) -> None:
        """A nested run for one stage: its facts and scores, its curve, its key and its parents' keys."""
        self._missed.append((label, artifact, hit, seconds))
        self._catch_up()

    def _catch_up(self) -> None:
        if self.parent is None:
            self.open()
        while self._missed and self.parent:
            label, artifact, hit, seconds = self._missed[0]
            recorded = False
            with _forgiving(f"record {label}"):
                self._record(label, artifact, hit, seconds)
                recorded = True
            if not recorded:
                return
            self._missed.pop(0)

    def _record(self, label: str, artifact: Artifact, hit: bool, seconds: float) -> None:
        """Again after a failure, the same nested run takes what it missed."""
        parents = {f"input.{role}": given["key"] for role, given in artifact.manifest["inputs"].items()}
        tags = {
            "mlflow.parentRunId": str(self.parent),
            "stage": artifact.stage,
            "artifact": artifact.key,
            "cached": str(hit).lower(),
            **parents,
        }
        if label not in self._runs:
            self._runs[label] = self.client.create_run(self.experiment or "0", tags=tags, run_name=label).info.run_id
        run = self._runs[label]
        parameters = [
            Param(name, str(value)[:6000]) for name, value in flatten(artifact.config, f"{artifact.stage}.").items()
        ]
        facts = {f"{artifact.stage}.{name}": value for name, value in flatten(artifact.facts).items()}
        metrics = {name: float(value) for name, value in facts.items() if _is_number(value)}
        metrics[f"{artifact.stage}.seconds"] = seconds
        scores = _scores(artifact)
        self.client.log_batch(run, params=parameters[:100], metrics=_metrics(metrics | scores), tags=[])
        if artifact.stage == "train" and not hit:
            self._curve(run, artifact)
        self._datasets(run, artifact)
        self.client.log_text(run, (artifact.folder / "manifest.json").read_text(), "manifest.json")
        if label == "train":
            self._register(run, artifact)
        if artifact.stage == "report":
            self._report(artifact, scores)
        self.client.set_terminated(run, "FINISHED")

    def _report(self, artifact: Artifact, scores: dict[str, float]) -> None:
        """The report's table and headline numbers on the parent run, where a reviewer sorts and compares."""
        assert self.parent is not None
        self.client.log_batch(self.parent, metrics=_metrics(scores), tags=[RunTag("report", artifact.key)])
        for name in artifact.files:
            self.client.log_artifact(self.parent, str(artifact.path(name)), "report")

    def _curve(self, run: str, artifact: Artifact) -> None:
        if CURVE.file not in artifact.files:
            return
        curve = CURVE.read(artifact)
        steps = curve["step"].unique().sort()
        kept = steps.gather_every(max(1, math.ceil(len(steps) / POINTS)))
        rows = curve.filter(pl.col("step").is_in(kept.implode())).iter_rows(named=True)
        now = int(time.time() * 1000)
        metrics = [Metric(f"train.{r['name']}", r["value"], now, r["step"]) for r in rows if math.isfinite(r["value"])]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _datasets(self, run: str, artifact: Artifact) -> None:
        """Inputs as MLflow datasets whose digest is the artifact key."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=given["stage"],
                    digest=given["key"],
                    source_type="latentflow",
                    source=f'{{"stage": "{given["stage"]}"}}',
                ),
                [InputTag("mlflow.data.context", role)],
            )
            for role, given in artifact.manifest["inputs"].items()
        ]
        if inputs:
            self.client.log_inputs(run, inputs)

    def _register(self, run: str, artifact: Artifact) -> None:
        """The dictionary in the registry, once for each artifact: name as in its facts, alias `champion` on the latest."""
        name = str(artifact.facts["name"])
        found = self.client.search_model_versions(f"name = '{name}' and tags.artifact = '{artifact.key}'")
        if found:
            self.client.set_registered_model_alias(name, "champion", found[0].version)
            return
        with _run_as(run):
            model = mlflow.pyfunc.log_model(
                name="dictionary",
                python_model=str(Path(__file__).parent / "pyfunc.py"),
                artifacts={
                    "weights": str(artifact.path("dictionary.safetensors")),
                    "config": str(artifact.path("dictionary.json")),
                },
                pip_requirements=["latentflow"],
            )
        with contextlib.suppress(MlflowException):
            self.client.create_registered_model(name)
        version = self.client.create_model_version(
            name,
            model.model_uri,
            run_id=run,
            tags={"artifact": artifact.key, "hook_point": str(artifact.facts["hook_point"])},
        )
        self.client.set_registered_model_alias(name, "champion", version.version)


def reap(flow_runs: Collection[str]) -> None:
    """Ends, as KILLED, the runs that these flow runs left running."""
    with _forgiving("end runs whose process is gone"):
        client = MlflowClient()
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            return
        for run in client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'"):
            parent = (
                client.get_run(run.data.tags["mlflow.parentRunId"]) if "mlflow.parentRunId" in run.data.tags else run
            )
            if parent.data.tags.get("prefect.flow_run") in flow_runs:
                client.set_terminated(run.info.run_id, "KILLED")


def resolve_dictionary(name: str) -> str:
    """The artifact key of a dictionary given as name@alias (MLflow registry) or as a key.

    Raises:
        UnknownNameError: no such name or alias in the registry; the known ones are listed.
        ConfigError: the registered version carries no artifact key.
    """
    model, at, alias = name.partition("@")
    if not at:
        return name
    client = MlflowClient()
    try:
        version = client.get_model_version_by_alias(model, alias)
    except MlflowException:
        known = [f"{m.name}@{a}" for m in client.search_registered_models() for a in (m.aliases or {})]
        raise UnknownNameError(f"no dictionary {name!r} in the MLflow registry; {nearest(name, known)}") from None
    key = version.tags.get("artifact")
    if not key:
        raise ConfigError(
            f"{name} (version {version.version}) has no tag `artifact`: it was not registered by Latentflow"
        )
    return key


def runs(limit: int = 20) -> pl.DataFrame:
    """The latest experiments: name, when, status, report key and headline numbers."""
    client = MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return pl.DataFrame(schema={"run": pl.String})
    rows = []
    for run in client.search_runs([found.experiment_id], "tags.git_commit != ''", max_results=limit):
        headline = {
            name.removeprefix("evaluate."): value
            for name, value in run.data.metrics.items()
            if name in ("evaluate.fvu", "evaluate.l0", "evaluate.loss_recovered.mean_ablation")
        }
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info.start_time / 1000))
        rows.append(
            {
                "run": run.info.run_id[:8],
                "name": run.info.run_name,
                "at": at,
                "status": run.info.status,
                "report": run.data.tags.get("report"),
                **headline,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema={"run": pl.String})


def _scores(artifact: Artifact) -> dict[str, float]:
    table = REPORT if artifact.stage == "report" else SCORES
    if table.file not in artifact.files:
        return {}
    frame = table.read(artifact).filter(pl.col("value").is_not_null())
    flat: dict[str, float] = {}
    for row in frame.iter_rows(named=True):
        kind = row["concept_kind"]
        name = row["name"] if kind in (None, "all") else f"{row['name']}.{kind}"
        flat[name] = row["value"]
    return flat


def _metrics(values: dict[str, float]) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(_safe(name), value, now, 0) for name, value in list(values.items())[:BATCH] if math.isfinite(value)]


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-./ :" else "_" for c in name)[:250]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return found.experiment_id
    with contextlib.suppress(MlflowException):  # two runs at once: the other one made it
        location = (environment.state() / "mlflow-artifacts").as_uri()
        kind = {"mlflow.experimentKind": "custom_model_development"}  # opens as runs to compare, not as chats to trace
        return client.create_experiment(EXPERIMENT, artifact_location=location, tags=kind)
    again = client.get_experiment_by_name(EXPERIMENT)
    assert again is not None
    return again.experiment_id


def _prefect_tags() -> dict[str, str]:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return {}
    address = f"{environment.address('prefect')}/runs/flow-run/{context.flow_run.id}"
    return {"prefect.flow_run": str(context.flow_run.id), "prefect.url": address}


@contextlib.contextmanager
def _run_as(run: str) -> Iterator[None]:
    """The fluent interface (log_model needs it) on an existing run, left unfinished for the client to end."""
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_id=run):
        yield


@contextlib.contextmanager
def _forgiving(what: str) -> Iterator[None]:
    """MLflow owns numbers, not results: its failure is a warning, and the artifacts hold everything."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        short = textwrap.shorten(str(cause), 160)
        log.warning("MLflow could not %s (%s); the artifacts in the store are complete", what, short)
