"""Calls of a language model become MLflow traces: what was asked, answered, scored and paid."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from components.store import tables
from components.store.artifact import Artifact, Store
from flows.tracking import traces
from tests import toys

CALL = {"call": "a" * 32, "label": "explain max_activating, latent 7", "replicate": 0,
        "prompt": "[user]\nthe <<sea>>", "answer": 'the word "sea"', "input_tokens": 9,
        "output_tokens": 4, "estimated": False, "usd": 0.00012, "served_model": "judge-1",
        "fingerprint": "fp_a"}  # fmt: skip
REFUSED = {"call": "b" * 32, "label": "predict windows", "replicate": 0, "prompt": "[user]\nwhere?",
           "reason": "refused: 'I will not.'", "estimated": True}  # fmt: skip


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    def write(folder: Path) -> None:
        tables.CALLS.write(folder, [CALL, REFUSED])
        whose = {"latent": 7, "explainer": "max_activating"}
        tables.WRITERS.write(folder, [whose | {"served": "judge-1 (fp_a)", "call": "a" * 32}])
        tables.EXPLANATIONS.write(folder, [whose | {"explanation": 'the word "sea"'}])
        score = {"scorer": "detection", "predictor": "lexical", "n": 20, "n_failed": 0}
        rows = [{"role": "entry", "value": 0.875}, {"role": "floor", "value": 0.5}]
        tables.EXPLANATION_SCORES.write(folder, [whose | score | row for row in rows])

    return toys.artifact(Store(tmp_path / "store"), "interpret", write, {})


def test_a_call_is_a_trace_with_prompt_answer_score_and_cost(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        client = MlflowClient()
        experiment = client.create_experiment("traced", artifact_location=(tmp_path / "a").as_uri())
        run = client.create_run(experiment).info.run_id
        assert traces.log_calls(client, experiment, run, artifact) == 2
        # a run that finds the artifact made has its traces already
        assert traces.log_calls(client, experiment, run, artifact) == 0
        found = {each.data.spans[0].name: each for each in client.search_traces([experiment])}
    finally:
        mlflow.set_tracking_uri(before)
    assert set(found) == {CALL["label"], REFUSED["label"]}
    span = found[CALL["label"]].data.spans[0]
    assert span.inputs == {"prompt": CALL["prompt"]}
    assert span.outputs == {"answer": CALL["answer"], "reason": None}
    told = {name: span.attributes[name] for name in ("usd", "latent", "served_model")}
    assert told == {"usd": 0.00012, "latent": 7, "served_model": "judge-1"}
    assert span.attributes["score.detection.lexical"] == 0.875
    refused = found[REFUSED["label"]]
    assert refused.info.state == "ERROR"
    assert refused.data.spans[0].outputs["reason"] == REFUSED["reason"]
    assert refused.info.tags["artifact"] == artifact.key


def test_an_artifact_without_calls_has_no_traces(tmp_path: Path) -> None:
    plain = toys.artifact(Store(tmp_path), "interpret", lambda folder: None, {})
    # MLflow is not even asked
    assert traces.log_calls(None, "0", "0", plain) == 0  # type: ignore[arg-type]
