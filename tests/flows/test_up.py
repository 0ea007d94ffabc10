"""One real stack, with a login where MLflow can ask for one, looked at from every side and then broken."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.faults import Bench, evaluating, only_complete
from components.experiment import ExperimentConfig
from flows import processes, slots, stack
from tests.stacks import TINY, Room

LOGIN = ("reviewer", "correct-horse-battery")
pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def room(config: ExperimentConfig, first: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Its store has everything of the tiny experiment but the last stages."""
    login = {"LATENTFLOW_AUTH": ":".join(LOGIN)} if importlib.util.find_spec("flask_wtf") else {}
    bench = Bench(tmp_path_factory.mktemp("stack"), Path(config.execution.store))
    room = bench.room("up", **login)
    if login:
        room.environment |= dict.fromkeys(
            ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"), ":".join(LOGIN)
        )
    process = room.up()
    yield room
    room.close()
    process.wait(30)


def test_three_addresses_are_printed_and_every_process_is_up(room: Room) -> None:
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


def test_a_second_stack_on_the_same_folder_is_a_sentence(room: Room) -> None:
    status, output = room.run("up")
    assert status == 2
    assert "ServiceError: a stack already runs on state folder" in output
    assert "Traceback" not in output


def test_authentication_is_asked_for(room: Room) -> None:
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


def test_the_slots_of_this_machine_are_reset(room: Room) -> None:
    assert {limit["active_slots"] for limit in room.api("v2/concurrency_limits/filter", {})} <= {0}


def test_a_cancelled_run_stops_within_ten_seconds_and_leaves_complete_artifacts_only(room: Room) -> None:
    run = room.trigger("experiment")
    room.until(evaluating(room), log="up.log")
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


def test_a_run_says_its_choices_and_leads_to_the_other_windows(room: Room) -> None:
    run = room.api("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert run["name"] == "tiny · demo · resid_post.2 · topk-128-k8"
    assert {"model:demo", "hook_point:resid_post.2", "dictionary:topk-128-k8", "tiny"} <= set(run["tags"])
    wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    links = {found["key"]: found["data"] for found in room.api("artifacts/filter", wanted)}
    assert f"127.0.0.1:{room.ports['mlflow']}/#/experiments/" in links["mlflow"]
    assert f"127.0.0.1:{room.ports['streamlit']}" in links["streamlit"]


def test_a_command_line_run_uses_the_stacks_server(room: Room) -> None:
    before = room.child("prefect")
    arguments = ("read", "--params", str(TINY), f"execution.store={room.store}", "name=by hand")
    status, output = room.run(*arguments)
    assert status == 0, output
    newest = room.api("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert newest["name"].startswith("by hand")
    assert newest["state"]["type"] == "COMPLETED"
    assert psutil.pid_exists(before)


def test_a_stage_that_fails_is_one_sentence_in_the_terminal(room: Room) -> None:
    wrong = ("read.corpus.kind=text", "read.corpus.path=/nowhere", f"execution.store={room.store}")
    status, output = room.run("read", *wrong)
    assert status == 2
    assert output.strip().splitlines() == [
        "CorpusError: read.corpus.path: wanted a file or folder, but nothing is at '/nowhere' (/nowhere)"
    ]


def test_the_death_of_a_child_ends_everything(room: Room) -> None:
    record = json.loads((room.folder / "state" / "stack.json").read_text())
    psutil.Process(record["children"]["streamlit"]["pid"]).kill()
    room.until(lambda: not processes.lives(record), 40, "up.log")
    assert "streamlit ended with status -9; stopping the others" in room.text("up.log")
    assert not [name for name, child in record["children"].items() if processes.lives(child)]
    assert all(processes.is_free(port) for port in room.ports.values())
