"""The stack binds to loopback, says nothing to anybody, and refuses what is taken."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from components.errors import ServiceError
from flows import environment, stack


def test_every_server_binds_to_loopback_only() -> None:
    for tool in stack.HEALTH:
        command = stack.command(tool)
        assert "127.0.0.1" in command
        assert not [part for part in command if "0.0.0.0" in part]


def test_telemetry_is_off_whatever_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    environment.apply()
    assert os.environ["DO_NOT_TRACK"] == "true"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_port_in_use_is_named_with_its_holder_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("LATENTFLOW_MLFLOW_PORT", str(taken.getsockname()[1]))
        wanted = rf"port \d+, wanted for mlflow, is held by process {os.getpid()} .*set LATENTFLOW_MLFLOW_PORT"
        with pytest.raises(ServiceError, match=wanted):
            stack._refuse_port("mlflow")


def test_a_server_that_is_not_there_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("LATENTFLOW_STREAMLIT_PORT", str(port))
    assert not stack.healthy("streamlit")


def test_the_live_worker_is_a_child_of_the_stack(live_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTFLOW_LIVE_PORT", raising=False)
    assert environment.address("live") == "http://127.0.0.1:8600"
    monkeypatch.setenv("LATENTFLOW_LIVE_PORT", live_worker.url.rpartition(":")[2])
    assert stack.status()["live"]
    assert stack.command("live")[1:3] == ["-m", "flows.live"]
