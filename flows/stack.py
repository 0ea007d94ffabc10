"""Brings the whole stack up and down: Prefect, MLflow, Streamlit, the live worker, the deployments, on one state folder.

`up` starts the four servers together, waits for each one's health, then serves the deployments; logs carry their
process's name; Ctrl-C, SIGTERM or the death of a child stops everything. `prefect_server` gives a command line run a
server: the one that is up, or one of its own that ends with its last user.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from components.errors import ServiceError
from flows import environment

log = logging.getLogger(__name__)

SECONDS_TO_START = 240
HEALTH = {"prefect": "/api/health", "mlflow": "/health", "streamlit": "/_stcore/health", "live": "/health"}
COLOURS = {"prefect": 34, "mlflow": 36, "streamlit": 35, "live": 33, "serve": 32}


def healthy(tool: str, address: str | None = None) -> bool:
    """Whether the tool's server answers its health page."""
    try:
        with urllib.request.urlopen(f"{address or environment.address(tool)}{HEALTH[tool]}", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def command(tool: str) -> list[str]:
    """The command that runs one process of the stack, on loopback."""
    python, state = sys.executable, environment.state()
    port = str(environment.port(tool)) if tool in HEALTH else ""
    return {
        "prefect": [
            python,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--analytics-off",
        ],
        "mlflow": [
            *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"),
            *("--artifacts-destination", (state / "mlflow-artifacts").as_uri()),
        ],
        "streamlit": [
            *(python, "-m", "streamlit", "run", str(Path("dashboards/app.py").absolute()), "--server.port", port),
            *("--server.address", "127.0.0.1", "--server.headless", "true", "--browser.gatherUsageStats", "false"),
        ],
        "live": [python, "-m", "flows.live", "--host", "127.0.0.1"],
        "serve": [python, "-m", "flows.stack"],
    }[tool]


@contextlib.contextmanager
def prefect_server() -> Iterator[str]:
    """The address of a Prefect API for this run: the server that is up, or one that stops with its last user."""
    if address := os.environ.get("PREFECT_API_URL"):
        yield address
        return
    users = environment.state() / "prefect" / "users"
    users.mkdir(parents=True, exist_ok=True)
    mine = users / str(os.getpid())
    mine.touch()
    if not healthy("prefect"):
        _refuse_port("prefect")
        with (environment.state() / "prefect" / "server.log").open("w") as output:
            server = subprocess.Popen(
                command("prefect"), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        (users.parent / "server.pid").write_text(str(server.pid))
    os.environ["PREFECT_API_URL"] = f"{environment.address('prefect')}/api"
    try:
        yield os.environ["PREFECT_API_URL"]
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        mine.unlink(missing_ok=True)
        stop_own_server()


def wait_for_prefect() -> None:
    """Blocks until the Prefect server answers.

    Raises:
        ServiceError: it did not within two minutes.
    """
    address = os.environ["PREFECT_API_URL"].removesuffix("/api")
    end = time.monotonic() + SECONDS_TO_START
    while not healthy("prefect", address):
        if time.monotonic() > end:
            logs = environment.state() / "prefect" / "server.log"
            raise ServiceError(
                f"no Prefect server answered at {address} within {SECONDS_TO_START} s; its log is {logs}"
            )
        time.sleep(0.2)


def stop_own_server() -> None:
    """Stops the server that a command line run started, when no other run uses it."""
    folder = environment.state() / "prefect"
    for user in (folder / "users").glob("*"):
        if psutil.pid_exists(int(user.name)):
            return
        user.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess, ValueError):
        pid = int((folder / "server.pid").read_text())
        process = psutil.Process(pid)
        if "prefect" in " ".join(process.cmdline()):
            _stop_group(pid)
    (folder / "server.pid").unlink(missing_ok=True)


def up() -> int:
    """Runs the stack until it is told to stop; the exit status says whether it ended as asked."""
    stop_own_server()
    for tool in HEALTH:
        _refuse_port(tool)
    started = time.monotonic()
    children: dict[str, subprocess.Popen[str]] = {}
    stopping = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopping.set())
    os.environ["PREFECT_API_URL"] = f"{environment.address('prefect')}/api"
    os.environ["LATENTFLOW_PREFECT_URL"] = environment.address("prefect")
    os.environ["LATENTFLOW_MLFLOW_URL"] = environment.address("mlflow")
    os.environ["LATENTFLOW_LIVE_URL"] = environment.address("live")
    try:
        for tool in HEALTH:
            children[tool] = _start(tool)
        _until_healthy(children, stopping)
        if not stopping.is_set():
            children["serve"] = _start("serve")
            addresses = "   ".join(f"{tool} {environment.address(tool)}" for tool in HEALTH)
            _say("stack", f"up after {time.monotonic() - started:.0f} s: {addresses}   (Ctrl-C stops everything)")
        while not stopping.wait(0.5):
            for tool, child in children.items():
                if (code := child.poll()) is not None:
                    _say("stack", f"{tool} ended with status {code}; stopping the others")
                    return 1
        return 0
    finally:
        for child in children.values():  # all are told at once, then each gets its time
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT)
        for child in children.values():
            _stop_group(child.pid)
        _say("stack", "down")


def status() -> dict[str, bool]:
    """Which servers answer."""
    return {tool: healthy(tool) for tool in HEALTH}


def serve() -> None:
    """Serves the experiment and every stage as deployments, their forms filled with the reference parameters."""
    import prefect

    from flows import capture, encode, evaluate, experiment, interpret, read, report, steer, train
    from flows.parameters import reference

    config = {"config": reference().model_dump(mode="json")}
    flows = [experiment.experiment, read.read, capture.capture, train.train, encode.encode]
    flows += [interpret.interpret, steer.steer, evaluate.evaluate, report.report]
    deployments = [flow.to_deployment(name="local", parameters=config, tags=["latentflow"]) for flow in flows]
    prefect.serve(*deployments, limit=1, print_starting_message=False)


def _refuse_port(tool: str) -> None:
    """Raises ServiceError when the tool's port is taken, naming who holds it."""
    port = environment.port(tool)
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return
        except OSError:
            holder = _holder(port)
    variable = f"LATENTFLOW_{tool.upper()}_PORT"
    raise ServiceError(f"port {port}, wanted for {tool}, is held by {holder}; stop it or set {variable} to a free port")


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                return f"process {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:80]})"
    return "a process of another user"


def _start(tool: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        command(tool),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    threading.Thread(target=_relay, args=(tool, child), daemon=True).start()
    return child


def _relay(tool: str, child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip():
            _say(tool, line.rstrip())


def _say(tool: str, line: str) -> None:
    name = f"\x1b[{COLOURS.get(tool, 1)}m{tool:<9}\x1b[0m" if sys.stdout.isatty() else f"{tool:<9}"
    sys.stdout.write(f"{name} {line}\n")
    sys.stdout.flush()


def _until_healthy(children: dict[str, subprocess.Popen[str]], stopping: threading.Event) -> None:
    waiting = set(children)
    end = time.monotonic() + SECONDS_TO_START
    while waiting and not stopping.is_set():
        for tool in sorted(waiting):
            if children[tool].poll() is not None:
                raise ServiceError(
                    f"{tool} ended with status {children[tool].returncode} while starting; its last lines are above"
                )
            if healthy(tool):
                waiting.discard(tool)
        if time.monotonic() > end:
            raise ServiceError(f"{', '.join(sorted(waiting))} did not answer within {SECONDS_TO_START} s")
        time.sleep(0.2)


def _stop_group(pid: int) -> None:
    """SIGINT, then SIGTERM, then SIGKILL to a process's own group, each with its time."""
    for name, seconds in ((signal.SIGINT, 8), (signal.SIGTERM, 4), (signal.SIGKILL, 2)):
        try:
            os.killpg(pid, name)
        except ProcessLookupError:
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.1)


if __name__ == "__main__":
    serve()
