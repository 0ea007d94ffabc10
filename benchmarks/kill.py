"""Kills a running experiment at random moments and shows that nothing is lost.

An undisturbed run in one folder; in another, `latentflow experiment` is killed (SIGKILL to its
whole group) at ten random moments and run again to the end. Both must end with the same artifact
keys and the same table.

    python benchmarks/kill.py [--kills 10] [--params examples/tiny.yaml] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def environment(folder: Path, port: int) -> dict[str, str]:
    """State and ports of its own, so that the run touches nothing else on this machine."""
    return {
        **os.environ,
        "LATENTFLOW_STATE": str(folder / "state"),
        "LATENTFLOW_PREFECT_PORT": str(port),
    }


def command(folder: Path, params: str) -> list[str]:
    store = f"execution.store={folder / 'artifacts'}"
    return [sys.executable, "-m", "flows", "experiment", "--params", params, store]


def run(folder: Path, params: str, port: int) -> float:
    started = time.monotonic()
    done = subprocess.run(
        command(folder, params),
        cwd=REPOSITORY,
        env=environment(folder, port),
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        sys.exit(f"the run in {folder} failed:\n{done.stderr[-3000:]}")
    return time.monotonic() - started


def kill_once(folder: Path, params: str, port: int, seconds: float) -> bool:
    """Starts the experiment and kills it after `seconds`; whether it was still running."""
    with (folder / "killed.log").open("a", encoding="utf-8") as log:
        child = subprocess.Popen(
            command(folder, params),
            cwd=REPOSITORY,
            env=environment(folder, port),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            child.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True


def table(folder: Path) -> tuple[list[str], list[dict]]:
    """The keys of all artifacts and the rows of the report."""
    sys.path.insert(0, str(REPOSITORY))
    from components.report.tables import REPORT
    from components.store.artifact import Store

    store = Store(folder / "artifacts")
    keys = sorted(f"{artifact.stage}/{artifact.key}" for artifact in store.artifacts())
    return keys, [
        row for report in store.artifacts("report") for row in REPORT.read(report).to_dicts()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--params", default="examples/tiny.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    room = Path(tempfile.mkdtemp(prefix="latentflow-kill-"))
    calm, hunted = room / "calm", room / "hunted"
    calm.mkdir()
    hunted.mkdir()
    seconds = run(calm, arguments.params, 4311)
    moments, killed = [], 0
    while killed < arguments.kills:
        moment = rng.uniform(0.15, 1.0) * seconds
        moments.append(round(moment, 1))
        was_running = kill_once(hunted, arguments.params, 4312, moment)
        if was_running:
            killed += 1
        else:  # it came through: start over from an empty store, so that every kill hits work
            shutil.rmtree(hunted / "artifacts")
    again = run(hunted, arguments.params, 4312)
    keys, rows = table(calm)
    keys_after, rows_after = table(hunted)
    result = {
        "undisturbed_seconds": round(seconds, 1),
        "kills": killed,
        "moments": moments,
        "last_run_seconds": round(again, 1),
        "artifacts": len(keys),
        "same_keys": keys == keys_after,
        "rows": len(rows),
        "same_table": rows == rows_after,
        "partial_folders_left": len(list((hunted / "artifacts").glob("*/*.partial"))),
    }
    print(
        json.dumps(result)
        if arguments.json
        else "\n".join(f"{name:<22} {value}" for name, value in result.items())
    )
    shutil.rmtree(room)
    sys.exit(0 if result["same_keys"] and result["same_table"] else 1)


if __name__ == "__main__":
    main()
