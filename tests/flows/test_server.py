"""A command line run uses its own folder's Prefect server, and no other; a newer state folder is
refused in words."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components.errors import ConfigError, ServiceError
from flows.stack import environment, processes, server
from flows.stack import supervisor as stack
from tests.stacks import REPOSITORY


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTFLOW_STATE", str(tmp_path / "state"))
    for name in ("PREFECT_API_URL", "LATENTFLOW_PREFECT_PORT", "LATENTFLOW_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


@pytest.fixture
def other_clone(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server of somebody else, which answers Prefect's health page on what is the usual port."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        monkeypatch.setitem(environment.PORTS, "prefect", found.server_port)
        yield found.server_port
        found.shutdown()
        thread.join()


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stands for the server: only its life matters here."""
    monkeypatch.setattr(
        server, "command", lambda: [sys.executable, "-c", "import time; time.sleep(60)"]
    )


def test_another_clones_server_is_not_used_and_a_free_port_is_taken(
    other_clone: int, sleeper: None
) -> None:
    assert processes.answers(f"http://127.0.0.1:{other_clone}/api/health")
    with server.prefect_server() as found:
        assert found.started
        assert found.address != f"http://127.0.0.1:{other_clone}"
        assert (
            os.environ["PREFECT_API_URL"]
            == f"{found.address}/api"
            == f"{environment.address('prefect')}/api"
        )
    assert "PREFECT_API_URL" not in os.environ


def test_runs_of_one_folder_share_a_server_and_the_last_one_stops_it(sleeper: None) -> None:
    with server.prefect_server() as first:
        found = server.own()
        assert found is not None
        os.environ.pop("PREFECT_API_URL")
        with server.prefect_server() as second:
            assert (first.started, second.started, first.address) == (True, False, second.address)
    assert not processes.lives(found)
    assert server.own() is None


def test_a_port_that_was_asked_for_and_is_taken_is_refused_with_its_holder(
    other_clone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_PREFECT_PORT", str(other_clone))
    with (
        pytest.raises(
            ServiceError,
            match=rf"port {other_clone}, wanted for prefect, is held by process {os.getpid()}",
        ),
        server.prefect_server(),
    ):
        pass
    assert server.users() == []


def test_a_server_that_dies_under_a_run_is_started_again_on_its_port(sleeper: None) -> None:
    with server.prefect_server():
        first = server.own()
        assert first is not None
        processes.stop_all([first["pid"]])
        for _ in range(100):
            if second := server.own():
                break
            threading.Event().wait(0.1)
        assert second is not None
        assert second["pid"] != first["pid"] and second["port"] == first["port"]


def test_a_record_of_a_process_that_is_gone_names_nobody(state: Path) -> None:
    me = processes.identity()
    processes.write_record(state / "prefect" / "server.json", {**me, "port": 1, "owner": "run"})
    assert server.own() is not None
    again = {**me, "created": me["created"] - 60, "started": me["started"] + "0", "port": 1}
    processes.write_record(state / "prefect" / "server.json", again)
    assert server.own() is None  # the pid was used again
    processes.write_record(
        state / "prefect" / "server.json", {"pid": me["pid"], "created": me["created"] - 60}
    )
    assert server.own() is None  # as older versions wrote it


@pytest.mark.skipif(
    sys.platform != "linux", reason="psutil counts from the machine's start on Linux"
)
@pytest.mark.parametrize("hours", [-1, 1, 24 * 365])
def test_a_clock_that_was_set_does_not_hide_a_process(
    state: Path, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.write_record(
        state / "prefect" / "server.json", {**processes.identity(), "port": 1, "owner": "run"}
    )
    told = psutil._pslinux.boot_time()  # type: ignore[attr-defined]
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: told + 3600 * hours)  # type: ignore[attr-defined]
    moved = psutil.Process().create_time()
    found = server.own()
    assert found is not None and found["pid"] == os.getpid()
    assert abs(moved - found["created"]) > 3000, "the clock was not set"


def test_records_go_with_a_folder_that_is_moved_and_not_with_a_copy(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.record(os.getpid(), "up")
    processes.write_record(state / "stack.json", {**processes.identity(), "children": {}})
    server.refuse_newer_state()
    shutil.copytree(state, tmp_path / "copy")
    monkeypatch.setenv("LATENTFLOW_STATE", str(tmp_path / "copy"))
    assert server.own() is None, "a run in the copy would write into the original's database"
    assert stack.down() == f"no stack runs on state folder {tmp_path / 'copy'}", (
        "it would have stopped this process"
    )
    assert processes.read_any(tmp_path / "copy" / "versions.json"), (
        "what names no process is as true in a copy"
    )
    state.rename(tmp_path / "moved")
    monkeypatch.setenv("LATENTFLOW_STATE", str(tmp_path / "moved"))
    assert server.own() is not None


RUN = """
import sys, time
from flows.stack import server
server.command = lambda: [sys.executable, "-c", "from flows.stack import prefect_server; prefect_server.watch()"]
with server.prefect_server():
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_server(state: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        found = server.own()
        assert found is not None and found["owner"] == "run"
        run.send_signal(number)
        assert run.wait(20) in (128 + number, -number)
    end = time.monotonic() + (0 if number != signal.SIGKILL else 15)
    while processes.lives(found) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes.lives(found)
    assert server.own() is None and server.users() == []


def test_down_stops_the_server_of_a_run_that_is_gone_and_spares_that_of_one_that_lives(
    state: Path, sleeper: None
) -> None:
    with server.prefect_server():
        found = server.own()
        assert found is not None
        assert (
            f"uses a Prefect server of its own (runs: {os.getpid()}), which ends with it"
            in stack.down()
        )
        assert processes.lives(found)
        (state / "prefect" / "users" / str(os.getpid())).unlink()
        assert f"the Prefect server (process {found['pid']}) that a run on" in stack.down()
        assert not processes.lives(found)


def test_a_server_that_ends_at_once_is_started_a_few_times_and_its_log_is_named(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = state / "tries"
    dies = f"open({str(tries)!r}, 'a').write('x'); raise SystemExit('unable to open database file')"
    monkeypatch.setattr(server, "command", lambda: [sys.executable, "-c", dies])
    began = time.monotonic()
    wanted = (
        r"ended 3 times while it started \(unable to open database file\); its log is .*server\.log"
    )
    with pytest.raises(ServiceError, match=wanted), server.prefect_server() as found:
        found.wait()
    assert tries.read_text() == "xxx"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("name", ["half 50% done", "what?", "issue #3"])
def test_a_state_folder_that_no_address_can_hold_is_refused_before_anything_is_made(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_STATE", str(tmp_path / name / "state"))
    with (
        pytest.raises(ConfigError, match=r"has [%?#] in its path.*set LATENTFLOW_STATE"),
        server.prefect_server(),
    ):
        pass
    with pytest.raises(ConfigError, match=r"has [%?#] in its path"):
        stack.up()
    assert not list(tmp_path.iterdir())


def test_a_server_that_was_named_and_is_not_there_is_said_with_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "SECONDS_FOR_ANOTHERS", 0.5)
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{processes.free_port()}/api")
    with (
        pytest.raises(ServiceError, match="PREFECT_API_URL names it"),
        server.prefect_server() as found,
    ):
        found.wait()


def test_a_state_folder_of_a_newer_version_is_refused(state: Path) -> None:
    server.refuse_newer_state()
    written = json.loads((state / "versions.json").read_text())
    server.refuse_newer_state()
    (state / "versions.json").write_text(json.dumps(written | {"prefect": "99.1"}))
    with pytest.raises(
        ServiceError,
        match=r"was written by a newer version \(prefect 99\.1, here 3\..*LATENTFLOW_STATE",
    ):
        server.refuse_newer_state()
    (state / "versions.json").write_text(json.dumps(written | {"format": 99}))
    with pytest.raises(ServiceError, match=r"was written by a newer version \(format 99, here 1"):
        server.refuse_newer_state()
