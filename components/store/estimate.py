"""What a stage will cost, said before it is made: bytes by formula, seconds by what this machine
already did.

Every stage has an estimator beside its code. Its `formula` is a pure function of the section and of
the facts of its inputs: memory and disk in bytes by what they hold, the work that its time grows
with, and the facts that the manifest will have, so that the next stage can be estimated from them.
Seconds are those of the newest artifact of the store that was made on such a machine and did the
like, in proportion to the work (`flows/plan.py`). Where there is none, `probe` times a pass of the
model or an update of the dictionary, whatever the stage does most.

`fitting` refuses what the machine cannot hold, and searches the formula for the nearest setting
that fits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import device
from components.config import Config, override
from components.device import Execution
from components.errors import ConfigError, NoMemoryError, NoSpaceError
from components.paths import expanded

SPARE = 64 * 2**20
"""Bytes left free on the disk."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a stage asks of somebody who may be paid, at most; said before it does, and nobody is
    asked for it.

    Attributes:
        calls: requests.
        input_tokens: of their prompts, estimated.
        output_tokens: of their answers.
        usd: what that costs; None where no price is known.
        needs_leave: why a person has to say yes to it first; None where nobody has to.
        budget_usd: money after which nothing more is asked; None for no such limit.
        budget_calls: requests after which nothing more is asked; None for no such limit.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    needs_leave: str | None = None
    budget_usd: float | None = None
    budget_calls: int | None = None

    def __str__(self) -> str:
        cost = "price not known" if self.usd is None else f"{self.usd:,.2f} USD"
        limits = [f"{self.budget_usd:g} USD"] if self.budget_usd is not None else []
        limits += [f"{self.budget_calls:,} calls"] if self.budget_calls is not None else []
        return (
            f"asks a language model at most {self.calls:,} times ({self.input_tokens:,} tokens of "
            f"prompts, {self.output_tokens:,} of answers; {cost}; budget: "
            f"{' and '.join(limits) or 'none'})"
        )


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes that a stage will take, the work that it will do, and what its manifest will say.

    Attributes:
        memory: at the peak, by what they hold, beside the process itself; files that are mapped are
            not counted.
        disk: of the finished artifact, by what they hold.
        scratch: on disk while it works, and gone at the end.
        facts: of the finished artifact, as far as they are known before.
        work: what its time grows with, and what that is counted in.
        alike: what the seconds of a unit depend on: only an artifact that has the same says how
            long they take.
        probe: seconds that it may take, about -> seconds of the whole, and in words where they come
            from. It asks nobody who may be paid.
        forecast: what is asked of somebody who may be paid; None where nobody is.
    """

    memory: Mapping[str, int]
    disk: Mapping[str, int]
    scratch: Mapping[str, int] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    work: tuple[float, str] = (0.0, "")
    alike: tuple[Any, ...] = ()
    probe: Callable[[float], tuple[float, str]] = lambda seconds: (0.0, "")
    forecast: Forecast | None = None

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory in all."""
        return sum(self.memory.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of the finished artifact."""
        return sum(self.disk.values())


@dataclasses.dataclass(frozen=True)
class Planned:
    """An artifact that is not made yet: an input by its key and by the facts that are known of
    it."""

    stage: str
    key: str
    facts: Mapping[str, Any]


Knobs = Mapping[str, Callable[[Any, Estimate], Sequence[Any]]]
"""Settings that may be lowered, by their names inside the section ("dictionary.d_sae"): (section,
estimate) -> values cheaper than the one that is set, the nearest first."""


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How the cost of one stage is estimated.

    Attributes:
        formula: (section, inputs, execution) -> bytes, work and facts; runs nothing.
        for_memory: what may be lowered where memory lacks.
        for_disk: what may be lowered where disk lacks.
        on_device: whether its memory is that of `execution.device`; else it is the machine's.
    """

    formula: Callable[[Any, Mapping[str, Any], Execution], Estimate]
    for_memory: Knobs = dataclasses.field(default_factory=dict)
    for_disk: Knobs = dataclasses.field(default_factory=dict)
    on_device: bool = False


def lower(name: str) -> Knobs:
    """The knob of a setting that is a whole number; an entry without that setting has no value of
    it."""

    def values(config: Any, estimate: Estimate) -> list[int]:
        for part in name.split("."):
            config = getattr(config, part, 0)
        return below(int(config))

    return {name: values}


def below(number: int) -> list[int]:
    """Whole numbers below it, the nearest first: 16 steps for each halving, down to 1."""
    numbers = []
    while number > 1:
        step = max(1, (1 << (number - 1).bit_length()) // 32)
        number = (number - 1) // step * step
        numbers.append(number)
    return numbers


def fitting(
    stage: str,
    estimator: Estimator,
    config: Config,
    inputs: Mapping[str, Any],
    settings: Execution,
    disk: int,
    label: str = "",
) -> Estimate:
    """The estimate of a stage that fits.

    Args:
        stage: its name, that of its section.
        estimator: its estimator.
        config: its section.
        inputs: made or planned.
        settings: where it would run.
        disk: bytes that are free for it.
        label: what the error calls it, where there are several of its kind.

    Raises:
        NoMemoryError: memory cannot hold it; names the nearest setting that fits.
        NoSpaceError: the disk cannot hold it; likewise.
    """
    estimate = estimator.formula(config, inputs, settings)
    where, memory = device.memory_free(settings.device if estimator.on_device else "cpu")
    kinds: Sequence[tuple[Callable[[Estimate], Mapping[str, int]], int, Knobs, type[Exception], str]] = (
        (lambda e: e.memory, memory, estimator.for_memory, NoMemoryError, f"of memory on {where}"),
        (lambda e: {**e.disk, **e.scratch}, disk - SPARE, estimator.for_disk, NoSpaceError, f"of disk in {settings.store}"),
    )  # fmt: skip
    for parts_of, there_is, knobs, error, of in kinds:
        parts = parts_of(estimate)
        if (wanted := sum(parts.values())) <= there_is:
            continue
        advised = []
        for name, values in knobs.items():
            for value in values(config, estimate):
                # a value that the section refuses is no advice
                with contextlib.suppress(ConfigError):
                    changed = estimator.formula(override(config, {name: value}), inputs, settings)
                    if sum(parts_of(changed).values()) <= there_is:
                        advised.append(f"{stage}.{name}={_written(value)}")
                        break
        advice = (
            f"nearest that fits: {', or '.join(advised)}"
            if advised
            else f"no value of {' or '.join(f'{stage}.{name}' for name in knobs)} alone makes it fit"
            if knobs
            else "no setting of this stage makes it fit; use a larger machine"
        )
        listed = ", ".join(
            f"{name} {size(n)}" for name, n in sorted(parts.items(), key=lambda part: -part[1]) if n
        )
        raise error(
            f"{label or stage} wants {size(wanted)} {of} ({listed}), and there is "
            f"{size(max(0, there_is))}; {advice}"
        )
    return estimate


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
