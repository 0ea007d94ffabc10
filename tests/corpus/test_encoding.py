"""Texts as token ids: special tokens in a text, tokenizers with gaps, models with fewer rows,
broken characters."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from components.corpus.encoding import Encoder
from components.errors import CorpusError
from tests.corpus.doubles import byte_level


def word_level(words: dict[str, int], **special: str) -> Any:
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "the": 3, "dog": 4}
KNOWN = {"bos_token": "<s>", "eos_token": "</s>"}


def test_special_tokens_that_stand_in_a_text_are_read_and_marked() -> None:
    encoder = Encoder(byte_level())
    plain, broken = encoder.encode(["the fox", "the</s> <s>fox"])
    assert plain.special is None
    assert plain.written == plain.ids
    assert broken.special is not None
    bos, eos = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id
    assert [token for token, out in zip(broken.written, broken.special, strict=True) if out] == [
        eos,
        bos,
    ]
    assert {bos, eos}.isdisjoint(broken.ids)
    assert broken.n_special == 2
    assert "".join("the</s> <s>fox"[a:b] for a, b in broken.offsets) == "the fox"


def test_the_unknown_token_is_special_only_where_it_is_written_out() -> None:
    encoder = Encoder(word_level(WORDS, **KNOWN))
    unknown, literal, both = encoder.encode(
        ["the cat", "the <unk> dog", "cat <unk> </s> dog"], offsets=False
    )
    assert (unknown.ids, unknown.n_special) == ([3, 0], 0)
    assert (literal.ids, literal.n_special) == ([3, 4], 1)
    assert (both.ids, both.n_special) == ([0, 4], 2)


def test_lone_surrogates_are_replaced() -> None:
    encoder = Encoder(byte_level())
    broken, replaced = encoder.encode(["a \ud83d fox", "a � fox"])
    assert broken.ids == replaced.ids


def test_a_padding_token_that_the_model_has_no_row_for_is_another_one() -> None:
    words = WORDS | {"<pad>": 5}
    encoder = Encoder(word_level(words, **KNOWN, pad_token="<pad>"), n_rows=5)
    assert encoder.pad == encoder.eos == 2
    assert Encoder(word_level(words, **KNOWN, pad_token="<pad>"), n_rows=6).pad == 5
    assert Encoder(word_level(words, pad_token="<pad>"), n_rows=5).pad == 0
    found = encoder.encode(["the <pad> dog"])[0]
    assert (found.written, found.special, found.n_special) == ([3, 4], None, 1)


def test_first_and_last_tokens_that_the_model_has_no_rows_for_are_none() -> None:
    encoder = Encoder(word_level({"<unk>": 0, "the": 1, "<s>": 2, "</s>": 3}, **KNOWN), n_rows=2)
    assert (encoder.bos, encoder.eos, encoder.pad) == (None, None, 0)


def test_a_word_that_the_model_has_no_row_for_is_refused_with_what_to_do() -> None:
    encoder = Encoder(word_level(WORDS, **KNOWN), n_rows=4)
    with pytest.raises(
        CorpusError,
        match=r"writes token 4 \('dog'\), and the model's embedding has 4 rows .* \(resize_token_embeddings\)",
    ):
        encoder.encode(["the dog"])


def test_a_vocabulary_with_gaps_has_a_row_for_every_id() -> None:
    encoder = Encoder(word_level({"<unk>": 0, "the": 3, "little": 60, "girl": 62}))
    rows = encoder.vocabulary()
    assert [row["token"] for row in rows] == list(range(63))
    assert [row["text"].strip() for row in rows if row["text"]] == [
        "<unk>",
        "the",
        "little",
        "girl",
    ]
    assert max(encoder.encode(["the little girl"])[0].ids) < len(rows)


def test_parts_of_characters_read_as_bytes_and_special_tokens_as_written() -> None:
    encoder = Encoder(byte_level())
    texts = [row["text"] for row in encoder.vocabulary()]
    assert texts[encoder.tokenizer.eos_token_id] == "</s>"
    assert [texts[token] for token in encoder.encode(["日"])[0].ids] == [
        "<0xE6>",
        "<0x97>",
        "<0xA5>",
    ]
    assert not any("æ" in text for text in texts)
