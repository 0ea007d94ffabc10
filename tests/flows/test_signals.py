"""A whole run on the command line that a signal ends: its server ends with it, its port is free,
its run is Crashed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flows.stack import processes
from tests.stacks import TINY, Room

pytestmark = [pytest.mark.faults, pytest.mark.flow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_run_that_a_signal_ends_leaves_no_server_and_no_port(
    number: signal.Signals, tmp_path: Path
) -> None:
    room = Room(tmp_path)
    run = room.start("experiment", "--params", str(TINY), f"execution.store={room.store}")
    try:
        # a stage is made, the next one runs
        room.until(lambda: "  read " in room.text() or run.poll() is not None, 240)
        server = processes.read_record(room.folder / "state" / "prefect" / "server.json")
        assert server is not None and not processes.is_free(server["port"])
        run.send_signal(number)
        assert run.wait(60) == -number, "whoever waits for it hears that it was the signal"
        if number == signal.SIGKILL:
            room.until(lambda: not processes.lives(server), 30)
        assert not processes.lives(server)
        assert processes.is_free(server["port"])
        status, told = room.run("down")
        assert (status, told.strip()) == (
            0,
            f"no stack runs on state folder {room.folder / 'state'}",
        )
        assert "Traceback" not in room.text()
    finally:
        room.close()
