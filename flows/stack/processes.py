"""Processes that outlive a function: remembered in small files, known again by pid and start,
stopped in order.

A pid alone is not an identity: it is used again. A record is believed only while a process of that
pid *and* that start lives, so a file left by a dead machine names nobody. The start is counted by
the kernel in ticks since the machine started, because a time of day moves with a clock that is set;
where there are no such ticks (macOS) it is the time. A record is also believed only in the folder
it was written for: a copied state folder has copies of the original's records.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from components.errors import ServiceError
from flows.stack import environment

ESCALATION = ((signal.SIGINT, 8.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 2.0))


class Ended(SystemExit):
    """A signal told this process to end: raised where it was, so that whatever has to be put in
    order is.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP raise `Ended` in the main thread, once; a signal that is ignored
    stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [
        name for name in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(name) is signal.SIG_DFL
    ]

    def end(number: int, _: object) -> None:
        for name in taken:  # a second one must not end the putting in order
            signal.signal(name, signal.SIG_IGN)
        raise Ended(number)

    for name in taken:
        signal.signal(name, end)
    try:
        yield
    finally:
        for name in taken:
            signal.signal(name, signal.SIG_DFL)


def identity(pid: int | None = None) -> dict[str, Any]:
    """A process, this one by default: pid, start time in seconds since the epoch, and its start by
    the kernel's count."""
    process = psutil.Process(pid)
    return {"pid": process.pid, "created": process.create_time(), "started": _started(process)}


def _started(process: psutil.Process) -> str:
    """When a process started, whatever the clock says: this start of the machine, and ticks since
    then; "" if unknown."""
    with contextlib.suppress(OSError, IndexError):
        fields = (
            Path(f"/proc/{process.pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
        boot = ""
        with contextlib.suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {fields[19]}"
    # macOS: as written down at the start
    with contextlib.suppress(AttributeError, TypeError, psutil.Error):
        return str(process._proc.create_time(monotonic=True))  # type: ignore[attr-defined]
    return ""


def lives(who: Mapping[str, Any]) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    try:
        process = psutil.Process(int(who["pid"]))
        if who.get("started") and (started := _started(process)):
            same = started == who["started"]
        else:
            same = abs(process.create_time() - float(who["created"])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return False


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes a record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({**facts, "at": _place(path)}, indent=1), encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, if it can be read and its process lives."""
    found = read_any(path)
    return found if found and lives(found) else None


def read_any(path: Path) -> dict[str, Any] | None:
    """The record, whether or not its process lives; none where it came with a copy of the
    folder."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            at = found.pop("at", None)
            copied = isinstance(at, list) and not set(map(str, at)) & set(map(str, _place(path)))
            return None if copied and "pid" in found else found
    return None


def _place(path: Path) -> list[Any]:
    """Where a record lies: its folder's address, and its number on its disk, which it keeps when it
    is moved."""
    folder = path.parent.resolve()
    return [str(folder), folder.stat().st_ino]


def stop_all(
    pids: Collection[int], escalation: tuple[tuple[signal.Signals, float], ...] = ESCALATION
) -> None:
    """Tells every process group at once, then, after each signal's seconds, tells those still there
    more firmly."""
    remaining = set(pids)
    # a served run has a group of its own
    families = [process for pid in pids for process in _descendants(pid)]
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
        f"port {port}, wanted for {tool}, is held by {holder(port)}; stop it or set {variable} to "
        "a free port"
    )


def holder(port: int) -> str:
    """Who listens on a port, in words."""
    with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
            ):
                if connection.pid is None:
                    break
                return f"process {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:80]})"
    return "a process of another user, or the host cannot be bound to here"
