"""Processes that outlive a function: remembered in small files, known again by pid and start time, stopped in order.

A pid alone is not an identity: it is used again. A record is believed only while a process of that pid *and* that start
time lives, so a file left by a dead machine names nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import psutil

from components.errors import ServiceError
from flows import environment

ESCALATION = ((signal.SIGINT, 8.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 2.0))


def identity(pid: int | None = None) -> dict[str, Any]:
    """Pid and start time (seconds since the epoch) of a process, this one by default."""
    process = psutil.Process(pid)
    return {"pid": process.pid, "created": process.create_time()}


def lives(who: Mapping[str, Any]) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    try:
        process = psutil.Process(int(who["pid"]))
        same = abs(process.create_time() - float(who["created"])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes a record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, if it can be read and its process lives."""
    found = read_any(path)
    return found if found and lives(found) else None


def read_any(path: Path) -> dict[str, Any] | None:
    """The record, whether or not its process lives."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None


def stop_all(pids: Collection[int], escalation: tuple[tuple[signal.Signals, float], ...] = ESCALATION) -> None:
    """Tells every process group at once, then, after each signal's seconds, tells those still there more firmly."""
    remaining = set(pids)
    families = [process for pid in pids for process in _descendants(pid)]  # a served run has a group of its own
    for name, seconds in escalation:
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, name)
        end = time.monotonic() + seconds
        while remaining and time.monotonic() < end:
            remaining = {pid for pid in remaining if _group_lives(pid)}
            time.sleep(0.05)
        if not remaining:
            break
    for process in families:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _group_lives(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(
        process.info["status"] != psutil.STATUS_ZOMBIE
        for process in psutil.process_iter(["status"])
        if _group(process.pid) == pid
    )


def _group(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getpgid(pid)
    return None


def answers(page: str) -> bool:
    """Whether an HTTP page answers 200 within two seconds."""
    try:
        with urllib.request.urlopen(page, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could bind to that port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return True
        except OSError:
            return False


def free_port() -> int:
    """A port that nobody holds at this moment."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refuse_port(tool: str) -> None:
    """Refuses a tool's port that is taken.

    Raises:
        ServiceError: names the port's holder and the variable that moves the tool.
    """
    port = environment.port(tool)
    if is_free(port, environment.host()):
        return
    variable = f"LATENTFLOW_{tool.upper()}_PORT"
    raise ServiceError(
        f"port {port}, wanted for {tool}, is held by {holder(port)}; stop it or set {variable} to a free port"
    )


def holder(port: int) -> str:
    """Who listens on a port, in words."""
    with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                return f"process {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:80]})"
    return "a process of another user, or the host cannot be bound to here"
