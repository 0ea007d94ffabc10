"""What an experiment will cost before it runs: the chain of stages, estimated instead of made.

`Plan` is the chain with another step: a stage that is in the store is cached, any other gets its
estimate, and the facts that its manifest will have are what the next stage is estimated from. Keys
are computed as the chain computes them, so what is called cached is what the run will find. Where
the section `sweep` lists anything, what `latentflow sweep` would train stands below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.client.forecast import refuse_without_leave
from components.config import Config, load
from components.device import Execution
from components.errors import LatentflowError
from components.experiment import ExperimentConfig, stage_of
from components.store.artifact import key_of
from components.store.estimate import Estimate, Planned, disk_free, fitting, size
from components.store.lineage import inputs as inputs_of
from components.store.stage import GIVEN, Stage
from components.sweep import SWEEP_ESTIMATOR, share
from flows.chain import Chain

log = logging.getLogger(__name__)

SECONDS = 20.0
"""Of probing, in all; and once more for a sweep."""
RANGE = 10
"""How many times the work of an artifact its seconds may stand for: beyond, what it did once would
weigh too much."""
SWEEP = "sweep"


@dataclasses.dataclass
class Step:
    """One stage of the plan, or its sweep.

    Attributes:
        label: the stage, or which one of several of its kind.
        stage: the stage.
        key: of its artifact; a sweep has none here.
        cached: whether the store holds it; of a sweep, whether it holds every dictionary, measured.
        estimate: bytes; of what is cached, those that lie there.
        timing: seconds, what took how long, and how that became the whole; None where it is cached
            or was not timed.
    """

    label: str
    stage: str
    key: str
    cached: bool
    estimate: Estimate
    timing: Timing | None = None


Timing = tuple[float, str, str]
Took = tuple[Estimate, float, str]
"""What was done, in how many seconds, and in words how that is known."""


class Plan(Chain):
    """The stages of one experiment, estimated.

    Attributes:
        steps: what was asked for so far, in order.

    Raises:
        NoMemoryError: a stage that memory cannot hold; with the nearest setting that fits.
        NoSpaceError: a stage that the disk cannot hold, beside what comes before it; likewise.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config, plain=True)
        self.steps: list[Step] = []
        self._free = disk_free(self.store.root)
        self._waiting: list[tuple[Step, Config, dict[str, Any]]] = []
        self._took: dict[tuple[str, str], list[Took]] = {}

    def time(self, seconds: float = SECONDS) -> None:
        """Times every stage that is to be made, in at most about so many seconds."""
        ends = time.perf_counter() + seconds
        while self._waiting:
            left = max(1.0, ends - time.perf_counter()) / len(self._waiting)
            step, config, inputs = self._waiting.pop(0)
            step.timing = self.timing(
                stage_of(step.stage), config, inputs, self.config.execution, left
            )

    def timing(
        self,
        stage: Stage,
        config: Config,
        inputs: Mapping[str, Any],
        settings: Execution,
        seconds: float,
    ) -> Timing:
        """How long a stage takes that has an estimator: as this machine took, or by a probe of
        about `seconds`."""
        assert stage.estimator
        estimate = stage.estimator.formula(config, inputs, settings)
        (work, unit), about = estimate.work, (stage.name, settings.machine())
        if about not in self._took:
            self._took[about] = list(self._made_here(stage, type(config), settings))
        for before, took, told in self._took[about]:
            times = work / max(1.0, before.work[0])
            if before.alike == estimate.alike and times <= RANGE:
                return took * times, told, f"in proportion to {work:,.0f} {unit}"
        # whatever is alike takes as long
        self._took[about].insert(0, (estimate, *estimate.probe(seconds)))
        return *self._took[about][0][1:], f"for {work:,.0f} {unit}" if unit else ""

    def _made_here(
        self, stage: Stage, section: type[Config], settings: Execution
    ) -> Iterator[Took]:
        """What was made of a stage on such a machine in one go, the newest first."""
        assert stage.estimator
        for artifact in sorted(
            self.store.artifacts(stage.name), key=lambda each: each.age, reverse=True
        ):
            manifest, made = artifact.manifest, artifact.manifest["made"]
            on = made.get("machine"), made.get("continued"), manifest["version"]
            if on != (settings.machine(), False, stage.version):
                continue
            # inputs that are gone; what no longer is a section
            with contextlib.suppress(LatentflowError, KeyError):
                places = inputs_of(manifest)
                inputs = {
                    role: self.given(kind) if kind in GIVEN else self.store.get(kind, key)
                    for role, (kind, key) in places.items()
                }
                if all(inputs[role].key == key for role, (_, key) in places.items()):
                    before = stage.estimator.formula(
                        load(section, artifact.config), inputs, settings
                    )
                    told = f"{before.work[0]:,.0f} took {made['seconds']:,.1f} s here on {made['at'][:10]}"
                    yield before, made["seconds"], told

    def sweep(self, seconds: float = 0.0, whatever: bool = False) -> Step:
        """The dictionaries of the section sweep that are not there yet; timed in about so many
        seconds, or not.

        Args:
            seconds: of probing.
            whatever: whether they are listed though they do not fit.

        Raises:
            NoMemoryError: the groups that learn at once do not fit; with the nearest setting that
                does.
            NoSpaceError: the disk cannot hold the dictionaries; likewise.
        """
        settings = share(self.config.execution)
        torch.set_num_threads(settings.threads)
        shared = self.shared
        if "corpus" in shared:
            of_gate = {"activations": shared["activations"], "corpus": shared["corpus"]}
            shared["gate"] = Planned("gate", key_of(stage_of("gate"), self.gating, of_gate), {})
        own = {"train": self.training, "evaluate": self.measuring, "shared": shared}
        of_plan = {"stage": stage_of("train"), "store": self.store, "timing": self.timing}
        inputs = {**self.inputs("train", self.training), **own, **of_plan}
        estimate = (
            SWEEP_ESTIMATOR.formula(self.config.sweep, inputs, settings)
            if whatever
            else fitting(SWEEP, SWEEP_ESTIMATOR, self.config.sweep, inputs, settings, self._free)
        )
        timing = (*estimate.probe(seconds), "") if seconds else None
        return Step(SWEEP, SWEEP, "", not estimate.facts["to_make"], estimate, timing)

    def step(self, stage: str, config: Config, label: str = "", **inputs: Any) -> Any:
        """What that stage will cost, or the artifact that is there."""
        label = label or stage
        if label in self._made:
            return self._made[label]
        estimator, key = stage_of(stage).estimator, key_of(stage_of(stage), config, inputs)
        artifact: Any = self.store.find(stage, key)
        step = Step(label, stage, key, artifact is not None, Estimate({}, {}))
        if artifact:
            files = artifact.manifest["files"].values()
            step.estimate = Estimate({}, {"files": sum(file["bytes"] for file in files)})
        elif estimator:
            step.estimate = fitting(
                stage, estimator, config, inputs, self.config.execution, self._free, label
            )
            self._free -= step.estimate.disk_bytes
            self._waiting.append((step, config, inputs))
        self.steps.append(step)
        self._made[label] = artifact or Planned(stage, key, step.estimate.facts)
        return self._made[label]


def plan(config: ExperimentConfig, seconds: float = SECONDS) -> list[Step]:
    """Every stage of an experiment, and its sweep where one is listed: bytes by formula, seconds as
    this machine took.

    Args:
        config: the experiment.
        seconds: of probing, in all, where no manifest says how long a stage takes; 0 leaves seconds
            out.

    Raises:
        NoMemoryError: a stage does not fit into memory.
        NoSpaceError: what is to be made does not fit on the disk.
    """
    with Plan(config) as chain:
        chain.artifact("report")
        if seconds:
            chain.time(seconds)
        swept = config.sweep
        is_listed = any((swept.dictionaries, swept.widths, swept.sparsities, swept.rates))
        return [*chain.steps, *([chain.sweep(seconds)] if is_listed else [])]


def say(config: ExperimentConfig, to: Console) -> None:
    """One line for each stage that an experiment will make, by formula alone; what would not fit is
    a warning.

    A run is not stopped by its estimate: memory may be free again when its turn comes, and capture
    itself refuses what the disk cannot hold. It is stopped by what it may cost, unless somebody has
    said yes to that.

    Raises:
        ConfigError: it may cost much, and `execution.confirmed` is not set.
    """
    try:
        with Plan(config) as chain:
            chain.artifact("report")
    except LatentflowError as error:
        log.warning("before the start: %s", error)
        return
    for step in chain.steps:
        if not step.cached and stage_of(step.stage).estimator:
            memory, disk = size(step.estimate.memory_bytes), size(step.estimate.disk_bytes)
            to.print(f"  to make: {step.label:<18} {memory:>10} of memory  {disk:>10} on disk")
            if step.estimate.forecast:
                to.print(f"           {step.label} {step.estimate.forecast}")
                refuse_without_leave(step.stage, step.estimate.forecast, config.execution)


def rows(steps: list[Step]) -> list[dict[str, Any]]:
    """The plan as plain rows, and one more for the totals: sums of seconds and disk, the largest of
    memory.

    A sweep is no part of the experiment: it comes after the totals.
    """
    listed = [
        {
            "label": step.label,
            "stage": step.stage,
            "key": step.key,
            "cached": step.cached,
            "seconds": 0.0 if step.cached else step.timing and round(step.timing[0], 2),
            "memory_bytes": step.estimate.memory_bytes,
            "memory": dict(step.estimate.memory),
            "disk_bytes": step.estimate.disk_bytes,
            "scratch_bytes": sum(step.estimate.scratch.values()),
            "measured": step.timing and step.timing[1],
            "extrapolated": step.timing and step.timing[2],
            "asks": step.estimate.forecast and dataclasses.asdict(step.estimate.forecast),
        }
        for step in steps
    ]
    own = [row for row in listed if row["stage"] != SWEEP]
    to_make = [row for row in own if not row["cached"]]
    sums = {name: sum(row[name] or 0 for row in to_make) for name in ("seconds", "disk_bytes")}
    most = {
        name: max((row[name] for row in to_make), default=0)
        for name in ("memory_bytes", "scratch_bytes")
    }
    total = {"label": "total", **sums, **most, "process_bytes": psutil.Process().memory_info().rss}
    return [*own, total, *listed[len(own) :]]


def show(steps: list[Step], to: Console) -> None:
    """The plan as a table, and below it what was measured and what follows from it."""
    table = Table(header_style="bold")
    for name in ("stage", "", "seconds", "memory", "disk"):
        table.add_column(name, justify="right" if name in ("seconds", "memory", "disk") else "left")
    for row in rows(steps):
        cached, is_total = row.get("cached", False), row["label"] == "total"
        if is_total:
            table.add_section()
            total = row
        state = Text("cached", "cyan") if cached else "to make"
        seconds = "" if cached or row["seconds"] is None else f"{row['seconds']:,.1f}"
        memory = "" if cached else size(row["memory_bytes"])
        table.add_row(
            row["label"], state, seconds, memory, size(row["disk_bytes"]), end_section=is_total
        )
    to.print(table)
    to.print(
        f"Memory is beside the process itself ({size(total['process_bytes'])} with its "
        f"libraries); of several stages the largest. Disk: {size(total['scratch_bytes'])} more "
        "while they work.",
    )
    for step in steps:
        if step.estimate.forecast:
            leave = step.estimate.forecast.needs_leave
            to.print(f"{step.label} {step.estimate.forecast}" + (f"; {leave}" if leave else ""))
        if step.timing:
            to.print(f"{step.label}: {'; '.join(filter(None, step.timing[1:]))}")
