"""The only file that writes MLflow: a parent run for an experiment, a nested run for each stage,
the registry.

MLflow gets parameters under their dotted names, metrics in batches, the artifact key and the
parents' keys. The parent run holds the few scores by which runs are compared, under short names,
the charts and the report. Curves are thinned (the full series is the parquet file in the store). A
dictionary is logged without pickle: models-from-code beside safetensors and JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
import polars as pl
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from components.config import flatten
from components.experiment import ExperimentConfig
from components.report import frontiers
from components.report.measure import Measures
from components.report.scores import flat
from components.report.tables import COMPARISON, REPORT, SCORES
from components.store.artifact import Artifact
from components.store.lineage import inputs
from components.store.provenance import git_commit, versions
from components.store.tables import CURVE, LATENTS
from flows.stack import environment, relocation
from flows.tracking import registry, traces
from flows.tracking.headlines import headlines
from flows.tracking.names import is_number, metrics_of, parameters_of, safe
from flows.tracking.service import forgiving, service
from flows.tracking.view import experiment_of, note

log = logging.getLogger(__name__)

POINTS = 200
BATCH = 1000
PARAMETERS_AT_ONCE = 100
SECONDS_TO_END = 2.0
SECONDS_TO_COME_BACK = 90.0
SECONDS_BETWEEN_TRIES = 5.0
SECONDS_BETWEEN_SAMPLES = 5


class Tracker:
    """One experiment's runs in MLflow.

    A tracking server that does not answer costs a few seconds, once: what could not be recorded
    waits, and is recorded at the next stage, and at the end for a minute and a half if it had
    answered before and is not there. One that takes connections and says nothing is left alone for
    minutes. If it is still away at the end, running the same command again records everything: the
    stages are found in the store.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.parent: str | None = None
        self.experiment: str | None = None
        self._waiting: list[_Record] = []
        self._monitor: Any = None
        self._started = int(time.time() * 1000)

    def open(self) -> None:
        """Starts the parent run with every parameter, and the sampling of system metrics."""
        forgiving("start the run", self._open)

    @property
    def page(self) -> str | None:
        """The path of the parent run's page in MLflow, when it has one."""
        return f"#/experiments/{self.experiment}/runs/{self.parent}" if self.parent else None

    def close(self, status: str) -> None:
        """Ends the parent run as FINISHED, FAILED or KILLED, after what was still waiting.

        Who was killed has no time: the signal may have left a transaction of this process open,
        which would lock it out of the database for half a minute. What is not written then, `reap`
        writes later.
        """
        if status == "KILLED":
            ending = threading.Thread(target=self._end, args=(status,), daemon=True)
            ending.start()
            ending.join(SECONDS_TO_END)
            return
        end = time.monotonic() + SECONDS_TO_COME_BACK
        self._record_waiting()
        # it had answered: it may again
        while self._waiting and self.parent and time.monotonic() + service().rest < end:
            log.info("waiting for MLflow to come back, at most %.0f s more", end - time.monotonic())
            time.sleep(SECONDS_BETWEEN_TRIES)
            self._record_waiting()
        if self._monitor and not service().rest:
            forgiving("record the last system metrics", self._monitor.finish)
        self._end(status)
        if self._waiting or not self._monitor:
            log.warning(
                "MLflow has no record of %s; the store has everything. Once MLflow answers again, "
                "run the same command: it finds what is made and records it",
                ", ".join(record.label for record in self._waiting) or "this run",
            )

    def _end(self, status: str) -> None:
        if parent := self.parent:
            forgiving("end the run", lambda: self.client.set_terminated(parent, status))

    def stage(self, label: str, artifact: Artifact, hit: bool, seconds: float) -> None:
        """A nested run for one stage: its facts and scores, its curve, its chart, its key and its
        parents' keys."""
        now = int(time.time() * 1000)
        self._waiting.append(_Record(label, artifact, hit, seconds, ended=now))
        self._record_waiting()

    def _record_waiting(self) -> None:
        while self._waiting and forgiving(f"record {self._waiting[0].label}", self._record_next):
            pass

    def _record_next(self) -> None:
        if self._monitor is None:
            self._open()
        self._record(self._waiting[0])
        self._waiting.pop(0)

    @functools.cached_property
    def client(self) -> MlflowClient:
        """The client; the first one on a state folder makes the database, while others wait."""
        if mlflow.get_tracking_uri().startswith("http"):
            return MlflowClient()
        environment.refuse_state()
        with FileLock(environment.state() / "mlflow.lock"):
            relocation.follow()
            client = MlflowClient()
            client.search_experiments(max_results=1)
        return client

    def _open(self) -> None:
        self.experiment = experiment_of(self.client)
        commit = git_commit() or "unknown"
        tags = {
            "mlflow.runName": self.config.name,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": "latentflow",
            "mlflow.source.git.commit": commit.removesuffix("+"),
            "git_commit": commit,
            **_prefect_tags(),
        }
        if self.parent is None:  # else an attempt came this far
            run = self.client.create_run(
                self.experiment, self._started, tags=tags, run_name=self.config.name
            )
            self.parent = run.info.run_id
        self._log(self.parent, {}, parameters_of(flatten(self.config)))
        self.client.log_dict(self.parent, _environment(), "environment.json")
        self._monitor = SystemMetricsMonitor(self.parent, sampling_interval=SECONDS_BETWEEN_SAMPLES)
        self._monitor.start()

    def _record(self, record: _Record) -> None:
        assert self.parent is not None
        label, artifact = record.label, record.artifact
        if record.run is None:
            parents = {f"input.{role}": key for role, (_, key) in inputs(artifact.manifest).items()}
            tags = {
                "mlflow.parentRunId": self.parent,
                "stage": artifact.stage,
                "artifact": artifact.key,
                "cached": str(record.hit).lower(),
                **parents,
            }
            started = record.ended - int(1000 * record.seconds)
            run = self.client.create_run(self.experiment or "0", started, tags=tags, run_name=label)
            record.run = run.info.run_id
        parameters = parameters_of(flatten(artifact.config, f"{artifact.stage}."))
        facts = {
            f"{artifact.stage}.{name}": value for name, value in flatten(artifact.facts).items()
        }
        metrics = {name: float(value) for name, value in facts.items() if is_number(value)}
        metrics[f"{artifact.stage}.seconds"] = record.seconds
        self._log(record.run, metrics | _scores(artifact), parameters)
        if artifact.stage == "train" and not record.hit:
            self._curve(record.run, artifact)
        self._datasets(record.run, artifact)
        self.client.log_text(
            record.run,
            (artifact.folder / "manifest.json").read_text(encoding="utf-8"),
            "manifest.json",
        )
        run, experiment = record.run, self.experiment or "0"
        forgiving(
            "record the calls of language models",
            lambda: traces.log_calls(self.client, experiment, run, artifact),
        )
        if artifact.stage == "steer":
            forgiving(
                "record steered texts as traces",
                lambda: traces.log_generations(
                    self.client, experiment, run, artifact, self.config.steer.traces
                ),
            )
        if label == artifact.stage:  # the untrained control is a number in the table, not a picture
            self._chart(artifact)
        if label in ("train", "import"):
            # a refusal must not keep every later stage waiting
            forgiving(
                "register the dictionary", lambda: registry.register(self.client, run, artifact)
            )
        if artifact.stage == "report":
            self._report(artifact)
        if artifact.stage == "compare":
            self._comparison(artifact)
        self.client.set_terminated(record.run, "FINISHED", record.ended)

    def _log(self, run: str, values: Mapping[str, float], parameters: Sequence[Param] = ()) -> None:
        """Any number of them, in batches that MLflow takes."""
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self.client.log_batch(run, params=parameters[start : start + PARAMETERS_AT_ONCE])
        metrics = metrics_of(values)
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _report(self, artifact: Artifact) -> None:
        """The report's table and the headlines on the parent run, where a reviewer sorts and
        compares."""
        assert self.parent is not None
        frame = REPORT.read(artifact)
        values = headlines(frame, Measures.read(artifact))
        named = [str(name) for name in artifact.facts.get("dictionaries", [])]
        address = f"{environment.address('streamlit')}/?report={artifact.key}"
        tags = {"report": artifact.key, "dictionary": ", ".join(named), "dashboard": address}
        prefect = _prefect_tags().get("prefect.url")
        tags["mlflow.note.content"] = note(values, address, prefect, self.experiment or "0")
        self.client.log_batch(
            self.parent,
            metrics=metrics_of(values),
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        for name in artifact.files:
            self.client.log_artifact(self.parent, str(artifact.path(name)), "report")
        for name in named:
            self._describe(name, artifact, values)

    def _comparison(self, artifact: Artifact) -> None:
        """A sweep's table on the parent run, its frontiers as pictures."""
        assert self.parent is not None
        from flows.tracking import figures

        frame = COMPARISON.read(artifact)
        measures = Measures.read(artifact)
        for title in frontiers.titles(frame, measures, drawn=True):
            short = safe(title).lower().replace(" ", "_")
            if (figure := figures.frontier(frame, measures, title)) is not None:
                self.client.log_figure(self.parent, figure, f"charts/frontier_{short}.png")
        for name in artifact.files:
            self.client.log_artifact(self.parent, str(artifact.path(name)), "compare")
        tags = {
            "compare": artifact.key,
            "dashboard": f"{environment.address('streamlit')}/compare?sweep={artifact.key}",
        }
        counted = {
            "dictionaries": artifact.facts["n_dictionaries"],
            "seeds": artifact.facts["n_seeds"],
        }
        tags_written = [RunTag(name, value) for name, value in tags.items()]
        self.client.log_batch(self.parent, metrics=metrics_of(counted), tags=tags_written)

    def _describe(self, name: str, report: Artifact, values: Mapping[str, float]) -> None:
        """The headlines as tags of the registered dictionary that this report is about."""
        _, key = inputs(report.manifest).get("train", ("train", None))
        for version in self.client.search_model_versions(
            f"name = '{name}' and tags.artifact = '{key}'"
        ):
            for score, value in values.items():
                self.client.set_model_version_tag(name, version.version, score, f"{value:.4g}")
            self.client.set_model_version_tag(name, version.version, "report", report.key)

    def _chart(self, artifact: Artifact) -> None:
        """The picture of one stage, on the parent run."""
        assert self.parent is not None
        from flows.tracking import figures  # matplotlib, half a second

        draw = {
            "train": ("training", CURVE, figures.training),
            "encode": ("densities", LATENTS, lambda frame: figures.densities(frame, _last(frame))),
            "evaluate": ("concepts_found", SCORES, figures.concepts),
            "interpret": ("explanations", SCORES, figures.explanations),
            "steer": ("steering", SCORES, figures.steering),
        }
        if artifact.stage not in draw:
            return
        name, table, figure_of = draw[artifact.stage]
        if table.file in artifact.files and (figure := figure_of(table.read(artifact))) is not None:
            self.client.log_figure(self.parent, figure, f"charts/{name}.png")

    def _curve(self, run: str, artifact: Artifact) -> None:
        if CURVE.file not in artifact.files:
            return
        curve = CURVE.read(artifact)
        steps = curve["step"].unique().sort()
        kept = steps.gather_every(max(1, math.ceil(len(steps) / POINTS)))
        rows = curve.filter(pl.col("step").is_in(kept.implode())).iter_rows(named=True)
        now = int(time.time() * 1000)
        metrics = [
            Metric(f"train.{r['name']}", r["value"], now, r["step"])
            for r in rows
            if math.isfinite(r["value"])
        ]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _datasets(self, run: str, artifact: Artifact) -> None:
        """Inputs as MLflow datasets whose digest is the artifact key."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = [
            DatasetInput(
                Dataset(
                    name=stage,
                    digest=key,
                    source_type="latentflow",
                    source=json.dumps({"stage": stage}),
                ),
                [InputTag("mlflow.data.context", role)],
            )
            for role, (stage, key) in inputs(artifact.manifest).items()
        ]
        if datasets:
            self.client.log_inputs(run, datasets)


@dataclasses.dataclass
class _Record:
    """One stage to be recorded, and the run that a first attempt may have begun."""

    label: str
    artifact: Artifact
    hit: bool
    seconds: float
    ended: int
    run: str | None = None


def _scores(artifact: Artifact) -> dict[str, float]:
    table = REPORT if artifact.stage == "report" else SCORES
    return flat(table.read(artifact)) if table.file in artifact.files else {}


def _environment() -> dict[str, Any]:
    """Where a run runs: what can change its speed or, across machines, its last digits."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "git_commit": git_commit(),
        "versions": {**versions(), "mlflow": mlflow.__version__},
    }


def _last(latents: pl.DataFrame) -> str:
    """The split whose densities are drawn: test where it was read, else the last."""
    splits = latents["split"].unique().sort().to_list()
    return "test" if "test" in splits or not splits else splits[-1]


def _prefect_tags() -> dict[str, str]:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return {}
    address = f"{environment.address('prefect')}/runs/flow-run/{context.flow_run.id}"
    return {"prefect.flow_run": str(context.flow_run.id), "prefect.url": address}
