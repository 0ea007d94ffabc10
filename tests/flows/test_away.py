"""MLflow that is away, or takes connections and says nothing, costs a run or a page seconds, once;
moved folders keep theirs."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from components.config import Config, override
from components.errors import ServiceError
from components.experiment import ExperimentConfig
from components.store.artifact import Artifact, Store
from components.store.stage import Inputs, Stage, Work
from dashboards import runs as pages
from flows.__main__ import app
from flows.stack.processes import free_port
from flows.tracking import runs, service
from flows.tracking.registry import resolve_dictionary
from flows.tracking.tracker import Tracker

pytestmark = pytest.mark.timeout(300)


class Nothing(Config):
    """A stage without choices."""


@pytest.fixture
def artifact(store: Store) -> Artifact:
    def make(folder: Path, config: Nothing, inputs: Inputs, settings: None) -> Work:
        (folder / "words.txt").write_text("words")
        return {"n": 1}
        yield

    return store.ensure(Stage("toy", 1, make), Nothing(), {})[0]


class Hanging:
    """A server that accepts and never answers, or sends a byte of its answer every half second.

    Attributes:
        asked: connections so far.
    """

    def __init__(self, drips: bool) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.drips, self.asked, self.held = drips, 0, []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                self.asked += 1
                self.held.append(connection)
                if self.drips:
                    threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
            )
            while True:
                connection.sendall(b" ")
                time.sleep(0.5)

    def close(self) -> None:
        self.listening.close()
        for connection in self.held:
            connection.close()


@pytest.fixture(params=["silent", "dripping"])
def hanging(request: pytest.FixtureRequest, tracked_at: TrackedAt) -> Iterator[Hanging]:
    server = Hanging(request.param == "dripping")
    tracked_at(server.address)
    yield server
    server.close()


class TrackedAt:
    """Changes MLflow's address."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def __call__(self, uri: str) -> None:
        self.patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)


@pytest.fixture
def tracked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TrackedAt]:
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("LATENTFLOW_STATE", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    yield TrackedAt(monkeypatch)
    mlflow.set_tracking_uri(before)


def test_a_server_that_never_answers_costs_a_run_seconds_once(
    hanging: Hanging, artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    runs.reap({"some flow run"})  # as a run does when its server has started
    tracker = Tracker(ExperimentConfig())
    tracker.open()
    for number in range(12):
        tracker.stage(f"stage {number}", artifact, hit=True, seconds=0.1)
    tracker.close("FINISHED")
    assert time.monotonic() - began < service.SECONDS_TO_ANSWER + 3
    assert hanging.asked <= 2
    assert caplog.text.count("MLflow could not") == 1
    assert "does not answer within 5 s" in caplog.text
    assert "MLflow has no record of stage 0, stage 1" in caplog.text
    assert 60 < service.service().rest <= 300


def test_a_server_that_begins_to_hang_in_the_middle_holds_up_nothing_and_gets_the_rest_later(
    artifact: Artifact, tracked_at: TrackedAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked_at(f"sqlite:///{tmp_path / 'state' / 'mlflow.db'}")
    tracker = Tracker(override(ExperimentConfig(), {"name": "middle"}))
    tracker.open()
    tracker.stage("first", artifact, hit=True, seconds=0.1)
    assert tracker.parent is not None and not service.service().rest
    asked = service.service()
    # what a hanging request does to whoever uses it
    with pytest.raises(TimeoutError), asked.used():
        time.sleep(2.1)
        raise TimeoutError
    assert 60 < asked.rest < 70
    began = time.monotonic()
    tracker.stage("second", artifact, hit=True, seconds=0.1)
    assert time.monotonic() - began < 1
    monkeypatch.setattr(asked, "_asked_again", time.monotonic())  # its rest is over
    tracker.stage("third", artifact, hit=True, seconds=0.1)
    tracker.close("FINISHED")
    client = MlflowClient()
    found = client.search_runs(
        [tracker.experiment or ""], f"tags.`mlflow.parentRunId` = '{tracker.parent}'"
    )
    assert sorted(run.info.run_name or "" for run in found) == ["first", "second", "third"]


def test_a_page_waits_for_a_hanging_server_once(hanging: Hanging) -> None:
    pages._mlflow_run.clear()
    import mlflow.tracking  # noqa: F401, seconds that are not MLflow's answer

    began = time.monotonic()
    for report in ("a" * 24, "b" * 24, "c" * 24, "a" * 24):
        assert pages.tracked(report) == {}
        pages._mlflow_run.clear()
    assert time.monotonic() - began < pages.SECONDS_FOR_MLFLOW + 3
    assert hanging.asked <= 2


@pytest.mark.parametrize("away", ["gone", "not MLflow", "no database", "no such scheme"])
def test_every_command_that_asks_mlflow_says_in_a_sentence_that_it_is_away(
    away: str, tracked_at: TrackedAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "text.db").write_text("no database " * 1000)
    (tmp_path / "page").write_text("hello")
    addresses = {
        "gone": f"http://127.0.0.1:{free_port()}",
        "not MLflow": f"file://{tmp_path / 'page'}",
        "no database": f"sqlite:///{tmp_path / 'text.db'}",
        "no such scheme": "nothing://here",
    }
    tracked_at(addresses[away])
    with pytest.raises(ServiceError, match="MLflow could not say which runs there are"):
        CliRunner().invoke(app, ["runs"], catch_exceptions=False)
    with pytest.raises(
        ServiceError,
        match=r"MLflow could not say which dictionary 'topk@champion' is .* artifact key",
    ):
        resolve_dictionary("topk@champion")
    tracker = Tracker(ExperimentConfig())
    tracker.open()
    tracker.close("FAILED")


def test_a_hanging_server_is_a_sentence_too(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SECONDS_TO_LIST", 1.0)
    with pytest.raises(
        ServiceError,
        match=r"which runs there are \(http.*does not answer within 1 s\); start it again",
    ):
        runs.runs()


def record(artifact: Artifact, state: Path, tracked_at: TrackedAt, name: str) -> Path:
    """One recorded experiment; where MLflow put the parent's files."""
    tracked_at.patch.setenv("LATENTFLOW_STATE", str(state))
    tracked_at(f"sqlite:///{state / 'mlflow.db'}")
    tracker = Tracker(override(ExperimentConfig(), {"name": name}))
    tracker.open()
    tracker.stage("toy", artifact, hit=False, seconds=0.1)
    tracker.close("FINISHED")
    assert tracker.parent is not None
    found = [
        path
        for path in (state / "mlflow-artifacts").rglob("environment.json")
        if tracker.parent in path.parts
    ]
    assert len(found) == 1, f"no file of the run in {state}"
    return found[0]


def files(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder) for path in folder.rglob("*") if "mlflow-artifacts" in path.parts
    }


def test_mlflows_files_follow_a_state_folder_that_is_copied_or_moved(
    artifact: Artifact, tracked_at: TrackedAt, tmp_path: Path
) -> None:
    original, copy, moved = (
        tmp_path / "first ö place" / "state",
        tmp_path / "copy" / "state",
        tmp_path / "moved" / "state",
    )
    original.mkdir(parents=True)
    run = record(artifact, original, tracked_at, "one").parts[-3]
    before = files(original)
    shutil.copytree(original, copy)
    record(artifact, copy, tracked_at, "two")
    assert files(original) == before, "a copy wrote into the original"
    moved.parent.mkdir()
    original.rename(moved)
    record(artifact, moved, tracked_at, "three")
    assert not original.exists(), "files of a moved folder went to where it was"
    assert [file.path for file in MlflowClient().list_artifacts(run)] == ["environment.json"], (
        "an old run lost its files"
    )
    assert files(moved) > before
