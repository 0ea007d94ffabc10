"""Prefect's server, the same command line as `prefect`; a run's own one ends when no run uses it
any more.

A run stops its server when it ends in order. One that was killed cannot, so the server looks by
itself, every second, whether a run of its state folder lives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Literal

from filelock import Timeout

from flows.stack import server

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_BE_KNOWN = 60.0
SECONDS_TO_STOP = 10.0


def look() -> Literal["used", "unused", "unknown"]:
    """Whether somebody may use this process's server; unknown where the state folder names another
    one, or is gone.

    An unused one is in no record afterwards, so nobody begins to use it while it ends.
    """
    if not server.folder().exists():
        return "unknown"
    with contextlib.suppress(Timeout), server.lock().acquire(timeout=0):
        found = server.own()
        if found is None or found["pid"] != os.getpid():
            return "unknown"
        if found["owner"] != "run" or server.users():
            return "used"
        (server.folder() / "server.json").unlink(missing_ok=True)
        return "unused"
    return "used"  # somebody starts or stops a server now, and will have decided at the next look


def watch() -> None:
    """Ends this process when its server is no longer used."""
    # who starts it writes its record a moment later
    end_of_patience = time.monotonic() + SECONDS_TO_BE_KNOWN
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        try:
            seen = look()
        except OSError:
            seen = "unknown"
        if seen != "unknown":
            end_of_patience = 0.0
        if seen == "unused" or (seen == "unknown" and time.monotonic() > end_of_patience):
            break
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(SECONDS_TO_STOP)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    from prefect.cli import app

    app()
