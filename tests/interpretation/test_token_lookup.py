"""The list of tokens holds the words that carry the activation, the most first, and ends where it
holds nearly all."""

from __future__ import annotations

import dataclasses

import pytest

from components.interpretation.contract import LatentEvidence, LatentRecord
from components.interpretation.explainers.token_lookup import TokenLookup, TokenLookupConfig
from components.interpretation.explanation import Explanation
from components.interpretation.phrase import read
from tests.interpretation.planted import PHRASES, SETS
from tests.interpretation.windows_of import EXPLAINER, windows_of


def explain(
    lines: list[str], activations: list[list[float]], longest: int = 200, **settings: float
) -> Explanation:
    services = dataclasses.replace(EXPLAINER, longest=longest)
    explainer = TokenLookup(TokenLookupConfig(**settings), services)
    return next(explainer.explain([LatentEvidence(0, windows_of(lines, activations))]))


@pytest.mark.parametrize("latent", range(SETS))
def test_the_planted_words_are_listed_and_no_others(
    latent: int, records: dict[int, LatentRecord]
) -> None:
    evidence = [LatentEvidence(latent, records[latent].explain)]
    said = next(TokenLookup(TokenLookupConfig(), EXPLAINER).explain(evidence))
    assert said.text is not None
    assert set(read(said.text)) == set(read(PHRASES[latent]))


def test_words_stand_in_the_order_of_what_they_carry_above_the_average() -> None:
    # Averages: 14 over 9 tokens. Excess of b 8 - 2 * 14/9, of c 6 - 14/9, of a and d below 0.
    lines, activations = ["a b c", "a b d", "a a d"], [[0, 4, 6], [0, 4, 0], []]
    assert explain(lines, activations).text == 'the words "b" and "c"'
    assert explain(lines, activations, terms=1).text == 'the word "b"'
    assert explain(lines, activations, share=0.5).text == 'the word "b"'


def test_a_word_that_does_not_fit_is_left_out_and_a_shorter_one_taken() -> None:
    lines, activations = ["a " + "x" * 60 + " c"] * 3 + ["a a a"] * 9, [[0, 9, 8]] * 3 + [[]] * 9
    assert explain(lines, activations, longest=40).text == 'the word "c"'


def test_where_no_word_can_be_read_there_is_no_list() -> None:
    why = "no readable word has more activation than the average token"
    assert explain(["\ufffd a"] * 3, [[1, 0]] * 3) == Explanation(None, why)
    assert explain(["a b"] * 3, [[1, 1]] * 3) == Explanation(None, why)
