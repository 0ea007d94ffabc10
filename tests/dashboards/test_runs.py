from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import streamlit as st

from components.store import tables
from dashboards import runs


@pytest.fixture(autouse=True)
def here(experiment: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTFLOW_STORE", str(experiment.report.folder.parent.parent))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    st.cache_data.clear()


def test_a_store_that_does_not_exist_has_no_experiment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATENTFLOW_STORE", str(tmp_path / "none"))
    assert runs.experiments() == []


def test_an_experiment_is_its_report_and_what_that_rests_on(experiment: Any) -> None:
    (shown,) = runs.experiments()
    assert shown.key == experiment.report.key
    assert {stage: artifact.key for stage, artifact in shown.artifacts.items()} == {
        stage: artifact.key for stage, artifact in experiment.artifacts.items()
    }
    assert "topk-64-k16" in shown.title


def test_the_untrained_control_never_stands_for_the_dictionary(experiment: Any) -> None:
    (shown,) = runs.experiments()
    assert shown.artifacts["train"].facts["name"] == "topk-64-k16"
    # the control's train and encode artifacts
    assert len(shown.closure) == len(experiment.artifacts) + 2


def test_a_table_is_read_once_for_each_artifact(experiment: Any) -> None:
    artifact = experiment.artifacts["encode"]
    assert runs.table(tables.LATENTS, artifact) is runs.table(tables.LATENTS, artifact)


def test_rows_are_those_with_the_values_asked_for(experiment: Any) -> None:
    interpret = experiment.artifacts["interpret"]
    assert set(runs.rows(tables.CONTEXTS, interpret, latent=3)["latent"]) == {3}
    assert runs.rows(tables.EXPLANATION_SCORES, interpret, latent=3, scorer="detection").height == 3


def test_values_of_a_column_are_listed_once_and_a_table_that_is_not_there_has_none(
    experiment: Any,
) -> None:
    assert runs.distinct(
        tables.EXPLANATION_SCORES, experiment.artifacts["interpret"], "scorer"
    ) == [
        "detection",
        "simulation",
    ]
    assert runs.distinct(tables.EXPLANATIONS, experiment.artifacts["encode"], "explainer") == []


def test_without_tracking_there_are_no_links_and_no_file_is_made(
    experiment: Any, tmp_path: Path
) -> None:
    assert runs.tracked(experiment.report.key) == {}
    assert not (tmp_path / "mlflow.db").exists()


def test_a_tracking_server_that_does_not_answer_costs_the_links_only(
    experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert runs.tracked(experiment.report.key) == {}


def test_pages_import_neither_torch_nor_prefect_even_when_they_ask_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from dashboards import runs, charts, views, tokens, selection\n"
        f"runs._mlflow_run('sqlite:///{tmp_path / 'made.db'}', 'x')\n"
        "from mlflow.tracking import MlflowClient\n"
        "sys.exit('torch' in sys.modules or 'prefect' in sys.modules or 'flows' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert (
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=root, check=False
        ).returncode
        == 0
    )


def test_links_lead_to_the_run_that_carries_the_report(
    experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        """Stands where MLflow's client stands: one run, found by its tag."""

        def __init__(self, uri: str) -> None:
            assert uri.startswith("http")

        def search_experiments(self) -> list[Any]:
            return [type("E", (), {"experiment_id": "4"})]

        def search_runs(self, where: list[str], query: str, max_results: int) -> list[Any]:
            assert where == ["4"]
            if query != f"tags.`report` = '{experiment.report.key}'":
                return []
            info = type("I", (), {"experiment_id": "4", "run_id": "r1"})
            return [
                type(
                    "R",
                    (),
                    {"info": info, "data": type("D", (), {"tags": {"prefect.flow_run": "f1"}})},
                )
            ]

    import mlflow.tracking

    monkeypatch.setattr(mlflow.tracking, "MlflowClient", Client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("LATENTFLOW_MLFLOW_URL", "http://127.0.0.1:77")
    assert runs.tracked(experiment.report.key) == {
        "MLflow": "http://127.0.0.1:77/#/experiments/4/runs/r1",
        "MLflow, beside all other runs": "http://127.0.0.1:77/#/experiments/4/runs?viewStateShareKey=headlines",
        "Prefect": "http://127.0.0.1:4200/runs/flow-run/f1",
    }
    assert runs.tracked("another") == {}
