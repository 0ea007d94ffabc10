"""Tokens that stand for bytes read as text, alone and together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from components.spelling import PART, Bytes, groups, marked, spelled, whole
from tests.corpus.doubles import byte_level


def test_bytes_that_are_no_whole_character_are_spelled_and_the_rest_is_text() -> None:
    assert spelled("é日".encode()) == "é日"
    assert spelled("日".encode()[:2]) == "<0xE6><0x97>"
    assert spelled(b" " + "日".encode()[2:] + b"a") == " <0xA5>a"


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
    st.lists(st.integers(1, 4), max_size=30),
)
def test_however_a_text_is_cut_into_bytes_its_parts_make_it_again(
    text: str, sizes: list[int]
) -> None:
    raw, tokens, at = text.encode(), [], 0
    for size in [*sizes, len(raw)]:
        if at < len(raw):
            tokens.append(spelled(raw[at : at + size]))
            at += size
    runs = groups(tokens)
    assert [place for first, end in runs for place in range(first, end)] == list(range(len(tokens)))
    assert whole(tokens) == text
    assert "".join(whole(tokens[first:end]) for first, end in runs) == text
    assert not any(PART.search(whole(tokens[first:end])) for first, end in runs)


def test_only_tokens_that_share_a_character_stand_together() -> None:
    tokens = [
        " x",
        "<0xE6>",
        "<0x97>",
        "<0xA5>",
        "y",
        " <0xE6><0x9C>",
        "<0xAC><0xE8>",
        "<0xAA><0x9E>",
        "<0x81>",
        "z",
    ]
    assert groups(tokens) == [(0, 1), (1, 4), (4, 5), (5, 8), (8, 9), (9, 10)]
    assert whole(tokens[5:8]) == " 本語"
    assert groups([]) == []


def test_bytes_are_marked_for_a_reader() -> None:
    assert marked(" <0xE6><0x97>a") == " ‹E6 97›a"
    assert marked("<0x41> < 0xE6") == "<0x41> < 0xE6"


def test_stand_in_letters_of_a_byte_level_tokenizer_are_bytes(shared: Path) -> None:
    from tokenizers.implementations import ByteLevelBPETokenizer

    folder = shared / "tokenizers/gpt2"
    gpt2 = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    parts = Bytes(gpt2._tokenizer)
    for text in ("It’s", "日本語", " naïve\n", "��"):
        assert whole([parts.text(token) or "" for token in gpt2.encode(text).tokens]) == text
    assert parts.text("Ġthe") == " the"
    assert parts.text("âĢ") == "<0xE2><0x80>"


def test_byte_fallback_is_bytes_and_other_tokens_are_none(shared: Path) -> None:
    backend = Tokenizer.from_file(str(shared / "models/stories260k/tokenizer.json"))
    parts = Bytes(backend)
    assert [parts.text(token) for token in ("<0xE6>", "<0x0A>", "▁the", "</s>", None)] == [
        "<0xE6>",
        "\n",
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("special", ["<s>", "</s>"])
def test_a_special_token_stands_for_no_bytes(special: str) -> None:
    tokenizer: Any = byte_level()
    assert Bytes(tokenizer.backend_tokenizer).text(special) is None
    assert Bytes(None).text("Ġthe") is None
