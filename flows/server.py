"""The Prefect server of a state folder: found, started, watched, and told which of its runs are dead.

A command line run uses a server only if it belongs to its own state folder: `prefect/server.json` there names the
server's process (pid and start time) and its address. Another clone's server on port 4200 is therefore never used; then
the run starts one of its own on a free port, shared with other runs of this folder and stopped by the last of them. A
server that dies while a run uses it is started again on the same port: the run's calls to it are tried for a minute.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.errors import ServiceError
from flows import environment, processes

log = logging.getLogger(__name__)

SECONDS_TO_START = 240
FORMAT = 1
UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
_started: list[subprocess.Popen[bytes]] = []


def command() -> list[str]:
    """The command that runs the server."""
    at = ("--host", environment.host(), "--port", str(environment.port("prefect")))
    return [sys.executable, "-m", "prefect", "server", "start", *at, "--analytics-off"]


def switches() -> dict[str, str]:
    """The server's environment: its browser pages must ask this very server, not port 4200."""
    everywhere = environment.host() in ("0.0.0.0", "::")
    return {"PREFECT_SERVER_UI_API_URL": "/api" if everywhere else f"{environment.address('prefect')}/api"}


def folder() -> Path:
    """Where Prefect keeps its state."""
    return environment.state() / "prefect"


def own() -> dict[str, Any] | None:
    """The record of this state folder's live server: pid, created, port, owner (`run` or `up`)."""
    return processes.read_record(folder() / "server.json")


def record(pid: int, owner: str) -> None:
    """Writes down that this process is the state folder's server."""
    facts = {**processes.identity(pid), "port": environment.port("prefect"), "host": environment.host(), "owner": owner}
    processes.write_record(folder() / "server.json", facts)


def lock() -> FileLock:
    """Held while a server of this state folder is looked for, started or stopped."""
    folder().mkdir(parents=True, exist_ok=True)
    return FileLock(folder() / "server.lock")


def users() -> list[int]:
    """The processes of the command line runs that use the server now."""
    alive = []
    for user in (folder() / "users").glob("*"):
        if found := processes.read_record(user):
            alive.append(int(found["pid"]))
        else:
            user.unlink(missing_ok=True)
    return sorted(alive)


class Server:
    """The server that one run uses.

    Attributes:
        address: where it answers.
        started: whether this run started it.
    """

    def __init__(self, address: str, started: bool) -> None:
        self.address = address
        self.started = started

    def wait(self) -> None:
        """Blocks until it answers; then runs that a dead process left unfinished are reaped.

        Raises:
            ServiceError: it did not answer in time.
        """
        end = time.monotonic() + SECONDS_TO_START
        while not processes.answers(f"{self.address}/api/health"):
            if time.monotonic() > end:
                raise ServiceError(
                    f"no Prefect server answered at {self.address} within {SECONDS_TO_START} s; "
                    f"its log is {folder() / 'server.log'}"
                )
            time.sleep(0.2)
        reap(served=self.started)


@contextlib.contextmanager
def prefect_server() -> Iterator[Server]:
    """The Prefect server for this run: the one PREFECT_API_URL names, the state folder's own, or a new one."""
    if address := os.environ.get("PREFECT_API_URL"):
        yield Server(address.removesuffix("/").removesuffix("/api"), started=False)
        return
    refuse_newer_state()
    mine = folder() / "users" / str(os.getpid())
    before = {name: os.environ.get(name) for name in ("PREFECT_API_URL", "LATENTFLOW_PREFECT_PORT", "LATENTFLOW_HOST")}
    with lock():
        processes.write_record(mine, processes.identity())
        started = (found := own()) is None
        if found:
            os.environ["LATENTFLOW_PREFECT_PORT"] = str(found["port"])
            os.environ["LATENTFLOW_HOST"] = str(found.get("host", "127.0.0.1"))
        else:
            try:
                os.environ["LATENTFLOW_PREFECT_PORT"] = str(_port())
                _start()
            except BaseException:
                mine.unlink(missing_ok=True)
                raise
    server = Server(environment.address("prefect"), started)
    os.environ["PREFECT_API_URL"] = f"{server.address}/api"
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(done,), daemon=True)
    watch.start()
    try:
        yield server
    finally:
        _flush_logs()
        done.set()
        watch.join()
        mine.unlink(missing_ok=True)
        stop_own()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _flush_logs() -> None:
    """The last lines of a run reach its server before that goes."""
    if handlers := sys.modules.get("prefect.logging.handlers"):
        with contextlib.suppress(Exception):
            handlers.APILogWorker.drain_all(timeout=5)


def stop_own() -> None:
    """Stops the server that a command line run started, when no other run uses it."""
    with lock():
        found = own()
        if found and found["owner"] == "run" and not users():
            processes.stop_all([found["pid"]])
            (folder() / "server.json").unlink(missing_ok=True)
    for server in [server for server in _started if server.poll() is not None]:
        _started.remove(server)


def _port() -> int:
    """The port for a server of one's own: the one that was asked for, else Prefect's if it is free, else any."""
    if "LATENTFLOW_PREFECT_PORT" in os.environ:
        processes.refuse_port("prefect")
        return environment.port("prefect")
    usual = environment.port("prefect")
    return usual if processes.is_free(usual) else processes.free_port()


def _start() -> None:
    with (folder() / "server.log").open("a", encoding="utf-8") as output:
        server = subprocess.Popen(
            command(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **switches()},
        )
    _started.append(server)
    record(server.pid, "run")


def _watch(done: threading.Event) -> None:
    """Starts the server again when it died: whoever used it goes on."""
    while not done.wait(1.0):
        if own():
            continue
        with contextlib.suppress(Timeout), lock().acquire(timeout=0.1):
            if not own() and not done.is_set() and processes.is_free(environment.port("prefect"), environment.host()):
                log.warning("the Prefect server ended; starting it again on port %d", environment.port("prefect"))
                _start()


def refuse_newer_state() -> None:
    """Writes down which versions wrote this state folder.

    Raises:
        ServiceError: a newer Latentflow, Prefect or MLflow wrote it; their databases only migrate upwards.
    """
    import importlib.metadata

    from packaging.version import InvalidVersion, Version

    path = environment.state() / "versions.json"
    here = {name: importlib.metadata.version(name) for name in ("prefect", "mlflow")}
    found = processes.read_any(path) or {}
    wanted = [f"format {found['format']}, here {FORMAT}"] if int(found.get("format", FORMAT)) > FORMAT else []
    for name, version in here.items():
        with contextlib.suppress(InvalidVersion):
            if name in found and Version(str(found[name])) > Version(version):
                wanted.append(f"{name} {found[name]}, here {version}")
    if wanted:
        raise ServiceError(
            f"the state folder {environment.state()} was written by a newer version ({'; '.join(wanted)}); "
            "update this installation, or set LATENTFLOW_STATE to another folder"
        )
    if found != {"format": FORMAT, **here}:
        processes.write_record(path, {"format": FORMAT, **here})


def run_lock(flow_run: str) -> FileLock:
    """Held by the process that runs a flow run; the system frees it when the process dies, however it dies."""
    locks = environment.state() / "runs"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{flow_run}.lock")


def reap(served: bool = True) -> list[str]:
    """Sets runs to Crashed that were unfinished before and whose process is gone; their names.

    Before is when the server started. While a stack serves (`served` is false) its runs are its runner's to watch, and one
    that was just started has no process yet: then only runs of a command line count, and before is when this process began.

    Their runs in MLflow end as well, and those of runs that were cancelled too fast to say so. Runs of a work pool are
    left to their workers, which may be on another machine.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Crashed

    found = own()
    if found is None:  # somebody else's server: PREFECT_API_URL
        return []
    since = found["created"] if served else processes.identity()["created"]
    before = datetime.fromtimestamp(since, UTC)
    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}})
    cancelled = FlowRunFilter.model_validate({"state": {"type": {"any_": ("CANCELLED", "CRASHED")}}})
    names = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished, limit=200):
            if run.work_pool_name or (run.deployment_id and not served):
                continue
            if run.state and run.state.timestamp and run.state.timestamp > before:
                continue
            held = run_lock(str(run.id))
            try:
                held.acquire(timeout=0)
            except Timeout:
                continue  # its process lives
            held.release()
            Path(held.lock_file).unlink(missing_ok=True)
            message = (
                "The process of this run is gone: it was killed, or its machine went down. "
                "Start it again: what was finished is found, the rest continues."
            )
            tasks = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
                task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}}),
            )
            for task in tasks:
                client.set_task_run_state(task.id, Crashed(message=message), force=True)
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            names.append(run.name)
        ended = client.read_flow_runs(flow_run_filter=cancelled, sort=FlowRunSort.START_TIME_DESC, limit=50)
    if ended:
        from flows import tracking

        tracking.reap({str(run.id) for run in ended})
    if names:
        log.warning("runs left unfinished by a process that is gone are now Crashed: %s", ", ".join(names))
    return names
