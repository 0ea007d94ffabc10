"""Steering where contexts are as long as the model reads: what stands before a text must leave room
for it."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pytest
import torch

from components.concept.gate import ProbeGate
from components.steering.config import SteerConfig
from components.steering.methods.prompt import Prefix
from components.steering.steer import STEER
from components.steering.vector import AddVector
from components.steering.writer import tokens_before
from components.store import tables
from components.store.artifact import Store
from tests import toys
from tests.steering import world

LONGEST_PROMPT = 5
PASSAGE = 24


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Mapping[str, object]]:
    """A GPT-2 with as many learned positions as a context of the corpus has tokens."""
    folder = tmp_path_factory.mktemp("full")
    positions = {"n_positions": world.LENGTH, "max_position_embeddings": world.LENGTH}
    reference = toys.tiny_reference(folder / "model", "gpt2", **positions)
    store, model = Store(folder / "store"), reference.load()
    assert model.context_length == world.LENGTH
    corpus = world.corpus(store, world.PROMPTS)
    activations = world.captured(store, corpus, model)
    dictionary, codes = world.planted(store, activations, torch.eye(model.d_model)[:2])
    return store, {
        "model": reference,
        "corpus": corpus,
        "activations": activations,
        "dictionary": dictionary,
        "codes": codes,
    }


def config(max_new_tokens: int) -> SteerConfig:
    return SteerConfig(
        methods=["prompt", "mean_difference", "random_direction"],
        method_settings={
            "prompt": {"n_candidates": 2, "n_tokens": PASSAGE},
            "random_direction": {"n_directions": 2},
        },
        judge_settings={"concept": {"min_auroc": 0.5}},
        gate=ProbeGate(min_auroc=0.5, min_lift=0),
        concepts=["word.cat", "word.king"],
        max_new_tokens=max_new_tokens,
        kl_budgets=[0.2],
        neutral_tokens=300,
        neutral_length=world.LENGTH,
        band_texts=24,
        validate_prompts=3,
        test_prompts=3,
        battery=False,
    )


@pytest.mark.parametrize("max_new_tokens", [world.LENGTH - PASSAGE - LONGEST_PROMPT, 8])
def test_a_passage_is_measured_on_whole_contexts_and_fits_beside_every_prompt(
    full: tuple[Store, Mapping[str, object]], max_new_tokens: int
) -> None:
    store, inputs = full
    made = store.ensure(STEER, config(max_new_tokens), inputs, world.CPU)[0]
    assert made.facts["passed"] == 2
    strengths = tables.STRENGTHS.read(made)
    chosen = strengths.drop_nulls("kl_whole").filter(pl.col("kl_whole") > 0)
    assert set(chosen["method"]) == {"prompt", "mean_difference", "random_direction"}
    assert tables.STEERED.read(made).filter(method="prompt")["composite"].null_count() == 0


def test_the_tokens_before_a_text_are_those_of_the_longest_prefix() -> None:
    vector = AddVector(world.HOOK, torch.ones(4) / 2, 1.0)
    prefixes = [Prefix(torch.arange(4, 4 + n)) for n in (3, 7)]
    assert tokens_before([vector, *prefixes]) == 7
    assert tokens_before([vector]) == tokens_before([]) == 0
