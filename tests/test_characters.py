"""A real model whose tokens are single characters, on real text, through every stage: capture,
train, encode, interpret without a language model, steer towards latents, evaluate, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from components.config import load
from components.experiment import ExperimentConfig
from components.interpretation.phrase import read
from components.report.tables import REPORT, SCORES
from components.store import tables
from components.store.artifact import Artifact
from flows.chain import Chain

LATENTS = 16
SPLITS = {
    "train": 30_000, "select": 16_000, "explain": 16_000, "calibrate": 8_000, "judge": 12_000,
    "validate": 8_000, "neutral": 3_000, "test": 16_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def chain(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    model, text = shared / "models/babyllama-105", shared / "data/tinystories/validation.parquet"
    for needed in (model, text):
        if not needed.exists():
            pytest.skip(f"needs {needed.relative_to(shared)} in the folder shared, and has it not")
    config = {
        "name": "characters",
        "model": {"path": str(model)},
        "read": {
            "corpus": {"kind": "parquet", "path": str(text)},
            "splits": SPLITS,
            "prompts_validate": 4,
            "prompts_test": 4,
        },
        "capture": {"hook_points": ["resid_post.2"]},
        "train": {
            "dictionary": {"kind": "topk", "d_sae": 1024, "k": 4},
            "tokens": 30_000,
            "batch_size": 1024,
            "dead_after": 10_000,
        },
        "interpret": {
            "latents": LATENTS,
            "explainers": ["log_odds", "logistic", "logit_lens", "token_lookup"],
            "scorers": ["detection", "fuzzing", "simulation"],
            "latent_scorers": ["input_score", "intruder", "output_score"],
        },
        "steer": {
            "targets": {"kind": "latents", "n": 3, "windows": {"max_density": 0.01}},
            "methods": ["add_direction", "mean_difference", "logit_bias", "random_direction"],
            "method_settings": {"add_direction": {"n_candidates": 1}},
            "judges": ["readback", "relevance", "fluency"],
            "judge_settings": {"readback": {"silent": 0.6}},  # single characters come often
            "measure": "readback",
            "validate_prompts": 4,
            "test_prompts": 4,
            "max_new_tokens": 24,
            "neutral_tokens": 256,
            "band_texts": 32,
        },
        "evaluate": {"settings": {"loss_recovered": {"tokens": 3000}}},
        "execution": {"store": str(tmp_path_factory.mktemp("characters")), "device": "cpu"},
    }
    with Chain(load(ExperimentConfig, config), plain=True) as chain:
        yield chain


@pytest.fixture(scope="module")
def interpreted(chain: Chain) -> Artifact:
    return chain.artifact("interpret")


def test_latents_of_characters_are_explained_and_scored(interpreted: Artifact) -> None:
    said = tables.EXPLANATIONS.read(interpreted)
    assert said.height == 4 * LATENTS
    assert (said["explanation"].is_null() == said["reason"].is_not_null()).all()
    by_words = said.filter(pl.col("explainer") == "log_odds")["explanation"].drop_nulls()
    assert len(by_words) >= LATENTS // 2
    words = {word for text in by_words for term in read(text) for word in term if word}
    assert words and all(len(word) == 1 for word in words - {"<unk>"})
    found = {row["name"]: row for row in SCORES.read(interpreted).iter_rows(named=True)}
    for scorer in ("detection", "fuzzing", "simulation"):
        over = found[f"interpret.log_odds.{scorer}.over_floor"]
        assert over["n"] >= 4 and over["value"] > 0
    assert found["interpret.intruder.accuracy"]["value"] is not None
    assert found["interpret.output_score.rank"]["n"] == LATENTS


def test_a_latent_of_characters_is_a_target_and_is_steered(chain: Chain) -> None:
    steered = chain.artifact("steer")
    targets = tables.TARGETS.read(steered)
    assert targets.height > 0 and targets["concept"].str.starts_with("latent.").all()
    assert targets.filter(~pl.col("passed"))["reason"].null_count() == 0
    assert targets["passed"].any()
    written = tables.GENERATIONS.read(steered)
    assert written.filter(pl.col("method") == "add_direction").height > 0


def test_whatever_has_no_value_says_why(chain: Chain) -> None:
    report = REPORT.read(chain.artifact("report"))
    assert set(report["stage"]) == {"evaluate", "interpret", "steer"}
    absent = report.filter(pl.col("value").is_null())
    assert absent.filter(pl.col("reason").fill_null("") == "").height == 0
