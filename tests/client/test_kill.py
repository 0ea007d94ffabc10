"""A run that is killed: what was answered is in the cache, and no call is made twice."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import Ask, prompts
from tests.client.servers import Act, Server, echo, prompt_of

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
import sys
from components.client.client import Client
from components.client.clients.endpoint import EndpointConfig
from tests.client.conftest import prompts
settings = EndpointConfig(url=sys.argv[1], model="judge-1", replies=sys.argv[2], concurrency=3)
Client(settings).ask(prompts(12))
"""


def test_after_kill_9_no_call_is_made_twice(server: Server, client: Ask, tmp_path: Path) -> None:
    released, killed = threading.Event(), threading.Event()

    def script(sent: Any, times: int) -> Act:
        if int(prompt_of(sent).split()[1]) >= 5 and not killed.is_set():
            released.wait(30)
            # nobody waits for it any more, so it is not billed
            return dataclasses.replace(echo(sent), paid=False)
        return echo(sent)

    server.script = script
    folder = tmp_path / "replies"
    command = [sys.executable, "-W", "ignore", "-c", RUN, server.url, str(folder)]
    running = subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    kept = 0
    try:
        until = time.monotonic() + 200
        # five answers are kept, three requests are on their way
        while kept < 5 or len(server.sent) < 8:
            assert time.monotonic() < until and running.poll() is None
            time.sleep(0.05)
            if (folder / "replies.sqlite").is_file():
                cache = sqlite3.connect(f"{(folder / 'replies.sqlite').as_uri()}?mode=ro", uri=True)
                kept = cache.execute("SELECT count(*) FROM replies").fetchone()[0]
                cache.close()
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    killed.set()
    released.set()
    before = Counter(server.prompts)
    assert before == Counter({f"question {number}": 1 for number in range(8)})

    resumed = client()
    replies = resumed.ask(prompts(12))
    assert [reply.text for reply in replies] == [
        f"answer to question {number}" for number in range(12)
    ]
    assert [reply.cached for reply in replies] == [True] * 5 + [False] * 7
    assert server.paid == Counter({f"question {number}": 1 for number in range(12)})
    assert [server.prompts.count(f"question {number}") for number in range(5)] == [1] * 5
    assert resumed.account.usd == pytest.approx(server.usd)
    undisturbed = client(replay=True)
    undisturbed.ask(prompts(12))
    assert undisturbed.account.rows() == resumed.account.rows()
