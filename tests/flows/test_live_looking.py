"""The live worker finds explanations by meaning, and makes maps that the pages read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
import torch

from components.dictionary.contract import Dictionary
from components.model.text_encoder import TextEncoderConfig, TextEncoderReference
from components.store import maps
from components.store.artifact import Store
from components.store.tables import EXPLANATIONS
from tests.dashboards.conftest import Invented, written
from tests.workers import Live, Tiny, serving


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Invented:
    return written(Store(tmp_path_factory.mktemp("looking") / "artifacts"))


@pytest.fixture(scope="module")
def worker(invented: Invented) -> Iterator[Live]:
    with serving(Store(invented.report.folder.parent.parent)) as live:
        yield live


def test_explanations_come_by_the_cosine_of_their_meaning(worker: Live, invented: Invented) -> None:
    text = "ships and boats near the sea"
    answer = worker.answered("/meaning", experiment=invented.report.key, text=text, top=12)
    matches, said = answer["matches"], EXPLANATIONS.read(invented.artifacts["interpret"])
    known = said.filter(pl.col("explanation").is_not_null())
    assert answer["n"] == known.height and len(matches) == 12
    assert answer["encoder"] == "all-MiniLM-L6-v2"
    assert {match["explanation"] for match in matches[:10]} == {"the word 'harbour' after 'the'"}
    assert [match["latent"] for match in matches[:3]] == [0, 6, 12], "equal ones by number"
    encoder = TextEncoderReference(TextEncoderConfig()).load_encoder()
    one, other = torch.nn.functional.normalize(
        encoder.embed([text, matches[0]["explanation"]]), dim=1
    )
    assert matches[0]["cosine"] == pytest.approx(float(one @ other), abs=1e-5)


def test_the_same_answer_comes_again_and_by_the_dictionarys_key(
    worker: Live, invented: Invented
) -> None:
    asked = {"text": "somewhere to cook", "top": 3}
    first = worker.answered("/meaning", experiment=invented.report.key, **asked)
    again = worker.answered("/meaning", experiment=invented.artifacts["train"].key, **asked)
    assert first["matches"] == again["matches"]
    assert "kitchen" in first["matches"][0]["explanation"]


def test_an_experiment_without_explanations_is_refused_in_a_sentence(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    for key, sentence in (
        (tiny_experiment.report, "`latentflow interpret` makes it"),
        ("0" * 24, "neither a report"),
    ):
        answer = live_worker.post("/meaning", experiment=key, text="x")
        assert answer.status_code == 404 and sentence in answer.json()["error"]


def test_a_map_is_made_once_and_lies_beside_the_artifacts(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    train, store = tiny_experiment.artifacts["train"], tiny_experiment.store
    assert maps.read(store, train.key) is None
    answer = live_worker.answered("/map", experiment=tiny_experiment.report)
    assert (answer["dictionary"], answer["n"]) == (train.key, train.facts["d_sae"])
    frame = maps.read(store, train.key)
    assert frame is not None and frame["latent"].to_list() == list(range(train.facts["d_sae"]))
    directions = torch.nn.functional.normalize(Dictionary.load(train).decoder_directions(), dim=1)
    spread = ((directions - directions.mean(0)) ** 2).sum() / len(directions)
    share = frame["x"].to_numpy().var() / float(spread)
    assert share == pytest.approx(frame["share_x"][0], rel=1e-3)
    assert 0 < frame["share_y"][0] <= frame["share_x"][0] < 1
    assert abs(np.corrcoef(frame["x"], frame["y"])[0, 1]) < 1e-3
    made = maps.place(store, train.key).stat().st_mtime_ns
    live_worker.answered("/map", experiment=train.key)
    assert maps.place(store, train.key).stat().st_mtime_ns == made
