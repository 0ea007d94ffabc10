"""The chain through Prefect, the store and MLflow: made once, found afterwards, remade only where
something is gone."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient

from components.config import override
from components.errors import ModelError, UnknownNameError
from components.experiment import BESIDE, STAGES, ExperimentConfig
from components.model.reference import REPOSITORY
from components.report.tables import REPORT
from components.store.artifact import Store
from flows.chain import Chain
from flows.tracking.registry import resolve_dictionary

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]


def made(store: Store) -> dict[str, str]:
    return {
        f"{a.stage}/{a.key}": a.manifest["made"]["at"] + str(a.manifest["made"]["seconds"])
        for a in store.artifacts()
    }


def test_the_report_holds_scores_of_every_scored_stage(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    frame = REPORT.read(Store(config.execution.store).get(**first))
    assert set(frame["stage"]) == {"evaluate", "interpret", "steer"}
    assert frame["n"].null_count() == 0
    assert frame.filter(pl.col("value").is_null() & pl.col("reason").is_null()).height == 0
    steered = frame.filter(
        pl.col("measure") == "uplift",
        pl.col("role").is_in(["entry", "baseline"]),
        pl.col("concept").is_null(),
    )
    assert steered["value"].null_count() == 0 and (steered["n"] > 0).all(), (
        "steering was tried, not skipped"
    )


def test_a_second_run_finds_every_stage_and_shows_them_as_cached(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    from prefect.client.orchestration import get_client

    from flows.experiment import experiment

    store = Store(config.execution.store)
    before = made(store)
    assert experiment(config) == first
    assert made(store) == before

    async def names() -> list[str]:
        async with get_client() as client:
            return [run.state_name for run in await client.read_task_runs() if run.state_name]

    assert asyncio.run(names()).count("Cached") >= len(before)


def test_the_command_line_without_prefect_finds_the_same_artifacts(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    with Chain(config, plain=True) as chain:
        assert chain.artifact("report").reference() == first


def test_the_model_is_fetched_by_its_task_before_the_plan_looks_for_it(
    config: ExperimentConfig,
    servers: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from flows import plan, steps
    from flows.experiment import experiment

    class Enough(Exception):
        """The plan was reached."""

    done: list[str] = []

    def look(*given: object, **options: object) -> None:
        done.append("plan")
        raise Enough

    noted = steps.fetch.with_options(on_completion=[lambda task, run, state: done.append("fetch")])
    monkeypatch.setattr(steps, "fetch", noted)
    monkeypatch.setattr(plan, "say", look)
    with pytest.raises(Enough):
        experiment(override(config, {"model.online": True}))
    assert done == ["fetch", "plan"]
    assert (
        f"this run keeps its artifacts in {config.execution.store}, and the pages show "
        in caplog.text
    )


def test_a_stage_takes_a_device_slot_unless_it_says_that_it_needs_none() -> None:
    free = {name for name, stage in (STAGES | BESIDE).items() if not stage.computes}
    assert free == {"read", "report", "compare", "replicate"}


def test_deleting_one_artifact_remakes_only_what_follows(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    store = Store(config.execution.store)
    report = store.get(**first)
    frame = REPORT.read(report)
    gone = report.manifest["inputs"]["interpret"]
    before = made(store)
    store.delete(**gone)
    with Chain(config, plain=True) as chain:
        again = chain.artifact("report")
    after = made(store)
    assert {key for key in after if after[key] != before.get(key)} == {f"interpret/{gone['key']}"}
    assert REPORT.read(again).equals(frame)


def test_a_model_that_changes_while_the_experiment_runs_is_refused(
    config: ExperimentConfig, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(REPOSITORY / config.model.path, copy)
    changing = override(
        config, {"model.path": str(copy), "execution.store": str(tmp_path / "artifacts")}
    )
    with Chain(changing, plain=True) as chain:
        chain.artifact("read")
        described = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(described, indent=4))
        with pytest.raises(
            ModelError, match=r"the files of model .* changed while the experiment ran .* run again"
        ):
            chain.artifact("capture")


def test_a_named_dictionary_brings_a_control_of_its_own_size(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    store = Store(config.execution.store)
    trained = store.get(**store.get(**first).manifest["inputs"]["train"])
    other = override(config, {"dictionary": trained.key, "train.dictionary.d_sae": "96"})
    with Chain(other, plain=True) as chain:
        assert (
            chain.artifact("train", control="untrained").facts["d_sae"]
            == trained.facts["d_sae"]
            == 128
        )


def test_mlflow_has_a_parent_run_with_parameters_and_a_nested_run_for_each_stage(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("latentflow")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    parent = [run for run in parents if run.data.tags.get("report") == first["key"]][-1]
    assert parent.data.params["train.dictionary.k"] == "8"
    assert parent.data.tags["report"] == first["key"]
    assert {"fvu", "l0", "loss_recovered", "concepts_found"} <= parent.data.metrics.keys()
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.data.tags["stage"] for run in below} == {
        "read",
        "capture",
        "train",
        "encode",
        "interpret",
        "steer",
        "evaluate",
        "report",
    }
    evaluate = next(run for run in below if run.data.tags["stage"] == "evaluate")
    keys = {given.dataset.digest for given in evaluate.inputs.dataset_inputs}
    assert {evaluate.data.tags["input.codes"], evaluate.data.tags["input.dictionary"]} <= keys


def test_the_registered_dictionary_loads_without_pickle_and_can_be_named(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    import mlflow
    import numpy as np

    store = Store(config.execution.store)
    trained = store.get(**store.get(**first).manifest["inputs"]["train"])
    name = f"{trained.facts['name']}@champion"
    assert resolve_dictionary(name) == trained.key
    with Chain(override(config, {"dictionary": name}), plain=True) as chain:
        assert chain.artifact("train").key == trained.key
    model = mlflow.pyfunc.load_model(f"models:/{name}")
    x = np.random.default_rng(0).normal(size=(4, trained.facts["d_in"])).astype(np.float32)
    assert model.predict(x).shape == x.shape
    files = [
        path.name
        for path in Path(mlflow.artifacts.download_artifacts(f"models:/{name}")).rglob("*")
    ]
    assert not [file for file in files if file.endswith((".pkl", ".pt", ".bin"))]
    with pytest.raises(
        UnknownNameError,
        match=rf"no dictionary 'nosuch@champion'.*known: {trained.facts['name']}@champion",
    ):
        resolve_dictionary("nosuch@champion")
