"""What orchestration costs: an experiment through Prefect and MLflow against the same components
called directly.

Both start from an empty store, in turns (direct, tracked, direct, tracked, ...), with as many
threads as the machine has cores, on a state folder that a tiny tracked run made first, as on a
machine that is used. The bar: at most 10% or 15 s more, whichever is larger, by the medians.

    python benchmarks/overhead.py [--params examples/tiny.yaml] [--repeat 2] [--json]

With `--up` it measures the stack instead: seconds until `latentflow up` is ready, on a fresh and on
a used state folder, and resident memory by process. The bar: 25 s and 1.2 GB without the live
worker.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.stacks import TINY, Room  # noqa: E402


def seconds(room: Room, *arguments: str) -> float:
    """One run on an empty store, from the start of the process to its end."""
    shutil.rmtree(room.store, ignore_errors=True)
    began = time.monotonic()
    status, output = room.run(*arguments, seconds=3600)
    if status:
        sys.exit(f"latentflow {' '.join(arguments)} failed:\n{output[-3000:]}")
    return time.monotonic() - began


def tracking(folder: Path, params: str, repeat: int) -> dict:
    room = Room(folder, OMP_NUM_THREADS=str(os.cpu_count()))
    store = f"execution.store={room.store}"
    # both kinds find warm files, the tracked one its databases
    seconds(room, "experiment", "--params", str(TINY), store)
    arguments = ("experiment", "--params", params, store)
    direct, tracked = [], []
    for _ in range(repeat):
        direct.append(seconds(room, *arguments, "--plain"))
        tracked.append(seconds(room, *arguments))
        print(
            f"direct {direct[-1]:.0f} s, tracked {tracked[-1]:.0f} s", file=sys.stderr, flush=True
        )
    without, with_ = statistics.median(direct), statistics.median(tracked)
    allowed = max(0.1 * without, 15.0)
    return {
        "params": params,
        "direct_seconds": [round(s, 1) for s in direct],
        "tracked_seconds": [round(s, 1) for s in tracked],
        "more_seconds": round(with_ - without, 1),
        "more_percent": round(100 * (with_ - without) / without, 1),
        "allowed_seconds": round(allowed, 1),
        "within": with_ - without <= allowed,
    }


def stack(folder: Path) -> dict:
    room = Room(folder)
    ready = []
    memory: dict[str, float] = {}
    for _ in ("fresh", "used"):
        began = time.monotonic()
        process = room.up()
        ready.append(round(time.monotonic() - began, 1))
        rows = json.loads(room.run("status", "--json")[1])
        memory = {row["name"]: row["memory_mb"] for row in rows}
        began = time.monotonic()
        room.run("down")
        process.wait(30)
        down = round(time.monotonic() - began, 1)
    total = sum(megabytes for name, megabytes in memory.items() if name != "live")
    return {
        "ready_seconds_fresh": ready[0],
        "ready_seconds_used": ready[1],
        "down_seconds": down,
        "memory_mb": memory,
        "total_mb_without_live": total,
        "within": max(ready) <= 25 and total <= 1250,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="examples/tiny.yaml")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--up", action="store_true", help="measure the stack instead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="latentflow-overhead-"))
    result = stack(folder) if arguments.up else tracking(folder, arguments.params, arguments.repeat)
    print(
        json.dumps(result)
        if arguments.json
        else "\n".join(f"{name:<24} {value}" for name, value in result.items())
    )
    shutil.rmtree(folder)
    sys.exit(0 if result["within"] else 1)


if __name__ == "__main__":
    main()
