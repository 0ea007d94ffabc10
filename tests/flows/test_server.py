"""A command line run uses its own folder's Prefect server, and no other; a newer state folder is refused in words."""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import ServiceError
from flows import environment, processes, server


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
    monkeypatch.setattr(server, "command", lambda: [sys.executable, "-c", "import time; time.sleep(60)"])


def test_another_clones_server_is_not_used_and_a_free_port_is_taken(other_clone: int, sleeper: None) -> None:
    assert processes.answers(f"http://127.0.0.1:{other_clone}/api/health")
    with server.prefect_server() as found:
        assert found.started
        assert found.address != f"http://127.0.0.1:{other_clone}"
        assert os.environ["PREFECT_API_URL"] == f"{found.address}/api" == f"{environment.address('prefect')}/api"
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
        pytest.raises(ServiceError, match=rf"port {other_clone}, wanted for prefect, is held by process {os.getpid()}"),
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
    processes.write_record(state / "prefect" / "server.json", {**me, "created": me["created"] - 60, "port": 1})
    assert server.own() is None  # the pid was used again


def test_a_state_folder_of_a_newer_version_is_refused(state: Path) -> None:
    server.refuse_newer_state()
    written = json.loads((state / "versions.json").read_text())
    server.refuse_newer_state()
    (state / "versions.json").write_text(json.dumps(written | {"prefect": "99.1"}))
    with pytest.raises(
        ServiceError, match=r"was written by a newer version \(prefect 99\.1, here 3\..*LATENTFLOW_STATE"
    ):
        server.refuse_newer_state()
    (state / "versions.json").write_text(json.dumps(written | {"format": 99}))
    with pytest.raises(ServiceError, match=r"was written by a newer version \(format 99, here 1"):
        server.refuse_newer_state()
