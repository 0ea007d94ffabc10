"""A slow stage in a process of its own, to be killed or raced: `python -m tests.store.maker <store>
<seconds> <log>`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from components.config import Config
from components.store.artifact import Store
from components.store.stage import Inputs, Progress, Stage, Work

N_PARTS = 5


class SlowConfig(Config):
    """How slow."""

    seconds: float = 0.0
    """Rest after each part."""
    log: str = ""
    """File that gets a line for each part that is made."""


def make(folder: Path, config: SlowConfig, inputs: Inputs, settings: object) -> Work:
    """Writes five parts, whole or not at all, and continues after those that are there."""
    for number in range(N_PARTS):
        part = folder / f"part-{number}"
        if not part.exists():
            writing = folder / f".part-{number}.writing"
            writing.write_bytes(b"half")
            time.sleep(config.seconds)
            writing.write_bytes(bytes([number]) * 1000)
            writing.rename(part)
            with open(config.log, "a") as log:
                log.write(f"{number} {os.getpid()}\n")
        yield Progress(number + 1, N_PARTS, "parts")
    return {"parts": N_PARTS}


SLOW = Stage("slow", 1, make)

if __name__ == "__main__":
    root, seconds, log = sys.argv[1:]
    Store(root).ensure(SLOW, SlowConfig(seconds=float(seconds), log=log), {})
