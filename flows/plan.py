"""What an experiment will cost before it runs: the chain of stages, foretold instead of made.

`Plan` is the chain with another step: a stage that is in the store is cached, any other gets its forecast, and the facts
that its manifest will have are what the next stage is foretold from. Keys are computed as the chain computes them, so
what is called cached is what the run will find. Where the section `sweep` lists anything, what `latentflow sweep` would
train stands below.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.config import Config
from components.errors import LatentflowError
from components.experiment import FORETELLERS, ExperimentConfig, stage_of
from components.store.artifact import key_of
from components.store.forecast import Forecast, Foretold, Timing, disk_free, fitting, size
from components.store.lineage import inputs as inputs_of
from components.sweep import SWEEP_FORETELLER, share
from flows.chain import Chain

log = logging.getLogger(__name__)

SECONDS = 20.0
"""Of probing, in all; and once more for a sweep."""
NOTHING = Forecast({}, {})
SWEEP = "sweep"


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage of the plan, or its sweep.

    Attributes:
        label: the stage, or which one of several of its kind.
        stage: the stage.
        key: of its artifact; a sweep has none here.
        cached: whether the store holds it; of a sweep, whether it holds every dictionary, measured.
        forecast: bytes; of what is cached, those that lie there.
        timing: seconds; None where it is cached or was not probed.
    """

    label: str
    stage: str
    key: str
    cached: bool
    forecast: Forecast
    timing: Timing | None = None


class Plan(Chain):
    """The stages of one experiment, foretold.

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
        self._waiting: list[tuple[int, Config, dict[str, Any]]] = []

    def probe(self, seconds: float = SECONDS) -> None:
        """Times every stage that is to be made, in at most about so many seconds."""
        ends = time.perf_counter() + seconds
        for n_done, (place, config, inputs) in enumerate(self._waiting):
            left = max(1.0, ends - time.perf_counter()) / (len(self._waiting) - n_done)
            step = self.steps[place]
            timing = FORETELLERS[step.stage].probe(config, inputs, self.config.execution, left)
            self.steps[place] = dataclasses.replace(step, timing=timing)
        self._waiting.clear()

    def sweep(self, seconds: float = 0.0) -> Step:
        """The dictionaries of the section sweep that are not there yet; timed in about so many seconds, or not.

        Raises:
            NoMemoryError: the groups that learn at once do not fit; with the nearest setting that does.
            NoSpaceError: the disk cannot hold the dictionaries; likewise.
        """
        settings = share(self.config.execution)
        forecast = fitting(SWEEP, SWEEP_FORETELLER, self.config.sweep, self._swept, settings, self._free)
        timing = self.sweep_time(seconds) if seconds else None
        return Step(SWEEP, SWEEP, "", not forecast.facts["to_make"], forecast, timing)

    def sweep_time(self, seconds: float) -> Timing:
        """How many dictionaries of the section sweep are not there yet and how long they take, whether they fit or not."""
        return SWEEP_FORETELLER.probe(self.config.sweep, self._swept, share(self.config.execution), seconds)

    @functools.cached_property
    def _swept(self) -> dict[str, Any]:
        """What a sweep finds: dictionaries, and those that were measured as this one measures, by the keys of both."""
        shared = self.shared
        activations = shared["activations"]
        if "corpus" in shared:
            of_gate = {"activations": activations, "corpus": shared["corpus"]}
            shared["gate"] = Foretold("gate", key_of(stage_of("gate"), self.gating, of_gate), {})
        measured, seconds = set(), []
        for scored in self.store.artifacts("evaluate"):
            measured_on = inputs_of(scored.manifest)
            of_these = measured_on["activations"] == ("capture", activations.key)
            if not of_these or ("gate" in shared) != ("gate" in measured_on):
                continue
            seconds.append(scored.manifest["made"]["seconds"])
            dictionary = Foretold(*measured_on["dictionary"], facts={})
            if key_of(stage_of("evaluate"), self.measuring, shared | {"dictionary": dictionary}) == scored.key:
                measured.add(dictionary.key)
        return {
            **self.inputs("train", self.training),
            "train": self.training,
            "made": {made.key for made in self.store.artifacts("train")},
            "measured": measured,
            "seconds": seconds,
        }

    def step(self, stage: str, config: Config, label: str = "", **inputs: Any) -> Any:
        """What that stage will cost, or the artifact that is there."""
        label = label or stage
        if label in self._made:
            return self._made[label]
        key = key_of(stage_of(stage), config, inputs)
        found = self.store.find(stage, key)
        if found is not None:
            there = Forecast({}, {"files": sum(file["bytes"] for file in found.manifest["files"].values())})
            self.steps.append(Step(label, stage, key, True, there))
            self._made[label] = found
            return found
        forecast = NOTHING
        if stage in FORETELLERS:
            forecast = fitting(stage, FORETELLERS[stage], config, inputs, self.config.execution, self._free, label)
            self._free -= forecast.disk_bytes
            self._waiting.append((len(self.steps), config, inputs))
        self.steps.append(Step(label, stage, key, False, forecast))
        self._made[label] = Foretold(stage, key, forecast.facts)  # type: ignore[assignment]
        return self._made[label]


def plan(config: ExperimentConfig, seconds: float = SECONDS) -> list[Step]:
    """Every stage of an experiment, and its sweep where one is listed: bytes by formula, seconds by a probe.

    Args:
        config: the experiment.
        seconds: of probing, in all; 0 leaves seconds out.

    Raises:
        NoMemoryError: a stage does not fit into memory.
        NoSpaceError: what is to be made does not fit on the disk.
    """
    with Plan(config) as chain:
        chain.artifact("report")
        if seconds:
            chain.probe(seconds)
        swept = config.sweep
        is_listed = any((swept.dictionaries, swept.widths, swept.sparsities, swept.rates))
        return [*chain.steps, *([chain.sweep(seconds)] if is_listed else [])]


def say(config: ExperimentConfig, to: Console) -> None:
    """One line for each stage that an experiment will make, by formula alone; what would not fit is a warning.

    A run is not stopped by its forecast: memory may be free again when its turn comes, and capture itself refuses what
    the disk cannot hold.
    """
    try:
        with Plan(config) as chain:
            chain.artifact("report")
            steps = chain.steps
    except LatentflowError as error:
        log.warning("before the start: %s", error)
        return
    for step in steps:
        if not step.cached and step.stage in FORETELLERS:
            memory, disk = size(step.forecast.memory_bytes), size(step.forecast.disk_bytes)
            to.print(f"  to make: {step.label:<18} {memory:>10} of memory  {disk:>10} on disk")


def rows(steps: list[Step]) -> list[dict[str, Any]]:
    """The plan as plain rows, and one more for the totals: sums of seconds and disk, the largest of memory.

    A sweep is no part of the experiment: it comes after the totals.
    """
    found = [
        {
            "label": step.label,
            "stage": step.stage,
            "key": step.key,
            "cached": step.cached,
            "seconds": 0.0 if step.cached else step.timing and round(step.timing.seconds, 2),
            "memory_bytes": step.forecast.memory_bytes,
            "memory": dict(step.forecast.memory),
            "disk_bytes": step.forecast.disk_bytes,
            "scratch_bytes": step.forecast.scratch_bytes,
            "measured": step.timing and step.timing.measured,
            "extrapolated": step.timing and step.timing.extrapolated,
        }
        for step in steps
    ]
    swept = [row for row in found if row["stage"] == SWEEP]
    found = [row for row in found if row["stage"] != SWEEP]
    to_make = [row for row in found if not row["cached"]]
    total = {
        "label": "total",
        "seconds": round(sum(row["seconds"] or 0.0 for row in to_make), 2),
        "memory_bytes": max((row["memory_bytes"] for row in to_make), default=0),
        "process_bytes": psutil.Process().memory_info().rss,
        "disk_bytes": sum(row["disk_bytes"] for row in to_make),
        "scratch_bytes": max((row["scratch_bytes"] for row in to_make), default=0),
    }
    return [*found, total, *swept]


def show(steps: list[Step], to: Console) -> None:
    """The plan as a table, and below it what was measured and what follows from it."""
    table = Table(header_style="bold")
    for name in ("stage", "", "seconds", "memory", "disk"):
        table.add_column(name, justify="right" if name in ("seconds", "memory", "disk") else "left")
    listed = rows(steps)
    [total] = [row for row in listed if row["label"] == "total"]
    for row in listed:
        cached = row.get("cached", False)
        if row is total:
            table.add_section()
        state = Text("cached", "cyan") if cached else "to make"
        seconds = "" if cached or row["seconds"] is None else f"{row['seconds']:,.1f}"
        memory = "" if cached else size(row["memory_bytes"])
        table.add_row(row["label"], state, seconds, memory, size(row["disk_bytes"]), end_section=row is total)
    to.print(table)
    to.print(
        f"Memory is beside the process itself ({size(total['process_bytes'])} with its libraries); of several stages the "
        f"largest. Disk: {size(total['scratch_bytes'])} more while they work.",
    )
    for step in steps:
        if step.timing:
            told = filter(None, (step.timing.measured, step.timing.extrapolated))
            to.print(f"{step.label}: {'; '.join(told)}")
