"""Without a sentence encoder, TF-IDF with latent semantic analysis of the explain split reads
explanations, and is named as such."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from components.errors import InputError
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.model.latent_semantics import LatentSemantics
from components.model.text_encoder import TextEncoderConfig, TextEncoderReference
from components.store import tables
from components.store.artifact import Store
from tests.interpretation.planted import SETS, Planted

SEA = ["the ship and the sea", "a ship on waves", "waves of the sea", "the sea and a boat"]
BREAD = ["bread in an oven", "warm bread and butter", "an oven with butter", "butter and a cake"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_words_of_the_same_texts_are_near_though_no_word_is_shared() -> None:
    encoder = LatentSemantics(SEA + BREAD, seed=0, width=3)
    ship, sea, oven = encoder.embed(["ship", "sea", "oven"]).numpy()
    assert encoder.width == 3
    assert cosine(ship, sea) > 0.5 > cosine(ship, oven)
    assert not encoder.embed(["unheard"]).numpy().any()
    again = LatentSemantics(SEA + BREAD, seed=0, width=3).embed(["ship"]).numpy()
    np.testing.assert_array_equal(again[0], ship)


@pytest.mark.parametrize("texts", [[], ["", ""], ["one"]])
def test_texts_without_words_are_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match="wants two texts with two different words"):
        LatentSemantics(texts, seed=0)


def test_auto_is_resolved_before_the_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    resolved = TextEncoderReference(TextEncoderConfig())
    assert resolved.is_fitted_here
    assert resolved.name == "TF-IDF with latent semantic analysis 1"
    assert resolved.key == TextEncoderReference(TextEncoderConfig(path="lsa")).key


def test_planted_words_are_detected_by_it(planted: Planted, tmp_path: Path) -> None:
    encoder = TextEncoderReference(TextEncoderConfig(path="lsa"))
    config = InterpretConfig(
        explainers=["token_lookup"], scorers=["detection"], predictors=["text_encoder"]
    )
    inputs = planted.inputs | {"untrained": None, "text_encoder": encoder}
    artifact = Store(tmp_path).ensure(INTERPRET, config, inputs)[0]
    assert artifact.facts["text_encoder"] == "TF-IDF with latent semantic analysis 1"
    assert artifact.manifest["inputs"]["text_encoder"]["key"] == encoder.key
    scores = tables.EXPLANATION_SCORES.read(artifact).filter(pl.col("latent") < SETS)
    by_role = dict(scores.group_by("role").agg(pl.col("value").mean()).iter_rows())
    # words are drawn at random here, so that nothing but the word itself is in its vector
    assert by_role["control"] > 0.6
    assert 0.4 < by_role["floor"] < 0.6
