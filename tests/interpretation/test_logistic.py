"""The sparse regression finds words and left contexts, keeps few of them, and says why where there
are none."""

from __future__ import annotations

import numpy as np
import pytest

from components.interpretation.contract import LatentEvidence, LatentRecord
from components.interpretation.explainers.logistic import Logistic, LogisticConfig
from components.interpretation.explanation import Explanation
from components.interpretation.phrase import read
from tests.interpretation.planted import NOISE, PHRASES, SENSE
from tests.interpretation.windows_of import EXPLAINER, windows_of


def explain(lines: list[str], activations: list[list[float]], **settings: float) -> Explanation:
    explainer = Logistic(LogisticConfig(**settings), EXPLAINER)
    return next(explainer.explain([LatentEvidence(0, windows_of(lines, activations))]))


@pytest.mark.parametrize("latent", [latent for latent in PHRASES if latent != SENSE])
def test_the_planted_words_and_left_contexts_are_found(
    latent: int, records: dict[int, LatentRecord]
) -> None:
    said = next(
        Logistic(LogisticConfig(), EXPLAINER).explain(
            [LatentEvidence(latent, records[latent].explain)]
        )
    )
    assert said.text is not None
    assert set(read(said.text)) == set(read(PHRASES[latent]))  # these and no others


def test_a_pair_is_said_where_neither_word_is_enough() -> None:
    random = np.random.default_rng(0)
    lines, activations = [], []
    for _ in range(120):
        words = random.choice(["red", "blue", "car", "boat", "the", "was"], 12).tolist()
        lines.append(" ".join(words))
        hits = [
            float(a == "red" and b == "boat") for a, b in zip(["", *words], words, strict=False)
        ]
        activations.append(hits if any(hits) else [])
    assert sum(map(bool, activations)) > 20
    assert explain(lines, activations).text == 'the word "boat" after "red"'


@pytest.mark.parametrize("terms", [1, 2, 12])
def test_at_most_so_many_terms_are_said(terms: int, records: dict[int, LatentRecord]) -> None:
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(30)]
    lines = [" ".join(random.choice(words, 20)) for _ in range(100)]
    activations = [[float(word in words[:15]) for word in line.split()] for line in lines]
    said = explain(lines, activations, terms=terms, probability=0)
    assert said.text is None or len(read(said.text)) <= terms
    noise = next(
        Logistic(LogisticConfig(terms=terms, probability=0), EXPLAINER).explain(
            [LatentEvidence(NOISE, records[NOISE].explain)]
        )
    )
    assert noise.text is None or len(read(noise.text)) <= terms


def test_a_term_within_another_is_not_said_again() -> None:
    lines = ["the sea", "a sea", "the sky", "a sky"] * 20
    activations = [[0, 1], [0, 1], [], []] * 20
    assert explain(lines, activations).text == 'the word "sea"'


def test_what_makes_nothing_likely_is_no_explanation(records: dict[int, LatentRecord]) -> None:
    evidence = [LatentEvidence(NOISE, records[NOISE].explain)]
    said = next(Logistic(LogisticConfig(probability=0.9), EXPLAINER).explain(evidence))
    assert said.text is None and said.reason is not None
    assert said.reason.startswith(
        "no word or left context makes it likely: the best gives a probability of 0."
    )
    assert said.reason.endswith("short of 0.9 (interpret.explainer_settings.logistic.probability)")


def test_a_word_of_one_document_or_one_that_cannot_be_read_is_no_evidence() -> None:
    why = "no readable word or left context meets it in 2 documents (interpret.explainer_settings.logistic.documents)"
    assert explain(["a x"] + ["b c"] * 20, [[0, 9]] + [[]] * 20) == Explanation(None, why)
    assert explain(["\ufffd"] * 9 + ["c"] * 9, [[1]] * 9 + [[]] * 9) == Explanation(None, why)
    assert explain(["a b"] * 9, [[1, 1]] * 9) == Explanation(None, "it is active on every token")


def test_the_same_windows_give_the_same_phrase(records: dict[int, LatentRecord]) -> None:
    evidence = [LatentEvidence(NOISE, records[NOISE].explain)] * 2
    one, other = Logistic(LogisticConfig(probability=0), EXPLAINER).explain(evidence)
    assert one == other
