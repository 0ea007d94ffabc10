"""Conditions on tokens: every one that holds is listed, and none other."""

from __future__ import annotations

import pytest

from components.interpretation.ngrams import SHAPES, Shape, incidences, term
from components.interpretation.phrase import Term
from tests.interpretation.windows_of import texts_of

LINES = ["a b a", "b c"]
EXPECTED = {
    "word": {(0, Term("a")), (1, Term("b")), (2, Term("a")), (3, Term("b")), (4, Term("c"))},
    "left": {(1, Term(left="a")), (2, Term(left="b")), (4, Term(left="b"))},
    "pair": {(1, Term("b", left="a")), (2, Term("a", left="b")), (4, Term("c", left="b"))},
    "near": {
        (0, Term(near="a")), (1, Term(near="a")), (1, Term(near="b")), (2, Term(near="a")), (2, Term(near="b")),
        (3, Term(near="b")), (4, Term(near="b")), (4, Term(near="c")),
    },
    "word_near": {
        (1, Term("b", near="a")), (2, Term("a", near="a")), (2, Term("a", near="b")), (4, Term("c", near="b")),
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_incidences_are_those_worked_out_by_hand(shape: Shape) -> None:
    texts = texts_of(LINES)
    found = incidences(texts, shape)
    said = [
        (row, term(key, shape, texts))
        for row, key in zip(found.token.tolist(), found.key.tolist(), strict=True)
    ]
    assert sorted(map(repr, said)) == sorted(map(repr, EXPECTED[shape]))
