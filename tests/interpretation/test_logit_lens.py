"""What a latent writes: its promoted tokens as words, or the reason why there are none."""

from __future__ import annotations

import dataclasses

from components.interpretation.contract import LatentEvidence
from components.interpretation.explainers.logit_lens import LogitLens, LogitLensConfig
from components.interpretation.explanation import Explanation
from components.interpretation.phrase import Term, read
from tests.interpretation.windows_of import EXPLAINER, windows_of

WINDOWS = windows_of(["a b"] * 4, [[1, 0], [], [0, 1], []])


def explain(*promoted: str, longest: int = 200, **settings: int) -> Explanation:
    explainer = LogitLens(
        LogitLensConfig(**settings), dataclasses.replace(EXPLAINER, longest=longest)
    )
    (said,) = explainer.explain([LatentEvidence(0, WINDOWS, promoted, (" never",))])
    return said


def test_the_most_promoted_words_come_first_and_each_once() -> None:
    said = explain(" sea", "sea", " ship", "\ufffd", "", " sand")
    assert said.text == 'makes likelier the words "sea", "ship" and "sand"'
    assert read(said.text) == [Term("sea"), Term("ship"), Term("sand")]
    assert explain(" sea", " ship", tokens=1).text == 'makes likelier the word "sea"'


def test_a_token_that_does_not_fit_is_left_out() -> None:
    assert (
        explain(" sea", " " + "x" * 60, " ship", longest=45).text
        == 'makes likelier the words "sea" and "ship"'
    )


def test_without_promoted_tokens_or_readable_ones_there_is_a_reason() -> None:
    why = "no promoted tokens: no model with logits, or a direction that is not added to its residual stream"
    assert explain() == Explanation(None, why)
    assert explain("\ufffd", " ", "<0x97>") == Explanation(
        None, "none of the promoted tokens is a word that can be read"
    )
