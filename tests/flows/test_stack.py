"""The stack binds to loopback, says nothing to anybody, refuses what is taken, and is one for each
state folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from components.errors import ConfigError, ServiceError
from flows.stack import environment, processes
from flows.stack import supervisor as stack


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTFLOW_STATE", str(tmp_path))
    monkeypatch.delenv("LATENTFLOW_AUTH", raising=False)
    return tmp_path


def test_every_server_binds_to_loopback_only(state: Path) -> None:
    for child in stack.CHILDREN:
        command = child.command()
        assert not [part for part in command if "0.0.0.0" in part]
        if child.health:
            assert "127.0.0.1" in command


def test_telemetry_is_off_whatever_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    environment.apply()
    assert os.environ["DO_NOT_TRACK"] == "true"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_leases_are_kept_on_disk() -> None:
    assert environment.defaults()["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith(
        "lease_storage.filesystem"
    )


def test_a_port_in_use_is_named_with_its_holder_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("LATENTFLOW_MLFLOW_PORT", str(taken.getsockname()[1]))
        wanted = rf"port \d+, wanted for mlflow, is held by process {os.getpid()} .*set LATENTFLOW_MLFLOW_PORT"
        with pytest.raises(ServiceError, match=wanted):
            processes.refuse_port("mlflow")


def test_the_live_worker_is_a_child_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTFLOW_LIVE_PORT", raising=False)
    assert environment.address("live") == "http://127.0.0.1:8600"
    live = next(child for child in stack.CHILDREN if child.name == "live")
    assert live.command()[1:3] == ["-m", "flows.live"] and live.health == "/health"


def test_a_port_that_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTFLOW_MLFLOW_PORT", "five")
    with pytest.raises(
        ConfigError, match="LATENTFLOW_MLFLOW_PORT: wanted a port from 1 to 65535, got 'five'"
    ):
        environment.port("mlflow")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "bench.example.org"])
def test_a_public_address_needs_leave_and_hears_of_authentication(
    state: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_HOST", "127.0.0.1")
    with pytest.raises(
        ServiceError, match=r"LATENTFLOW_AUTH=name:password.*Streamlit.*needs a proxy.*--public"
    ):
        stack.up(host)
    stack._refuse_host(host, public=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machines_own_addresses_need_no_leave(host: str) -> None:
    stack._refuse_host(host, public=False)


def test_a_login_that_mlflow_would_refuse_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTFLOW_AUTH", "me:short")
    with pytest.raises(
        ConfigError, match="name:password with a password of at least 12 characters"
    ) as refused:
        environment.login()
    assert "short" not in str(refused.value).replace("shorter", "")


def test_down_and_status_say_that_nothing_runs(state: Path) -> None:
    assert stack.down() == f"no stack runs on state folder {state}"
    assert {row["state"].partition(";")[0] for row in stack.status()} == {"not running"}


def test_what_a_killed_supervisor_left_is_stopped(state: Path) -> None:
    sleeper = "import time; time.sleep(60); print('ended by itself')"
    child = subprocess.Popen(
        [sys.executable, "-c", sleeper], start_new_session=True, stdout=subprocess.PIPE
    )
    gone = {**processes.identity(), "created": 1.0, "started": "another start of the machine 1"}
    left = {"mlflow": {**processes.identity(child.pid), "address": "http://127.0.0.1:1"}}
    processes.write_record(state / "stack.json", {**gone, "children": left})
    assert stack.down().endswith("had lost its supervisor; 1 processes stopped")
    # its exit status may have been collected by who stopped it
    told, _ = child.communicate(timeout=5)
    assert told == b"" and not psutil.pid_exists(child.pid)


def test_a_supervisor_that_does_not_stop_is_killed_with_its_children(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); held = b'x' * 2**29; "
        # so much memory takes a moment to give back: it dies slowly
        "print('ready', flush=True); time.sleep(60)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, text=True)
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    assert supervisor.stdout is not None and supervisor.stdout.readline() == "ready\n"
    left = {"mlflow": processes.identity(child.pid)}
    processes.write_record(
        state / "stack.json", {**processes.identity(supervisor.pid), "children": left}
    )
    monkeypatch.setattr(stack, "SECONDS_TO_STOP", 0.3)
    try:
        assert stack.down().endswith("did not stop within 0.3 s and was killed")
        assert not processes.lives(left["mlflow"])
    finally:
        for process in (supervisor, child):
            process.kill()
            process.communicate()
