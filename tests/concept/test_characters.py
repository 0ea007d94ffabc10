"""The classifier over pieces of words: the second opinion."""

from __future__ import annotations

import numpy as np

from components.concept.characters import CharacterClassifier
from components.concept.distinctive import distinctive_words

SEA = ["the sailor moored the boat", "sailing boats drift", "a boat and its sails", "they sailed"]
FARM = ["the farmer milked the goat", "farming is hard", "a goat and its barn", "they farmed"]


def fitted() -> CharacterClassifier:
    texts = (SEA + FARM) * 6
    labels = np.zeros((len(texts), 3), bool)
    labels[:, 0] = ([True] * 4 + [False] * 4) * 6
    labels[::8, 1] = True
    return CharacterClassifier(texts, labels, texts, labels, ["sea", "first", "none"])


def test_it_knows_words_that_it_never_saw_by_their_pieces() -> None:
    classifier = fitted()
    with_it, without = classifier.probabilities(["sailors sail boating", "farmers farm goats"])
    assert with_it[0] > 0.9 and without[0] < 0.1


def test_a_rare_concept_is_ranked_too() -> None:
    said = fitted().probabilities((SEA + FARM) * 2)[:, 1]
    assert said[::8].min() > np.delete(said, [0, 8]).max()


def test_a_concept_without_examples_is_unfit_and_has_no_probability() -> None:
    classifier = fitted()
    assert set(classifier.unfit) == {"none"} and "0 of 48" in classifier.unfit["none"]
    assert np.isnan(classifier.probabilities(SEA)[:, 2]).all()
    assert classifier.probabilities([]).shape == (0, 3)


def test_words_that_set_texts_apart_come_strongest_first() -> None:
    found = distinctive_words(SEA, FARM, 3)
    assert found[0] == "boat" and "goat" not in found and "the" not in found
    assert distinctive_words(SEA, SEA, 3) == []
