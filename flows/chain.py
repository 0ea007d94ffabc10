"""One experiment's stages: each made once, and whatever it needs made first, so that every flow is
one sentence.

What a stage needs it says itself (`components/experiment.py`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from components.capture.capture import CaptureConfig
from components.config import Config, load
from components.dictionary.interchange.importing import ImportConfig
from components.dictionary.settings import TrainConfig, wired
from components.dictionary.train import control as untrained
from components.errors import ConfigError
from components.evaluation.evaluate import EvaluateConfig
from components.evaluation.gate import GateConfig
from components.experiment import (
    MADE_ANEW,
    RANDOMISED,
    ExperimentConfig,
    parents,
    rests_on,
    without,
)
from components.model.hook_point import translate
from components.model.reference import ModelFiles, ModelReference
from components.store.artifact import Artifact, Store
from components.store.lineage import inputs, source
from components.store.stage import GIVEN
from flows import steps
from flows.progress import progress_bar
from flows.stack import environment, stopping, windows

if TYPE_CHECKING:
    from flows.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class Chain:
    """The stages of one experiment, lazily: asking for one makes what it needs, and nothing twice.

    Args:
        config: the experiment.
        plain: run the components directly, without Prefect and MLflow.

    Attributes:
        missing: stages that this experiment is without, and "model" where no model is run.
    """

    def __init__(self, config: ExperimentConfig, plain: bool = False) -> None:
        self.config = config
        self.plain = plain
        self.store = Store(config.execution.store)
        self.missing = without(config)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        try:
            if self.tracker:
                stopped = error is not None and not isinstance(error, Exception)
                self.tracker.close(
                    "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
                )
        finally:
            self._open.__exit__(kind, error, trace)

    def artifact(self, stage: str, control: str = "") -> Artifact:
        """What a stage makes of this experiment.

        Args:
            stage: of the chain, or beside it. `train` is the dictionary that `dictionary` names,
                where it names one.
            control: whose artifact; "" for the experiment's own. untrained: of a dictionary of
                equal size and sparsity that saw no activation but those that set its bias and
                scale, the control of every unit-by-unit score. randomised, randomised_blocks: of a
                dictionary that is trained alike, on the model with drawn weights.
        """
        control = control if control and rests_on(stage, MADE_ANEW[control]) else ""
        label = f"{stage} {control}" if control else stage
        if label in self._made:
            return self._made[label]
        if stage == "train" and self.config.dictionary and not control:
            self._made[label] = self._named(self.config.dictionary)
            return self._made[label]
        config = self._of_control(control) if stage == "train" and control else self.section(stage)
        return self.step(stage, config, label, **self.inputs(stage, config, control))

    def inputs(self, stage: str, config: Config, control: str = "") -> dict[str, Any]:
        """What a stage of this section is made from, by role."""
        return {
            role: self.given(parent.stage, control)
            if parent.stage in GIVEN
            else self.artifact(parent.stage, control or parent.control)
            for role, parent in parents(stage, self.missing).items()
            if parent.wanted(config)
        }

    def _of_control(self, control: str) -> TrainConfig:
        """How a control's dictionary is made: as the experiment's own was, but for what makes it
        the control."""
        if control not in RANDOMISED:
            return untrained(self.training, self.artifact("train").facts)
        if not self.config.dictionary:
            return self.training
        named = self.artifact("train")
        if named.stage != "train" or "dictionary" not in named.config:
            raise ConfigError(
                f"interpret.controls lists {control}, which trains once more as the dictionary "
                f"{self.config.dictionary!r} was trained, and that one was imported: nobody knows "
                "how; take it out of interpret.controls"
            )
        return load(TrainConfig, named.config)

    def _named(self, name: str) -> Artifact:
        from flows.tracking.registry import resolve_dictionary

        dictionary = self.store.get("train", resolve_dictionary(name))
        self._say_if_of_another_model(dictionary)
        return dictionary

    def _say_if_of_another_model(self, dictionary: Artifact) -> None:
        """A line where a dictionary reads another model than it was made for: equal widths let it
        pass.

        Whose activations lie in a file nobody knows: a line says so where one side alone has a
        model.
        """
        activations = source(dictionary, "activations")
        if activations is None:
            return
        _, key = inputs(activations.manifest).get("model", ("model", ""))
        ours = "" if "model" in self.missing else self.model.key
        if key == ours:
            return
        if not (key and ours):
            log.warning(
                "the dictionary %s was made on activations %s, and this experiment's are %s; "
                "whether they are of one model cannot be told",
                dictionary.key,
                "of a model" if key else f"from the file {activations.facts['arrays']}",
                "of a model" if ours else f"from the file {self.config.capture.arrays.path}",
            )
            return
        theirs = activations.facts.get("model_config") or {}
        log.warning(
            "the dictionary %s was made on activations of another model than this experiment's: "
            "%s there, %s here; its scores say how it does on a model that it never saw",
            dictionary.key,
            _told(theirs, key),
            _told(self.config.model.model_dump(), self.model.key),
        )

    def imported(self, config: ImportConfig) -> Artifact:
        """Another project's dictionary, as an artifact of `train`."""
        return self.step("import", config, **self.inputs("import", config))

    def section(self, stage: str) -> Config:
        """The settings that a stage is made with; those of `gate` follow from `evaluate`."""
        evaluate = self.config.evaluate.measuring(self.config.evaluate.evaluations)
        rewritten = {
            "capture": self.capturing,
            "train": self.training,
            "gate": self.gating,
            "evaluate": evaluate,
        }
        return rewritten[stage] if stage in rewritten else getattr(self.config, stage)

    @property
    def capturing(self) -> CaptureConfig:
        """What is captured; hook points by their canonical names, so that one place has one key
        whatever it was called."""
        names = tuple(dict.fromkeys(translate(name) for name in self.config.capture.hook_points))
        return self.config.capture.model_copy(update={"hook_points": names})

    @property
    def gating(self) -> GateConfig:
        """Where concepts are looked for (where the dictionary reads first), on as many tokens as
        concepts_found takes."""
        tokens = self.config.evaluate.settings.concepts_found.tokens
        reads, _ = wired(self.training, self.training.hook_point)
        return GateConfig(hook_point=reads[0], tokens=tokens)

    @property
    def measuring(self) -> EvaluateConfig:
        """What a sweep measures of each dictionary."""
        return self.config.evaluate.measuring(self.config.sweep.evaluations)

    @property
    def shared(self) -> dict[str, Any]:
        """What a sweep measures every dictionary with, but the gate: activations, and any model and
        text."""
        shared: dict[str, Any] = {"activations": self.artifact("capture")}
        if "read" not in self.missing:
            shared |= {"model": self.model, "corpus": self.artifact("read")}
        return shared

    @property
    def training(self) -> TrainConfig:
        """How it is trained; the hook point by its canonical name, since the dictionary side knows
        no other library's."""
        return self.config.train.model_copy(
            update={"hook_point": translate(self.config.train.hook_point)}
        )

    def fetch(self) -> None:
        """Brings the files of the model here, if one is run: for who looks at it before any
        stage."""
        if "model" not in self.missing:
            _ = self.model.folder

    @functools.cached_property
    def model(self) -> ModelReference:
        """The language model, its files fetched first where they may be."""
        return self._given(self.config.model)

    @functools.cached_property
    def text_encoder(self) -> ModelReference:
        """The text encoder, likewise."""
        return self._given(self.config.text_encoder)

    def given(self, kind: str, control: str = "") -> ModelReference:
        """The input of that name that no stage makes; for some controls with drawn weights."""
        if kind == "model" and control in RANDOMISED:
            drawn = {"randomise": RANDOMISED[control]}
            return self._given(self.config.model.model_copy(update=drawn))
        return self.model if kind == "model" else self.text_encoder

    def _given(self, config: ModelFiles) -> ModelReference:
        if config.online and not self.plain:
            steps.fetch(config)
        return steps.reference(config)

    def step(self, stage: str, config: Config, label: str = "", **inputs: Any) -> Artifact:
        """One artifact of one stage, made or found, and recorded; nothing twice under one label."""
        label = label or stage
        if label in self._made:
            return self._made[label]
        references = {
            role: {"stage": parent.stage, "key": parent.key} for role, parent in inputs.items()
        }
        started = time.monotonic()
        arguments = (label, stage, config, references, self.config)
        if self.plain:
            artifact, hit = steps.ensure(*arguments, report=progress_bar(label), plain=True)
        else:
            state: Any = steps.make.with_options(task_run_name=label)(*arguments, return_state=True)
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
    """MLflow takes seconds to import, and who only describes flows or runs without it shall not
    wait."""
    from flows.tracking.tracker import Tracker

    return Tracker(config)


def _told(model: Mapping[str, Any], key: str) -> str:
    return (
        f"{model.get('path', 'a model')} ({model.get('dtype', 'of unknown dtype')}, key {key[:8]})"
    )
