"""What a reviewer finds in MLflow: short headlines to sort by, charts, environment, system metrics;
and no loss in an outage."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from components.config import override
from components.errors import ServiceError
from components.experiment import ExperimentConfig
from components.report.scores import SINGLE
from components.report.tables import REPORT, SCORES
from components.store.artifact import Store
from components.store.judgements import AGAIN, UNSTEERED
from components.store.tables import CURVE, GENERATIONS, LATENTS
from flows.stack.processes import free_port
from flows.tracking import figures
from flows.tracking.headlines import headlines
from flows.tracking.registry import resolve_dictionary
from flows.tracking.tracker import Tracker
from flows.tracking.view import EXPERIMENT, VIEW
from tests.report.rows import MEASURES, explained, found, report_frame, score, steered

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]


def runs_of(client: MlflowClient, name: str = EXPERIMENT) -> list[Run]:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def measured_steering(report: pl.DataFrame) -> list[dict[str, Any]]:
    """Means over all concepts, or over the one kind there is, that have a value: on a barely
    trained model none may pass the gate."""
    composites = report.filter(
        pl.col("measure") == "composite", ~SINGLE, pl.col("value").is_not_null()
    )
    return composites.filter(
        (pl.col("concept_kind") == "all") | (pl.len().over("name") == 1)
    ).to_dicts()


@pytest.fixture
def parent(first: dict[str, str]) -> Run:
    """The first experiment's parent run."""
    tagged = [run for run in runs_of(MlflowClient()) if run.data.tags.get("report") == first["key"]]
    return [run for run in tagged if "mlflow.parentRunId" not in run.data.tags][-1]


def test_runs_can_be_sorted_by_headlines_without_opening_one(
    config: ExperimentConfig, first: dict[str, str], parent: Run
) -> None:
    report = REPORT.read(Store(config.execution.store).get(**first))
    assert parent.data.metrics.keys() >= {
        "loss_recovered",
        "l0",
        "fvu",
        "concepts_found",
        "explanation_detection",
    }
    methods = {f"steering_{row['subject'] or row['entry']}" for row in measured_steering(report)}
    assert {name for name in parent.data.metrics if name.startswith("steering_")} == methods
    (fvu,) = report.filter(pl.col("name") == "evaluate.fvu")["value"]
    assert parent.data.metrics["fvu"] == pytest.approx(fvu)
    assert not [
        name
        for name in parent.data.metrics
        if name.startswith(("evaluate.", "interpret.", "steer."))
    ]
    ordered = MlflowClient().search_runs(
        [parent.info.experiment_id], "metrics.loss_recovered > -9", order_by=["metrics.l0 ASC"]
    )
    assert parent.info.run_id in [run.info.run_id for run in ordered]
    assert "| loss_recovered |" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["dashboard"].endswith(f"/?report={first['key']}")


def test_a_shared_view_lists_the_experiments_with_their_headlines_as_columns(parent: Run) -> None:
    experiment = MlflowClient().get_experiment(parent.info.experiment_id)
    view = json.loads(experiment.tags[VIEW])
    columns = {name.split("`")[1] for name in view["selectedColumns"] if name.startswith("metrics")}
    assert columns <= {*parent.data.metrics, "steering_add_direction"}
    found = MlflowClient().search_runs(
        [parent.info.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"]
    )
    assert parent.info.run_id in [run.info.run_id for run in found]
    assert all("mlflow.parentRunId" not in run.data.tags for run in found)


def test_every_score_is_on_the_nested_report_run(first: dict[str, str], parent: Run) -> None:
    nested = [
        run
        for run in runs_of(MlflowClient())
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    (report,) = [run for run in nested if run.data.tags["stage"] == "report"]
    assert "evaluate.loss_recovered.mean_ablation" in report.data.metrics
    assert all(run.info.status == "FINISHED" for run in nested)


def test_steered_texts_are_traces_of_the_steer_run_with_a_verdict_of_each_judge(
    config: ExperimentConfig, parent: Run
) -> None:
    (steer,) = [
        run
        for run in runs_of(MlflowClient())
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        and run.data.tags["stage"] == "steer"
    ]
    store = Store(Path(config.execution.store))
    texts = GENERATIONS.read(store.get("steer", steer.data.tags["artifact"]))
    plain = pl.col("method").is_in([UNSTEERED, AGAIN])
    n_steered = texts.filter(pl.col("split") == "test", ~plain).height
    place = {"locations": [steer.info.experiment_id], "run_id": steer.info.run_id}
    found = MlflowClient().search_traces(**place, max_results=500)
    assert len(found) == min(config.steer.traces, n_steered)
    for trace in found:
        said = {each.name for each in trace.info.assessments}
        assert set(config.steer.judges) <= said
        assert trace.data.spans[0].inputs["prompt"]


def test_charts_report_and_environment_are_artifacts_that_open_without_a_network(
    config: ExperimentConfig, first: dict[str, str], parent: Run, tmp_path: Path
) -> None:
    client = MlflowClient()
    charts = {
        file.path: file.file_size for file in client.list_artifacts(parent.info.run_id, "charts")
    }
    wanted = {
        f"charts/{name}.png" for name in ("training", "densities", "concepts_found", "explanations")
    }
    report = REPORT.read(Store(config.execution.store).get(**first))
    assert set(charts) == wanted | ({"charts/steering.png"} if measured_steering(report) else set())
    assert all(size > 5000 for size in charts.values())
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "report")} >= {
        "report/report.md"
    }
    environment = json.loads(
        Path(
            client.download_artifacts(parent.info.run_id, "environment.json", str(tmp_path))
        ).read_text()
    )
    assert environment["versions"]["torch"] and environment["cores"] > 0
    assert parent.data.tags["mlflow.source.git.commit"] == (
        environment["git_commit"] or "unknown"
    ).removesuffix("+")


def test_system_metrics_are_sampled_on_the_parent_run(parent: Run) -> None:
    assert "system/cpu_utilization_percentage" in parent.data.metrics
    assert "system/system_memory_usage_megabytes" in parent.data.metrics


def test_the_registered_dictionary_carries_the_headlines(
    config: ExperimentConfig, first: dict[str, str], parent: Run
) -> None:
    (name,) = Store(config.execution.store).get(**first).facts["dictionaries"]
    # of the run that came last, here of another seed
    assert MlflowClient().get_model_version_by_alias(name, "champion")
    versions = MlflowClient().search_model_versions(f"name = '{name}'")
    version = next(version for version in versions if version.tags.get("report") == first["key"])
    assert float(version.tags["loss_recovered"]) == pytest.approx(
        parent.data.metrics["loss_recovered"], rel=1e-3
    )
    assert version.tags["report"] == first["key"]
    assert "no pickle" in version.description


def test_what_mlflow_missed_while_it_was_away_is_recorded_when_it_is_back(
    config: ExperimentConfig, first: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow is away when the run starts and through two stages, then back: nothing is missing and
    nothing is twice."""
    store = Store(config.execution.store)
    report = store.get(**first)
    stages = {
        role: store.get(**report.manifest["inputs"][role])
        for role in ("train", "evaluate", "interpret")
    }
    tracker = Tracker(config.model_copy(update={"name": "outage"}))
    away = True
    real = tracker.client.log_batch

    def log_batch(*arguments: Any, **options: Any) -> Any:
        if away:
            raise MlflowException("no connection")
        return real(*arguments, **options)

    monkeypatch.setattr(tracker.client, "log_batch", log_batch)
    tracker.open()
    for label, artifact in list(stages.items())[:2]:
        tracker.stage(label, artifact, hit=True, seconds=1.0)
    away = False
    tracker.stage("interpret", stages["interpret"], hit=True, seconds=1.0)
    tracker.stage("report", report, hit=True, seconds=1.0)
    tracker.close("FINISHED")
    assert tracker.parent is not None
    nested = [
        run
        for run in runs_of(tracker.client)
        if run.data.tags.get("mlflow.parentRunId") == tracker.parent
    ]
    assert sorted(run.data.tags["stage"] for run in nested) == [
        "evaluate",
        "interpret",
        "report",
        "train",
    ]
    named = [run.info.run_id for run in runs_of(tracker.client) if run.info.run_name == "outage"]
    assert named == [tracker.parent], "an attempt that failed was taken up again, not left behind"
    run = tracker.client.get_run(tracker.parent)
    assert run.info.status == "FINISHED" and "fvu" in run.data.metrics


def test_a_server_that_never_answers_costs_the_numbers_only(
    config: ExperimentConfig,
    first: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Tracker(config)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise MlflowException("no connection")

    monkeypatch.setattr(tracker.client, "get_experiment_by_name", refuse)
    started = time.monotonic()
    tracker.open()
    tracker.stage("report", Store(config.execution.store).get(**first), hit=True, seconds=1.0)
    tracker.close("FINISHED")
    assert time.monotonic() - started < 10
    assert (
        "MLflow could not record report (no connection); the artifacts in the store are complete"
        in caplog.text
    )


def test_a_name_that_mlflow_refuses_costs_no_record(
    config: ExperimentConfig, servers: None
) -> None:
    odd = {"c++": ["a"], "c##": ["b"], "a//b": ["c"], "plain": ["d"]}
    changes = {"read.word_lists": odd, "sweep.dictionaries": {"relu (l1=2)": {"kind": "relu"}}}
    tracker = Tracker(override(config, changes))
    tracker.open()
    tracker.close("FINISHED")
    assert tracker.parent is not None
    run = tracker.client.get_run(tracker.parent)
    lists = {
        name: value
        for name, value in run.data.params.items()
        if name.startswith("read.word_lists.")
    }
    assert lists == {
        f"read.word_lists.{name}": str(odd[given])
        for name, given in {"c__": "c++", "c__ 2": "c##", "a__b": "a//b", "plain": "plain"}.items()
    }
    assert run.data.params["sweep.dictionaries.relu _l1_2_.kind"] == "relu"
    assert run.data.params["train.dictionary.k"] == "8"


def test_a_registry_that_does_not_answer_is_a_sentence_and_not_an_unknown_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    try:
        with pytest.raises(
            ServiceError,
            match=r"which dictionary 'topk@champion' is \(.*127\.0\.0\.1.*artifact key",
        ):
            resolve_dictionary("topk@champion")
    finally:
        mlflow.set_tracking_uri(before)


def test_headlines_are_over_all_concepts_and_leave_out_what_was_not_measured() -> None:
    rows = [
        found(0.1, concept_kind="surface"),
        found(0.2, concept_kind="all"),
        score("fvu", None),
        steered(0.3, "composite", concept_kind="all"),
    ]
    assert headlines(report_frame(*rows), MEASURES) == {
        "concepts_found": 0.2,
        "steering_add_direction": 0.3,
    }


def test_a_headline_of_the_one_kind_of_concepts_there_is_stands_for_all_and_of_one_of_several_does_not() -> (
    None
):
    row = steered(0.3, "composite", "mean_difference", 1e-5, concept_kind="document")
    assert headlines(report_frame(row), MEASURES) == {"steering_mean_difference": 0.3}
    assert headlines(report_frame(row, row | {"concept_kind": "surface"}), MEASURES) == {}


def test_several_hook_points_and_budgets_are_headlines_and_metrics_of_their_own() -> None:
    rows = [
        score("fvu", value, hook_point=place)
        for value, place in ((0.1, "resid_post.1"), (0.2, "resid_post.2"))
    ]
    rows += [
        steered(value, "composite", budget=budget)
        for value, budget in ((0.3, 0.1), (0.4, 0.1000001))
    ]
    assert headlines(report_frame(*rows), MEASURES) == {
        "fvu": 0.1,
        "fvu_resid_post.2": 0.2,
        "steering_add_direction": 0.3,
        "steering_add_direction_kl_0.1000001": 0.4,
    }


@pytest.mark.parametrize("draw", [figures.concepts, figures.explanations, figures.steering])
def test_nothing_measured_is_no_picture(draw: Any) -> None:
    assert draw(SCORES.frame([])) is None
    assert draw(SCORES.frame([found(None), explained(None), steered(None, "composite")])) is None


def test_a_picture_of_explanations_shows_the_control_and_no_stratum():
    ends = {"low": 0.5, "high": 0.7}
    rows = [
        explained(0.6, **ends),
        explained(0.6, role="control", **ends),
        score("dead_share", 0.6, "interpret"),
    ]
    rows += [explained(0.6, part=part, **ends) for part in ("over_untrained", "weakest")]
    rows.append(explained(0.6, part="average_precision", role="control", **ends))
    figure = figures.explanations(SCORES.frame(rows))
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["log_odds.detection", "untrained.detection"]


def test_pictures_hold_a_mark_for_each_score_that_was_measured() -> None:
    base = {"low": 0.1, "high": 0.4, "n": 5, "concept_kind": "all", "baseline": 0.05}
    floor = {"method": "random_direction", "role": "floor"}
    bare = {"subject": "untrained", "role": "control", "budget": 1e-5, "concept_kind": "document"}
    shown = [
        steered(0.3, "composite", **base),
        steered(0.3, "composite", **floor, **base),
        steered(1.0, "composite", concept="topic.sea", **base),
        steered(0.5, **base),
        steered(0.1, "composite", **(base | bare)),
    ]
    figure = figures.steering(SCORES.frame(shown))
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "add_direction.kl_0.1.composite",
        "random_direction.kl_0.1.composite",
        "untrained.kl_1e-05.composite",
    ]
    figure = figures.concepts(
        SCORES.frame([found(0.3, unit, **base) for unit in ("latent", "probe")])
    )
    assert figure is not None and len(figure.axes[0].patches) == 2
    latents = LATENTS.frame(
        [{"latent": n, "split": "test", "density": d} for n, d in enumerate([0, 0.01, 0.011, 1.0])]
    )
    figure = figures.densities(latents, "test")
    assert figure is not None and sum(bar.get_height() for bar in figure.axes[0].patches) == 3
    assert figures.densities(latents.head(1), "test") is None
    assert figures.training(CURVE.frame([])) is None
