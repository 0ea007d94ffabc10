"""What the sections of `gpu.py` share: where they run, how they time, count waits, read memory."""

from __future__ import annotations

import dataclasses
import gc
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, supported_activities

from components import device

Choice = TypeVar("Choice")
PARTS_OF_A_PROFILE = 10
"""Operators of a step that are listed with their times."""
WAITS = (
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaDeviceSynchronize",
    "Memcpy DtoH",
    "Memcpy HtoD (Pageable",
)
"""What the host waits in, or may: beginnings of names in a profile of CUDA."""
LOOKS = ("aten::item", "aten::nonzero")
"""Operators that look at numbers: on a GPU's tensor one of the WAITS too, on the host's nothing."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        what: what was measured.
        value: the number.
        unit: of it.
        wanted: what is wanted of it, in words; empty where nothing is.
        holds: whether it is as wanted; None where nothing is wanted here.
        details: further numbers, for the JSON alone.
    """

    what: str
    value: float
    unit: str = ""
    wanted: str = ""
    holds: bool | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def at_most(what: str, value: float, bound: float, unit: str = "", **details: Any) -> Figure:
    """A figure that must not be larger than a bound; NaN is."""
    return Figure(what, value, unit, f"at most {bound:g}", bool(value <= bound), details)


def at_least(what: str, value: float, bound: float, unit: str = "", **details: Any) -> Figure:
    """A figure that must not be smaller than a bound; NaN is."""
    return Figure(what, value, unit, f"at least {bound:g}", bool(value >= bound), details)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where the sections run, and on which sizes.

    Attributes:
        device: the device that is examined; the CPU is compared with itself.
        small: sizes for the tests.
        folder: an empty folder for models and activations.
    """

    device: torch.device
    small: bool
    folder: Path

    @classmethod
    def on(cls, name: str, small: bool, folder: Path) -> Bench:
        """On the device of that name."""
        return cls(device.resolve(name), small, folder)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def settings(self) -> device.Execution:
        """The execution settings of this device."""
        return device.Execution(device=str(self.device))

    def of(self, full: Choice, small: Choice) -> Choice:
        """The one of two that these sizes call for."""
        return small if self.small else full

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def tidy(self) -> None:
        """Gives memory back that nothing uses any more."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object], times: int, rounds: int = 3) -> float:
        """Seconds of one call: the median of rounds of so many calls, a wait behind each round."""
        taken = []
        for _ in range(self.of(rounds, 1) + 1):
            self.wait()
            started = time.perf_counter()
            for _ in range(times):
                work()
            self.wait()
            taken.append((time.perf_counter() - started) / times)
        return statistics.median(taken[1:])

    def waits(self, loop: Callable[[int], object], n: int) -> dict[str, float]:
        """How often each of WAITS and LOOKS occurs in one iteration of `loop(iterations)`.

        What a run has once is left out: runs of n and of 2 n iterations are profiled, and their
        difference is that of n iterations.
        """
        loop(n)
        few, many = self._counted(loop, n), self._counted(loop, 2 * n)
        return {name: (many[name] - few[name]) / n for name in (*WAITS, *LOOKS)}

    def _counted(self, loop: Callable[[int], object], n: int) -> Counter[str]:
        with self._profile() as found:
            loop(n)
            self.wait()
        counts: Counter[str] = Counter()
        for event in found.key_averages():
            matching = [name for name in (*WAITS, *LOOKS) if event.key.startswith(name)]
            counts.update(dict.fromkeys(matching, event.count))
        return counts

    def slowest_parts(self, step: Callable[[], object]) -> dict[str, float]:
        """Milliseconds of the operators and kernels that take most of a step."""
        with self._profile() as found:
            step()
            self.wait()
        kind = "self_device_time_total" if self.is_gpu else "self_cpu_time_total"
        times = {event.key: getattr(event, kind) / 1000 for event in found.key_averages()}
        most = sorted(times.items(), key=lambda part: -part[1])[:PARTS_OF_A_PROFILE]
        return {name[:80]: round(milliseconds, 3) for name, milliseconds in most}

    def _profile(self) -> profile:
        cuda = {ProfilerActivity.CUDA} if self.is_gpu else set()
        return profile(activities=({ProfilerActivity.CPU} | cuda) & supported_activities())

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Bytes that work added to the memory in use, at most: the device's, or this process's."""
        self.tidy()
        if self.is_gpu:
            self.wait()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            work()
            self.wait()
            return torch.cuda.max_memory_allocated(self.device) - before
        # the high-water mark begins anew
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = _kilobytes("VmRSS")
        work()
        return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def machine(bench: Bench) -> dict[str, str]:
    """What the figures were measured on."""
    name = f"the CPU, {torch.get_num_threads()} threads"
    if bench.is_gpu:
        name = torch.cuda.get_device_name(bench.device)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": str(torch.version.cuda),
    }
    return {"device": name, "python": platform.python_version(), **versions}


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over the norm of the second, in float64; 0 where both are zero."""
    x, y = ours.detach().double().cpu(), theirs.detach().double().cpu()
    distance, norm = (x - y).norm().item(), y.norm().item()
    return distance / norm if norm else distance
