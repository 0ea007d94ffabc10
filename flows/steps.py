"""The one bridge: a component call as a Prefect task around `ensure`, shown as Cached on a hit.

Tasks hand each other references (stage and key), never tensors or frames. Without Prefect (`plain`)
the same calls run directly: DVC and tests use that. A stage that computes holds one device slot
while it does; what is already made needs none. Only a task that touches a network is tried again:
the same work on the same machine fails the same way.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import httpx
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed, State
from rich.text import Text

from components.config import Config
from components.device import Execution
from components.errors import ModelError
from components.experiment import RANDOMISED, ExperimentConfig, stage_of
from components.model.reference import ModelConfig, ModelFiles, ModelReference
from components.model.text_encoder import TextEncoderConfig, TextEncoderReference
from components.store.artifact import Artifact, Store, key_of
from components.store.lineage import inputs
from components.store.stage import GIVEN, Progress
from flows.progress import progress_bar
from flows.stack import slots
from flows.terminal import aside

# for the run's page in Prefect alone: a terminal has the lines from `console`
record = logging.getLogger("flows.run")
record.propagate = False

Reference = dict[str, str]
Wanted = tuple[Config, Mapping[str, Reference]]
"""A stage's section, and references to its inputs by role."""
OVER_A_NETWORK = (httpx.TransportError, ConnectionError, TimeoutError)
SECONDS_BEFORE_A_RETRY = [5.0, 30.0]


def failed_over_a_network(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a task failed because something far away did not answer, at whatever depth of
    causes."""
    error = state.result(raise_on_failure=False)
    while isinstance(error, BaseException):
        if isinstance(error, OVER_A_NETWORK):
            return True
        error = error.__cause__ or error.__context__
    return False


over_a_network = partial(
    task,
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(SECONDS_BEFORE_A_RETRY),
    retry_delay_seconds=SECONDS_BEFORE_A_RETRY,
    retry_condition_fn=failed_over_a_network,
)
"""Makes a task of what asks a network: tried again when something far away did not answer."""


@over_a_network()
def fetch(config: ModelFiles) -> str:
    """The model's files, downloaded where they are not on this machine: the one task that touches a
    network."""
    return str(reference(config).folder)


@task(cache_policy=NO_CACHE, persist_result=False)
def make(
    label: str,
    stage: str,
    config: Config,
    inputs: Mapping[str, Reference],
    experiment: ExperimentConfig,
) -> State[Reference]:
    """One stage. The store decides whether it is done; Prefect shows it."""
    artifact, hit = ensure(
        label, stage, config, inputs, experiment, report=progress_bar(label, progress_artifact=True)
    )
    if hit:
        return Completed(
            name="Cached", message=f"artifact {artifact.key} present", data=artifact.reference()
        )
    seconds = artifact.manifest["made"]["seconds"]
    return Completed(
        message=f"artifact {artifact.key} made in {seconds:.0f} s", data=artifact.reference()
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def make_together(
    label: str, stage: str, wanted: Mapping[str, Wanted], experiment: ExperimentConfig
) -> State[dict[str, Reference]]:
    """Several artifacts of one stage in one pass, on one device slot."""
    made = ensure_many(
        label, stage, wanted, experiment, report=progress_bar(label, progress_artifact=True)
    )
    data = {name: artifact.reference() for name, (artifact, _) in made.items()}
    if all(hit for _, hit in made.values()):
        return Completed(name="Cached", message=f"{len(made)} artifacts present", data=data)
    new = [artifact.manifest["made"]["seconds"] for artifact, hit in made.values() if not hit]
    return Completed(
        message=f"{len(new)} of {len(made)} artifacts made in {sum(new):.0f} s", data=data
    )


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
    """`ensure` for several artifacts of one stage by name, all on one device slot; dictionaries
    learn side by side."""
    store, made_by = Store(experiment.execution.store), stage_of(stage)
    stored = {
        name: (
            config,
            {
                role: _given(experiment, place) if role in GIVEN else store.get(**place)
                for role, place in inputs.items()
            },
        )
        for name, (config, inputs) in wanted.items()
    }
    with report() as show:
        there = all(store.find(made_by.name, key_of(made_by, *each)) for each in stored.values())
        turn: contextlib.AbstractContextManager[Execution] = contextlib.nullcontext(
            experiment.execution
        )
        if made_by.computes and not there:
            turn = slots.hold(
                experiment.execution, lambda words: show(Progress(0, 0, "", message=words)), plain
            )
        with turn as settings:
            made = store.ensure_many(made_by, stored, settings, show)
    for name, (artifact, hit) in made.items():
        line = _line(name, artifact, hit)
        aside.print(line)
        record.info(line.plain.strip())
    return made


def reference(config: ModelFiles) -> ModelReference:
    """The model, or the text encoder, that a section of the experiment names."""
    return (
        TextEncoderReference(config)
        if isinstance(config, TextEncoderConfig)
        else ModelReference(config)
    )


def _given(experiment: ExperimentConfig, place: Reference) -> ModelReference:
    section = getattr(experiment, place["stage"])
    model = reference(section)
    if model.key != place["key"] and isinstance(section, ModelConfig):
        # a control's stages look into the same files with drawn weights
        sections = [
            section.model_copy(update={"randomise": drawn}) for drawn in RANDOMISED.values()
        ]
        of_key = [each for each in map(reference, sections) if each.key == place["key"]]
        model = next(iter(of_key), model)
    if model.key != place["key"]:
        raise ModelError(
            f"the files of {place['stage']} {model.config.path} changed while the experiment ran "
            f"(key {place['key']} then, {model.key} now); run again, and what does not rest on "
            "them is found"
        )
    return model


def _line(label: str, artifact: Artifact, hit: bool) -> Text:
    made = artifact.manifest["made"]
    size = sum(file["bytes"] for file in artifact.manifest["files"].values()) / 1e6
    how = ("cached", "cyan") if hit else (f"{made['seconds']:.1f} s", "green")
    return Text.assemble(f"  {label:<18} {artifact.key}  {size:8.1f} MB  ", how)


def write_reference(path: Path, artifact: Artifact) -> None:
    """A pointer file for DVC: stage, key and the parents' keys; no digests, which differ by
    machine."""
    parents = {role: key for role, (_, key) in inputs(artifact.manifest).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({**artifact.reference(), "parents": parents}, indent=1) + "\n", encoding="utf-8"
    )
