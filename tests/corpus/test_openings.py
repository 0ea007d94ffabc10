"""Openings are short, whatever the script and whatever stands for a word."""

from __future__ import annotations

import pytest

from components.corpus.encoding import Encoder
from components.corpus.openings import TOKENS, opening
from tests.corpus.doubles import byte_level

ENCODER = Encoder(byte_level())


def of(text: str, context_length: int = 256) -> str:
    return opening(text, ENCODER.encode([text])[0], context_length)


def test_text_with_spaces_gives_its_first_six_words() -> None:
    assert of("Once upon a time,\n there  was a fox. It ran.") == "Once upon a time, there was"
    assert of("Kurz: Donaudampfschifffahrt") == "Kurz: Donaudampfschifffahrt"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("小猫坐在垫子上看着窗外的大雨心里想着什么" * 9, "小猫坐在垫子上看着窗外的"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたか", "吾輩は猫である。名前"),
        ("แมวนั่งอยู่บนเสื่อมองดูฝนนอกหน้าต่าง", "แมวนั่งอยู่บ"),
        ("កូនឆ្មាអង្គុយលើកម្រាលមើលភ្លៀងក្រៅបង្អួច", "កូនឆ្មាអង្គុ"),
    ],
)
def test_text_without_spaces_gives_a_few_characters(text: str, wanted: str) -> None:
    found = of(text, 512)
    assert found == wanted
    assert len(ENCODER.encode([found])[0].ids) <= TOKENS


@pytest.mark.parametrize("text", ["x=1;" * 4000, "QUJD" * 4000, "é" * 4000])
def test_a_line_that_is_one_word_is_cut_by_tokens(text: str) -> None:
    found = of(text)
    assert text.startswith(found)
    assert 0 < len(ENCODER.encode([found])[0].ids) <= TOKENS
    assert len(ENCODER.encode([of(text, 32)])[0].ids) <= 16


def test_special_tokens_are_no_words_and_letters_keep_their_marks() -> None:
    assert of("</s><s> One day</s> a fox ran over there again") == "One day a fox ran over"
    assert of("e\u0301" * 400).endswith("e\u0301")


def test_a_text_of_nothing_has_no_opening() -> None:
    assert of(" ") == ""
