"""A run that Prefect cannot read any more keeps no command and no page from the others; dead ones
are found by their locks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import streamlit as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Running

from components.errors import ServiceError
from dashboards import workflow
from flows.stack import reaping, server

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]


@flow
def nothing() -> None:
    """Stands for any flow."""


@pytest.fixture
def prefect(servers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the session's Prefect server, which counts as this state folder's own."""
    monkeypatch.setenv("LATENTFLOW_STATE", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    address = str(PREFECT_API_URL.value()).removesuffix("/api")
    monkeypatch.setenv("LATENTFLOW_PREFECT_URL", address)
    st.cache_resource.clear()
    server.record(os.getpid(), "run")
    return address


@pytest.fixture
def unreadable(prefect: str) -> Iterator[str]:
    """A run with a parameter beyond 64 bits, as versions without bounds could make one."""
    with get_client(sync_client=True) as client:
        identity = str(client.create_flow_run(nothing, state=Running()).id)
    body = {
        "flow_id": str(flow_of(identity)),
        "parameters": {"seed": 2**70},
        "state": {"type": "RUNNING"},
    }
    found = httpx.post(f"{prefect}/api/flow_runs/", json=body, timeout=30).json()["id"]
    one = {"flow_runs": {"id": {"any_": [found]}}}
    assert httpx.post(f"{prefect}/api/flow_runs/filter", json=one, timeout=30).status_code == 500, (
        "it does no harm"
    )
    yield found
    for run in (found, identity):
        httpx.delete(f"{prefect}/api/flow_runs/{run}", timeout=30)


def flow_of(identity: str) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(uuid.UUID(identity)).flow_id


def test_pages_list_every_run_beside_one_that_prefect_cannot_list(
    prefect: str, unreadable: str
) -> None:
    with pytest.raises(workflow.Unreadable):
        workflow._ask("flow_runs/filter", {"limit": 15})
    listed = {run.id: run for run in workflow.recent(200)}
    assert len(listed) >= 2
    assert listed[unreadable].state == "RUNNING" and listed[unreadable].flow == "nothing"
    assert unreadable in {run.id for run in workflow.unfinished()}
    assert workflow.flow_run(unreadable).name == listed[unreadable].name
    assert workflow.tasks(unreadable) == []


def test_a_run_that_cannot_be_read_in_any_way_is_a_row_that_says_so(
    prefect: str, unreadable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = workflow._ask

    def fail_over_it(path: str, body: Any) -> Any:
        if path == f"flow_runs/{unreadable}":
            raise workflow.Unreadable("Prefect refuses: Internal Server Error")
        return ask(path, body)

    monkeypatch.setattr(workflow, "_ask", fail_over_it)
    listed = {run.id: run for run in workflow.recent(200)}
    assert (
        listed[unreadable].state_name == "Unreadable" and unreadable in listed[unreadable].message
    )
    assert [run.state_name for run in listed.values()].count("Unreadable") == 1 < len(listed)


def test_a_run_that_cannot_be_read_does_not_stop_the_reaping_of_others(
    prefect: str, unreadable: str, caplog: pytest.LogCaptureFixture
) -> None:
    with get_client(sync_client=True) as client:
        dead = client.create_flow_run(nothing, state=Running())
        alive = client.create_flow_run(nothing, state=Running())
    reaping.run_lock(str(dead.id)).acquire()
    reaping.run_lock(str(dead.id)).release(force=True)
    (Path(reaping.run_lock(str(dead.id)).lock_file)).touch()  # a process had it, and is gone
    Path(reaping.run_lock(unreadable).lock_file).touch()
    with reaping.run_lock(str(alive.id)):
        names = reaping.reap()
    assert dead.name in names and alive.name not in names
    assert "Prefect cannot list 1 of its own flow runs" in caplog.text and unreadable in caplog.text
    assert (
        httpx.get(f"{prefect}/api/flow_runs/{unreadable}", timeout=30).json()["state_type"]
        == "CRASHED"
    )
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(dead.id).state_name == "Crashed"
        assert client.read_flow_run(alive.id).state_name == "Running"
        for run in (dead, alive):
            client.delete_flow_run(run.id)


def test_a_clock_that_was_set_back_hides_no_dead_run(
    prefect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is dated after the server's start; that its lock is there and free says that its
    process is gone."""
    with get_client(sync_client=True) as client:
        dead, new = (client.create_flow_run(nothing, state=Running()) for _ in range(2))
    assert dead.state is not None and dead.state.timestamp < datetime.now(UTC)
    before = server.own()
    assert before is not None
    monkeypatch.setattr(server, "own", lambda: {**before, "created": 1.0})
    Path(reaping.run_lock(str(dead.id)).lock_file).touch()
    names = reaping.reap()
    assert dead.name in names and new.name not in names
    with get_client(sync_client=True) as client:
        for run in (dead, new):
            client.delete_flow_run(run.id)


def test_a_server_that_fails_over_everything_keeps_no_command_from_its_work(
    prefect: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise ServiceError("the database is damaged")

    monkeypatch.setattr(reaping, "_page", fail)
    assert reaping.reap() == []
    assert (
        "Prefect could not look for runs whose process is gone (ServiceError: the database is "
        "damaged)" in caplog.text
    )
