"""Strings of known order: what they say of a concept, and how pairs are counted."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from components.interpretation import truth
from components.interpretation.explanation import LONGEST
from components.interpretation.phrase import read
from components.interpretation.truth import KINDS, Known

TEXT = {
    0: "the harbor and the sailor saw the cod",
    1: "the sailor left the harbor and the cod",
    2: "the bread and the oven made the crust",
    3: "an oven bakes the bread",
}
CONCEPTS = pl.DataFrame(
    {
        "concept": ["topicword.baking", "topicword.sea", "word.cod", "topic.sea"],
        "concept_kind": ["surface", "surface", "surface", "document"],
        "family": ["topics", "topics", "fish", "topics"],
        "description": [None, None, None, "a story about the sea"],
    }
)
WORDS = {
    "topicword.sea": {"harbor", "sailor"},
    "topicword.baking": {"bread", "oven"},
    "word.cod": {"cod"},
}


def tokens() -> pl.DataFrame:
    rows = []
    for document, text in TEXT.items():
        words = text.split()
        rows += [
            {"document": document, "token": at, "word": word, "left": words[at - 1] if at else None}
            for at, word in enumerate(words)
        ]
    return pl.DataFrame(rows)


def labels() -> pl.DataFrame:
    rows = [
        {"concept": concept, "document": row["document"], "token": row["token"]}
        for concept, words in WORDS.items()
        for row in tokens().iter_rows(named=True)
        if row["word"] in words
    ]
    rows += [{"concept": "topic.sea", "document": document, "token": None} for document in (0, 1)]
    schema = {"concept": pl.String, "document": pl.Int64, "token": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


def known() -> dict[str, Known]:
    return {each.concept: each for each in truth.known(CONCEPTS, labels(), tokens())}


def test_words_stand_for_a_concept_where_most_of_their_tokens_carry_it() -> None:
    concepts = known()
    assert concepts["topicword.sea"].words == ("harbor", "sailor")
    assert concepts["topicword.sea"].left == "the"
    assert concepts["word.cod"].words == ("cod",)


def test_a_concept_of_documents_needs_words_that_are_frequent_enough() -> None:
    assert known()["topic.sea"].words == ()


def test_strings_say_more_or_less_of_the_truth() -> None:
    texts = truth.strings(list(known().values()), np.random.default_rng(0))
    sea = texts["topicword.sea"]
    words = {kind: {term.word for term in read(text)} for kind, text in sea.items()}
    assert words["right"] == {"harbor", "sailor"}
    assert words["broader"] == {"harbor", "sailor", "bread", "oven"}
    assert words["narrower"] < words["right"]
    assert words["sibling"] == {"bread", "oven"}
    assert words["shuffled"] == {"cod"}


def test_the_narrower_string_of_one_word_asks_for_its_neighbour() -> None:
    texts = truth.strings(list(known().values()), np.random.default_rng(0))["word.cod"]
    (term,) = read(texts["narrower"])
    assert (term.word, term.left) == ("cod", "the")


def test_a_concept_without_words_is_told_by_its_sentence() -> None:
    texts = truth.strings(list(known().values()), np.random.default_rng(0))
    assert texts["topic.sea"] == {"right": "a story about the sea"}


def test_no_string_is_too_long_and_no_two_kinds_are_alike() -> None:
    long = tuple(f"{letter * 30}" for letter in "abcdefghijkl")
    concepts = [
        Known(f"x.{n}", "surface", "long" if n < 2 else "other", "", words, "the")
        for n, words in enumerate((long, tuple(w.upper() for w in long), ("short", "brief")))
    ]
    for texts in truth.strings(concepts, np.random.default_rng(1)).values():
        assert all(0 < len(text) <= LONGEST for text in texts.values())
        assert len(set(texts.values())) == len(texts)


@pytest.mark.parametrize(
    ("scores", "share", "pairs"),
    [
        (dict(zip(KINDS, (0.9, 0.8, 0.7, 0.6, 0.5), strict=True)), 1.0, 6),
        (dict.fromkeys(KINDS, 0.5), 0.5, 6),
        (dict(zip(KINDS, (0.1, 0.8, 0.7, 0.6, 0.9), strict=True)), 0.0, 6),
        ({"right": 0.9, "sibling": 0.1, "broader": None}, 1.0, 1),
        ({"right": None}, 0.5, 0),
    ],
)
def test_pairs_in_order_are_counted(
    scores: dict[str, float | None], share: float, pairs: int
) -> None:
    assert truth.ordered(scores) == (share, pairs)
