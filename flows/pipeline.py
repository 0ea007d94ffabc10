"""What DVC needs: the report as a metrics file, the curves as a plots file, and a run's artifacts
under DVC.

`dvc.yaml` calls the same command line as everybody; its outputs are small pointer files under
`data/refs/`. `publish` adds the closure of a run (every artifact it was made from) to DVC, so that
`dvc push`, a fresh clone, `dvc pull` and `make demo` recompute nothing.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from components.errors import MissingArtifactError, ServiceError
from components.report.scores import flat
from components.report.tables import REPORT
from components.store.artifact import Artifact, Store
from components.store.lineage import closure, source
from components.store.tables import CURVE


def write_metrics(path: Path, report: Artifact) -> None:
    """The report's values by dotted name, as DVC compares them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(flat(REPORT.read(report)), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )


def write_plots(path: Path, report: Artifact) -> None:
    """The training curves in wide form, one row for each step."""
    trained = source(report, "train")
    if trained is None:
        raise MissingArtifactError(
            f"the dictionary of report {report.key} is not in its store; run `latentflow train`"
        )
    curve = CURVE.read(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    curve.pivot("name", index=["step", "tokens"], values="value").sort("step").write_csv(path)


def publish(store: Store, key: str = "") -> Iterator[str]:
    """Adds every artifact that a report rests on to DVC; yields what was done.

    Raises:
        ServiceError: there is no report, an artifact behind it is gone, the store lies outside this
            folder, or DVC refused.
    """
    if not store.root.is_relative_to(Path.cwd()):
        raise ServiceError(
            f"DVC publishes what lies in the repository, and the store is {store.root}, outside "
            f"{Path.cwd()}; run from the repository with execution.store inside it"
        )
    reports = (
        [store.get("report", key)]
        if key
        else sorted(store.artifacts("report"), key=lambda report: report.age)
    )
    if not reports:
        raise ServiceError(
            f"no report in {store.root} to publish; `latentflow experiment` makes one"
        )
    behind = closure(store, [reports[-1]], whole=True)
    folders = [artifact.folder.relative_to(Path.cwd()).as_posix() for artifact in behind.values()]
    added = subprocess.run(
        [sys.executable, "-m", "dvc", "add", *folders],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if added.returncode:
        raise ServiceError(f"DVC could not add the artifacts: {added.stderr.strip()[-500:]}")
    size = sum(
        file["bytes"]
        for artifact in behind.values()
        for file in artifact.manifest["files"].values()
    )
    yield f"report {reports[-1].key}: {len(behind)} artifacts, {size / 1e6:.0f} MB, under DVC"
    where = shlex.quote(store.root.relative_to(Path.cwd()).as_posix())
    yield f"next: git add {where}/*/*.dvc {where}/*/.gitignore && git commit && dvc push"
