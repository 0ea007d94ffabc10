"""The Prefect server of a state folder: found, started, watched, stopped.

A command line run uses a server only if it belongs to its own state folder: `prefect/server.json`
there names the server's process and its address. Another clone's server on port 4200 is therefore
never used; then the run starts one of its own on a free port, shared with other runs of this folder
and stopped by the last of them, also when a signal ends it; what not even a signal handler can stop
ends by itself (`prefect_server.py`). A server that dies while a run uses it is started again on the
same port, unless it never answers: the run's calls to it are tried for a minute.
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
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.errors import ServiceError, shortened
from flows.stack import environment, processes

log = logging.getLogger(__name__)

SECONDS_TO_START = 240
SECONDS_FOR_ANOTHERS = 60
STARTS_IN_VAIN = 3
FORMAT = 1
_started: list[subprocess.Popen[bytes]] = []


def command() -> list[str]:
    """The command that runs the server."""
    at = ("--host", environment.host(), "--port", str(environment.port("prefect")))
    return [
        sys.executable,
        "-m",
        "flows.stack.prefect_server",
        "server",
        "start",
        *at,
        "--analytics-off",
    ]


def switches() -> dict[str, str]:
    """The server's environment: its browser pages must ask this very server, not port 4200."""
    everywhere = environment.host() in ("0.0.0.0", "::")
    return {
        "PREFECT_SERVER_UI_API_URL": "/api"
        if everywhere
        else f"{environment.address('prefect')}/api"
    }


def folder() -> Path:
    """Where Prefect keeps its state."""
    return environment.state() / "prefect"


def own() -> dict[str, Any] | None:
    """The record of this state folder's live server: pid, created, port, owner (`run` or `up`)."""
    return processes.read_record(folder() / "server.json")


def record(pid: int, owner: str) -> None:
    """Writes down that this process is the state folder's server."""
    facts = {
        **processes.identity(pid),
        "port": environment.port("prefect"),
        "host": environment.host(),
        "owner": owner,
    }
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
        given: whether PREFECT_API_URL names it.
        hopeless: set when it was started several times and never answered.
    """

    def __init__(self, address: str, started: bool, given: bool = False) -> None:
        self.address = address
        self.started = started
        self.given = given
        self.hopeless = threading.Event()

    def wait(self) -> None:
        """Blocks until it answers; then runs that a dead process left unfinished are reaped.

        Raises:
            ServiceError: it did not answer in time, or ended at once each time that it was started.
        """
        from flows.stack.reaping import reap

        seconds = SECONDS_FOR_ANOTHERS if self.given else SECONDS_TO_START
        end = time.monotonic() + seconds
        while not self.answers():
            if self.hopeless.is_set():
                raise ServiceError(
                    f"the Prefect server ended {STARTS_IN_VAIN} times while it "
                    f"started{last_words()}; its log is {folder() / 'server.log'}, and --plain "
                    "runs without it"
                )
            if time.monotonic() > end:
                wanted = f"no Prefect server answered at {self.address} within {seconds} s"
                if self.given:
                    raise ServiceError(
                        f"{wanted}; PREFECT_API_URL names it: start it there, or unset the "
                        "variable and the run starts its own"
                    )
                raise ServiceError(f"{wanted}; its log is {folder() / 'server.log'}")
            time.sleep(0.2)
        reap(served=self.started)

    def answers(self) -> bool:
        """Whether its health page does."""
        return processes.answers(f"{self.address}/api/health")


def last_words() -> str:
    """The end of the server's log, in brackets; nothing where it has none."""
    with contextlib.suppress(OSError):
        with (folder() / "server.log").open("rb") as log_file:
            log_file.seek(max(0, log_file.seek(0, os.SEEK_END) - 4096))
            lines = log_file.read().decode(errors="replace").split("\n")
        said = [
            line.strip()
            for line in lines
            if line.strip(" \u2500-=") and not line.startswith("Server stopped")
        ]
        return f" ({shortened(said[-1], 300)})" if said else ""
    return ""


@contextlib.contextmanager
def prefect_server() -> Iterator[Server]:
    """The Prefect server for this run: the one PREFECT_API_URL names, the state folder's own, or a
    new one."""
    if address := os.environ.get("PREFECT_API_URL"):
        yield Server(address.removesuffix("/").removesuffix("/api"), started=False, given=True)
        return
    environment.refuse_state()
    refuse_newer_state()
    with processes.ending_in_order():
        yield from _own_server()


def _own_server() -> Iterator[Server]:
    mine = folder() / "users" / str(os.getpid())
    before = {
        name: os.environ.get(name)
        for name in ("PREFECT_API_URL", "LATENTFLOW_PREFECT_PORT", "LATENTFLOW_HOST")
    }
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
    watch = threading.Thread(target=_watch, args=(done, server), daemon=True)
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
    """The port for a server of one's own: the one that was asked for, else Prefect's if it is free,
    else any."""
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


def _watch(done: threading.Event, server: Server) -> None:
    """Starts the server again when it died: whoever used it goes on. One that never answers is
    given up."""
    answered, in_vain = False, 0
    while not done.wait(1.0):
        if own():
            answered = answered or server.answers()
            continue
        with contextlib.suppress(Timeout), lock().acquire(timeout=0.1):
            if (
                not own()
                and not done.is_set()
                and processes.is_free(environment.port("prefect"), environment.host())
            ):
                in_vain = 0 if answered else in_vain + 1
                if in_vain >= STARTS_IN_VAIN:
                    log.error(
                        "the Prefect server ended %d times while it started%s",
                        in_vain,
                        last_words(),
                    )
                    server.hopeless.set()
                    return
                log.warning(
                    "the Prefect server ended; starting it again on port %d",
                    environment.port("prefect"),
                )
                answered = False
                _start()


def refuse_newer_state() -> None:
    """Writes down which versions wrote this state folder.

    Raises:
        ServiceError: a newer Latentflow, Prefect or MLflow wrote it; their databases only migrate
            upwards.
    """
    import importlib.metadata

    from packaging.version import InvalidVersion, Version

    path = environment.state() / "versions.json"
    here = {name: importlib.metadata.version(name) for name in ("prefect", "mlflow")}
    found = processes.read_any(path) or {}
    wanted = (
        [f"format {found['format']}, here {FORMAT}"]
        if int(found.get("format", FORMAT)) > FORMAT
        else []
    )
    for name, version in here.items():
        with contextlib.suppress(InvalidVersion):
            if name in found and Version(str(found[name])) > Version(version):
                wanted.append(f"{name} {found[name]}, here {version}")
    if wanted:
        raise ServiceError(
            f"the state folder {environment.state()} was written by a newer version "
            f"({'; '.join(wanted)}); update this installation, or set LATENTFLOW_STATE to another "
            "folder"
        )
    if found != {"format": FORMAT, **here}:
        processes.write_record(path, {"format": FORMAT, **here})
