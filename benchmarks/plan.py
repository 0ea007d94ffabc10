"""Forecast against measurement: `latentflow plan`, then the very run, stage by stage.

    python benchmarks/plan.py [examples/tiny.yaml ...] [--json]

The plan and each stage run in processes of their own, on a store of their own. Seconds are those of
the manifest; memory is the largest resident set of the process that made the stage, set against the
plan's process and its estimate together (files that are mapped count in the first and not in the
second); disk is the sum of the artifact's files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

STAGE = """
import json, sys
from pathlib import Path
from flows.parameters import resolve
from flows.chain import Chain
with Chain(resolve([f"execution.store={sys.argv[3]}"], Path(sys.argv[2])), plain=True) as chain:
    stage, _, control = sys.argv[1].partition(" ")
    made = chain.artifact(stage, control)
print(json.dumps({
    "seconds": made.manifest["made"]["seconds"],
    "memory": made.manifest["made"]["peak_memory_bytes"],
    "disk": sum(file["bytes"] for file in made.manifest["files"].values()),
}))
"""


def compare(params: str) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as store:
        command = [
            sys.executable,
            "-m",
            "flows",
            "plan",
            "--json",
            "--params",
            params,
            f"execution.store={store}",
        ]
        planned = json.loads(
            subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                encoding="utf-8",
                errors="replace",
            ).stdout
        )
        said = {row["label"]: row for row in planned}
        total = said["total"]
        rows = []
        for label in [row["label"] for row in planned if row["label"] not in ("report", "total")]:
            ran = subprocess.run(
                [sys.executable, "-c", STAGE, label, params, store], capture_output=True, check=True
            )
            real, row = json.loads(ran.stdout), said[label]
            rows.append(
                {
                    "params": params,
                    "stage": label,
                    "seconds_said": row["seconds"],
                    "seconds": real["seconds"],
                    "memory_mb_said": round((total["process_bytes"] + row["memory_bytes"]) / 2**20),
                    "memory_mb": round(real["memory"] / 2**20),
                    "disk_mb_said": round(row["disk_bytes"] / 2**20, 2),
                    "disk_mb": round(real["disk"] / 2**20, 2),
                }
            )
        return rows


if __name__ == "__main__":
    files = [given for given in sys.argv[1:] if not given.startswith("-")] or [
        "examples/tiny.yaml",
        "examples/small.yaml",
    ]
    rows = [row for params in files for row in compare(params)]
    if "--json" in sys.argv:
        print(json.dumps(rows, indent=1))
    else:
        names = list(rows[0])
        print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
        for row in rows:
            print("| " + " | ".join(str(row[name]) for name in names) + " |")
