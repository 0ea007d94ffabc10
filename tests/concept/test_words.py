"""Words by the text of tokens: whatever the tokenizer does with spaces, the same words begin."""

from __future__ import annotations

import pytest
import torch

from components.concept.words import beginnings
from components.store import tables
from tests import toys

TEXTS = [
    "<s>",
    " the",
    "the",
    " st",
    "ill",
    " ",
    "e",
    "'",
    "t",
    "1",
    "st",
    "“",
    " don't",
    " é",
    "\n",
    " A",
    "",
]
AT = {text: number for number, text in enumerate(TEXTS)}


@pytest.fixture
def corpus(store):
    rows = [{"token": number, "text": text} for number, text in enumerate(TEXTS)]
    return toys.artifact(store, "read", lambda folder: tables.VOCABULARY.write(folder, rows), {})


def found(corpus, *texts, document=None, position=None):
    n = len(texts)
    given = {
        "token": torch.tensor([AT[text] for text in texts], dtype=torch.int32),
        "document": torch.zeros(n, dtype=torch.int32)
        if document is None
        else torch.tensor(document).int(),
        "position": torch.arange(n).int() if position is None else torch.tensor(position).int(),
    }
    return beginnings(corpus, given).tolist()


def test_a_space_before_letters_begins_a_word_in_lower_case(corpus):
    assert found(corpus, "the", " the", " st", "ill", " A") == ["the", "the", "st", "", "a"]


def test_a_space_or_a_mark_in_the_token_before_is_one_too(corpus):
    assert found(corpus, " ", "e", "ill", "“", "the", "\n", "e") == [
        "",
        "e",
        "",
        "",
        "the",
        "",
        "e",
    ]


def test_what_follows_letters_digits_or_an_apostrophe_begins_no_word(corpus):
    assert found(corpus, " ", "e", "'", "t", "1", "st", "", "ill") == [
        "",
        "e",
        "",
        "",
        "",
        "",
        "",
        "",
    ]


def test_only_letters_of_a_to_z_are_words(corpus):
    assert found(corpus, " don't", " é", " ", "1") == ["", "", "", ""]


def test_a_document_begins_with_a_word_and_special_tokens_belong_to_none(corpus):
    given = {"document": [-1, 4, 4, 5, 5], "position": [-1, 0, 1, 0, 1]}
    assert found(corpus, "<s>", "the", "ill", "ill", " the", **given) == [
        "",
        "the",
        "",
        "ill",
        "the",
    ]


def test_without_the_token_before_only_a_tokens_own_space_tells(corpus):
    given = {"document": [0, 0, 0, 1], "position": [7, 8, 20, 21]}
    assert found(corpus, "e", "“", "e", " the", **given) == ["", "", "", "the"]
    assert found(corpus) == []
