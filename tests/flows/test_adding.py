"""A stage is its package and one field of `ExperimentConfig`: every window and every list then
knows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STAGE = '''
"""The stage `count`: how many tokens the corpus has."""

from __future__ import annotations

from pathlib import Path

from components.config import Config
from components.report.measure import Measure, Measures
from components.report.scores import write
from components.store.stage import Inputs, Parent, Progress, Stage, Work


MEASURES = Measures.declared("count", [Measure("tokens", "Tokens", "tokens", "Tokens of a split.", "neither")])


class CountConfig(Config):
    """What is counted."""

    split: str = "test"
    """The split whose tokens are counted."""


def make(folder: Path, config: CountConfig, inputs: Inputs, settings: object) -> Work:
    """Writes one score."""
    n = inputs["corpus"].facts["splits"][config.split]["tokens"]
    write(folder, "count", [{"measure": "tokens", "split": config.split, "value": float(n), "n": n}], MEASURES)
    yield Progress(n, n, "tokens")
    return {"n_tokens": n} | MEASURES.facts()


COUNT = Stage("count", 1, make, inputs={"corpus": Parent("read")}, scored=True, computes=False)
'''
IMPORT = "from components.counting.count import COUNT, CountConfig\n"
FIELD = '''    count: Annotated[CountConfig, COUNT] = CountConfig()
    """How many tokens there are."""
'''
SEEN = """
import sys
from components.experiment import STAGES, parents
from components.store.artifact import Store
from flows.stack import deployments
from flows.chain import Chain
from flows.parameters import resolve
from flows.plan import plan

assert list(STAGES) == ["read", "capture", "train", "encode", "interpret", "steer", "evaluate", "count", "report"]
assert list(parents("report"))[-1] == "count"
[served] = [each for each in deployments.describe()["deployments"] if each["flow_name"] == "count"]
assert served["entrypoint"] == "flows/stages.py:count" and served["description"] == "How many tokens there are."
assert "CountConfig" in served["schema"]["definitions"]
config = resolve(sys.argv[1:])
steps = {step.label: step for step in plan(config, seconds=0)}
with Chain(config, plain=True) as chain:
    counted = chain.artifact("count")
assert counted.key == steps["count"].key and counted.facts["n_tokens"] > 0
assert counted.manifest["inputs"]["corpus"]["key"] == steps["read"].key
"""


SPLITS = ("train", "select", "explain", "calibrate", "judge", "validate", "neutral", "test")
SMALL = (
    f"read.splits={{{', '.join(f'{split}: 2000' for split in SPLITS)}}}",
    *(
        "execution.store=artifacts",
        "read.pairs=1",
        "read.prompts_validate=1",
        "read.prompts_test=1",
    ),
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with that stage: a package of its own, and two lines elsewhere."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("components", "flows", "dashboards"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / "data").mkdir()
    (folder / "data" / "demo").symlink_to(REPOSITORY / "data" / "demo")
    (folder / "components" / "counting").mkdir()
    (folder / "components" / "counting" / "__init__.py").touch()
    (folder / "components" / "counting" / "count.py").write_text(STAGE, encoding="utf-8")
    declared = folder / "components" / "experiment.py"
    before, annotated, after = declared.read_text(encoding="utf-8").partition(
        "    report: Annotated["
    )
    imported = before.replace("from components.device", f"{IMPORT}from components.device", 1)
    declared.write_text(imported + FIELD + annotated + after, encoding="utf-8")
    return folder


def python(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment | {"LATENTFLOW_STATE": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_command_line_lists_and_runs_it(checkout: Path) -> None:
    assert "How many tokens there are." in python(checkout, "-m", "flows", "--help")
    said = python(checkout, "-m", "flows", "count", "--plain", "count.split=judge", *SMALL)
    assert (
        said.startswith("count/") and len(list((checkout / "artifacts" / "count").iterdir())) == 1
    )


def test_chain_plan_report_deployments_and_form_know_it(checkout: Path) -> None:
    python(checkout, "-W", "ignore", "-c", SEEN, *SMALL)
