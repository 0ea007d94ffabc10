"""The stack binds to loopback, says nothing to anybody, refuses what is taken, and is one for each state folder."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.faults import only_complete
from components.errors import ConfigError, ServiceError
from flows import environment, processes, slots, stack
from tests.stacks import TINY, Room

LOGIN = ("reviewer", "correct-horse-battery")


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
    assert environment.defaults()["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("lease_storage.filesystem")


def test_a_port_in_use_is_named_with_its_holder_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("LATENTFLOW_MLFLOW_PORT", str(taken.getsockname()[1]))
        wanted = rf"port \d+, wanted for mlflow, is held by process {os.getpid()} .*set LATENTFLOW_MLFLOW_PORT"
        with pytest.raises(ServiceError, match=wanted):
            processes.refuse_port("mlflow")


def test_a_port_that_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTFLOW_MLFLOW_PORT", "five")
    with pytest.raises(ConfigError, match="LATENTFLOW_MLFLOW_PORT: wanted a port from 1 to 65535, got 'five'"):
        environment.port("mlflow")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "bench.example.org"])
def test_a_public_address_needs_leave_and_hears_of_authentication(
    state: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_HOST", "127.0.0.1")
    with pytest.raises(ServiceError, match=r"LATENTFLOW_AUTH=name:password.*Streamlit.*needs a proxy.*--public"):
        stack.up(host)
    stack._refuse_host(host, public=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machines_own_addresses_need_no_leave(host: str) -> None:
    stack._refuse_host(host, public=False)


def test_a_login_that_mlflow_would_refuse_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTFLOW_AUTH", "me:short")
    with pytest.raises(ConfigError, match="name:password with a password of at least 12 characters") as refused:
        environment.login()
    assert "short" not in str(refused.value).replace("shorter", "")


def test_down_and_status_say_that_nothing_runs(state: Path) -> None:
    assert stack.down() == f"no stack runs on state folder {state}"
    assert {row["state"].partition(";")[0] for row in stack.status()} == {"not running"}


def test_what_a_killed_supervisor_left_is_stopped(state: Path) -> None:
    import subprocess
    import sys

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    gone = {**processes.identity(), "created": 1.0}
    left = {"mlflow": {**processes.identity(child.pid), "address": "http://127.0.0.1:1"}}
    processes.write_record(state / "stack.json", {**gone, "children": left})
    assert stack.down().endswith("had lost its supervisor; 1 processes stopped")
    assert child.wait(5) != 0


class TestUp:
    """One real stack, with a login where MLflow can ask for one, looked at from every side and then broken."""

    pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]

    @pytest.fixture(scope="class")
    def room(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
        login = {"LATENTFLOW_AUTH": ":".join(LOGIN)} if importlib.util.find_spec("flask_wtf") else {}
        room = Room(tmp_path_factory.mktemp("stack"), **login)
        if login:
            room.environment |= dict.fromkeys(("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"), ":".join(LOGIN))
        room.up()
        yield room
        room.close()

    def test_three_addresses_are_printed_and_every_process_is_up(self, room: Room) -> None:
        printed = room.text("up.log")
        for tool in ("prefect", "mlflow", "streamlit"):
            assert f"http://127.0.0.1:{room.ports[tool]}" in printed
        status, rows = room.run("status", "--json")
        assert status == 0
        rows = json.loads(rows)
        assert {row["name"] for row in rows} == {child.name for child in stack.CHILDREN}
        assert {row["state"] for row in rows} == {"up"}
        light = [row["memory_mb"] for row in rows if row["name"] in ("prefect", "mlflow", "streamlit", "serve")]
        assert sum(light) < 1250

    def test_a_second_stack_on_the_same_folder_is_a_sentence(self, room: Room) -> None:
        status, output = room.run("up")
        assert status == 2
        assert "ServiceError: a stack already runs on state folder" in output
        assert "Traceback" not in output

    def test_authentication_is_asked_for(self, room: Room) -> None:
        if "LATENTFLOW_AUTH" not in room.environment:
            pytest.skip("MLflow asks for a login only with flask-wtf (pip install latentflow[auth])")
        prefect = f"http://127.0.0.1:{room.ports['prefect']}/api/flows/filter"
        mlflow = f"http://127.0.0.1:{room.ports['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
        assert httpx.post(prefect, json={}).status_code == 401
        assert httpx.post(prefect, json={}, auth=("reviewer", "wrong-wrong-wrong")).status_code == 401
        assert httpx.post(prefect, json={}, auth=LOGIN).status_code == 200
        assert httpx.get(mlflow, timeout=30).status_code == 401
        assert httpx.get(mlflow, auth=("reviewer", "wrong-wrong-wrong"), timeout=30).status_code == 401
        assert httpx.get(mlflow, auth=LOGIN, timeout=30).status_code == 200
        assert LOGIN[1] not in room.text("up.log")

    def test_the_slots_of_this_machine_are_reset(self, room: Room) -> None:
        assert {limit["active_slots"] for limit in room.api("v2/concurrency_limits/filter", {})} <= {0}

    def test_a_cancelled_run_stops_within_ten_seconds_and_leaves_complete_artifacts_only(self, room: Room) -> None:
        run = room.trigger("experiment")
        room.until(lambda: any((room.store / "evaluate").glob("*.partial")), log="up.log")
        limits = room.api("v2/concurrency_limits/filter", {})
        assert {limit["name"]: limit["active_slots"] for limit in limits}[slots.limit(slots.Slot("cpu:0"))] == 1
        began = time.monotonic()
        room.api(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        ended = room.until_ended(run, 30)
        assert ended["type"] == "CANCELLED"
        assert time.monotonic() - began < 10
        assert only_complete(room.store)
        assert list(room.store.glob("*/*/manifest.json"))
        assert not list((room.folder / "locks").glob("*.holder"))

    def test_a_run_says_its_choices_and_leads_to_the_other_windows(self, room: Room) -> None:
        run = room.api("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
        assert run["name"] == "tiny · demo · resid_post.2 · topk-128-k8"
        assert {"model:demo", "hook_point:resid_post.2", "dictionary:topk-128-k8", "tiny"} <= set(run["tags"])
        wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
        links = {found["key"]: found["data"] for found in room.api("artifacts/filter", wanted)}
        assert f"127.0.0.1:{room.ports['mlflow']}/#/experiments/" in links["mlflow"]
        assert f"127.0.0.1:{room.ports['streamlit']}" in links["streamlit"]

    def test_a_command_line_run_uses_the_stacks_server(self, room: Room) -> None:
        before = room.child("prefect")
        arguments = ("read", "--params", str(TINY), f"execution.store={room.store}", "name=by hand")
        status, output = room.run(*arguments)
        assert status == 0, output
        newest = room.api("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
        assert newest["name"].startswith("by hand")
        assert newest["state"]["type"] == "COMPLETED"
        assert psutil.pid_exists(before)

    def test_a_stage_that_fails_is_one_sentence_in_the_terminal(self, room: Room) -> None:
        wrong = ("read.corpus.kind=text", "read.corpus.path=/nowhere", f"execution.store={room.store}")
        status, output = room.run("read", *wrong)
        assert status == 2
        assert output.strip().splitlines() == [
            "CorpusError: read.corpus.path: wanted a file or folder, but nothing is at '/nowhere' (/nowhere)"
        ]

    def test_the_death_of_a_child_ends_everything(self, room: Room) -> None:
        record = json.loads((room.folder / "state" / "stack.json").read_text())
        psutil.Process(record["children"]["streamlit"]["pid"]).kill()
        room.until(lambda: not processes.lives(record), 40, "up.log")
        assert "streamlit ended with status -9; stopping the others" in room.text("up.log")
        assert not [name for name, child in record["children"].items() if processes.lives(child)]
        assert all(processes.is_free(port) for port in room.ports.values())
