"""What a stage will cost, said before it is made: bytes by formula, seconds by a short probe on this machine.

Every stage has a forecast beside its code (`components/<package>/forecast.py`) made of two parts. `formula` is a pure
function of the section and of the facts of its inputs: memory and disk in bytes by what they hold, and the facts that
the manifest will have, so that the next stage can be foretold from them. `probe` runs a little of the real work on
stand-ins of the real sizes, for a bounded number of seconds, and says what it measured and how it went on from there.

`fitting` refuses what the machine cannot hold, and searches the formula for the nearest setting that fits.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import device
from components.config import Config, override
from components.device import Execution
from components.errors import ConfigError, NoMemoryError, NoSpaceError
from components.paths import expanded
from components.store.artifact import Artifact, Progress, Stage, Store, Work

SPARE = 64 * 2**20
"""Bytes left free on the disk."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Bytes that a stage will take, and what its manifest will say.

    Attributes:
        memory: at the peak, by what they hold, beside the process itself; files that are mapped are not counted.
        disk: of the finished artifact, by what they hold.
        scratch: on disk while it works, and gone at the end.
        facts: of the finished artifact, as far as they are known before.
    """

    memory: Mapping[str, int]
    disk: Mapping[str, int]
    scratch: Mapping[str, int] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory in all."""
        return sum(self.memory.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of the finished artifact."""
        return sum(self.disk.values())

    @property
    def scratch_bytes(self) -> int:
        """Bytes on disk that go again."""
        return sum(self.scratch.values())


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds, and where they come from.

    Attributes:
        seconds: forecast for the whole stage.
        measured: what the probe ran.
        extrapolated: how that became the whole.
    """

    seconds: float
    measured: str
    extrapolated: str


@dataclasses.dataclass(frozen=True)
class Foretold:
    """An artifact that is not made yet: an input by its key and by the facts that are known of it."""

    stage: str
    key: str
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Knob:
    """A setting that may be lowered.

    Attributes:
        name: inside the section ("dictionary.d_sae").
        values: (section, forecast) -> values cheaper than the one that is set, the nearest first.
    """

    name: str
    values: Callable[[Any, Forecast], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Foreteller:
    """The forecast of one stage.

    Attributes:
        formula: (section, inputs, execution) -> bytes and facts; runs nothing.
        probe: (section, inputs, execution, seconds) -> seconds of the whole, from at most about so many of probing.
        for_memory: what may be lowered where memory lacks.
        for_disk: what may be lowered where disk lacks.
        on_device: whether its memory is that of `execution.device`; else it is the machine's.
    """

    formula: Callable[[Any, Mapping[str, Any], Execution], Forecast]
    probe: Callable[[Any, Mapping[str, Any], Execution, float], Timing]
    for_memory: Sequence[Knob] = ()
    for_disk: Sequence[Knob] = ()
    on_device: bool = False


def lower(name: str) -> Knob:
    """A whole number, in 16 steps for each halving, down to 1."""

    def values(config: Any, forecast: Forecast) -> list[int]:
        now = config
        for part in name.split("."):
            now = getattr(now, part, None)
        return [] if now is None else below(int(now))  # None: an entry without that setting

    return Knob(name, values)


def below(now: int) -> list[int]:
    """Whole numbers below it, the nearest first: 16 steps for each halving, down to 1."""
    found: list[int] = []
    top = 1 << max(0, now.bit_length() - 1)
    while top >= 1:
        step = max(1, top // 16)
        found += [value for value in range(2 * top - step, top - 1, -step) if value < now]
        top //= 2
    return found


def fitting(
    stage: str,
    foreteller: Foreteller,
    config: Config,
    inputs: Mapping[str, Any],
    settings: Execution,
    disk: int,
    label: str = "",
) -> Forecast:
    """The forecast of a stage that fits.

    Args:
        stage: its name, that of its section.
        foreteller: its forecast.
        config: its section.
        inputs: made or foretold.
        settings: where it would run.
        disk: bytes that are free for it.
        label: what the error calls it, where there are several of its kind.

    Raises:
        NoMemoryError: memory cannot hold it; names the nearest setting that fits.
        NoSpaceError: the disk cannot hold it; likewise.
    """
    forecast = foreteller.formula(config, inputs, settings)
    where, memory = device.memory_free(settings.device if foreteller.on_device else "cpu")
    needs: list[tuple[Callable[[Forecast], int], int, Sequence[Knob], type[Exception], str, str]] = [
        (lambda f: f.memory_bytes, memory, foreteller.for_memory, NoMemoryError, f"of memory on {where}", "memory"),
        (
            lambda f: f.disk_bytes + f.scratch_bytes,
            disk - SPARE,
            foreteller.for_disk,
            NoSpaceError,
            f"of disk in {settings.store}",
            "disk",
        ),
    ]
    for wanted, there_is, knobs, error, of, kind in needs:
        if wanted(forecast) <= there_is:
            continue
        parts = {"memory": forecast.memory, "disk": {**forecast.disk, **forecast.scratch}}[kind]
        listed = ", ".join(f"{name} {size(n)}" for name, n in sorted(parts.items(), key=lambda part: -part[1]) if n)
        found = [
            f"{stage}.{knob.name}={_written(value)}"
            for knob in knobs
            if (value := _nearest(knob, foreteller, config, inputs, settings, forecast, wanted, there_is)) is not None
        ]
        advice = (
            f"nearest that fits: {', or '.join(found)}"
            if found
            else f"no value of {' or '.join(f'{stage}.{knob.name}' for knob in knobs)} alone makes it fit"
            if knobs
            else "no setting of this stage makes it fit; use a larger machine"
        )
        raise error(
            f"{label or stage} wants {size(wanted(forecast))} {of} ({listed}), and there is {size(max(0, there_is))}; {advice}"
        )
    return forecast


def _nearest(
    knob: Knob,
    foreteller: Foreteller,
    config: Config,
    inputs: Mapping[str, Any],
    settings: Execution,
    forecast: Forecast,
    wanted: Callable[[Forecast], int],
    there_is: int,
) -> Any:
    """The first value of which the formula says that it fits; one that is refused is passed over."""
    for value in knob.values(config, forecast):
        try:
            wants = wanted(foreteller.formula(override(config, {knob.name: value}), inputs, settings))
        except ConfigError:
            continue
        if wants <= there_is:
            return value
    return None


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "'{" + ", ".join(f"{name}: {_written(part)}" for name, part in value.items()) + "}'"
    return f"'{value}'" if isinstance(value, list) else str(value)


def size(n_bytes: float) -> str:
    """Bytes in words."""
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.1f} MiB"


def disk_free(store: Path | str) -> int:
    """Bytes free on the disk where the store lies, or will lie."""
    folder = expanded(store).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def watch(work: Work, seconds: float) -> Iterator[tuple[float, Progress | None]]:
    """(seconds since the start, progress) of work as it goes, None at its end; it is broken off when time is up."""
    started = time.perf_counter()
    try:
        while True:
            progress = next(work)
            elapsed = time.perf_counter() - started
            yield elapsed, progress
            if elapsed > seconds:
                return
    except StopIteration:
        yield time.perf_counter() - started, None
    finally:
        work.close()


def stand_in(
    store: Store, stage: str, config: Config, write: Callable[[Path], object], facts: Mapping[str, Any]
) -> Artifact:
    """A real artifact of made-up numbers, for a probe to read: `write(folder)` writes its files."""

    def make(folder: Path, config: Any, inputs: Mapping[str, Any], settings: Any) -> Work:
        write(folder)
        yield Progress(1, 1, "files")
        return dict(facts)

    artifact, _ = store.ensure(Stage(stage, 0, make), config, {})
    return artifact
