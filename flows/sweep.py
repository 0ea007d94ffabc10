"""Many dictionaries beside one another: architectures x widths x sparsities x seeds, one table of what each is worth.

Training comes in groups that share a stream of activations, measuring one dictionary at a time; each is a Prefect task on
one device slot, and as many run at once as there are slots. What is made is found again, so a rerun is cached and one
more seed trains that seed alone. A dictionary that cannot be trained or measured is named and left out; the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from prefect import flow
from prefect.futures import PrefectFuture, as_completed

from components import device
from components.device import Execution
from components.dictionary.contract import untrained
from components.dictionary.train import Learner, stream_of
from components.errors import ConfigError, LatentflowError
from components.evaluation.compare import CompareConfig, Compared
from components.experiment import ExperimentConfig
from components.store.artifact import Artifact, Store
from components.sweep import Cell, cells
from flows import windows
from flows.steps import Chain, Reference, Wanted, ensure_many, make_together, progress_bar

log = logging.getLogger(__name__)

PROBED_UPDATES = 2


@flow(name="sweep", flow_run_name=windows.name)
def sweep(config: ExperimentConfig) -> Reference:
    """Trains and measures every dictionary of the section sweep, and compares them at matched sparsity."""
    with Chain(config) as chain:
        return compare(chain).reference()


def compare(chain: Chain) -> Artifact:
    """The table of a sweep; dictionaries, scores and whatever they need are made first.

    Raises:
        ConfigError: more dictionaries than are trained without being asked.
    """
    config = chain.config
    todo = {cell.name: cell for cell in cells(chain.training, config.sweep)}
    unasked(config, len(todo))
    workers = max(1, len(device.slots(config.execution)))
    if workers > 1 and not config.execution.threads:  # tasks side by side share the cores
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    activations, gate = chain.capture(), chain.gate()

    refused: dict[str, str] = {}
    wanted = {name: (cell.config, {"activations": activations.reference()}) for name, cell in todo.items()}
    groups = [{name: wanted[name] for name in names} for names in _groups(todo, config.sweep.together)]
    trained = _made(chain, "train", groups, workers, refused)
    settings = config.evaluate.model_copy(update={"evaluations": config.sweep.evaluations})
    shared = {"model": chain.model, "corpus": chain.read(), "activations": activations, "gate": gate}
    references = {role: {"stage": given.stage, "key": given.key} for role, given in shared.items()}
    measured = [
        {name: (settings, references | {"dictionary": artifact.reference()})} for name, artifact in trained.items()
    ]
    evaluated = _made(chain, "evaluate", measured, workers, refused)

    names = [name for name in todo if name in evaluated]
    if not names:
        raise ConfigError(f"no dictionary of this sweep could be made: {'; '.join(refused.values())}")
    for name, reason in refused.items():
        log.warning("left out of the comparison: %s (%s)", name, reason)
    comparison = CompareConfig(cells=tuple(_compared(todo[name]) for name in names), at_l0=tuple(config.sweep.at_l0))
    inputs = {f"train.{number}": trained[name] for number, name in enumerate(names)}
    inputs |= {f"evaluate.{number}": evaluated[name] for number, name in enumerate(names)}
    return chain.step("compare", comparison, **inputs)


def unasked(config: ExperimentConfig, n: int) -> None:
    """Refuses more dictionaries than are trained without being asked.

    Raises:
        ConfigError: with how many they are and how long they will take.
    """
    if n > config.sweep.limit and not config.sweep.confirmed:
        raise ConfigError(
            f"{forecast(config)}; that is more than the {config.sweep.limit} that are trained without asking: give --yes "
            "(sweep.confirmed in a form), or fewer widths, sparsities or seeds"
        )


def forecast(config: ExperimentConfig) -> str:
    """How many dictionaries and about how long, in a sentence: a few updates of each label and width are timed here.

    The time to measure one is that of the evaluations which sweeps left in this store; without one it is not known.
    """
    chain = Chain(config, plain=True)
    todo, workers = cells(chain.training, config.sweep), max(1, len(device.slots(config.execution)))
    store = Store(config.execution.store)
    captured = next(iter(store.artifacts("capture")), None)
    width = next(iter(captured.facts["hook_points"].values()))["d_in"] if captured else 512
    probed: dict[tuple[str, int | None], float] = {}
    for cell in todo:
        size = cell.label, getattr(cell.config.dictionary, "d_sae", None)
        if size not in probed:
            probed[size] = seconds_an_update(cell, width, config.execution)
    training = sum(
        probed[cell.label, getattr(cell.config.dictionary, "d_sae", None)] * stream_of(cell.config)[-1] for cell in todo
    )
    known = sorted(
        artifact.manifest["made"]["seconds"]
        for artifact in store.artifacts("evaluate")
        if "gate" in artifact.manifest["inputs"]
    )
    measuring = known[len(known) // 2] * len(todo) if known else 0.0
    minutes = (training + measuring) / workers / 60
    what = "training and measuring" if known else "training alone (no sweep was measured in this store yet)"
    at = "" if captured else f" at a guessed width of {width}"
    return f"{len(todo)} dictionaries, about {minutes:.0f} minutes of {what}{at} on {workers} device slot(s)"


def seconds_an_update(cell: Cell, d_in: int, execution: Execution) -> float:
    """One update on random rows of that width, timed after a first."""
    where, (names, *_) = device.resolve(execution.device), stream_of(cell.config)
    generator = torch.Generator().manual_seed(0)
    rows = {name: torch.randn(cell.config.batch_size, d_in, generator=generator).to(where) for name in names}
    options = cell.config.dictionary
    learner = Learner(
        untrained(options, cell.config.hook_point, dict.fromkeys(names, d_in), rows, generator), cell.config
    )
    if not learner.steps:
        return 0.0
    started = 0.0
    for update in range(1 + PROBED_UPDATES):
        if update == 1:
            started = time.perf_counter()
        learner.learn(rows)
    learner.metrics()  # waits for the device
    return (time.perf_counter() - started) / PROBED_UPDATES


def _groups(todo: Mapping[str, Cell], together: int) -> Iterator[tuple[str, ...]]:
    """Names of dictionaries that learn from one stream side by side."""
    streams: dict[Any, list[str]] = {}
    for name, cell in todo.items():
        streams.setdefault(stream_of(cell.config), []).append(name)
    for names in streams.values():
        for start in range(0, len(names), together):
            yield tuple(names[start : start + together])


def _compared(cell: Cell) -> Compared:
    shared = {name: getattr(cell, name) for name in ("label", "sparsity_name", "sparsity", "is_baseline")}
    return Compared(seed=cell.config.seed, **shared)


def _made(
    chain: Chain, stage: str, groups: Sequence[Mapping[str, Wanted]], workers: int, refused: dict[str, str]
) -> dict[str, Artifact]:
    """Every artifact by name, as many groups at once as there are workers; what cannot be made is added to `refused`.

    Of a group that fails each is tried alone, so one bad dictionary costs no other.
    """
    found: dict[str, Artifact] = {}
    waiting = list(groups)
    while waiting:
        again: list[Mapping[str, Wanted]] = []
        for group, outcome, seconds in _in_turn(chain, stage, waiting, workers):
            if isinstance(outcome, LatentflowError):
                if len(group) > 1:
                    again += [{name: each} for name, each in group.items()]
                else:
                    refused |= dict.fromkeys(group, str(outcome))
                continue
            for name, (artifact, hit) in outcome.items():
                found[name] = artifact
                chain.made(f"{stage} {name}", artifact, hit, seconds / len(group))
        waiting = again
    return found


Outcome = dict[str, tuple[Artifact, bool]] | LatentflowError


def _in_turn(
    chain: Chain, stage: str, groups: Sequence[Mapping[str, Wanted]], workers: int
) -> Iterator[tuple[Mapping[str, Wanted], Outcome, float]]:
    """(group, what came of it, seconds), as they end."""
    if chain.plain:
        for group in groups:
            started = time.time()
            label = _label(stage, group)
            try:
                outcome: Outcome = ensure_many(label, stage, group, chain.config, progress_bar(label), plain=True)
            except LatentflowError as error:
                outcome = error
            yield group, outcome, time.time() - started
        return
    waiting = list(groups)
    running: dict[PrefectFuture[Any], tuple[Mapping[str, Wanted], float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            group = waiting.pop(0)
            label = _label(stage, group)
            task = make_together.with_options(task_run_name=label)
            running[task.submit(label, stage, group, chain.config)] = group, time.time()
        future = next(iter(as_completed(list(running))))
        group, started = running.pop(future)
        yield group, _outcome(chain, future), time.time() - started


def _outcome(chain: Chain, future: PrefectFuture[Any]) -> Outcome:
    result = future.result(raise_on_failure=False)
    if isinstance(result, LatentflowError):
        return result
    if isinstance(result, BaseException):
        raise result
    hit = future.state.name == "Cached"
    return {name: (chain.store.get(**reference), hit) for name, reference in result.items()}


def _label(stage: str, group: Mapping[str, Wanted]) -> str:
    first = next(iter(group))
    return f"{stage} {first}" if len(group) == 1 else f"{stage} {first} and {len(group) - 1} more"
