"""The one bridge: a component call as a Prefect task around `ensure`, shown as Cached on a hit.

A `Chain` is one experiment's stages, each made once and whatever it needs made first, so every flow is one sentence.
Tasks hand each other references (stage and key), never tensors or frames. Without Prefect (`plain`) the same calls run
directly: DVC and tests use that. A stage that computes holds one device slot while it does; what is already made needs
none. Only a task that touches a network is tried again: the same work on the same machine fails the same way.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import torch
from prefect import Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed, State
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from components.capture.capture import CaptureConfig
from components.config import Config
from components.device import Execution
from components.dictionary.interchange.importing import ImportConfig
from components.dictionary.settings import TrainConfig
from components.dictionary.train import control, wired
from components.errors import ModelError
from components.evaluation.evaluate import EvaluateConfig
from components.evaluation.gate import GateConfig
from components.experiment import BESIDE, STAGES, ExperimentConfig
from components.model.hook_point import translate
from components.model.language_model import ModelConfig, ModelReference
from components.store.artifact import Artifact, Progress, Stage, Store, key_of
from flows import environment, slots, stopping, windows
from flows.terminal import aside

if TYPE_CHECKING:
    from flows.tracking import Tracker

log = logging.getLogger(__name__)
record = logging.getLogger("flows.run")  # for the run's page in Prefect alone: a terminal has the lines from `console`
record.propagate = False

Reference = dict[str, str]
Wanted = tuple[Config, Mapping[str, Reference]]
"""A stage's section, and references to its inputs by role."""
SECONDS_BETWEEN_UPDATES = 2.0
OVER_A_NETWORK = (httpx.TransportError, ConnectionError, TimeoutError)
SECONDS_BEFORE_A_RETRY = [5.0, 30.0]


class Chain:
    """The stages of one experiment, lazily: asking for one makes what it needs, and nothing twice.

    Args:
        config: the experiment.
        plain: run the components directly, without Prefect and MLflow.
    """

    def __init__(self, config: ExperimentConfig, plain: bool = False) -> None:
        self.config = config
        self.plain = plain
        self.store = Store(config.execution.store)
        self.tracker = None if plain else _tracker(config)
        self._made: dict[str, Artifact] = {}
        self._open = contextlib.ExitStack()
        if config.execution.threads:
            torch.set_num_threads(config.execution.threads)

    def __enter__(self) -> Chain:
        self._open.enter_context(stopping.heeded())
        if self.tracker:
            environment.warn_of_another_store(self.store.root)
            self.tracker.open()
            self._open.enter_context(windows.introduced(self.config, self.tracker.page))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            if self.tracker:
                stopped = error is not None and not isinstance(error, Exception)
                self.tracker.close("FINISHED" if error is None else "KILLED" if stopped else "FAILED")
        finally:
            self._open.__exit__(kind, error, trace)

    def read(self) -> Artifact:
        """Documents, packed contexts, labels, prompts."""
        return self.step("read", self.config.read, model=self.model)

    def capture(self) -> Artifact:
        """Activations at the hook points."""
        return self.step("capture", self.capturing, model=self.model, corpus=self.read())

    def train(self) -> Artifact:
        """The dictionary: trained here, or the one that `dictionary` names."""
        if self.config.dictionary:
            from flows.tracking import resolve_dictionary

            if "train" not in self._made:
                self._made["train"] = self.store.get("train", resolve_dictionary(self.config.dictionary))
                self._say_if_of_another_model(self._made["train"])
            return self._made["train"]
        return self.step("train", self.training, **self.learning)

    def _say_if_of_another_model(self, dictionary: Artifact) -> None:
        """A line where a dictionary reads another model than it was made for: equal widths let it pass everywhere."""
        given = dictionary.manifest["inputs"].get("activations")
        activations = given and self.store.find(**given)
        if not activations or activations.manifest["inputs"]["model"]["key"] == self.model.key:
            return
        theirs = activations.facts.get("model_config") or {}
        log.warning(
            "the dictionary %s was made on activations of another model than this experiment's: %s there, %s here; its "
            "scores say how it does on a model that it never saw",
            dictionary.key,
            _told(theirs, activations.manifest["inputs"]["model"]["key"]),
            _told(self.config.model.model_dump(), self.model.key),
        )

    def imported(self, config: ImportConfig) -> Artifact:
        """Another project's dictionary, as an artifact of `train`."""
        return self.step("import", config, activations=self.capture())

    def untrained(self) -> Artifact:
        """A dictionary of equal size and sparsity that saw no activation but those that set its bias and scale."""
        config = control(self.training, self.train().facts)
        return self.step("train", config, label="train untrained", activations=self.capture())

    def encode(self) -> Artifact:
        """Codes of the trained dictionary."""
        return self.step(
            "encode", self.config.encode, activations=self.capture(), dictionary=self.train(), model=self.model
        )

    def encode_untrained(self) -> Artifact:
        """Codes of the untrained dictionary, the control of every unit-by-unit score."""
        given = {"activations": self.capture(), "dictionary": self.untrained(), "model": self.model}
        return self.step("encode", self.config.encode, label="encode untrained", **given)

    def interpret(self) -> Artifact:
        """Explanations and their scores."""
        given = {"corpus": self.read(), "activations": self.capture(), "codes": self.encode()}
        return self.step("interpret", self.config.interpret, **given, untrained=self.encode_untrained())

    def steer(self) -> Artifact:
        """Steered text and its scores."""
        given = {"model": self.model, "corpus": self.read(), "activations": self.capture()}
        given |= {"dictionary": self.train(), "codes": self.encode(), "untrained": self.encode_untrained()}
        return self.step("steer", self.config.steer, **given)

    def evaluate(self) -> Artifact:
        """Reconstruction, loss recovered, concepts found."""
        given = {"model": self.model, "corpus": self.read(), "activations": self.capture()}
        return self.step(
            "evaluate",
            self.config.evaluate,
            **given,
            dictionary=self.train(),
            codes=self.encode(),
            untrained=self.encode_untrained(),
        )

    def gate(self) -> Artifact:
        """Which concepts the activations hold, whatever the dictionary."""
        return self.step("gate", self.gating, activations=self.capture(), corpus=self.read())

    def report(self) -> Artifact:
        """Every score in one table."""
        scored = {"evaluate": self.evaluate(), "interpret": self.interpret(), "steer": self.steer()}
        given = {"corpus": self.read(), "train": self.train(), "encode": self.encode()}
        return self.step("report", self.config.report, **given, **scored)

    @property
    def capturing(self) -> CaptureConfig:
        """What is captured; hook points by their canonical names, so that one place has one key whatever it was called."""
        names = tuple(dict.fromkeys(translate(name) for name in self.config.capture.hook_points))
        return self.config.capture.model_copy(update={"hook_points": names})

    @property
    def gating(self) -> GateConfig:
        """Where concepts are looked for (where the dictionary reads first), on as many tokens as concepts_found takes."""
        tokens = self.config.evaluate.settings.concepts_found.tokens
        reads, _ = wired(self.training, self.training.hook_point)
        return GateConfig(hook_point=reads[0], tokens=tokens)

    @property
    def measuring(self) -> EvaluateConfig:
        """What a sweep measures of each dictionary."""
        return self.config.evaluate.model_copy(update={"evaluations": self.config.sweep.evaluations})

    @property
    def learning(self) -> dict[str, Any]:
        """What a dictionary learns from: activations, and the model with its text where it takes part in training."""
        spliced = {"model": self.model, "corpus": self.read()} if self.training.splice.share else {}
        return {"activations": self.capture(), **spliced}

    @property
    def training(self) -> TrainConfig:
        """How it is trained; the hook point by its canonical name, since the dictionary side knows no other library's."""
        return self.config.train.model_copy(update={"hook_point": translate(self.config.train.hook_point)})

    def fetched(self) -> Path:
        """The model's folder, its files there: for who looks at the model before the first stage does."""
        return self.model.folder

    @functools.cached_property
    def model(self) -> ModelReference:
        """The language model, its files fetched first where they may be."""
        if self.config.model.online and not self.plain:
            fetch(self.config.model)
        return ModelReference(self.config.model)

    def step(self, stage: str, config: Config, label: str = "", **inputs: Any) -> Artifact:
        """One artifact of one stage, made or found, and recorded; nothing twice under one label."""
        label = label or stage
        if label in self._made:
            return self._made[label]
        references = {role: {"stage": given.stage, "key": given.key} for role, given in inputs.items()}
        started = time.monotonic()
        arguments = (label, stage, config, references, self.config)
        if self.plain:
            artifact, hit = ensure(*arguments, report=progress_bar(label), plain=True)
        else:
            state: Any = make.with_options(task_run_name=label)(*arguments, return_state=True)
            reference = state.result()
            hit = state.name == "Cached"
            artifact = self.store.get(reference["stage"], reference["key"])
        self.made(label, artifact, hit, time.monotonic() - started)
        return artifact

    def made(self, label: str, artifact: Artifact, hit: bool, seconds: float) -> None:
        """Keeps and records what a task made."""
        self._made[label] = artifact
        if self.tracker:
            self.tracker.stage(label, artifact, hit, seconds=seconds)


def _tracker(config: ExperimentConfig) -> Tracker:
    """MLflow takes seconds to import, and who only describes flows or runs without it shall not wait."""
    from flows.tracking import Tracker

    return Tracker(config)


def _told(model: Mapping[str, Any], key: str) -> str:
    return f"{model.get('path', 'a model')} ({model.get('dtype', 'of unknown dtype')}, key {key[:8]})"


def failed_over_a_network(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a task failed because something far away did not answer, at whatever depth of causes."""
    error = state.result(raise_on_failure=False)
    while isinstance(error, BaseException):
        if isinstance(error, OVER_A_NETWORK):
            return True
        error = error.__cause__ or error.__context__
    return False


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(SECONDS_BEFORE_A_RETRY),
    retry_delay_seconds=SECONDS_BEFORE_A_RETRY,
    retry_condition_fn=failed_over_a_network,
)
def fetch(config: ModelConfig) -> str:
    """The model's files, downloaded where they are not on this machine: the one task that touches a network."""
    return str(ModelReference(config).folder)


@task(cache_policy=NO_CACHE, persist_result=False)
def make(
    label: str, stage: str, config: Config, inputs: Mapping[str, Reference], experiment: ExperimentConfig
) -> State[Reference]:
    """One stage. The store decides whether it is done; Prefect shows it."""
    artifact, hit = ensure(label, stage, config, inputs, experiment, report=progress_bar(label, progress_artifact=True))
    if hit:
        return Completed(name="Cached", message=f"artifact {artifact.key} present", data=artifact.reference())
    seconds = artifact.manifest["made"]["seconds"]
    return Completed(message=f"artifact {artifact.key} made in {seconds:.0f} s", data=artifact.reference())


@task(cache_policy=NO_CACHE, persist_result=False)
def make_together(
    label: str, stage: str, wanted: Mapping[str, Wanted], experiment: ExperimentConfig
) -> State[dict[str, Reference]]:
    """Several artifacts of one stage in one pass, on one device slot."""
    made = ensure_many(label, stage, wanted, experiment, report=progress_bar(label, progress_artifact=True))
    data = {name: artifact.reference() for name, (artifact, _) in made.items()}
    if all(hit for _, hit in made.values()):
        return Completed(name="Cached", message=f"{len(made)} artifacts present", data=data)
    new = [artifact.manifest["made"]["seconds"] for artifact, hit in made.values() if not hit]
    return Completed(message=f"{len(new)} of {len(made)} artifacts made in {sum(new):.0f} s", data=data)


def ensure(
    label: str,
    stage: str,
    config: Config,
    inputs: Mapping[str, Reference],
    experiment: ExperimentConfig,
    report: Callable[[], contextlib.AbstractContextManager[Callable[[Progress], None]]],
    plain: bool = False,
) -> tuple[Artifact, bool]:
    """One artifact and whether it was there; what is not there is made on a device slot."""
    return ensure_many(label, stage, {label: (config, inputs)}, experiment, report, plain)[label]


def ensure_many(
    label: str,
    stage: str,
    wanted: Mapping[str, Wanted],
    experiment: ExperimentConfig,
    report: Callable[[], contextlib.AbstractContextManager[Callable[[Progress], None]]],
    plain: bool = False,
) -> dict[str, tuple[Artifact, bool]]:
    """`ensure` for several artifacts of one stage by name, all on one device slot; dictionaries learn side by side."""
    store = Store(experiment.execution.store)
    given = {
        name: (
            config,
            {
                role: _model(experiment, reference) if role == "model" else store.get(**reference)
                for role, reference in inputs.items()
            },
        )
        for name, (config, inputs) in wanted.items()
    }
    with report() as show:
        there = all(store.find(_stage(stage).name, key_of(_stage(stage), *each)) for each in given.values())
        turn: contextlib.AbstractContextManager[Execution] = contextlib.nullcontext(experiment.execution)
        if _stage(stage).computes and not there:
            turn = slots.hold(experiment.execution, lambda words: show(Progress(0, 0, "", message=words)), plain)
        with turn as settings:
            made = store.ensure_many(_stage(stage), given, settings, show)
    for name, (artifact, hit) in made.items():
        line = _line(name, artifact, hit)
        aside.print(line)
        record.info(line.plain.strip())
    return made


def _stage(name: str) -> Stage:
    return STAGES.get(name) or BESIDE[name]


def _model(experiment: ExperimentConfig, reference: Reference) -> ModelReference:
    found = ModelReference(experiment.model)
    if found.key != reference["key"]:
        raise ModelError(
            f"the files of model {experiment.model.path} changed while the experiment ran (key {reference['key']} then, "
            f"{found.key} now); run again, and what does not rest on the model is found"
        )
    return found


_drawing = threading.Lock()


def _line(label: str, artifact: Artifact, hit: bool) -> Text:
    made = artifact.manifest["made"]
    size = sum(file["bytes"] for file in artifact.manifest["files"].values()) / 1e6
    how = ("cached", "cyan") if hit else (f"{made['seconds']:.1f} s", "green")
    return Text.assemble(f"  {label:<18} {artifact.key}  {size:8.1f} MB  ", how)


def progress_bar(
    label: str, progress_artifact: bool = False
) -> Callable[[], contextlib.AbstractContextManager[Callable[[Progress], None]]]:
    """A reporter of progress: a rich bar in a terminal, a Prefect progress artifact in the UI, a log line otherwise."""

    @contextlib.contextmanager
    def reporter() -> Iterator[Callable[[Progress], None]]:
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
        )
        alone = _drawing.acquire(blocking=False)  # a terminal shows one bar at a time; tasks side by side log instead
        bar = RichProgress(
            *columns,
            TimeElapsedColumn(),
            console=aside,
            transient=True,
            disable=not (alone and sys.stderr.isatty()),
        )
        shown = bar.add_task(label, total=None, unit="")
        live: dict[str, Any] = {"at": 0.0, "id": None, "message": ""}

        def show(progress: Progress) -> None:
            numbers = " ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            description = " ".join(part for part in (label, progress.message, numbers) if part)
            bar.update(
                shown,
                completed=progress.done,
                total=progress.total or None,
                unit=progress.unit,
                description=description,
            )
            if progress.message and progress.message != live["message"]:
                live["message"] = progress.message
                log.info("%s: %s", label, progress.message)
            now = time.monotonic()
            if progress_artifact and progress.total and now - live["at"] >= SECONDS_BETWEEN_UPDATES:
                live["at"] = now
                publish(min(100.0, 100.0 * progress.done / progress.total), description)

        def publish(share: float, description: str) -> None:
            try:
                if live["id"] is None:
                    key = re.sub("[^a-z0-9]+", "-", f"{label} progress".lower())  # all that Prefect takes
                    live["id"] = create_progress_artifact(share, key=key, description=description)
                else:
                    update_progress_artifact(live["id"], share, description=description)
            except Exception as error:  # a server that is away costs a bar in a window, not the stage
                log.warning("Prefect did not take the progress of %s (%s)", label, error)

        try:
            with bar:
                yield show
        finally:
            if alone:
                _drawing.release()
        if live["id"] is not None:
            publish(100.0, label)

    return reporter


def write_reference(path: Path, artifact: Artifact) -> None:
    """A pointer file for DVC: stage, key and the parents' keys; no digests, which differ by machine."""
    import json

    parents = {role: given["key"] for role, given in artifact.manifest["inputs"].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**artifact.reference(), "parents": parents}, indent=1) + "\n", encoding="utf-8")
