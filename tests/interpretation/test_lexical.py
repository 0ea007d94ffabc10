"""The lexical predictor finds what the string says, where it says, and knows nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from components.interpretation.predictors.lexical import Lexical, LexicalConfig
from components.interpretation.trials import Answer, Question, Unit
from tests.interpretation.windows_of import PREDICTOR, texts_of

LINES = ["the old sea rose", "a sea the river bank", "bank the sky"]


def ask(explanation: str, unit: Unit) -> Answer:
    predictor = Lexical(LexicalConfig(), PREDICTOR)
    return next(predictor.predict([Question(explanation, texts_of(LINES))], unit))


@pytest.mark.parametrize(
    ("explanation", "expected"),
    [
        ('the word "sea"', ["0010", "01000", "000"]),
        ('the words "sea" and "sky"', ["0010", "01000", "001"]),
        ('after "the"', ["0100", "00010", "001"]),
        ('the word "sky" after "the"', ["0000", "00000", "001"]),
        ('the word "bank" in text with "river"', ["0000", "00001", "000"]),
        ('in text with "sea"', ["0011", "01111", "000"]),
        ('the word "absent"', ["0000", "00000", "000"]),
        ('the word "sea"; after "absent"', ["0010", "01000", "000"]),
        ("where the text mentions rivers or bank", ["0000", "00001", "100"]),
    ],
)
def test_tokens_are_those_the_phrase_names(explanation: str, expected: list[str]) -> None:
    values = ask(explanation, "tokens").values
    assert values is not None
    wanted = [[float(digit) for digit in line.ljust(5, "0")] for line in expected]
    np.testing.assert_array_equal(values, wanted)


def test_a_window_scores_the_share_of_its_tokens() -> None:
    values = ask('the word "sea"; after "the"', "windows").values
    assert values is not None
    np.testing.assert_allclose(values, [2 / 4, 2 / 5, 1 / 3])


def test_an_unreadable_explanation_gets_no_answer_but_a_reason() -> None:
    answer = ask("...", "windows")
    assert answer.values is None
    assert answer.reason == "no word can be read from the explanation"
