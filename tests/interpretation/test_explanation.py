"""Whatever a language model writes becomes an explanation or a reason, and nothing is raised on the
way."""

from __future__ import annotations

import io

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.interpretation.explanation import LONGEST, Explanation

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
    assert Explanation.of(text) == Explanation(
        None, f"nothing that can be read was written ({len(text):,} characters)"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the word sea", "the word sea"),
        ("  the\nword\x00sea \ud800", "the word sea"),
        ("x" * 200, "x" * 200),
    ],
)
def test_what_fits_is_kept_with_single_spaces(text: str, expected: str) -> None:
    assert Explanation.of(text) == Explanation(expected)


@pytest.mark.parametrize(("n", "longest"), [(201, 200), (10_000, 200), (513, 512)])
def test_a_text_that_is_too_long_is_refused_and_never_cut(n: int, longest: int) -> None:
    assert Explanation.of("sea " * (n // 4) + "x" * (n % 4), longest) == Explanation(
        None,
        f"it has {len('sea ' * (n // 4) + 'x' * (n % 4)) - (n % 4 == 0):,} characters, wanted at "
        f"most {longest} characters (interpret.longest; 512 where it was given)",
    )
