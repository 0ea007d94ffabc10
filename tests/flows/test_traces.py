"""Calls of a language model become MLflow traces (what was asked, answered, scored and paid), and so
do steered texts, with what each judge said of them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
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
    assert traces.log_generations(None, "0", "0", plain, 100) == 0  # type: ignore[arg-type]


TARGETS = ("topic.sea", "topic.war")
OPENING = "It was"


def steered(store: Store) -> Artifact:
    """Two methods, a control of no target and plain text, on two prompts; one text failed."""
    prompts = [{"prompt": i, "split": "test", "text": f"{OPENING} {i}"} for i in range(2)]
    corpus = toys.artifact(store, "read", lambda folder: tables.PROMPTS.write(folder, prompts), {})
    generations, judgements = [], []

    def written(concepts: tuple[str, ...], value: float | None, **columns: object) -> None:
        number = len(generations)
        about = {"generation": number, "split": "test", "sample": 0, "replicate": 0}
        generations.append(about | columns)
        for concept in concepts:
            said = {"generation": number, "concept": concept, "reason": columns.get("reason")}
            judgements.extend(
                said | {"judge": judge, "value": value} for judge in ("concept", "fluency", "panel")
            )

    for prompt in range(2):
        plain = f"plain {prompt}"
        for method in ("unsteered", "unsteered_again"):
            written(TARGETS, 0.25, method=method, prompt=prompt, text=plain, n_tokens=2)
        for target in TARGETS:
            for method in ("add_direction", "mean_difference"):
                failed = method == "add_direction" and prompt == 1 and target == TARGETS[0]
                written(
                    (target,), None if failed else 0.75, method=method, concept=target,
                    kl_budget=0.2, prompt=prompt, text=None if failed else f"{target} {method}",
                    reason="the model ended at once" if failed else None, kl_reverse=0.19,
                )  # fmt: skip
        written(
            TARGETS, 0.125, method="random_direction", kl_budget=0.2, prompt=prompt, text="noise"
        )
    strengths = [
        {"concept": target, "method": method, "replicate": 0, "kl_budget": 0.2,
         "coefficient": 1.5, "latent": 7 if method == "add_direction" else None, "sign": 1}
        for target in TARGETS for method in ("add_direction", "mean_difference")
    ]  # fmt: skip
    strengths.append(
        {"method": "random_direction", "replicate": 0, "kl_budget": 0.2, "coefficient": 2.5}
    )

    def write(folder: Path) -> None:
        tables.GENERATIONS.write(folder, generations)
        tables.JUDGEMENTS.write(folder, judgements)
        tables.STRENGTHS.write(folder, strengths)

    facts = {"scales": {"add_direction": "mean activation norms"}}
    return toys.artifact(store, "steer", write, facts, corpus=corpus)


Logged = Callable[..., dict[str, list]]


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logged:
    """Logs what an artifact steered into a database of its own, twice, and reads it back by
    method."""
    monkeypatch.chdir(tmp_path)

    def log(artifact: Artifact, most: int, name: str = "traced") -> dict[str, list]:
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / name}.db")
        try:
            client = MlflowClient()
            place = (tmp_path / name).as_uri()
            experiment = client.create_experiment(name, artifact_location=place)
            run = client.create_run(experiment).info.run_id
            n = traces.log_generations(client, experiment, run, artifact, most)
            # a run that finds the artifact made has its traces already
            assert traces.log_generations(client, experiment, run, artifact, most) == 0
            found = client.search_traces(locations=[experiment], run_id=run)
        finally:
            mlflow.set_tracking_uri(before)
        assert len(found) == n
        by_method: dict[str, list] = {}
        for each in found:
            by_method.setdefault(each.data.spans[0].attributes["method"], []).append(each)
        return by_method

    return log


def test_a_steered_text_is_a_trace_with_plain_text_and_a_verdict_of_each_judge(
    tmp_path: Path, logged: Logged
) -> None:
    artifact = steered(Store(tmp_path / "store"))
    found = logged(artifact, 100)
    counted = {method: len(of) for method, of in found.items()}
    assert counted == {"add_direction": 4, "mean_difference": 4, "random_direction": 2}, (
        "plain text is no trace of its own"
    )
    for each in found["add_direction"]:
        assert each.info.tags["artifact"] == artifact.key
        span = each.data.spans[0]
        prompt = span.attributes["prompt"]
        target = span.inputs["target"]
        assert span.inputs["prompt"] == f"{OPENING} {prompt}"
        assert span.outputs["plain"] == f"plain {prompt}"
        told = {name: span.attributes[name] for name in ("kl_budget", "coefficient", "latent")}
        assert told == {"kl_budget": 0.2, "coefficient": 1.5, "latent": 7}
        assert span.attributes["scale"] == "mean activation norms"
        verdicts = {each.name: each for each in each.info.assessments}
        assert set(verdicts) == {"concept", "fluency", "panel"}
        for name, verdict in verdicts.items():
            assert (verdict.source.source_type, verdict.source.source_id) == ("CODE", name)
            assert verdict.metadata["plain_text"] == "0.25"
        if (prompt, target) == (1, TARGETS[0]):
            assert each.info.state == "ERROR" and span.outputs["steered"] is None
            assert span.outputs["reason"] == "the model ended at once"
            assert verdicts["panel"].feedback.value is None
            assert verdicts["panel"].feedback.error.error_message == "the model ended at once"
        else:
            assert each.info.state == "OK"
            assert span.outputs["steered"] == f"{target} add_direction"
            assert verdicts["panel"].feedback.value == 0.75
    control = found["random_direction"][0]
    assert control.data.spans[0].inputs["target"] in TARGETS
    assert control.data.spans[0].attributes["coefficient"] == 2.5
    assert {each.feedback.value for each in control.info.assessments} == {0.125}


def test_each_method_has_its_share_of_a_sample_that_the_seed_draws(
    tmp_path: Path, logged: Logged
) -> None:
    artifact = steered(Store(tmp_path / "store"))
    found = logged(artifact, 6, "first")
    assert Counter({method: len(of) for method, of in found.items()}) == {
        "add_direction": 2,
        "mean_difference": 2,
        "random_direction": 2,
    }

    def numbers(found: dict[str, list]) -> set[int]:
        return {e.data.spans[0].attributes["generation"] for of in found.values() for e in of}

    assert numbers(logged(artifact, 6, "again")) == numbers(found)


def test_without_the_corpus_the_prompt_is_unknown_and_no_text_is_wanted_where_the_setting_is_0(
    tmp_path: Path, logged: Logged
) -> None:
    artifact = steered(Store(tmp_path / "store"))
    assert traces.log_generations(None, "0", "0", artifact, 0) == 0  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "store" / "read")
    found = logged(artifact, 1)
    (trace,) = (each for of in found.values() for each in of)
    assert trace.data.spans[0].inputs["prompt"] is None
    assert trace.data.spans[0].outputs["plain"].startswith("plain ")
