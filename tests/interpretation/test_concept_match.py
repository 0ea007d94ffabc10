"""The best labelled concept is named, with its sentence, or it is said why none is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.interpretation.contract import LatentEvidence
from components.interpretation.explainers.concept_match import ConceptMatch, ConceptMatchConfig
from components.interpretation.explanation import Explanation
from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.trials import Question
from tests.interpretation.windows_of import EXPLAINER, PREDICTOR, windows_of

WINDOWS = windows_of(["the old sea", "a sea here", "the sky there"], [[0, 0, 2], [0, 1, 0], []])
SEA, LATE = (
    np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0]], bool),
    np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1]], bool),
)
LABELS = {"topic.place@stop": LATE, "word.sea": SEA, "everywhere": np.ones((3, 3), bool)}


def explain(
    labels: dict[str, np.ndarray], longest: int = 200, least: float = 0.1, **described: str
) -> Explanation:
    explainer = ConceptMatch(
        ConceptMatchConfig(least=least), dataclasses.replace(EXPLAINER, longest=longest)
    )
    (said,) = explainer.explain(
        [LatentEvidence(0, WINDOWS, label=lambda _: labels, described=described)]
    )
    return said


def test_the_concept_that_follows_the_activation_best_is_named() -> None:
    assert explain(LABELS) == Explanation('the concept "sea": word.sea')
    assert explain({"topic.place@stop": LATE}) == Explanation(
        'the concept "place": topic.place@stop'
    )


def test_its_sentence_stands_behind_it_where_that_fits() -> None:
    described = {"word.sea": "the word 'sea', wherever it stands in a story"}
    assert explain(LABELS, **described) == Explanation(
        f'the concept "sea": {described["word.sea"]}'
    )
    assert explain(LABELS, longest=40, **described) == Explanation('the concept "sea": word.sea')


def test_a_reader_of_words_looks_for_the_last_part_of_the_name() -> None:
    said = explain(LABELS, **{"word.sea": "one of the words that stand in a story"})
    assert said.text is not None
    (answer,) = Lexical(LexicalConfig(), PREDICTOR).predict(
        [Question(said.text, WINDOWS.texts)], "tokens"
    )
    np.testing.assert_array_equal(answer.values, SEA)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("word.sea", "sea"),
        ("main.female@stop", "female"),
        ("no_dot_here", "no dot here"),
        ("a.", "a."),
        ('"x"', '\\"x\\"'),
    ],
)
def test_any_name_can_be_said(name: str, word: str) -> None:
    assert explain({name: SEA}) == Explanation(f'the concept "{word}": {name}')


def test_where_none_follows_or_none_is_there_the_reason_says_so() -> None:
    short = "no labelled concept follows its activation: the nearest, everywhere, reaches a correlation of 0.00, short of 0.1"
    assert explain({"everywhere": LABELS["everywhere"]}) == Explanation(
        None, f"{short} (interpret.explainer_settings.concept_match.least)"
    )
    assert explain({}) == Explanation(
        None, "no labelled concept occurs in the windows of this latent"
    )
    (said,) = ConceptMatch(ConceptMatchConfig(), EXPLAINER).explain([LatentEvidence(0, WINDOWS)])
    assert said == Explanation(None, "the corpus has no labelled concepts")


def test_r_is_that_of_numpy_with_the_root_of_the_activation() -> None:
    r = np.corrcoef(LATE.ravel(), np.sqrt(WINDOWS.activations.ravel()))[0, 1]
    assert explain({"late": LATE}, least=r - 1e-6).text == 'the concept "late": late'
    assert explain({"late": LATE}, least=r + 1e-6).text is None
