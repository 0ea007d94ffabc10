"""Where tensors live, and whose turn it is there. The only place that asks for CUDA.

`resolve` turns a name into a torch device: `auto` is CUDA when there is one, else the CPU.

`hold` gives one task a *slot* on a device for as long as it computes. The guard is a lock of the
operating system, one file for each slot in a folder that every clone and user of this machine
shares: the system frees it the moment its process ends, however it ends, so no slot outlives a
process. `execution.devices` lists the slots; a device that is listed twice has two. Empty, each
CUDA device is one slot wherever `execution.device` means CUDA, and the CPU has none. `cpu:0` and
`cpu:1` are slots too, both on the CPU: the same bookkeeping on a machine without GPUs.

Tasks of a flow run share its process, and a process reads CUDA_VISIBLE_DEVICES once, when CUDA
starts. So within the process a slot is the torch device of that index; CUDA_VISIBLE_DEVICES is set,
after CUDA has started, for whatever process the task starts. Locks are named after the physical
device (the entry of CUDA_VISIBLE_DEVICES that this process was given), so `cuda:0` under
CUDA_VISIBLE_DEVICES=3 and `cuda:3` without it are the same slot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from components.config import Config, execution
from components.errors import ConfigError
from components.paths import expanded

if TYPE_CHECKING:
    import torch

SECONDS_BETWEEN_TRIES = 0.2
SECONDS_BETWEEN_WORDS = 30.0


class Execution(Config):
    """How to run: nothing here can change a result, so nothing here enters an artifact key."""

    device: str = execution("auto")
    """auto, cpu, cuda, or cuda:<number>."""
    devices: list[str] = execution([])
    """Slots that tasks take turns on, for example [cuda:0, cuda:1]; empty: every CUDA device, where
    `device` is CUDA."""
    threads: int = execution(0, ge=0, le=4096)
    """CPU threads for torch; 0 takes every core."""
    store: str = execution("data/artifacts")
    """Folder of the artifact store."""
    confirmed: bool = execution(False)
    """Go on with a run that may cost more than 5 USD or make more than 10,000 calls; `--yes` on the
    command line."""

    def machine(self) -> str:
        """What computes under these settings, in words: where they are the same, the same work
        takes about as long."""
        import torch

        where = resolve(self.device)
        if where.type == "cuda":
            return torch.cuda.get_device_name(where)
        threads = self.threads or torch.get_num_threads()
        return (
            f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, {threads} threads"
        )


def resolve(name: str = "auto") -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: another name, or a CUDA device that this machine or this torch does not have.
    """
    import torch

    # torch knows the names of many more backends, whether or not they are here; nothing was ever
    # tried on them
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", name):
        raise ConfigError(
            f"execution.device: wanted auto, cpu, cuda or cuda:<number>, got {name!r}"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"execution.device is {name!r}, but torch {torch.__version__} sees no CUDA device "
            "here; use auto or cpu"
        )
    _refuse_beyond(name, "execution.device")
    return torch.device(name)


def memory_free(name: str = "auto") -> tuple[str, int]:
    """Whose memory a task on that device uses, and how many bytes of it are free now."""
    where = resolve(name)
    if where.type == "cuda":
        import torch

        return str(where), torch.cuda.mem_get_info(where)[0]
    import psutil

    return "this machine", psutil.virtual_memory().available


def to_device(x: torch.Tensor, where: torch.device) -> torch.Tensor:
    """The tensor there; to a GPU it travels from pinned memory, so that the host does not wait for
    it."""
    if where.type != "cuda" or not x.is_cpu:
        return x.to(where)
    return x.pin_memory().to(where, non_blocking=True)


def to_host(x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Starts a tensor's way to the host; what comes back waits until it has arrived, and gives
    it."""
    if not x.is_cuda:
        return lambda: x
    import torch

    host = torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def received() -> torch.Tensor:
        arrived.synchronize()
        return host

    return received


@dataclasses.dataclass(frozen=True)
class Slot:
    """One task's place on a device.

    Attributes:
        name: the device as it was listed ("cuda:1", "cpu:0").
        number: which of several slots on that device, from 0.
    """

    name: str
    number: int = 0

    @property
    def device(self) -> str:
        """What torch is told: all CPU slots are the one CPU."""
        return "cpu" if self.name.startswith("cpu") else self.name

    @property
    def visible(self) -> str:
        """The entry of CUDA_VISIBLE_DEVICES that stands for this device ("" on the CPU)."""
        if not self.name.startswith("cuda"):
            return ""
        index = int(self.name.partition(":")[2])
        given = [
            part.strip()
            for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            if part.strip()
        ]
        return given[index] if index < len(given) else str(index)

    @property
    def label(self) -> str:
        """Its name on this machine: the physical device, and the slot's number where there are
        several."""
        device = f"cuda-{self.visible}" if self.visible else self.name.replace(":", "-")
        return f"{device}-{self.number}" if self.number else device


def slots(settings: Execution) -> list[Slot]:
    """The slots that these settings offer; none where tasks need not take turns.

    Raises:
        ConfigError: a name that is no device, or a CUDA device that this machine does not have.
    """
    names = [f"{name}:0" if name in ("cpu", "cuda") else name for name in settings.devices]
    if not names:
        where = resolve(settings.device)
        if where.type != "cuda":
            return []
        names = [
            f"cuda:{i}"
            for i in ([where.index] if where.index is not None else range(_cuda_devices()))
        ]
    for name in names:
        if not re.fullmatch(r"(cpu|cuda):\d+", name):
            raise ConfigError(
                f"execution.devices: wanted names such as cuda:0 or cpu:0, got {name!r}"
            )
        if name.startswith("cuda"):
            resolve("cuda")
            _refuse_beyond(name, "execution.devices")
    return [Slot(name, names[:place].count(name)) for place, name in enumerate(names)]


@contextlib.contextmanager
def hold(
    settings: Execution, waiting: Callable[[str], None] = lambda sentence: None
) -> Iterator[tuple[Execution, Slot | None]]:
    """A free slot for as long as the block runs, and the settings that compute on it; no slot where
    none is needed.

    Args:
        settings: how to run.
        waiting: told in a sentence, now and then, who holds the slots while none is free.
    """
    offered = slots(settings)
    if not offered:
        yield settings, None
        return
    slot, lock = _acquire(offered, waiting)
    try:
        with _alone(slot):
            yield settings.model_copy(update={"device": slot.device}), slot
    finally:
        with contextlib.suppress(OSError):
            _holder_file(slot).unlink(missing_ok=True)
        lock.release()


def is_held(slot: Slot) -> bool:
    """Whether some process of this machine holds the slot now."""
    lock = _lock(slot)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _acquire(offered: list[Slot], waiting: Callable[[str], None]) -> tuple[Slot, FileLock]:
    said = float("-inf")
    while True:
        for slot in offered:
            lock = _lock(slot)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                _leave_note(slot)
                return slot, lock
        if time.monotonic() - said > SECONDS_BETWEEN_WORDS:
            said = time.monotonic()
            waiting(f"waiting for a device: {', '.join(_held_by(slot) for slot in offered)}")
        time.sleep(SECONDS_BETWEEN_TRIES)


def _leave_note(slot: Slot) -> None:
    """Who holds the slot, for those who wait; the lock alone decides, so a note that cannot be
    written is none.

    One that another user's dead process left can be neither replaced nor removed in a folder that
    all users share.
    """
    note, own = _holder_file(slot), _holder_file(slot).with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        own.write_text(json.dumps({"pid": os.getpid(), "since": time.time()}), encoding="utf-8")
        own.chmod(0o644)
        own.replace(note)
    with contextlib.suppress(OSError):
        own.unlink(missing_ok=True)


def _held_by(slot: Slot) -> str:
    import psutil

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        found = json.loads(_holder_file(slot).read_text(encoding="utf-8"))
        # else the note of one who died, and this holder could not replace it
        if psutil.pid_exists(int(found["pid"])):
            return f"{slot.name} held by process {int(found['pid'])} for {max(0.0, time.time() - found['since']):.0f} s"
    return f"{slot.name} held"


def _lock(slot: Slot) -> FileLock:
    folder = _folder()
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            folder.chmod(0o1777)  # every user of this machine takes turns on its devices
    return FileLock(folder / f"{slot.label}.lock", mode=0o666)


def _holder_file(slot: Slot) -> Path:
    return _folder() / f"{slot.label}.holder"


def _folder() -> Path:
    return expanded(
        os.environ.get("LATENTFLOW_DEVICE_LOCKS")
        or Path(tempfile.gettempdir()) / "latentflow-devices"
    )


def _refuse_beyond(name: str, setting: str) -> None:
    number = name.partition(":")[2]
    if name.startswith("cuda") and number and int(number) >= _cuda_devices():
        raise ConfigError(
            f"{setting}: no {name} here, this machine has {_cuda_devices()} CUDA device(s)"
        )


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def _alone(slot: Slot) -> Iterator[None]:
    """The slot's device is torch's current one, and the only one that processes started in the
    block see."""
    if not slot.visible:
        yield
        return
    import torch

    torch.cuda.init()  # from here on this process no longer reads the variable
    visible, before = slot.visible, os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    try:
        with torch.cuda.device(slot.device):
            yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES") if before is None else os.environ.update(
            CUDA_VISIBLE_DEVICES=before
        )
