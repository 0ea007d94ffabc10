"""Brings the whole stack up and down: Prefect, MLflow, Streamlit, the live worker, the deployments,
on one state folder.

`CHILDREN` lists the processes: each starts when those it names in `after` are ready, and is ready
by its health page. `up` holds the state folder's lock while it runs, so there is one stack for each
folder; logs carry their process's name; Ctrl-C, SIGTERM, `latentflow down` or the death of a child
stops everything, all told at once and then more firmly. `stack.json` in the state folder names the
processes: what a killed supervisor left behind is found there and stopped by the next `up` or
`down`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from components.errors import ServiceError
from flows.stack import environment, processes, relocation, server

SECONDS_TO_START = 240
SECONDS_TO_STOP = 25
SECONDS_TO_DIE = 10


@dataclasses.dataclass(frozen=True)
class Child:
    """One process of the stack.

    Attributes:
        name: the tool, as in LATENTFLOW_<NAME>_PORT.
        command: what runs it.
        health: the page that answers when it is ready; None for a process without a port.
        ready: whether a process without a port is ready.
        after: the children that must be ready before it starts.
        switches: variables of its own.
        title: what its address is for.
        colour: of its name in the log (ANSI).
    """

    name: str
    command: Callable[[], list[str]]
    health: str | None = None
    ready: Callable[[], bool] = lambda: True
    after: tuple[str, ...] = ()
    switches: Callable[[], dict[str, str]] = dict
    title: str = ""
    colour: int = 32

    def is_ready(self) -> bool:
        """Whether it does its work."""
        return (
            processes.answers(environment.address(self.name) + self.health)
            if self.health
            else self.ready()
        )


def _mlflow() -> list[str]:
    state = environment.state()
    return [
        *(
            sys.executable,
            "-m",
            "flows.stack.mlflow_server",
            "server",
            "--host",
            environment.host(),
        ),
        *("--port", str(environment.port("mlflow")), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"),
        *("--artifacts-destination", (state / "mlflow-artifacts").as_uri()),
        *(("--app-name", "basic-auth") if environment.login() else ()),
    ]


def _mlflow_switches() -> dict[str, str]:
    """MLflow's own login, where LATENTFLOW_AUTH asks for one: its user table is made anew from the
    variable at each start."""
    login = environment.login()
    if login is None:
        return {}
    state = environment.state()
    (state / "mlflow-auth.db").unlink(missing_ok=True)
    settings = state / "mlflow-auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{state / 'mlflow-auth.db'}\n"
        f"admin_username = {login[0]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        encoding="utf-8",
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": login[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }


def _streamlit() -> list[str]:
    return [
        *(sys.executable, "-m", "dashboards", "--server.port", str(environment.port("streamlit"))),
        *("--server.address", environment.host(), "--server.headless", "true"),
        *("--browser.gatherUsageStats", "false"),
    ]


def _deployments_are_served() -> bool:
    return (environment.state() / "prefect" / "serving").exists()


CHILDREN = (
    Child(
        "prefect",
        server.command,
        "/api/health",
        switches=server.switches,
        title="trigger",
        colour=34,
    ),
    Child(
        "mlflow",
        _mlflow,
        "/health",
        after=("prefect",),
        switches=_mlflow_switches,
        title="review",
        colour=36,
    ),
    Child("streamlit", _streamlit, "/_stcore/health", title="read", colour=35),
    Child(
        "live",
        lambda: [sys.executable, "-m", "flows.live", "--host", "127.0.0.1"],
        "/health",
        title="",
        colour=33,
    ),
    Child(
        "serve",
        lambda: [sys.executable, "-m", "flows.stack.deployments"],
        ready=_deployments_are_served,
    ),
)


def up(host: str = "", public: bool = False) -> int:
    """Runs the stack until it is told to stop; the exit status says whether it ended as asked.

    Args:
        host: the address that servers bind to; 127.0.0.1 when empty.
        public: leave to bind where other machines can reach it.

    Raises:
        ServiceError: a public host without leave, a port in use, a stack or a run that holds this
            state folder, a state folder of a newer version, or a child that does not start.
    """
    if host:
        os.environ["LATENTFLOW_HOST"] = host
    _refuse_host(environment.host(), public)
    if environment.login() and importlib.util.find_spec("flask_wtf") is None:
        raise ServiceError(
            "LATENTFLOW_AUTH: MLflow's login needs the package flask-wtf: pip install "
            "'latentflow[auth]'"
        )
    environment.refuse_state()
    server.refuse_newer_state()
    with _only_stack():
        stop_leftovers()
        server.stop_own()  # a killed run's may hold the port still
        for child in CHILDREN:
            if child.health:
                processes.refuse_port(child.name)
        relocation.follow()
        return _Stack().run()


def down() -> str:
    """Stops the stack of this state folder; what happened, in a sentence."""
    found = processes.read_record(_record())
    if found is None:
        return _down_without_supervisor()
    os.kill(found["pid"], signal.SIGTERM)
    _gone(found, SECONDS_TO_STOP)
    if processes.lives(found):
        os.kill(found["pid"], signal.SIGKILL)
        _gone(found, SECONDS_TO_DIE)  # while it counts as living, its children are no leftovers
        stop_leftovers()
        return f"the stack (process {found['pid']}) did not stop within {SECONDS_TO_STOP} s and was killed"
    return f"the stack (process {found['pid']}) is down"


def _down_without_supervisor() -> str:
    where = f"state folder {environment.state()}"
    told = []
    if left := stop_leftovers():
        told.append(f"the stack of {where} had lost its supervisor; {left} processes stopped")
    before = server.own()
    if before and (users := server.users()):
        told.append(
            f"a run on {where} uses a Prefect server of its own (runs: "
            f"{', '.join(map(str, users))}), which ends with it"
        )
    elif before:
        server.stop_own()
        told.append(
            f"the Prefect server (process {before['pid']}) that a run on {where} had left is "
            "stopped"
        )
    return "; ".join(told) or f"no stack runs on {where}"


def status() -> list[dict[str, Any]]:
    """One row for each process of the stack: name, state, address, pid, memory in MB."""
    found = processes.read_any(_record()) or {}
    supervisor = processes.lives(found)
    rows = []
    for child in CHILDREN:
        who = found.get("children", {}).get(child.name, {})
        alive = processes.lives(who)
        address = (
            who.get("address", "")
            if alive
            else environment.address(child.name)
            if child.health
            else ""
        )
        if not alive:
            taken = bool(child.health) and not processes.is_free(
                environment.port(child.name), environment.host()
            )
            state = (
                f"not running; its port is held by {processes.holder(environment.port(child.name))}"
                if taken
                else "not running"
            )
        elif not (processes.answers(address + child.health) if child.health else child.ready()):
            state = "not answering"
        else:
            state = (
                "up" if supervisor else "up, but its supervisor is gone: latentflow down stops it"
            )
        rows.append(
            {
                "name": child.name,
                "state": state,
                "address": address,
                "pid": who.get("pid") if alive else None,
                "memory_mb": _memory(who["pid"]) if alive else None,
            }
        )
    return rows


def stop_leftovers() -> int:
    """Stops the children of a supervisor that was killed; how many there were."""
    found = processes.read_any(_record()) or {}
    if processes.lives(found):
        return 0
    left = [who["pid"] for who in found.get("children", {}).values() if processes.lives(who)]
    processes.stop_all(left)
    _record().unlink(missing_ok=True)
    return len(left)


class _Stack:
    """The children of one `up`, from the first start to the last stop."""

    def __init__(self) -> None:
        self.children: dict[str, subprocess.Popen[str]] = {}
        self.stopping = threading.Event()

    def run(self) -> int:
        started = time.monotonic()
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, lambda *_: self.stopping.set())
        os.environ["PREFECT_API_URL"] = f"{environment.address('prefect')}/api"
        for child in CHILDREN:
            if child.health:
                os.environ[f"LATENTFLOW_{child.name.upper()}_URL"] = environment.address(child.name)
        try:
            self._start_all()
            if not self.stopping.is_set():
                self._announce(time.monotonic() - started)
            while not self.stopping.wait(0.5):
                for name, process in self.children.items():
                    if (code := process.poll()) is not None:
                        _say("stack", f"{name} ended with status {code}; stopping the others")
                        return 1
            return 0
        finally:
            processes.stop_all([process.pid for process in self.children.values()])
            (server.folder() / "server.json").unlink(missing_ok=True)
            (server.folder() / "serving").unlink(missing_ok=True)
            _record().unlink(missing_ok=True)
            _say("stack", "down")

    def _start_all(self) -> None:
        (server.folder() / "serving").unlink(missing_ok=True)
        waiting = {child.name: child for child in CHILDREN}
        ready: set[str] = set()
        end = time.monotonic() + SECONDS_TO_START
        while waiting and not self.stopping.is_set():
            for name, child in list(waiting.items()):
                if name not in self.children:
                    if set(child.after) <= ready:
                        self._start(child)
                    continue
                if (code := self.children[name].poll()) is not None:
                    raise ServiceError(
                        f"{name} ended with status {code} while starting; its last lines are above"
                    )
                if child.is_ready():
                    ready.add(name)
                    del waiting[name]
            if time.monotonic() > end:
                raise ServiceError(
                    f"{', '.join(sorted(waiting))} was not ready within {SECONDS_TO_START} s"
                )
            time.sleep(0.1)

    def _start(self, child: Child) -> None:
        def begin() -> subprocess.Popen[str]:
            return subprocess.Popen(
                child.command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                env={**os.environ, **child.switches()},
                encoding="utf-8",
            )

        if child.name == "prefect":
            with _the_only_server():
                process = begin()
                server.record(process.pid, "up")
        else:
            process = begin()
        self.children[child.name] = process
        threading.Thread(target=_relay, args=(child, process), daemon=True).start()
        self._write_record()

    def _write_record(self) -> None:
        children = {}
        for child in CHILDREN:
            if child.name in self.children:
                with contextlib.suppress(psutil.Error):
                    children[child.name] = processes.identity(self.children[child.name].pid)
                    children[child.name]["address"] = (
                        environment.address(child.name) if child.health else ""
                    )
        processes.write_record(_record(), {**processes.identity(), "children": children})

    def _announce(self, seconds: float) -> None:
        for child in CHILDREN:
            if child.title:
                _say(
                    "stack", f"{child.name:<10} {environment.address(child.name):<24} {child.title}"
                )
        _say("stack", f"up after {seconds:.0f} s; Ctrl-C or `latentflow down` stops everything")


@contextlib.contextmanager
def _only_stack() -> Iterator[None]:
    held = FileLock(environment.state() / "stack.lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        found = processes.read_record(_record())
        who = f"process {found['pid']}" if found else "another process"
        raise ServiceError(
            f"a stack already runs on state folder {environment.state()} ({who}); `latentflow "
            "status` shows it, `latentflow down` stops it, and LATENTFLOW_STATE names another "
            "folder for a second one"
        ) from None
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _the_only_server() -> Iterator[None]:
    """No other Prefect server on this state folder; leases that nobody can hold any more are
    gone."""
    server.stop_own()
    with server.lock():
        if found := server.own():
            runs = ", ".join(map(str, server.users())) or "none"
            raise ServiceError(
                f"a run on state folder {environment.state()} uses a Prefect server of its own "
                f"(process {found['pid']}, runs: {runs}); wait until the run ends or stop it, "
                "then start the stack"
            )
        shutil.rmtree(server.folder() / "concurrency_leases", ignore_errors=True)
        yield


def _refuse_host(host: str, public: bool) -> None:
    login = environment.login()
    if environment.is_loopback(host) or public:
        return
    asks = (
        "Prefect and MLflow ask for the name and password of LATENTFLOW_AUTH"
        if login
        else ("set LATENTFLOW_AUTH=name:password and Prefect and MLflow ask for it")
    )
    raise ServiceError(
        f"{host} can be reached from other machines, and whoever reaches these pages can run code "
        f"here. Put authentication in front: {asks}; Streamlit has no password of its own and "
        "needs a proxy that has (or an ssh tunnel to 127.0.0.1, which needs none of this; "
        "docs/stack.md). Then say --public"
    )


def _gone(who: Mapping[str, Any], seconds: float) -> None:
    """Returns when that process lives no more, or the seconds are over."""
    end = time.monotonic() + seconds
    while processes.lives(who) and time.monotonic() < end:
        time.sleep(0.1)


def _record() -> Path:
    return environment.state() / "stack.json"


def _memory(pid: int) -> float:
    """Resident memory of a process and its descendants, in MB."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return round(total / 1e6)


def _relay(child: Child, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            _say(child.name, line.rstrip(), child.colour)


def _say(name: str, line: str, colour: int = 1) -> None:
    shown = f"\x1b[{colour}m{name:<9}\x1b[0m" if sys.stdout.isatty() else f"{name:<9}"
    with contextlib.suppress(OSError):  # the terminal may be gone; the stack still stops in order
        sys.stdout.write(f"{shown} {line}\n")
        sys.stdout.flush()
