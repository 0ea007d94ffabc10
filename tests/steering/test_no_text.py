"""Where there is no text to judge or to judge by, the stage goes on: what cannot be said is absent
with its reason."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.model.reference import ModelConfig, ModelReference
from components.report.tables import SCORES
from components.steering.steer import STEER
from components.store import tables
from components.store.artifact import Artifact
from tests.steering import world
from tests.steering.conftest import Bench
from tests.steering.test_steer import CONFIG, CPU, score, texts

END = 2


@pytest.fixture(scope="module")
def mute(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> ModelReference:
    """The trained model with an end token that is all but certain everywhere: one coordinate, the
    same for all tokens."""
    folder = tmp_path_factory.mktemp("mute")
    network = AutoModelForCausalLM.from_pretrained(bench.reference.folder)
    with torch.no_grad():
        network.model.embed_tokens.weight[:, 0] = 50.0
        network.model.norm.weight[0] = 1.0
        network.lm_head.weight[:, 0] = 0.0
        network.lm_head.weight[END, 0] = 50.0
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bench.reference.folder).save_pretrained(folder)
    return ModelReference(ModelConfig(path=str(folder)))


def run(
    bench: Bench,
    corpus: Artifact | None = None,
    model: ModelReference | None = None,
    **changes: object,
) -> Artifact:
    inputs = (
        bench.inputs | ({"corpus": corpus} if corpus else {}) | ({"model": model} if model else {})
    )
    return bench.store.ensure(STEER, CONFIG.model_copy(update=changes), inputs, CPU)[0]


def test_a_model_that_ends_at_once_has_no_fluency_and_no_composite_and_the_reason(
    bench: Bench, mute: ModelReference
) -> None:
    made = run(bench, model=mute)
    rows = texts(made)
    assert rows.filter(method="unsteered")["reason"].unique().to_list() == [
        "the model ended at once"
    ]
    assert rows["fluency"].null_count() == rows["composite"].null_count() == rows.height
    why = "the model wrote nothing after any validate prompt (it ended at once), so no text sets the fluency band"
    for name in (
        "steer.add_direction.kl_0.5.composite",
        "steer.add_direction.kl_0.5.fluency",
        "steer.random_direction.kl_0.5.composite",
    ):
        row = score(made, name)
        assert (row["value"], row["reason"]) == (None, why)
    uplift = score(made, "steer.mean_difference.kl_0.5")
    assert (uplift["value"], uplift["n_failed"]) == (0.0, 4), (
        "without plain text to compare with there is no uplift"
    )
    tried = tables.BATTERY.read(made)
    assert tried["reason"].unique().to_list() == [why] and tried["holds"].null_count() == 9
    assert score(made, "steer.battery", "all")["reason"] == why
    frame = SCORES.read(made)
    assert frame.filter(pl.col("value").is_null() & pl.col("reason").is_null()).is_empty()


def test_documents_shorter_than_a_continuation_leave_absent_scores_that_say_what_to_set(
    bench: Bench,
) -> None:
    made = run(bench, max_new_tokens=60)
    gate = score(made, "steer.gate.passed", "all")
    assert (gate["value"], gate["n"]) == (0.0, len(world.CONCEPTS))
    assert (
        "by the concept judge" in gate["reason"] and "lower steer.max_new_tokens" in gate["reason"]
    )
    row = score(made, "steer.add_direction.kl_0.5.composite")
    assert (row["value"], row["n"]) == (None, 0)
    assert row["reason"]
    assert tables.STEERED.read(made).is_empty()
    (why,) = tables.BATTERY.read(made)["reason"].unique().to_list()
    assert "lower steer.max_new_tokens" in why


def test_both_at_once(bench: Bench, mute: ModelReference) -> None:
    made = run(bench, model=mute, max_new_tokens=60)
    assert score(made, "steer.gate.passed", "all")["value"] == 0.0


def test_without_neutral_text_strengths_are_set_all_the_same_and_side_effects_are_absent(
    bench: Bench, tmp_path: Path
) -> None:
    made = run(bench, corpus=world.corpus(bench.store, world.PROMPTS, number=11, bare="neutral"))
    strengths = tables.STRENGTHS.read(made).drop_nulls("coefficient")
    assert (strengths["kl"] / strengths["kl_budget"]).is_between(0.9, 1.1).all()
    assert strengths["kl_elsewhere"].null_count() == strengths.height > 0
    cost = score(made, "steer.mean_difference.kl_0.5.cost")
    assert cost["value"] is None and "read.splits.neutral" in cost["reason"]
