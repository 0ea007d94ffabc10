from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.steering.contract import Concept, Continuation, Material, Passages
from components.steering.judges.fluency import Fluency
from tests.steering.world import fitted


def fluency(given: Material) -> Fluency:
    judge = fitted("fluency", given)
    assert isinstance(judge, Fluency)
    return judge


def text(nll: float | None) -> Continuation:
    return (
        Continuation(None, 0, None, "the model ended at once")
        if nll is None
        else Continuation("a dog", 2, nll)
    )


def material(real: np.ndarray, labels: np.ndarray) -> Material:
    none = Passages([], np.zeros((0, labels.shape[1]), bool), np.zeros(0))
    judge = Passages(["a"] * len(real), labels, real)
    plain = [text(nll) for nll in np.linspace(1, 2, 101)]
    return Material(
        [Concept("one", "surface", "token"), Concept("few", "surface", "token")],
        judge,
        none,
        none,
        plain,
        0,
    )


@pytest.fixture
def judge() -> Fluency:
    """Plain text costs 1 to 2 nats; real text of the first concept 3, other real text 2 (and one
    not measured)."""
    labels = np.zeros((101, 2), bool)
    labels[:30, 0] = labels[:5, 1] = True
    return fluency(material(np.r_[np.full(30, 3.0), np.full(70, 2.0), np.nan], labels))


def test_inside_the_band_is_one(judge: Fluency) -> None:
    assert judge.judge([text(1.5), text(judge.lower), text(2.9)]).values[:, 0].tolist() == [1, 1, 1]


def test_the_band_has_two_sides(judge: Fluency) -> None:
    below, above = judge.judge([text(judge.lower - judge.scale), text(3 + judge.scale)]).values[
        :, 0
    ]
    assert below == pytest.approx(np.exp(-1))
    assert above == pytest.approx(np.exp(-1))


def test_the_band_ends_where_real_text_of_the_concept_does(judge: Fluency) -> None:
    assert judge.lower == pytest.approx(1.01)
    assert judge.upper[0] == pytest.approx(3.0)
    everything = np.r_[np.full(30, 3.0), np.full(70, 2.0)]
    assert judge.upper[1] == pytest.approx(np.quantile(everything, 0.95)), (
        "five passages are too few"
    )


def test_without_text_that_sets_the_band_there_is_no_score_and_the_reason_says_what_to_set() -> (
    None
):
    labels = np.ones((3, 2), bool)
    real = material(np.ones(3), labels)
    mute = dataclasses.replace(real, unsteered=[text(None), text(None)])
    short = material(np.zeros(0), np.zeros((0, 2), bool))
    for given, reason in ((mute, "the model wrote nothing"), (short, "lower steer.max_new_tokens")):
        judge = fluency(given)
        assert reason in (judge.silence() or "")
        assert np.isnan(judge.judge([text(1.5), text(2.5)]).values).all()
        assert judge.judge([text(1.5)]).values.shape == (1, 2)
    assert fluency(real).silence() is None


def test_the_further_outside_the_less_fluent(judge: Fluency) -> None:
    scores = judge.judge([text(nll) for nll in (3.0, 3.5, 4.0, 8.0)]).values[:, 0]
    assert (np.diff(scores) < 0).all()


def random_words(n: int, rng: np.random.Generator) -> str:
    words = ["the", "a", "cat", "dog", "bird", "king", "queen", "ran", "sat", "saw"]
    return " ".join(rng.choice(words, n))


def written(n: int) -> list[Continuation]:
    """Plain texts of 24 random words."""
    rng = np.random.default_rng(0)
    return [Continuation(random_words(24, rng), 24, nll) for nll in np.linspace(1, 2, n)]


def test_of_few_texts_the_shortest_does_not_say_how_much_of_a_text_is_looked_at() -> None:
    plain = written(12)
    labels = np.ones((1, 2), bool)
    given = dataclasses.replace(
        material(np.ones(1), labels),
        judge=Passages(["the cat"], labels, np.ones(1)),
        unsteered=plain,
    )
    repeated = Continuation(" ".join(["a"] * 24), 24, 1.5)
    assert fluency(given).judge([repeated]).values[0, 0] < 0.01


def test_text_longer_than_all_that_sets_the_bands_is_judged_by_its_beginning() -> None:
    plain = written(60)
    varied = [each.text or "" for each in plain]
    labels = np.ones((60, 2), bool)
    given = dataclasses.replace(
        material(np.ones(60), labels),
        judge=Passages(varied, labels, np.linspace(1, 2, 60)),
        unsteered=plain,
    )
    judge = fluency(given)
    longer = [
        random_words(200, np.random.default_rng(1)),
        " ".join(["a"] * 200),
        " ".join(["a"] * 24),
    ]
    said = judge.judge([Continuation(each, 200, 1.5) for each in [*varied, *longer]]).values[:, 0]
    assert said[:60].min() > 0.5
    random, repeated, short = said[60:]
    assert random > 0.5
    assert repeated == pytest.approx(short) and repeated < 0.01
