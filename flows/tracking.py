"""The only file that writes MLflow: a parent run for an experiment, a nested run for each stage, the registry.

MLflow gets parameters under their dotted names, metrics in batches, the artifact key and the parents' keys. The parent
run holds the few scores by which runs are compared, under short names, the charts and the report. Curves are
thinned (the full series is the parquet file in the store). A dictionary is logged without pickle: models-from-code
beside safetensors and JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import platform
import posixpath
import textwrap
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import polars as pl
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from components.config import flatten
from components.errors import ConfigError, ServiceError, UnknownNameError, quoted, shortened
from components.experiment import ExperimentConfig
from components.registry import nearest
from components.service import Service
from components.store import frontiers, steered
from components.store.artifact import Artifact, git_commit, versions
from components.store.tables import COMPARISON, CURVE, LATENTS, REPORT, SCORES
from flows.stack import environment, relocation

log = logging.getLogger(__name__)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its traceback beside our sentence

Value = TypeVar("Value")
EXPERIMENT = "latentflow"
POINTS = 200
BATCH = 1000
PARAMETERS_AT_ONCE = 100
SECONDS_TO_END = 2.0
SECONDS_TO_ANSWER = 5.0
SECONDS_TO_LIST = 20.0
SECONDS_TO_COME_BACK = 90.0
SECONDS_BETWEEN_TRIES = 5.0
SECONDS_BETWEEN_SAMPLES = 5
HEADLINES = {
    "loss_recovered": "evaluate.loss_recovered.mean_ablation",
    "l0": "evaluate.l0",
    "fvu": "evaluate.fvu",
    "cross_entropy_rise": "evaluate.cross_entropy_rise",
    "dead_share": "evaluate.dead_share",
    "concepts_found": "evaluate.concepts_found.latent",
    "concepts_found_neuron": "evaluate.concepts_found.neuron",
    "concepts_found_untrained": "evaluate.concepts_found.untrained",
}
"""What a parent run's metrics are called: short, and the same for ever, so that old and new runs sort together."""
VIEW = "mlflow.sharedViewState.headlines"
"""MLflow's tag for a shared view of the list of runs; its address ends in `?viewStateShareKey=headlines`."""
COLUMNS = ("loss_recovered", "l0", "fvu", "concepts_found", "explanation_detection", "steering_add_direction")
"""The headlines that the shared view has as columns."""
ABOUT = (
    "Each parent run is one experiment, its stages are nested below it. The parent holds the headline scores under short "
    "names (loss_recovered, l0, fvu, concepts_found, explanation_detection, steering_add_direction, ...): add them as "
    "columns and sort. Every score with its dotted name is on the nested runs, and with interval, n and baseline in "
    "report/ of the parent."
)


class Tracker:
    """One experiment's runs in MLflow.

    A tracking server that does not answer costs a few seconds, once: what could not be recorded waits, and is recorded
    at the next stage, and at the end for a minute and a half if it had answered before and is not there. One that takes
    connections and says nothing is left alone for minutes. If it is still away at the end, running the same command again
    records everything: the stages are found in the store.
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
        _forgiving("start the run", self._open)

    @property
    def page(self) -> str | None:
        """The path of the parent run's page in MLflow, when it has one."""
        return f"#/experiments/{self.experiment}/runs/{self.parent}" if self.parent else None

    def close(self, status: str) -> None:
        """Ends the parent run as FINISHED, FAILED or KILLED, after what was still waiting.

        Who was killed has no time: the signal may have left a transaction of this process open, which would lock it out
        of the database for half a minute. What is not written then, `reap` writes later.
        """
        if status == "KILLED":
            ending = threading.Thread(target=self._end, args=(status,), daemon=True)
            ending.start()
            ending.join(SECONDS_TO_END)
            return
        end = time.monotonic() + SECONDS_TO_COME_BACK
        self._record_waiting()
        while (
            self._waiting and self.parent and time.monotonic() + service().rest < end
        ):  # it had answered: it may again
            log.info("waiting for MLflow to come back, at most %.0f s more", end - time.monotonic())
            time.sleep(SECONDS_BETWEEN_TRIES)
            self._record_waiting()
        if self._monitor and not service().rest:
            _forgiving("record the last system metrics", self._monitor.finish)
        self._end(status)
        if self._waiting or not self._monitor:
            log.warning(
                "MLflow has no record of %s; the store has everything. Once MLflow answers again, run the same command: "
                "it finds what is made and records it",
                ", ".join(record.label for record in self._waiting) or "this run",
            )

    def _end(self, status: str) -> None:
        if parent := self.parent:
            _forgiving("end the run", lambda: self.client.set_terminated(parent, status))

    def stage(self, label: str, artifact: Artifact, hit: bool, seconds: float) -> None:
        """A nested run for one stage: its facts and scores, its curve, its chart, its key and its parents' keys."""
        now = int(time.time() * 1000)
        self._waiting.append(_Record(label, artifact, hit, seconds, ended=now))
        self._record_waiting()

    def _record_waiting(self) -> None:
        while self._waiting and _forgiving(f"record {self._waiting[0].label}", self._record_next):
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
        self.experiment = _experiment(self.client)
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
            run = self.client.create_run(self.experiment, self._started, tags=tags, run_name=self.config.name)
            self.parent = run.info.run_id
        self._log(self.parent, {}, _parameters(flatten(self.config)))
        self.client.log_dict(self.parent, _environment(), "environment.json")
        self._monitor = SystemMetricsMonitor(self.parent, sampling_interval=SECONDS_BETWEEN_SAMPLES)
        self._monitor.start()

    def _record(self, record: _Record) -> None:
        assert self.parent is not None
        label, artifact = record.label, record.artifact
        if record.run is None:
            parents = {f"input.{role}": given["key"] for role, given in artifact.manifest["inputs"].items()}
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
        parameters = _parameters(flatten(artifact.config, f"{artifact.stage}."))
        facts = {f"{artifact.stage}.{name}": value for name, value in flatten(artifact.facts).items()}
        metrics = {name: float(value) for name, value in facts.items() if _is_number(value)}
        metrics[f"{artifact.stage}.seconds"] = record.seconds
        scores = _scores(artifact)
        self._log(record.run, metrics | scores, parameters)
        if artifact.stage == "train" and not record.hit:
            self._curve(record.run, artifact)
        self._datasets(record.run, artifact)
        self.client.log_text(
            record.run, (artifact.folder / "manifest.json").read_text(encoding="utf-8"), "manifest.json"
        )
        if label == artifact.stage:  # the untrained control is a number in the table, not a picture
            self._chart(artifact)
        if label in ("train", "import"):
            run = record.run  # a refusal must not keep every later stage waiting
            _forgiving("register the dictionary", lambda: self._register(run, artifact))
        if artifact.stage == "report":
            self._report(artifact)
        if artifact.stage == "compare":
            self._comparison(artifact)
        self.client.set_terminated(record.run, "FINISHED", record.ended)

    def _log(self, run: str, values: Mapping[str, float], parameters: Sequence[Param] = ()) -> None:
        """Any number of them, in batches that MLflow takes."""
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self.client.log_batch(run, params=parameters[start : start + PARAMETERS_AT_ONCE])
        metrics = _metrics(values)
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _report(self, artifact: Artifact) -> None:
        """The report's table and the headlines on the parent run, where a reviewer sorts and compares."""
        assert self.parent is not None
        frame = REPORT.read(artifact)
        values = headlines(frame, self.config)
        named = [str(name) for name in artifact.facts.get("dictionaries", [])]
        address = f"{environment.address('streamlit')}/?report={artifact.key}"
        tags = {"report": artifact.key, "dictionary": ", ".join(named), "dashboard": address}
        note = _note(values, address, _prefect_tags().get("prefect.url"), self.experiment or "0")
        tags["mlflow.note.content"] = note
        self.client.log_batch(
            self.parent, metrics=_metrics(values), tags=[RunTag(name, value) for name, value in tags.items()]
        )
        for name in artifact.files:
            self.client.log_artifact(self.parent, str(artifact.path(name)), "report")
        for name in named:
            self._describe(name, artifact, values)

    def _comparison(self, artifact: Artifact) -> None:
        """A sweep's table on the parent run, its frontiers as altair charts (MLflow shows the same as pictures)."""
        assert self.parent is not None
        from flows import figures

        frame = COMPARISON.read(artifact)
        for name in frontiers.FRONTIERS:
            short = name.removeprefix("evaluate.").replace(".", "_")
            if (chart := frontiers.frontier(frame, name)) is not None:
                self.client.log_dict(self.parent, chart.to_dict(), f"charts/frontier_{short}.vl.json")
            if (figure := figures.frontier(frame, name)) is not None:
                self.client.log_figure(self.parent, figure, f"charts/frontier_{short}.png")
        for name in artifact.files:
            self.client.log_artifact(self.parent, str(artifact.path(name)), "compare")
        tags = {
            "compare": artifact.key,
            "dashboard": f"{environment.address('streamlit')}/compare?sweep={artifact.key}",
        }
        counted = {"dictionaries": artifact.facts["n_dictionaries"], "seeds": artifact.facts["n_seeds"]}
        tags_written = [RunTag(name, value) for name, value in tags.items()]
        self.client.log_batch(self.parent, metrics=_metrics(counted), tags=tags_written)

    def _describe(self, name: str, report: Artifact, values: Mapping[str, float]) -> None:
        """The headlines as tags of the registered dictionary that this report is about."""
        key = (report.manifest["inputs"].get("train") or {}).get("key")
        for version in self.client.search_model_versions(f"name = '{name}' and tags.artifact = '{key}'"):
            for score, value in values.items():
                self.client.set_model_version_tag(name, version.version, score, f"{value:.4g}")
            self.client.set_model_version_tag(name, version.version, "report", report.key)

    def _chart(self, artifact: Artifact) -> None:
        """The picture of one stage, on the parent run."""
        assert self.parent is not None
        from flows import figures  # matplotlib, half a second

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
        with FileLock(environment.state() / "mlflow-registry.lock"):  # two runs of one dictionary register it once
            self._register_once(name, run, artifact)

    def _register_once(self, name: str, run: str, artifact: Artifact) -> None:
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
            model_id=model.model_id,  # a server takes no `models:/` source without it
            tags={"artifact": artifact.key, "hook_point": str(artifact.facts["hook_point"])},
            description=f"{name} at {artifact.facts['hook_point']}; weights in safetensors, loaded from code, no pickle",
        )
        self.client.set_registered_model_alias(name, "champion", version.version)


@dataclasses.dataclass
class _Record:
    """One stage to be recorded, and the run that a first attempt may have begun."""

    label: str
    artifact: Artifact
    hit: bool
    seconds: float
    ended: int
    run: str | None = None


def headlines(report: pl.DataFrame, config: ExperimentConfig) -> dict[str, float]:
    """The few scores by which runs are sorted and compared, under short names that stay: HEADLINES, then
    `explanation_<scorer>` of the first explainer and `steering_<method>` (the composite) at the first KL budget, over all
    concepts, or over the one kind of concepts that there is; concepts found over those of tokens.

    Scores that were not measured are left out.
    """
    told = pl.col("concept_kind").fill_null("all")
    means = report.filter(pl.col("value").is_not_null(), pl.col("unit_of_replication").fill_null("") != "prompt")
    whole = means.filter((told == "all") | (pl.len().over("name") == 1))
    measured = dict(zip(whole["name"], whole["value"], strict=True))
    # Random latents find concepts of documents as well, so concepts found are told over those of tokens.
    of_tokens = means.filter(told == "token", pl.col("name").str.starts_with("evaluate.concepts_found."))
    measured |= dict(zip(of_tokens["name"], of_tokens["value"], strict=True))
    names = dict(HEADLINES)
    for scorer in config.interpret.scorers:
        names[f"explanation_{scorer}"] = f"interpret.{config.interpret.explainers[0]}.{scorer}"
    for method in (*config.steer.methods, "untrained"):
        names[f"steering_{method}"] = steered.composite(method, config.steer.kl_budgets[0])
    return {short: measured[name] for short, name in names.items() if name in measured}


def reap(flow_runs: Collection[str]) -> None:
    """Ends, as KILLED, the runs that these flow runs left running."""

    def end() -> None:
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

    _forgiving("end runs whose process is gone", end)


ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers where there is no such model or alias; any other code says that it could not look."""


def resolve_dictionary(name: str) -> str:
    """The artifact key of a dictionary given as name@alias (MLflow registry) or as a key.

    Raises:
        UnknownNameError: no such name or alias in the registry; the known ones are listed.
        ConfigError: the registered version carries no artifact key.
        ServiceError: MLflow does not answer.
    """
    model, at, alias = name.partition("@")
    if not at:
        return name

    def look() -> Any:
        client = MlflowClient()
        try:
            return client.get_model_version_by_alias(model, alias)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            return [f"{m.name}@{a}" for m in client.search_registered_models() for a in (m.aliases or {})]

    version = _answer(
        look,
        f"which dictionary {quoted(name)} is",
        "start it again, or give the dictionary's artifact key, which needs no registry",
    )
    if isinstance(version, list):
        raise UnknownNameError(f"no dictionary {quoted(name)} in the MLflow registry; {nearest(name, version)}")
    key = version.tags.get("artifact")
    if not key:
        raise ConfigError(
            f"{name} (version {version.version}) has no tag `artifact`: it was not registered by Latentflow"
        )
    return key


LISTED = ("loss_recovered", "l0", "fvu", "concepts_found")
"""The headlines that a terminal has room for."""


def runs(limit: int = 20) -> pl.DataFrame:
    """The latest experiments: name, when (UTC), status, report key and headline numbers.

    Raises:
        ServiceError: MLflow does not answer.
    """

    def look() -> list[Run]:
        client = MlflowClient()
        found = client.get_experiment_by_name(EXPERIMENT)
        wanted = "tags.git_commit != ''"
        return client.search_runs([found.experiment_id], wanted, max_results=limit) if found else []

    uri = mlflow.get_tracking_uri()
    advice = (
        "unset MLFLOW_TRACKING_URI for this folder's own runs" if uri.startswith("http") else "see whether it is whole"
    )
    rows = []
    for run in _answer(look, "which runs there are", f"start it again, or {advice}"):
        headline = {name: value for name, value in run.data.metrics.items() if name in LISTED}
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.info.start_time / 1000))
        rows.append(
            {
                "run": run.info.run_id[:8],
                "name": run.info.run_name,
                "at (UTC)": at,
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


def _metrics(values: Mapping[str, float]) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, value, now, 0) for name, value in _named(values).items() if math.isfinite(value)]


def _parameters(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)[:6000]) for name, value in _named(values).items()]


def _named(values: Mapping[str, Value]) -> dict[str, Value]:
    """The same under names that MLflow takes; two that become equal (c+, c#) are told apart by a number."""
    named: dict[str, Value] = {}
    for name, value in values.items():
        safe = first = _safe(name)
        number = 1
        while safe in named:
            number += 1
            safe = f"{first[:240]} {number}"
        named[safe] = value
    return named


def _safe(name: str) -> str:
    safe = "".join(c if c.isalnum() or c in "_-./ :" else "_" for c in name)[:250]
    return safe if posixpath.normpath(safe) == safe else safe.replace("/", "_")  # names of files in some of its stores


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        if VIEW not in found.tags:  # made by an older version
            client.set_experiment_tag(found.experiment_id, VIEW, _view())
        return found.experiment_id
    with contextlib.suppress(MlflowException):  # two runs at once: the other one made it
        location = (environment.state() / "mlflow-artifacts").as_uri()
        kind = {
            "mlflow.experimentKind": "custom_model_development",  # opens as runs to compare, not as chats to trace
            "mlflow.note.content": ABOUT,
            VIEW: _view(),
        }
        return client.create_experiment(EXPERIMENT, artifact_location=location, tags=kind)
    again = client.get_experiment_by_name(EXPERIMENT)
    assert again is not None
    return again.experiment_id


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


def _view() -> str:
    """The list of finished experiments, best loss recovered first, the headlines as columns, as MLflow's page keeps it."""
    columns = ["attributes.`Created`", "tags.`dictionary`", *(f"metrics.`{name}`" for name in COLUMNS)]
    state = {
        "searchFilter": "tags.report != ''",
        "orderByKey": "metrics.`loss_recovered`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        **{name: {} for name in ("runsExpanded", "groupsExpanded", "globalLineChartConfig")},
        **{name: [] for name in ("runsPinned", "runsHidden", "compareRunCharts", "compareRunSections")},
        "groupBy": None,
    }
    return json.dumps(state)


def _note(values: Mapping[str, float], dashboard: str, prefect: str | None, experiment: str) -> str:
    view = f"{environment.address('mlflow')}/#/experiments/{experiment}/runs?viewStateShareKey=headlines"
    links = [
        f"[read it in Streamlit]({dashboard})",
        f"[compare all runs]({view})",
        *([f"[the flow run in Prefect]({prefect})"] if prefect else []),
    ]
    rows = [f"| {name} | {value:.4g} |" for name, value in values.items()]
    return "\n".join([" · ".join(links), "", "| headline | value |", "|---|---:|", *rows])


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


@contextlib.contextmanager
def _run_as(run: str) -> Iterator[None]:
    """The fluent interface (log_model needs it) on an existing run, left unfinished for the client to end."""
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_id=run):
        yield


@functools.cache
def _service(uri: str) -> Service:
    return Service(f"MLflow at {uri}", SECONDS_TO_ANSWER)


def service() -> Service:
    """The tracking server as this process knows it: whether it answers, or is left alone."""
    return _service(mlflow.get_tracking_uri())


def _answer(look: Callable[[], Value], what: str, advice: str) -> Value:
    """What MLflow says to a command that needs it.

    Raises:
        ServiceError: it says nothing, or an error.
    """
    uri = mlflow.get_tracking_uri()
    try:
        return Service(f"MLflow at {uri}", SECONDS_TO_LIST).ask(look)
    except Exception as error:  # whatever it is, a client's or a database's
        raise ServiceError(f"MLflow could not say {what} ({uri}: {_said(error)}); {advice}") from error


def _forgiving(what: str, act: Callable[[], object]) -> bool:
    """Does something in MLflow, and says whether it was done; MLflow owns numbers, not results, so no failure matters.

    A server is first asked whether it answers at all. While it is left alone nothing is tried, and nothing said again.
    """
    asked = service()
    if asked.rest:
        return False
    try:
        if mlflow.get_tracking_uri().startswith("http"):
            asked.ask(lambda: MlflowClient().search_experiments(max_results=1))
        with asked.used():
            act()
    except Exception as error:  # whatever it is, a database's or a client's: a run does not end by it
        later = f"; it is asked again after {asked.rest:.0f} s" if asked.rest else ""
        told = _said(error)
        log.warning("MLflow could not %s (%s)%s; the artifacts in the store are complete", what, told, later)
        return False
    return True


def _said(error: BaseException) -> str:
    """The first cause of an error, in a line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return textwrap.shorten(shortened(str(error)), 160)
