"""What is no autoencoder of one hook point goes through everything: the laws, and an experiment
from capture to report.

The doubles of `tests/wirings/` are files as anybody would add them. Each is put into a copy of the
sources, because an architecture that is there at all is in every form, sweep and list.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from components.dictionary.settings import TrainConfig
from components.report.tables import REPORT
from components.store.artifact import Store
from components.store.tables import CURVE, STRENGTHS

REPOSITORY = Path(__file__).resolve().parents[2]
MLP_IN, MLP_OUT = "module:model.layers.2.mlp:input", "mlp_out.2"
CROSSED = ("resid_post.1", "resid_post.2")
DOUBLES = ("transcoder", "crosscoder", "rivals")
# concepts_found takes longer than all the rest
WITHOUT_PROBES = "evaluate.evaluations=[loss_recovered,reconstruction]"
RUNS = {
    "transcoder": (
        "train.dictionary.kind=transcoder",
        f"train.hook_point={MLP_IN}",
        "train.normalise=scale",
        WITHOUT_PROBES,
    ),
    "crosscoder": ("train.dictionary.kind=crosscoder", "train.normalise=scale"),
    "fine_tuned": (f"train.hook_point={CROSSED[1]}", "train.splice.share=0.25", WITHOUT_PROBES),
}
CHAINS = """
import sys
from pathlib import Path

from flows.parameters import resolve
from flows.chain import Chain

*shared, runs = sys.argv[1:]
for run in runs.split("|"):
    config = resolve([*shared, *run.split()], Path("examples/tiny.yaml"))
    with Chain(config, plain=True) as chain:
        print(chain.artifact("report").key)
"""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, with each double as one more file."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("components", "flows", "tests", "examples"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copytree(REPOSITORY / "data" / "demo", folder / "data" / "demo")
    for name in ("pyproject.toml", "params.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    for name in DOUBLES:
        shutil.copy(
            REPOSITORY / "tests" / "wirings" / f"{name}.py",
            folder / "components/dictionary/architectures",
        )
    return folder


def started(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


def python(folder: Path, *arguments: str) -> str:
    done = started(folder, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def reports(checkout):
    """The artifact of `report` of every run, by its name; all of them read one corpus and one
    capture."""
    store = checkout / "artifacts"
    points = ",".join((MLP_IN, MLP_OUT, *CROSSED))
    shared = (
        f"capture.hook_points=[{points}]",
        "evaluate.settings.concepts_found.tokens=4000",
        f"execution.store={store}",
        "execution.device=cpu",
    )
    runs = "|".join(" ".join(run) for run in RUNS.values())
    keys = python(checkout, "-c", CHAINS, *shared, runs).split()
    return {
        name: Store(store).get("report", key)
        for name, key in zip(RUNS, keys[-len(RUNS) :], strict=True)
    }


@pytest.fixture(scope="module")
def laws(checkout):
    """For each double, what became of each law; one process for all, since starting it costs more
    than the laws."""
    told = checkout / "laws.xml"
    arguments = ("-p", "no:cacheprovider", "--junitxml", str(told), "-k", " or ".join(DOUBLES))
    done = started(checkout, "-m", "pytest", "tests/contracts/test_architectures.py", *arguments)
    assert told.exists(), done.stdout[-3000:] + done.stderr[-5000:]
    cases = list(ElementTree.parse(told).getroot().iter("testcase"))
    return {
        double: {case.get("name"): [each.tag for each in case] for case in cases
                 if f"[{double}" in str(case.get("name"))}
        for double in DOUBLES
    }  # fmt: skip


@pytest.mark.parametrize("double", DOUBLES)
def test_it_keeps_the_laws(laws, double):
    outcomes = [tag for tags in laws[double].values() for tag in tags]
    assert len(laws[double]) > 10 and set(outcomes) <= {"skipped"}, laws[double]
    assert len(outcomes) < len(laws[double])


def behind(report, stage):
    """The artifact of a stage behind a report."""
    return Store(report.folder.parent.parent).get(**report.manifest["inputs"][stage])


def scores(report, measure):
    frame = REPORT.read(report).filter(pl.col("stage") == "evaluate", pl.col("measure") == measure)
    return {row["hook_point"]: row for row in frame.iter_rows(named=True)}


def test_a_transcoder_is_measured_where_it_writes_and_steered_there(reports):
    report = reports["transcoder"]
    facts = behind(report, "train").facts
    assert (facts["reads"], facts["reconstructs"]) == ([MLP_IN], [MLP_OUT])
    for name in ("fvu", "loss_recovered.mean_ablation"):
        (place,) = scores(report, name)
        row = scores(report, name)[place]
        assert place == MLP_OUT and row["value"] is not None and row["baseline"] is not None, row
    assert scores(report, "fvu")[MLP_OUT]["value"] < scores(report, "fvu")[MLP_OUT]["baseline"]
    steered = behind(report, "steer")
    assert steered.facts["hook_point"] == MLP_OUT
    assert STRENGTHS.read(steered)["kl"].drop_nulls().len() > 0


def test_a_crosscoder_is_measured_at_every_hook_point_and_steered_at_the_first(reports):
    report = reports["crosscoder"]
    for name in ("fvu", "loss_recovered.mean_ablation", "cross_entropy_rise"):
        rows = scores(report, name)
        assert set(rows) == set(CROSSED)
        assert all(
            row["value"] is not None and row["baseline"] is not None for row in rows.values()
        ), rows
    assert behind(report, "steer").facts["hook_point"] == CROSSED[0]
    assert behind(report, "encode").facts["l0"]["test"] > 1
    found = REPORT.read(report).filter(pl.col("name").str.starts_with("evaluate.concepts_found"))
    assert found.height and set(found["hook_point"]) == {CROSSED[0]}


def test_a_fine_tuned_dictionary_has_its_model_in_its_lineage_and_its_loss_in_its_curve(reports):
    trained = behind(reports["fine_tuned"], "train")
    assert set(trained.manifest["inputs"]) == {"activations", "model", "corpus"}
    assert {"loss.kl", "loss.reconstruction", "fvu"} <= set(CURVE.read(trained)["name"])
    assert scores(reports["fine_tuned"], "loss_recovered.mean_ablation")[CROSSED[1]]["value"] > 0


def test_without_a_splice_a_dictionary_rests_on_activations_alone(reports):
    assert set(behind(reports["crosscoder"], "train").manifest["inputs"]) == {"activations"}
    assert TrainConfig().splice.share == 0
