"""Device slots: never shared, never outliving a process, and free of charge where tasks need not
take turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from components import device
from components.config import canonical
from components.device import Execution, Slot
from components.errors import ConfigError
from components.experiment import ExperimentConfig

REPOSITORY = Path(__file__).resolve().parents[1]
TAKE_TURNS = """
import json, sys, time
from components import device
from components.device import Execution

turns = []
for _ in range(int(sys.argv[2])):
    with device.hold(Execution(devices=json.loads(sys.argv[1]))) as (settings, slot):
        began = time.time()
        time.sleep(float(sys.argv[3]))
        turns.append([slot.name, slot.number, began, time.time()])
    time.sleep(0.25)
print(json.dumps(turns))
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks of this test's own, so that a busy machine makes it wait for nobody."""
    monkeypatch.setenv("LATENTFLOW_DEVICE_LOCKS", str(tmp_path / "locks"))
    return tmp_path / "locks"


@pytest.mark.parametrize(
    "name", ["mps", "xpu", "hpu", "meta", "cpu:1", "CUDA", "cuda:", "cuda:-1", "gpu", "", "cpu\n"]
)
def test_only_cpu_and_cuda_are_devices(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        device.resolve(name)
    assert (
        str(refused.value)
        == f"execution.device: wanted auto, cpu, cuda or cuda:<number>, got {name!r}"
    )


def start(devices: list[str], turns: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TAKE_TURNS, json.dumps(devices), str(turns), str(seconds)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def overlaps(turns: list[list]) -> list[tuple[list, list]]:
    ordered = sorted(turns, key=lambda turn: turn[2])
    return [
        (a, b)
        for i, a in enumerate(ordered)
        for b in ordered[i + 1 :]
        if a[:2] == b[:2] and b[2] < a[3]
    ]


@pytest.mark.parametrize("devices", [["cpu:0"], ["cpu:0", "cpu:1"]])
def test_no_slot_is_shared_by_two_processes(devices: list[str]) -> None:
    running = [start(devices, 4, 0.15) for _ in range(3)]
    turns = [turn for process in running for turn in json.loads(process.communicate(timeout=60)[0])]
    assert len(turns) == 12
    assert {turn[0] for turn in turns} == set(devices)  # with two slots, both were used
    assert overlaps(turns) == []


def test_a_slot_is_free_the_moment_its_process_is_killed(locks: Path) -> None:
    process = start(["cpu:0"], 1, 60)
    while not (locks / "cpu-0.holder").exists():
        time.sleep(0.05)
    assert device.is_held(Slot("cpu:0"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    began = time.monotonic()
    with device.hold(Execution(devices=["cpu:0"])) as (_, slot):
        assert slot == Slot("cpu:0")
    assert time.monotonic() - began < 2


def test_who_waits_is_told_who_holds_the_device() -> None:
    said: list[str] = []
    process = start(["cpu:0"], 1, 1.0)
    while not device.is_held(Slot("cpu:0")):
        time.sleep(0.02)
    time.sleep(0.2)
    with device.hold(Execution(devices=["cpu:0"]), said.append):
        pass
    process.communicate()
    assert len(said) == 1
    assert said[0].startswith(f"waiting for a device: cpu:0 held by process {process.pid} for ")


@pytest.mark.parametrize("note", ["a folder", "no JSON", "a list", "a number beyond any pid"])
def test_a_note_that_can_be_neither_read_nor_replaced_keeps_nobody_from_a_slot(
    locks: Path, note: str
) -> None:
    holder = locks / "cpu-0.holder"
    locks.mkdir()
    if note == "a folder":
        (holder / "inside").mkdir(parents=True)
    else:
        written = {
            "no JSON": "{",
            "a list": "[1]",
            "a number beyond any pid": f'{{"pid": {10**30}, "since": 0}}',
        }
        holder.write_text(written[note])
        assert device._held_by(Slot("cpu:0")) == "cpu:0 held"
    for _ in range(2):
        with device.hold(Execution(devices=["cpu:0"])) as (_, slot):
            assert slot is not None and device.is_held(slot)
    assert sorted(path.name for path in locks.iterdir()) in (
        ["cpu-0.holder", "cpu-0.lock"],
        ["cpu-0.lock"],
    )


AS_ANOTHER_USER = (
    "import os, psutil, torch; from components import device; os.setgid(65534); os.setuid(65534)\n"
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_note_of_another_users_dead_process_is_not_believed_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(["true"]) as dead:
        dead.wait()
        Path(folder).chmod(0o755)
        locks = Path(folder) / "locks"
        monkeypatch.setenv("LATENTFLOW_DEVICE_LOCKS", str(locks))
        with device.hold(Execution(devices=["cpu:0"])):
            pass
        assert locks.stat().st_mode & 0o1777 == 0o1777
        holder = locks / "cpu-0.holder"
        # ours, and the folder is sticky
        holder.write_text(json.dumps({"pid": dead.pid, "since": time.time()}))
        holder.chmod(0o644)
        command = [sys.executable, "-c", AS_ANOTHER_USER + TAKE_TURNS, '["cpu:0"]', "1", "0.5"]
        other = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while other.poll() is None and not device.is_held(Slot("cpu:0")):
            time.sleep(0.02)
        said = device._held_by(Slot("cpu:0"))
        told, wrong = other.communicate(timeout=60)
        assert len(json.loads(told or "[]")) == 1, wrong
        assert said == "cpu:0 held", "the note names who is dead"
        assert holder.exists()


def test_a_device_listed_twice_has_two_slots() -> None:
    settings = Execution(devices=["cpu", "cpu:0"])
    with device.hold(settings) as (_, first), device.hold(settings) as (_, second):
        assert (first, second) == (Slot("cpu:0", 0), Slot("cpu:0", 1))


def test_the_task_computes_on_the_slots_device() -> None:
    with device.hold(Execution(devices=["cpu:1"], device="cuda")) as (settings, _):
        assert device.resolve(settings.device) == torch.device("cpu")


def test_on_the_cpu_nobody_takes_turns_unless_asked() -> None:
    with device.hold(Execution(device="cpu")) as (settings, slot):
        assert (settings, slot) == (Execution(device="cpu"), None)


def test_a_slot_is_named_after_the_physical_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Slot("cuda:3").label == "cuda-3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1f")
    assert (Slot("cuda:0").label, Slot("cuda:1").label) == ("cuda-3", "cuda-GPU-1f")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_processes_that_a_task_starts_see_its_device_alone() -> None:
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    last = f"cuda:{torch.cuda.device_count() - 1}"
    with device.hold(Execution(devices=[last])) as (settings, slot):
        assert slot is not None
        assert os.environ["CUDA_VISIBLE_DEVICES"] == slot.visible
        assert torch.zeros(1, device=settings.device).device == torch.device(last)
        count = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
        assert (
            subprocess.run(count, capture_output=True, text=True, check=True).stdout.strip() == "1"
        )
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_where_auto_means_cuda_each_device_is_a_slot() -> None:
    assert [slot.name for slot in device.slots(Execution())] == [
        f"cuda:{i}" for i in range(torch.cuda.device_count())
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="sees no CUDA device here"):
        device.slots(Execution(devices=["cuda:0"]))


def test_a_name_that_is_no_device_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"execution\.devices: wanted names such as cuda:0 or cpu:0, got 'gpu0'"
    ):
        device.slots(Execution(devices=["gpu0"]))


def test_slots_change_no_key() -> None:
    other = ExperimentConfig(execution=Execution(devices=["cpu:0", "cpu:1"]))
    assert canonical(other) == canonical(ExperimentConfig())
