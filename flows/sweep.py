"""Many dictionaries beside one another: architectures x widths x sparsities x seeds, one table of
what each is worth.

Training comes in groups that share a stream of activations, measuring one dictionary at a time;
each is a Prefect task on one device slot, and as many run at once as there are slots. What is made
is found again, so a rerun is cached and one more seed trains that seed alone. A dictionary that
cannot be trained or measured, for whatever reason, is named and left out; the others go on. Groups
that memory cannot hold are refused before any is trained.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from prefect import flow
from prefect.exceptions import CancelledRun
from prefect.futures import PrefectFuture, as_completed

from components import device
from components.errors import ConfigError, LatentflowError
from components.evaluation.compare import CompareConfig, Compared
from components.experiment import ExperimentConfig
from components.store.artifact import Artifact
from components.sweep import Cell, cells, groups, share, too_many
from flows.chain import Chain
from flows.plan import SECONDS, Plan
from flows.progress import progress_bar
from flows.stack import windows
from flows.steps import Reference, Wanted, ensure_many, make_together

log = logging.getLogger(__name__)


@flow(name="sweep", flow_run_name=windows.name)
def sweep(config: ExperimentConfig) -> Reference:
    """Trains and measures every dictionary of the section sweep, and compares them at matched
    sparsity."""
    with Chain(config) as chain:
        return compare(chain).reference()


def compare(chain: Chain) -> Artifact:
    """The table of a sweep; dictionaries, scores and whatever they need are made first.

    Raises:
        ConfigError: more dictionaries than are trained without being asked.
        NoMemoryError: a group of them does not fit; with the nearest setting that does.
        NoSpaceError: the disk cannot hold them; likewise.
    """
    config = chain.config
    todo = {cell.name: cell for cell in cells(chain.training, config.sweep)}
    unasked(config, len(todo))
    workers = max(1, len(device.slots(config.execution)))
    torch.set_num_threads(share(config.execution).threads)  # tasks side by side share the cores
    shared = chain.shared
    with Plan(config) as planned:
        planned.sweep()
    if "corpus" in shared:
        shared["gate"] = chain.artifact("gate")

    refused: dict[str, str] = {}
    learning = {
        role: {"stage": given.stage, "key": given.key}
        for role, given in chain.inputs("train", chain.training).items()
    }
    wanted = {name: (cell.config, learning) for name, cell in todo.items()}
    listed = [
        {name: wanted[name] for name in names} for names in groups(todo, config.sweep.together)
    ]
    trained = _made(chain, "train", listed, workers, refused)
    references = {role: {"stage": given.stage, "key": given.key} for role, given in shared.items()}
    measured = [
        {name: (chain.measuring, references | {"dictionary": artifact.reference()})}
        for name, artifact in trained.items()
    ]
    evaluated = _made(chain, "evaluate", measured, workers, refused)

    names = [name for name in todo if name in evaluated]
    if not names:
        raise ConfigError(
            f"no dictionary of this sweep could be made: {'; '.join(refused.values())}"
        )
    for name, reason in refused.items():
        log.warning("left out of the comparison: %s (%s)", name, reason)
    comparison = CompareConfig(
        cells=tuple(_compared(todo[name]) for name in names), at_l0=tuple(config.sweep.at_l0)
    )
    inputs = {f"train.{number}": trained[name] for number, name in enumerate(names)}
    inputs |= {f"evaluate.{number}": evaluated[name] for number, name in enumerate(names)}
    return chain.step("compare", comparison, **inputs)


def unasked(config: ExperimentConfig, n: int) -> None:
    """Refuses more dictionaries than are trained without being asked.

    Raises:
        ConfigError: with how many they are and how long they will take, from a short probe.
    """
    if too_many(config.sweep, n):
        with Plan(config) as planned:
            timing = planned.sweep(SECONDS, whatever=True).timing
            raise ConfigError(timing and timing[1])


def _compared(cell: Cell) -> Compared:
    shared = {
        name: getattr(cell, name) for name in ("label", "sparsity_name", "sparsity", "is_baseline")
    }
    return Compared(seed=cell.config.seed, **shared)


def _made(
    chain: Chain,
    stage: str,
    groups: Sequence[Mapping[str, Wanted]],
    workers: int,
    refused: dict[str, str],
) -> dict[str, Artifact]:
    """Every artifact by name, as many groups at once as there are workers; what cannot be made is
    added to `refused`.

    Of a group that fails each is tried alone, so one bad dictionary costs no other.
    """
    found: dict[str, Artifact] = {}
    waiting = list(groups)
    while waiting:
        again: list[Mapping[str, Wanted]] = []
        for group, outcome, seconds in _in_turn(chain, stage, waiting, workers):
            if isinstance(outcome, Exception):
                reason = _reason(_label(stage, group), outcome)
                if len(group) > 1:
                    log.warning("%s; each is tried alone", reason)
                    again += [{name: each} for name, each in group.items()]
                else:
                    refused |= dict.fromkeys(group, reason)
                continue
            for name, (artifact, hit) in outcome.items():
                found[name] = artifact
                chain.made(f"{stage} {name}", artifact, hit, seconds / len(group))
        waiting = again
    return found


Outcome = dict[str, tuple[Artifact, bool]] | Exception


def _in_turn(
    chain: Chain, stage: str, groups: Sequence[Mapping[str, Wanted]], workers: int
) -> Iterator[tuple[Mapping[str, Wanted], Outcome, float]]:
    """(group, what came of it, seconds), as they end."""
    if chain.plain:
        for group in groups:
            started = time.time()
            outcome = _plainly(chain, stage, group)
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


def _plainly(chain: Chain, stage: str, group: Mapping[str, Wanted]) -> Outcome:
    label = _label(stage, group)
    try:
        return ensure_many(label, stage, group, chain.config, progress_bar(label), plain=True)
    except Exception as error:  # whatever it is, it is of this group
        return error


def _outcome(chain: Chain, future: PrefectFuture[Any]) -> Outcome:
    result = future.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        if isinstance(result, CancelledRun) or not isinstance(result, Exception):
            raise result
        return result
    hit = future.state.name == "Cached"
    return {name: (chain.store.get(**reference), hit) for name, reference in result.items()}


def _label(stage: str, group: Mapping[str, Wanted]) -> str:
    first = next(iter(group))
    return f"{stage} {first}" if len(group) == 1 else f"{stage} {first} and {len(group) - 1} more"


def _reason(label: str, error: Exception) -> str:
    """What went wrong in a sentence; what nobody raised on purpose is logged whole. The error lets
    go of its frames."""
    on_purpose = isinstance(error, LatentflowError)
    if not on_purpose:
        log.error("%s failed", label, exc_info=error)
    at: BaseException | None = error
    # tensors of a group that was too large must be gone before each is tried alone
    while at is not None:
        traceback.clear_frames(at.__traceback__)
        at = at.__cause__ or at.__context__
    return str(error) if on_purpose else f"{type(error).__name__}: {error}"
