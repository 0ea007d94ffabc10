"""The intruder: planted latents' windows look alike, those of noise do not, and who sees no
difference is at chance exactly."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from components.interpretation.contract import LatentRecord
from components.interpretation.latent_contract import LatentScorerServices, LatentValue
from components.interpretation.latent_scorers.intruder import Intruder, IntruderConfig
from components.interpretation.windows import Windows
from components.model.text_encoder import PACKAGE
from tests.interpretation.planted import NOISE, RARE, SETS
from tests.interpretation.windows_of import CPU, ENCODER, windows_of

NAME = "intruder.accuracy"
SERVICES = LatentScorerServices(CPU, 0, text_encoder=ENCODER)


def found(records: list[LatentRecord], **settings) -> list[LatentValue]:
    scorer = Intruder(IntruderConfig(**settings), SERVICES)
    assert scorer.obstacle() is None
    return [each[NAME] for each in scorer.score(records)]


def record(windows: Windows, latent: int = 0) -> LatentRecord:
    return LatentRecord(latent, 0.1, 0, windows, windows, windows)


def harbours(n: int = 40, word: str = "harbor") -> Windows:
    """Half of the windows hold the word on which the latent fires; all in one fifth."""
    random = np.random.default_rng(0)
    lines, activations = [], []
    for number in range(n):
        words = random.choice(["the", "old", "sea", "sky", "was", "far"], 12).tolist()
        values = [0.0] * 12
        if number % 2:
            words[5], values[5] = word, 1.0
        lines.append(" ".join(words))
        activations.append(values if number % 2 else [])
    return windows_of(lines, activations)


def test_windows_of_planted_words_are_told_from_others(records: dict[int, LatentRecord]) -> None:
    chosen = found([records[latent] for latent in range(SETS)], around=1)
    # three words that never stand together: windows of one latent share their word by thirds
    assert np.mean([each.value for each in chosen if each.value is not None]) > 0.35
    (one,) = found([record(harbours())])
    assert one == LatentValue(1.0, 0.2, 20)


def test_windows_of_noise_are_at_chance(records: dict[int, LatentRecord]) -> None:
    values = [
        found([dataclasses.replace(records[NOISE], latent=seed)], trials=50)[0].value
        for seed in range(8)
    ]
    assert 0.1 < np.mean([value for value in values if value is not None]) < 0.3


def test_equal_windows_are_at_chance_exactly() -> None:
    lines = ["a b c d"] * 20
    windows = windows_of(lines, [[0, 1, 0, 0], []] * 10)
    (each,) = found([record(windows)], windows=4)
    assert (each.value, each.chance) == (0.25, 0.25)


def test_place_and_length_tell_nothing() -> None:
    """Every active window peaks at its third token; the silent ones are shown there too."""
    random = np.random.default_rng(3)
    lines = [" ".join(random.choice(list("abcdefgh"), 12)) for _ in range(200)]
    windows = windows_of(lines, [[0, 0, 1.0], []] * 100)
    shown = Intruder(IntruderConfig(trials=50), SERVICES)._trials(
        record(windows), np.random.default_rng(0)
    )
    assert not isinstance(shown, str)
    beyond = (shown < 0).sum(axis=2)
    assert (beyond == beyond[:, :1]).all()


def test_who_has_too_few_windows_says_so(records: dict[int, LatentRecord]) -> None:
    (rare,) = found([records[RARE]])
    assert (rare.value, rare.n_failed) == (None, 20) and "3 active windows" in str(rare.reason)
    (few,) = found([record(harbours(8))])
    assert few.reason == "no fifth of its activations has 5 windows"


def test_the_same_seed_gives_the_same_trials(records: dict[int, LatentRecord]) -> None:
    chosen = [records[latent] for latent in range(3)]
    assert found(chosen) == found(chosen)


@pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason=f"the package {PACKAGE.replace('_', '-')} (all-MiniLM-L6-v2) is not installed",
)
def test_the_text_encoder_compares_meanings() -> None:
    """No two windows of the latent share a word."""
    scorer = Intruder(IntruderConfig(reader="text_encoder"), SERVICES)
    assert scorer.reader == "text_encoder" and Intruder.embeds(scorer.settings)
    assert not Intruder.embeds(IntruderConfig())
    sea = ["ship sailed across oceans", "boat entered harbor quietly", "fish swim underwater"]
    sea += ["waves hit coastal cliffs", "sailors fear storms offshore", "whales dive deep"]
    food = ["she baked bread slowly", "soup needs salt", "cheese melts upon toast"]
    windows = windows_of(sea + food, [[0, 1.0]] * len(sea) + [[]] * len(food))
    windows.texts.vocabulary.texts[:] = [f" {text}" for text in windows.texts.vocabulary.texts]
    by_meaning, by_words = (
        next(iter(each.score([record(windows)])))[NAME].value
        for each in (scorer, Intruder(IntruderConfig(), SERVICES))
    )
    assert by_meaning is not None and by_meaning > 0.9
    assert by_words == pytest.approx(0.2)  # nothing is shared, so all are equally unlike
