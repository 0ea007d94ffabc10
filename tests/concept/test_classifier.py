"""Short texts are judged by their words, with probabilities that mean what they say."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from components.concept.classifier import ConceptClassifier, fit_classifier

FILL = ["the", "a", "was", "and", "then", "it", "on", "at", "very"]
OWN = {"sea": ["boat", "wave", "sail", "harbor"], "farm": ["cow", "barn", "hay", "plow"]}
CONCEPTS = ["sea", "farm", "ghost"]


def passages(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of 12 words; a topic's texts hold one word of it, and one in five other texts does
    too."""
    draw, texts, labels = random.Random(seed), [], np.zeros((n, 3), bool)
    for i in range(n):
        words = draw.choices(FILL, k=12)
        topic = draw.choice(["sea", "farm", None, None])
        if topic:
            labels[i, CONCEPTS.index(topic)] = True
        if topic or draw.random() < 0.2:
            words[draw.randrange(12)] = draw.choice(OWN[topic or draw.choice(["sea", "farm"])])
        texts.append(" ".join(words))
    return texts, labels


@pytest.fixture(scope="module")
def classifier() -> ConceptClassifier:
    return fit_classifier(*passages(1500, 0), *passages(800, 1), CONCEPTS)


def test_a_text_is_judged_by_its_words(classifier: ConceptClassifier) -> None:
    found = classifier.probabilities(
        ["then the boat was on it", "then the cow was on it", "then it was on it"]
    )
    assert found[0, 0] > 0.6 and found[1, 1] > 0.6
    assert max(found[1, 0], found[0, 1], found[2, 0], found[2, 1]) < 0.2


def test_probabilities_come_true_as_often_as_they_say(classifier: ConceptClassifier) -> None:
    for one in classifier.assess(*passages(4000, 2))[:2]:
        assert one.auroc > 0.95 and one.calibration_error < 0.02
        assert one.n == 4000 and 900 < one.n_positive < 1100


def test_calibration_is_what_brings_that_about(classifier: ConceptClassifier) -> None:
    texts, labels = passages(4000, 2)
    stated = 1 / (1 + np.exp(-classifier.scores(texts)[:, 0]))
    calibrated = classifier.probabilities(texts)[:, 0]
    brier = [((p - labels[:, 0]) ** 2).mean() for p in (stated, calibrated)]
    assert brier[1] < brier[0]


def test_a_concept_without_examples_cannot_be_judged_and_says_why(
    classifier: ConceptClassifier,
) -> None:
    assert classifier.unfit == {
        "ghost": "0 of 1500 judge passages have the concept; at least 5 with and without it are needed"
    }
    assert np.isnan(classifier.probabilities(["boat"])[0, 2])
    assessed = classifier.assess(*passages(10, 3))[2]
    assert assessed.auroc is None and assessed.calibration_error is None


def test_no_texts_and_texts_of_unknown_words_are_no_trouble(classifier: ConceptClassifier) -> None:
    assert classifier.probabilities([]).shape == (0, 3)
    assert np.isfinite(classifier.probabilities(["", "zebra quartz"])[:, :2]).all()
    nothing = fit_classifier([], np.zeros((0, 3), bool), [], np.zeros((0, 3), bool), CONCEPTS)
    assert len(nothing.unfit) == 3


def test_what_is_saved_comes_back(classifier: ConceptClassifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    again = ConceptClassifier.load(tmp_path)
    texts = passages(50, 4)[0]
    np.testing.assert_array_equal(again.probabilities(texts), classifier.probabilities(texts))
    assert again.unfit == classifier.unfit and again.concepts == classifier.concepts
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "classifier.json",
        "classifier.safetensors",
    ]
