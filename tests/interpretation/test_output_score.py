"""Output score and input score: a direction that is a token's unembedding makes the model say it,
and a Gaussian one does no more than any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from components.interpretation.contract import LatentRecord
from components.interpretation.latent_contract import LatentScorerServices, LatentValue
from components.interpretation.latent_scorers.input_score import InputScore, InputScoreConfig
from components.interpretation.latent_scorers.output_score import OutputScore, OutputScoreConfig
from components.model.lens import random_like, set_size, token_sets
from components.store.artifact import Store
from tests import toys
from tests.interpretation.pushed import D_SAE, SAID, Pushed, push
from tests.interpretation.windows_of import windows_of

WINDOWS = windows_of(["the cat"] * 4, [[0, 1], [1, 0], [], []])


def record(latent: int, windows=WINDOWS) -> LatentRecord:
    return LatentRecord(latent, 0.1, 0, windows, windows, windows)


def output(services: LatentScorerServices, latents: range, **settings) -> list[dict]:
    scorer = OutputScore(OutputScoreConfig(**settings), services)
    assert scorer.obstacle() is None
    return list(scorer.score([record(latent) for latent in latents]))


def test_a_planted_direction_says_its_token_and_beats_its_null(pushed: Pushed) -> None:
    found = output(pushed.services, range(len(SAID)))
    mass = [each["output_score.mass"] for each in found]
    assert np.mean([each.value for each in mass]) > 0.9
    assert min(each.value - each.chance for each in mass) > 0.1
    assert np.mean([each["output_score.rank"].value for each in found]) > 0.95
    assert {each.n for each in mass} == {16}


def test_a_random_direction_is_at_its_null(pushed: Pushed) -> None:
    found = output(pushed.services, range(len(SAID), D_SAE))
    for name in ("output_score.mass", "output_score.rank"):
        apart = np.array([each[name].value - each[name].chance for each in found])
        assert abs(apart.mean()) < 3 * apart.std() / np.sqrt(len(apart)) + 0.01


def test_a_weak_push_says_little_and_a_strong_one_more(pushed: Pushed) -> None:
    weak, strong = (
        np.mean([each["output_score.mass"].value for each in found])
        for found in (
            output(pushed.services, range(4), strength=0.05),
            output(pushed.services, range(4), strength=10),
        )
    )
    assert weak < 0.3 < strong


def test_rank_and_mass_are_those_of_the_distribution_behind_each_opening(pushed: Pushed) -> None:
    services = pushed.services
    (found,) = output(services, range(2, 3), prompts=16, strength=0.5)
    scorer = OutputScore(OutputScoreConfig(strength=0.5), services)
    model, dictionary = services.language_model, services.dictionary
    assert dictionary is not None
    tokens = scorer._openings()
    assert tokens.shape == (16, 9) and set(tokens[:, 0].tolist()) == {1}
    word = toys.WORDS.index(SAID[2])
    direction = dictionary.decoder_directions()[2]
    rank, mass = [], []
    for row in tokens:
        x = model.read(row[None], ["resid_post.1"])["resid_post.1"]
        unit = dictionary.encode(x[0, -1:]).values.max() * 0.5
        x[0, -1] += unit * direction
        p = model.resume(row[None], 2, x)[0, -1].softmax(0)
        rank.append(1 / (1 + int((p > p[word]).sum())))
        mass.append(float(p[word]))
    assert found["output_score.rank"].value == pytest.approx(np.mean(rank))
    assert found["output_score.mass"].value == pytest.approx(np.mean(mass), abs=1e-5)


def test_the_set_grows_with_the_vocabulary_and_holds_what_the_direction_says(
    pushed: Pushed,
) -> None:
    model = pushed.services.language_model
    assert set_size(model, 0.001) == 1 and set_size(model, 0.1) == 4
    dictionary = pushed.services.dictionary
    assert dictionary is not None
    sets = token_sets(model, dictionary.decoder_directions()[: len(SAID)], 1)
    assert [toys.WORDS[token] for token in sets[:, 0].tolist()] == list(SAID)


def test_random_directions_have_the_norm_of_the_latent() -> None:
    drawn = random_like(torch.full((8,), 2.0), 5, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.norm(dim=1), torch.full((5,), 32.0).sqrt())


def test_what_cannot_be_pushed_says_why(pushed: Pushed, tmp_path: Path) -> None:
    def why(services: LatentScorerServices, **settings) -> str:
        return str(OutputScore(OutputScoreConfig(**settings), services).obstacle())

    services = pushed.services
    bare = dataclasses.replace(services, model=None)
    assert why(bare) == "there is no model: the activations came without one"
    assert why(dataclasses.replace(services, trained=None)).startswith("only codes are here")
    assert why(services, prompts=500) == (
        "80 documents of the explain split begin with 8 tokens, wanted 500 openings; read more "
        "text into that split"
    )
    inside = push(Store(tmp_path / "store"), tmp_path / "model", "mlp_hidden.1").services
    assert why(inside) == (
        "the dictionary writes to mlp_hidden.1, which is not added to the residual stream"
    )
    assert InputScore(InputScoreConfig(), bare).obstacle() == why(bare)


def test_the_input_score_is_the_share_of_peaks_that_the_direction_writes(pushed: Pushed) -> None:
    words = toys.WORDS
    vocabulary = pushed.services.explain.vocabulary  # type: ignore[union-attr]

    def peaking(on: str, n: int):
        lines = [[words.index("the"), words.index(on)]] * n
        windows = windows_of(["a b"] * n, [[0.5, 1.0]] * n)
        texts = dataclasses.replace(windows.texts, tokens=np.array(lines), vocabulary=vocabulary)
        return dataclasses.replace(windows, texts=texts)

    none = peaking("the", 1).part(np.zeros(1, bool))
    records = [
        LatentRecord(0, 0.1, 0, peaking(SAID[0], 20), none, none),
        LatentRecord(1, 0.1, 0, peaking(SAID[0], 20), none, none),
        LatentRecord(2, 0.1, 0, peaking(SAID[2], 3), none, none),
    ]
    scorer = InputScore(InputScoreConfig(), pushed.services)
    right, wrong, few = (each["input_score.share"] for each in scorer.score(records))
    assert right == LatentValue(1.0, 0.0, 20)
    assert wrong == LatentValue(0.0, 0.5, 20)  # one of the two other sets holds what it peaks on
    assert (few.value, few.n, few.n_failed) == (None, 3, 3)
    assert few.reason == (
        "3 active windows, wanted 10 (interpret.latent_scorer_settings.input_score.fewest)"
    )
    (alone,) = scorer.score(records[:1])
    assert alone["input_score.share"].reason is not None
