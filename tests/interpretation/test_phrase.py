"""The language of explanations: what is written reads well, and is read back exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.interpretation.phrase import Term, read, write

words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
maybe = st.none() | words
terms = st.builds(Term, maybe, maybe, maybe).filter(any)


@pytest.mark.parametrize(
    ("said", "phrase"),
    [
        ([Term("harbor")], 'the word "harbor"'),
        ([Term("harbor"), Term("sailor")], 'the words "harbor" and "sailor"'),
        ([Term("a"), Term("b"), Term("c")], 'the words "a", "b" and "c"'),
        (
            [Term("harbor"), Term(left="the"), Term("sea")],
            'the words "harbor" and "sea"; after "the"',
        ),
        ([Term(left="the"), Term(left="a")], 'after "the" or "a"'),
        (
            [Term("sea", left="the"), Term("sky", left="the")],
            'the words "sea" and "sky" after "the"',
        ),
        (
            [Term("bank", near="river"), Term("bank", near="mud")],
            'the word "bank" in text with "river" or "mud"',
        ),
        ([Term("of", "full", "tank")], 'the word "of" after "full" in text with "tank"'),
        ([Term('"'), Term("after")], r'the words "\"" and "after"'),
    ],
)
def test_a_phrase_reads_as_english(said: list[Term], phrase: str) -> None:
    assert write(said) == phrase
    assert set(read(phrase)) == set(said)


@given(st.lists(terms, min_size=1, max_size=8))
def test_terms_written_and_read_are_the_same_terms(said: list[Term]) -> None:
    assert set(read(write(said))) == set(said)


@given(
    st.lists(st.tuples(words).map(lambda word: Term(*word)), min_size=1, max_size=8, unique=True)
)
def test_words_keep_their_order(said: list[Term]) -> None:
    assert read(write(said)) == said


@given(st.text(max_size=60))
def test_any_string_can_be_read(phrase: str) -> None:
    assert all(any(term) for term in read(phrase))


def test_prose_of_another_explainer_is_read_by_its_quoted_words() -> None:
    assert read('Mentions of "ships" right after "the", often; also "boats".') == [
        Term("ships", left="the"),
        Term("boats"),
    ]


def test_prose_without_quotes_is_read_by_its_longer_words() -> None:
    assert read("ships and harbors at sea") == [Term("ships"), Term("harbors")]


def test_a_stray_backslash_of_another_explainer_is_a_backslash() -> None:
    assert read(r'the word "\d"') == [Term(r"\d")]


def test_nothing_is_read_from_nothing() -> None:
    assert read("") == []
    assert read('the word ""') == []
