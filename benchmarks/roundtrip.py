"""Publishes a run and brings it back elsewhere: nothing may be computed again, nothing may differ.

In a clone of this repository: the experiment, `dvc repro` (which must find every stage),
`latentflow publish`, a commit, `dvc push` to a folder remote. In a clone of that clone: `dvc pull`,
and the experiment again, every stage cached and the same report.

    python benchmarks/roundtrip.py [--params examples/tiny.yaml] [--keep folder] [--json]

Without --params the reference experiment is run (minutes). Uses this interpreter and servers of its
own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
KEY = re.compile(r"^\s+([a-z ]+?)\s+([0-9a-f]{24})\s+[\d.]+ MB\s+(cached|[\d.]+ s)\s*$", re.M)


def run(where: Path, *command: str, port: int) -> str:
    """What the command said, on both streams; it must succeed."""
    inherited = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("LATENTFLOW_", "PREFECT_", "MLFLOW_"))
    }
    path = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc.yaml says `python`
    )
    own = {
        "LATENTFLOW_PREFECT_PORT": str(port),
        "PYTHONPATH": str(where),
        "COLUMNS": "200",
        "PATH": path,
    }
    given = {"cwd": where, "env": {**inherited, **own}, "text": True}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **given
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(command)} in {where} ended with status "
            f"{done.returncode}:\n{done.stdout[-3000:]}"
        )
    return done.stdout


def stages(said: str) -> dict[str, tuple[str, bool]]:
    """Stage -> (key, whether it was found rather than made)."""
    return {label.strip(): (key, how == "cached") for label, key, how in KEY.findall(said)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params")
    parser.add_argument(
        "--keep", type=Path, help="leave the clones here, with dvc.lock and data/refs of the run"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    room = options.keep or Path(tempfile.mkdtemp(prefix="latentflow-roundtrip-"))
    room.mkdir(parents=True, exist_ok=True)
    home, away, remote = room / "home", room / "away", room / "remote"
    python, took = sys.executable, {}

    def step(name: str, where: Path, *command: str) -> str:
        started = time.monotonic()
        said = run(where, *command, port=4391 if where == home else 4392)
        took[name] = round(time.monotonic() - started, 1)
        return said

    run(room, "git", "clone", "-q", str(REPOSITORY), str(home), port=0)
    for key, value in (("user.name", "roundtrip"), ("user.email", "roundtrip@localhost")):
        run(home, "git", "config", key, value, port=0)
    if options.params:  # what is in params.yaml is what DVC runs
        (home / "params.yaml").write_text(
            run(home, python, "-m", "flows", "params", "--params", options.params, port=0),
            encoding="utf-8",
        )
    first = stages(step("experiment", home, python, "-m", "flows", "experiment"))
    repro = stages(step("dvc repro", home, python, "-m", "dvc", "repro"))
    published = step("publish", home, python, "-m", "flows", "publish")
    run(home, python, "-m", "dvc", "remote", "add", "-f", "-d", "roundtrip", str(remote), port=0)
    pushed = step("dvc push", home, python, "-m", "dvc", "push")
    run(home, "git", "add", "-A", port=0)
    run(home, "git", "commit", "-qm", "published", port=0)
    run(room, "git", "clone", "-q", str(home), str(away), port=0)
    step("dvc pull", away, python, "-m", "dvc", "pull")
    again = stages(step("experiment elsewhere", away, python, "-m", "flows", "experiment"))
    status = step("dvc status elsewhere", away, python, "-m", "dvc", "status").strip()

    result = {
        "stages": len(first),
        "repro_recomputed": sorted(label for label, (_, found) in repro.items() if not found),
        "elsewhere_recomputed": sorted(label for label, (_, found) in again.items() if not found),
        "same_keys": {label: key for label, (key, _) in first.items()}
        == {k: key for k, (key, _) in again.items()},
        "files_pushed": int((re.search(r"(\d+) files? pushed", pushed) or [0, 0])[1]),
        "published": published.strip().splitlines()[0],
        "dvc_status": status,
        "seconds": took,
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            print(f"{name:<22} {value}")
    if not options.keep:
        shutil.rmtree(room, ignore_errors=True)
    good = result["same_keys"] and len(first) == len(again) >= 8
    if not good or result["repro_recomputed"] or result["elsewhere_recomputed"]:
        sys.exit("the round trip recomputed or changed something")


if __name__ == "__main__":
    main()
