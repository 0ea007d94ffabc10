"""Activations from a file through the whole chain: what needs no text is measured, the rest says
why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest

from components.capture.arrays import NO_TEXT
from components.config import assignments, override
from components.errors import ConfigError, MissingArtifactError
from components.experiment import STAGES, ExperimentConfig
from components.report.tables import COMPARISON, REPORT
from components.store.artifact import Artifact, Store
from components.store.lineage import inputs
from components.store.tables import NAMES, POOLED
from flows import plan
from flows.chain import Chain
from flows.live.bench import Sources
from flows.sweep import compare
from tests.dashboards.pages import PAGES
from tests.flows.conftest import REPOSITORY, commands

pytestmark = pytest.mark.timeout(300)
N, WIDTH, DIRECTIONS, ROWS = 4000, 16, 48, 40
COMMANDS = {  # those of the page: without a table of provenance and with one
    "provenance" if any("provenance" in argument for argument in command) else "alone": command
    for command in commands("other-models.md")
    if any(argument.startswith("capture.arrays.path") for argument in command)
}


class Made(NamedTuple):
    """An experiment that ran: its settings and its report."""

    config: ExperimentConfig
    report: Artifact

    @property
    def store(self) -> Store:
        return Store(self.config.execution.store)

    @property
    def capture(self) -> Artifact:
        [capture] = self.store.artifacts("capture")
        return capture


def brought(folder: Path) -> Path:
    """A folder with the files that the page's commands name: sparse sums of planted directions."""
    draw = np.random.default_rng(0)
    directions = draw.normal(size=(DIRECTIONS, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = (draw.random((N, DIRECTIONS)) < 0.06) * (0.5 + draw.random((N, DIRECTIONS)))
    x = (active @ directions + 0.01 * draw.normal(size=(N, WIDTH))).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "activations.npy", x)
    save_file({"layer 7": torch.from_numpy(x)}, folder / "activations.safetensors")
    letters = pl.DataFrame({"document": [f"letter {row // ROWS}" for row in range(N)]})
    letters.write_csv(folder / "rows.csv")
    return folder


def settings(folder: Path, kind: str, **changes: Any) -> ExperimentConfig:
    """The page's command on the files of this folder, with a small dictionary and without a
    model."""
    named = assignments(COMMANDS[kind][2:])
    files: Mapping[str, Any] = {name: str(folder / str(value)) for name, value in named.items()}
    small = {
        "train.dictionary.d_sae": 64,
        "train.dictionary.k": 4,
        "train.tokens": 40_000,
        "train.batch_size": 512,
    }
    where = {
        "execution.store": str(folder / "artifacts"),
        "execution.threads": 1,
        "execution.device": "cpu",
    }
    return override(
        ExperimentConfig(),
        {**files, **small, **where, "model.path": str(folder / "no model"), **changes},
    )


def ran(config: ExperimentConfig) -> Artifact:
    with Chain(config, plain=True) as chain:
        return chain.artifact("report")


@pytest.fixture(scope="module", params=["alone", "provenance"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    config = settings(brought(tmp_path_factory.mktemp(request.param)), request.param)
    return Made(config, ran(config))


def test_what_needs_no_text_is_measured_and_everything_else_says_why(made: Made) -> None:
    rows = {row["name"]: row for row in REPORT.read(made.report).to_dicts()}
    fvu = rows["evaluate.fvu"]
    assert fvu["value"] < fvu["baseline"] < 1 and fvu["unit_of_replication"] == "document"
    assert rows["evaluate.l0"]["value"] == pytest.approx(4, abs=0.5)
    assert rows["evaluate.dead_share"]["value"] is not None
    absent = {name: row for name, row in rows.items() if row["value"] is None}
    assert {row["stage"] for row in absent.values()} == {"evaluate", "interpret", "steer"}
    assert {row["entry"] for row in absent.values() if row["stage"] == "evaluate"} == {
        "concepts_found",
        "loss_recovered",
    }
    assert {row["reason"] for row in absent.values()} == {NO_TEXT}
    lines = made.report.path("report.md").read_text().splitlines()
    [told] = [line for line in lines if "the activations come from" in line]
    assert "all of interpret, all of steer" in told and "capture.arrays.path" in told


def test_nothing_rests_on_a_model_or_a_corpus_and_a_second_run_makes_nothing(made: Made) -> None:
    artifacts = list(made.store.artifacts())
    assert {artifact.stage for artifact in artifacts} == {
        "capture", "train", "encode", "interpret", "steer", "evaluate", "report",
    }  # fmt: skip
    assert not {role for artifact in artifacts for role in inputs(artifact.manifest)} & {
        "model",
        "corpus",
    }
    before = {artifact.key: artifact.age for artifact in artifacts}
    assert ran(made.config).key == made.report.key
    assert {artifact.key: artifact.age for artifact in made.store.artifacts()} == before


def test_the_command_of_the_page_works_as_it_is_written(made: Made, tmp_path: Path) -> None:
    kind = "provenance" if made.config.capture.arrays.provenance else "alone"
    small = ["train.dictionary.d_sae=32", "train.dictionary.k=4", "train.tokens=5000"]
    done = subprocess.run(
        [sys.executable, "-m", "flows", *COMMANDS[kind][1:], *small, "--plain"],
        cwd=brought(tmp_path),
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert "evaluate.fvu" in printed and f"all of interpret, all of steer: {NO_TEXT}" in printed


def test_the_plan_knows_the_keys_and_probes_what_has_work_alone(made: Made, tmp_path: Path) -> None:
    assert all(step.cached for step in plan.plan(made.config, seconds=0))
    fresh = override(made.config, {"execution.store": str(tmp_path)})
    steps = {step.label: step for step in plan.plan(fresh, seconds=1.0)}
    assert "read" not in steps and steps["report"].key == made.report.key
    assert steps["capture"].estimate.disk_bytes == pytest.approx(
        sum(file["bytes"] for file in made.capture.manifest["files"].values()), rel=0.15
    )
    for stage, told in (("interpret", "nothing is interpreted"), ("steer", "nothing is steered")):
        timing = steps[stage].timing
        assert timing and timing[0] == 0.0 and f"{told}: {NO_TEXT}" in " ".join(timing[1:])
    console = Console(width=400, record=True)
    plan.show(list(steps.values()), console)
    assert "evaluate: for" in console.export_text()


def opened(made: Made, page: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr("dashboards.app.SECONDS_TO_DRAW", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.store.root / 'mlflow.db'}")
    monkeypatch.setenv("LATENTFLOW_PREFECT_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("LATENTFLOW_STORE", str(made.store.root))
    script = REPOSITORY / "dashboards" / "pages" / f"{page}.py"
    return AppTest.from_file(str(script), default_timeout=60).run()


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_it(made: Made, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(made, page, monkeypatch)
    assert not app.exception and not app.error
    assert all("training had not converged" in warning.value.lower() for warning in app.warning)
    told = [element.value for element in app.info]
    assert all("the activations come from a file" in sentence for sentence in told)
    assert bool(told) == (page in ("overview", "explanations", "rate", "steering"))


def test_the_page_of_latents_names_the_documents_that_a_latent_is_strongest_on(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(made, "latents", monkeypatch)
    latent = int(app.header[0].value.removeprefix("Latent "))
    encoded = made.store.get(**made.report.manifest["inputs"]["encode"])
    pooled = POOLED.read(encoded).filter(pl.col("latent") == latent, pl.col("split") == "test")
    best = pooled.sort("mean", descending=True).row(0, named=True)
    frames = [frame.value for frame in app.dataframe]
    shown = next(frame for frame in frames if list(frame.columns) == ["document", "mean"])
    assert shown["mean"].tolist()[0] == pytest.approx(best["mean"])
    caption = next(each.value for each in app.caption if "strongest of" in each.value)
    if NAMES.file in made.capture.files:
        names = dict(NAMES.read(made.capture).iter_rows())
        assert shown["document"].tolist()[0] == names[best["document"]]
        assert sorted(names.values()) == sorted(f"letter {number}" for number in range(N // ROWS))
        assert "splits are disjoint by document" in caption
    else:
        first = best["document"] * 128
        assert shown["document"].tolist()[0] == f"rows {first} to {first + 127}"
        assert "there is no table of provenance" in caption
        assert "capture.arrays.provenance takes a table" in caption


def test_a_live_question_is_refused_in_a_sentence(made: Made) -> None:
    with pytest.raises(MissingArtifactError, match="were brought along: no model to read a text"):
        Sources.of(made.store, made.report.key)


def test_a_sweep_measures_what_needs_no_text(tmp_path: Path) -> None:
    lists = {
        "sweep.dictionaries": {"topk": {"kind": "topk"}},
        "sweep.sparsities": {"topk": [2, 4]},
        "sweep.seeds": [0],
    }
    config = settings(
        brought(tmp_path),
        "alone",
        **lists,
        **{"sweep.evaluations": ["concepts_found", "reconstruction"]},
    )
    with Chain(config, plain=True) as chain:
        table = COMPARISON.read(compare(chain))
    assert {"fvu", "l0"} <= set(table.filter(pl.col("value").is_not_null())["measure"])
    with plan.Plan(config) as planned:
        assert planned.sweep().cached
    assert not list(Store(config.execution.store).artifacts("gate"))


def test_a_dictionary_of_other_activations_is_measured_with_a_line_that_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(brought(tmp_path), "alone")
    with Chain(config, plain=True) as chain:
        trained = chain.artifact("train")
    with Chain(override(config, {"dictionary": trained.key}), plain=True) as chain:
        assert chain.artifact("train").key == trained.key
    assert "whether they are of one model" not in caplog.text
    a_model = {"capture.arrays.path": "", "model.path": "data/demo"}
    of_a_model = override(config, {"dictionary": trained.key, **a_model})
    with Chain(of_a_model, plain=True) as chain:
        chain.artifact("train")
    assert (
        f"from the file {config.capture.arrays.path}, and this experiment's are of a model"
        in caplog.text
    )


def test_training_with_a_model_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"train.splice.share wants the model .* train.splice.share=0"
    ):
        settings(tmp_path, "alone", **{"train.splice.share": 0.1})


def test_the_flow_runs_it_from_a_fresh_store(servers: None, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from flows.experiment import experiment

    config = settings(brought(tmp_path), "provenance", name="of a file")
    assert experiment(config) == ran(config).reference()
    client = MlflowClient()
    known = client.get_experiment_by_name("latentflow")
    assert known is not None
    runs = client.search_runs([known.experiment_id])
    [whole] = [run for run in runs if run.data.tags.get("mlflow.runName") == "of a file"]
    of_it = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == whole.info.run_id]
    assert {run.data.tags["stage"] for run in of_it} == set(STAGES) - {"read"}
    assert {"fvu", "l0"} <= whole.data.metrics.keys()
