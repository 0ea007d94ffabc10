"""Whatever a language model writes becomes an explanation or a reason, and nothing is raised on the way."""

from __future__ import annotations

import io

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.interpretation.contract import LONGEST, Explanation

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))


@given(st.one_of(ANYTHING, st.builds(lambda text, n: text * n, ANYTHING, st.integers(1, 400))))
def test_anything_is_a_short_text_that_a_table_holds_or_a_reason(text: str) -> None:
    explanation = Explanation.of(text)
    if explanation.text is None:
        assert explanation.reason
        return
    assert 0 < len(explanation.text) <= LONGEST and explanation.text.strip() == explanation.text
    file = io.BytesIO()
    pl.DataFrame({"text": [explanation.text]}).write_parquet(file)
    file.seek(0)
    assert pl.read_parquet(file)["text"].to_list() == [explanation.text]
    assert not any(ord(character) < 32 for character in explanation.text)


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x07\x1b", "\ud800", "\u200b\u200d"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    assert Explanation.of(text) == Explanation(None, f"nothing that can be read was written ({len(text):,} characters)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the word sea", "the word sea"),
        ("  the\nword\x00sea \ud800", "the word sea"),
        ("x" * 200, "x" * 200),
        ("x" * 199 + " yy", "x" * 199),
        ("x" * 200 + " y", "x" * 200),
        ("sea " * 2500, ("sea " * 50).strip()),
        ("\u6d77" * 300, "\u6d77" * 200),  # no spaces between words: anywhere is the end of one
        ("x" * 150 + "\u6d77" * 100, "x" * 150 + "\u6d77" * 50),
        ("\u304b\u3099" * 150, "\u304b\u3099" * 100),  # a letter keeps its mark
        ("a" + "\u304b\u3099" * 150, "a" + "\u304b\u3099" * 99),
    ],
)
def test_a_long_text_is_cut_at_the_end_of_a_word(text: str, expected: str) -> None:
    assert Explanation.of(text) == Explanation(expected)


def test_a_text_without_the_end_of_a_word_is_refused() -> None:
    assert Explanation.of("x" * 10_000) == Explanation(
        None, "10,000 characters without the end of a word in the first 200"
    )
