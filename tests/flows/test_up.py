"""One real stack, with a login where MLflow can ask for one, looked at from every side and then
broken."""

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
from flows.stack import processes, slots
from flows.stack import supervisor as stack
from tests.stacks import TINY, Room

LOGIN = ("reviewer", "correct-horse-battery")
pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def up(
    config: ExperimentConfig, first: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Room]:
    """Its store has everything of the tiny experiment but the last stages."""
    login = {"LATENTFLOW_AUTH": ":".join(LOGIN)} if importlib.util.find_spec("flask_wtf") else {}
    bench = Bench(tmp_path_factory.mktemp("stack"), Path(config.execution.store))
    up = bench.room("up", **login)
    if login:
        up.environment |= dict.fromkeys(
            ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"), ":".join(LOGIN)
        )
    process = up.up()
    yield up
    up.close()
    process.wait(30)


def test_three_addresses_are_printed_and_every_process_is_up(up: Room) -> None:
    printed = up.text("up.log")
    for tool in ("prefect", "mlflow", "streamlit"):
        assert f"http://127.0.0.1:{up.ports[tool]}" in printed
    status, rows = up.run("status", "--json")
    assert status == 0
    rows = json.loads(rows)
    assert {row["name"] for row in rows} == {child.name for child in stack.CHILDREN}
    assert {row["state"] for row in rows} == {"up"}
    light = [
        row["memory_mb"]
        for row in rows
        if row["name"] in ("prefect", "mlflow", "streamlit", "serve")
    ]
    assert sum(light) < 1250


def test_a_second_stack_on_the_same_folder_is_a_sentence(up: Room) -> None:
    status, output = up.run("up")
    assert status == 2
    assert "ServiceError: a stack already runs on state folder" in output
    assert "Traceback" not in output


def test_authentication_is_asked_for(up: Room) -> None:
    if "LATENTFLOW_AUTH" not in up.environment:
        pytest.skip("MLflow asks for a login only with flask-wtf (pip install latentflow[auth])")
    prefect = f"http://127.0.0.1:{up.ports['prefect']}/api/flows/filter"
    mlflow = (
        f"http://127.0.0.1:{up.ports['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
    )
    assert httpx.post(prefect, json={}).status_code == 401
    assert httpx.post(prefect, json={}, auth=("reviewer", "wrong-wrong-wrong")).status_code == 401
    assert httpx.post(prefect, json={}, auth=LOGIN).status_code == 200
    assert httpx.get(mlflow, timeout=30).status_code == 401
    assert httpx.get(mlflow, auth=("reviewer", "wrong-wrong-wrong"), timeout=30).status_code == 401
    assert httpx.get(mlflow, auth=LOGIN, timeout=30).status_code == 200
    assert LOGIN[1] not in up.text("up.log")


def test_the_slots_of_this_machine_are_reset(up: Room) -> None:
    assert {limit["active_slots"] for limit in up.api("v2/concurrency_limits/filter", {})} <= {0}


def test_a_cancelled_run_stops_within_ten_seconds_and_leaves_complete_artifacts_only(
    up: Room,
) -> None:
    run = up.trigger("experiment")
    up.until(evaluating(up), log="up.log")
    limits = up.api("v2/concurrency_limits/filter", {})
    assert {limit["name"]: limit["active_slots"] for limit in limits}[
        slots.limit(slots.Slot("cpu:0"))
    ] == 1
    began = time.monotonic()
    up.api(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    ended = up.until_ended(run, 30)
    assert ended["type"] == "CANCELLED"
    assert time.monotonic() - began < 10
    assert only_complete(up.store)
    assert list(up.store.glob("*/*/manifest.json"))
    assert not list((up.folder / "locks").glob("*.holder"))


def test_a_run_says_its_choices_and_leads_to_the_other_windows(up: Room) -> None:
    run = up.api("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert run["name"] == "tiny · demo · resid_post.2 · topk-128-k8"
    assert {"model:demo", "hook_point:resid_post.2", "dictionary:topk-128-k8", "tiny"} <= set(
        run["tags"]
    )
    wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    links = {found["key"]: found["data"] for found in up.api("artifacts/filter", wanted)}
    assert f"127.0.0.1:{up.ports['mlflow']}/#/experiments/" in links["mlflow"]
    assert f"127.0.0.1:{up.ports['streamlit']}" in links["streamlit"]


def test_a_command_line_run_uses_the_stacks_server(up: Room) -> None:
    before = up.child("prefect")
    arguments = ("read", "--params", str(TINY), f"execution.store={up.store}", "name=by hand")
    status, output = up.run(*arguments)
    assert status == 0, output
    newest = up.api("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert newest["name"].startswith("by hand")
    assert newest["state"]["type"] == "COMPLETED"
    assert psutil.pid_exists(before)


def test_a_stage_that_fails_is_one_sentence_in_the_terminal(up: Room) -> None:
    wrong = ("read.corpus.kind=text", "read.corpus.path=/nowhere", f"execution.store={up.store}")
    status, output = up.run("read", *wrong)
    assert status == 2
    assert output.strip().splitlines() == [
        "CorpusError: read.corpus.path: wanted a file or folder, but nothing is at '/nowhere' "
        "(/nowhere)"
    ]


def test_the_death_of_a_child_ends_everything(up: Room) -> None:
    record = json.loads((up.folder / "state" / "stack.json").read_text())
    psutil.Process(record["children"]["streamlit"]["pid"]).kill()
    up.until(lambda: not processes.lives(record), 40, "up.log")
    assert "streamlit ended with status -9; stopping the others" in up.text("up.log")
    assert not [name for name, child in record["children"].items() if processes.lives(child)]
    assert all(processes.is_free(port) for port in up.ports.values())
