"""A causal model reads an explanation by what it saves; one that cannot spell prose reads none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from components.interpretation.interpret import INTERPRET, InterpretConfig
from components.interpretation.predictors.language_model import (
    TEMPLATE,
    UNINFORMATIVE,
    LanguageModelConfig,
    LanguageModelPredictor,
)
from components.interpretation.trials import Answer, Question
from components.model.reference import ModelConfig, ModelReference
from components.report import tables as report_tables
from components.store import tables
from components.store.artifact import Store
from tests.interpretation.planted import Planted
from tests.interpretation.windows_of import PREDICTOR, texts_of

LINES = ["Tom had a red ball", "the dog ran to the park", "Lily ate a big cake and more cake"]


@pytest.fixture(scope="module")
def folder(shared: Path) -> str:
    return str(shared / "models/stories260k")


def answer(folder: str, explanation: str, batch: int = 16) -> Answer:
    reader = LanguageModelPredictor(LanguageModelConfig(path=folder, batch=batch), PREDICTOR)
    (found,) = reader.predict([Question(explanation, texts_of(LINES))], "windows")
    return found


def test_the_answer_is_the_log_probability_that_the_explanation_adds(folder: str) -> None:
    found = answer(folder, "cake and other food.")
    model = ModelReference(ModelConfig(path=folder)).load()

    def mean(said: str, window: str) -> float:
        before = model.tokenizer(TEMPLATE.format(said))["input_ids"]
        after = model.tokenizer(window, add_special_tokens=False)["input_ids"]
        logits = model.logits(torch.tensor([before + after]))[0].log_softmax(1)
        at = torch.arange(len(before) - 1, len(before) + len(after) - 1)
        return float(logits[at, torch.tensor(after)].mean())

    windows = ["".join(line.split()) for line in LINES]  # these tokens carry no space
    wanted = [mean("cake and other food", w) - mean(UNINFORMATIVE, w) for w in windows]
    np.testing.assert_allclose(found.values, wanted, atol=1e-4)


def test_a_window_has_the_same_answer_in_any_company(folder: str) -> None:
    alone, together = answer(folder, "a dog", 1), answer(folder, "a dog", 16)
    np.testing.assert_allclose(alone.values, together.values, atol=1e-4)


def test_knowing_nothing_saves_nothing(folder: str) -> None:
    np.testing.assert_allclose(answer(folder, UNINFORMATIVE).values, 0, atol=1e-5)


def test_a_model_whose_tokens_cannot_spell_prose_is_missing_with_the_reason() -> None:
    services = dataclasses.replace(PREDICTOR, model=ModelReference(ModelConfig(path="data/demo")))
    reader = LanguageModelPredictor(LanguageModelConfig(), services)
    (found,) = reader.predict([Question("the sea", texts_of(LINES))], "windows")
    assert found.values is None and found.is_missing
    assert found.reason == (
        "the tokenizer of data/demo can spell 54% of the sentence that explanations stand in, so "
        "it reads no prose; set interpret.predictor_settings.language_model.path to a model that "
        "reads prose"
    )


def test_without_a_model_it_is_missing() -> None:
    reader = LanguageModelPredictor(LanguageModelConfig(), PREDICTOR)
    (found,) = reader.predict([Question("the sea", texts_of(LINES))], "windows")
    assert found.is_missing and "the activations came without a model" in (found.reason or "")


def test_it_may_read_fewer_latents_than_are_explained(
    planted_store: Store, planted: Planted, folder: str
) -> None:
    settings = {"language_model": {"path": folder, "latents": 3}}
    config = InterpretConfig.model_validate(
        {
            "latents": 12,
            "scorers": ["detection"],
            "predictors": ["lexical", "language_model"],
            "predictor_settings": settings,
            "controls": [],
        }
    )
    made = planted_store.ensure(INTERPRET, config, planted.inputs)[0]
    scores = tables.EXPLANATION_SCORES.read(made).filter(pl.col("role").is_in(["entry", "floor"]))
    by = scores.group_by("explainer", "role", "predictor").agg(
        there=pl.col("latent").filter(pl.col("value").is_not_null()).sort(),
        reasons=pl.col("reason").filter(pl.col("value").is_null()).unique(),
    )
    read = {tuple(row[:3]): row[3:] for row in by.iter_rows()}
    (sample,) = {
        tuple(there) for (_, _, who), (there, _) in read.items() if who == "language_model"
    }
    assert len(sample) == 3, "the same latents of each explainer, and of its floor"
    assert len(read["log_odds", "entry", "lexical"][0]) == 11, (
        "one latent is active nearly everywhere"
    )
    why = "language_model reads 3 of 12 latents, drawn at random"
    assert why in read["log_odds", "entry", "language_model"][1]
    skipped = scores.filter(pl.col("predictor") == "lexical", pl.col("value").is_null())
    not_drawn = set(skipped["latent"]) - set(sample)
    missing = scores.filter(
        pl.col("predictor") == "language_model", pl.col("latent").is_in(list(not_drawn))
    )
    assert missing.height and set(missing["reason"]) == {why}
    rows = report_tables.SCORES.read(made).filter(
        pl.col("name") == "interpret.log_odds.detection.language_model"
    )
    assert rows["n"].item() == 3 and why in rows["reason"].item()
