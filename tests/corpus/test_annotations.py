"""Label columns and word lists say what a user means by them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from components.corpus.annotations import ColumnLabels, WordLists
from components.corpus.contract import Label
from components.errors import CorpusError


def marked(lists: dict, text: str) -> list[tuple[str, str]]:
    return [
        (label.concept, text[label.start : label.end]) for label in WordLists(lists).labels(text)
    ]


def test_a_truth_value_a_number_and_a_category_become_labels_and_null_says_nothing() -> None:
    columns = ColumnLabels("text", ["spam", "stars", "genre", "mood"])
    row = {"text": "x", "spam": True, "stars": 3.5, "genre": "news", "mood": None}
    assert columns.labels(row, "here") == [
        Label("spam", value=1.0), Label("stars", value=3.5), Label("genre.news")
    ]  # fmt: skip
    later = {"text": "x", "spam": False, "stars": float("nan"), "genre": "sport", "mood": "glad"}
    assert columns.labels(later, "here") == [Label("genre.sport"), Label("mood.glad")]
    assert [entry.concept for entry in columns.concepts()] == [
        "genre.news", "genre.sport", "mood.glad", "spam", "stars",
    ]  # fmt: skip
    assert {(entry.concept_kind, entry.unit) for entry in columns.concepts()} == {
        ("document", "document")
    }


def test_a_truth_value_that_is_false_is_known_but_not_listed() -> None:
    columns = ColumnLabels("text", ["spam"])
    assert columns.labels({"text": "x", "spam": False}, "here") == []
    assert [entry.concept for entry in columns.concepts()] == ["spam"]


def test_a_column_of_names_instead_of_categories_is_refused() -> None:
    columns = ColumnLabels("text", ["author"])
    with pytest.raises(
        CorpusError, match=r"file:\d+: label column 'author' has more than 200 different values"
    ):
        for number in range(1000):
            columns.labels({"text": "x", "author": f"a{number}"}, f"file:{number}")


def test_a_column_of_lists_is_refused() -> None:
    with pytest.raises(
        CorpusError,
        match="row 7: label column 'tags' holds list, wanted true or false, a number, or",
    ):
        ColumnLabels("text", ["tags"]).labels({"text": "x", "tags": ["a"]}, "row 7")


def test_words_are_marked_whole_in_any_case_and_wherever_they_stand() -> None:
    text = "Fox and foxes; a fox-like fox's FOX."
    assert marked({"animal": ["fox"]}, text) == [
        ("animal", "Fox"),
        ("animal", "fox"),
        ("animal", "FOX"),
    ]


def test_a_phrase_is_marked_and_one_word_may_carry_several_concepts() -> None:
    lists = {"place": ["new york", "york"], "city": ["New York"]}
    assert marked(lists, "To New York, not New Yorkers. York!") == [
        ("place", "New York"), ("city", "New York"), ("place", "York"), ("place", "York"),
    ]  # fmt: skip


def test_a_list_may_be_a_file_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "glad.txt"
    file.write_text("; words of gladness\n# more\n\nhappy\nGlad\n")
    lists = WordLists({"glad": str(file)})
    assert lists.files() == [file]
    assert marked({"glad": str(file)}, "happy and glad") == [("glad", "happy"), ("glad", "glad")]
    assert [(entry.concept_kind, entry.unit) for entry in lists.concepts()] == [
        ("surface", "token")
    ]


def test_a_list_that_is_not_there_or_empty_is_refused() -> None:
    with pytest.raises(
        CorpusError,
        match=r"read.word_lists.glad: wanted a list of words or a file .* 'nowhere.txt'",
    ):
        WordLists({"glad": "nowhere.txt"})
    with pytest.raises(CorpusError, match=r"read.word_lists.glad: the list has no words"):
        WordLists({"glad": [" "]})
    with pytest.raises(
        CorpusError,
        match=r"read.word_lists.glad: '!!' holds no letter, digit or symbol; leave it out",
    ):
        WordLists({"glad": ["!!"]})


def test_real_word_lists_mark_real_text(shared: Path) -> None:
    lists = {"good": str(shared / "data/wordlists/opinion_positive.txt")}
    assert marked(lists, "A wonderful day, nothing awful.") == [("good", "wonderful")]


@pytest.mark.parametrize(
    ("words", "text", "wanted"),
    [
        (["dog"], "The dog's bone, the dog’s bed, dogs’ toys, a hot-dog.", ["dog", "dog"]),
        (["homme"], "L’homme et l'homme, l'hommes", ["homme", "homme"]),
        (["don't"], "I don't, you don’t, Don ʼt", ["don't", "don’t"]),
        (["don", "can"], "don't can’t Don can do", ["Don", "can"]),
        (
            ["café", "naïve"],
            "cafe\u0301 CAFÉ cafés nai\u0308ve",
            ["cafe\u0301", "CAFÉ", "nai\u0308ve"],
        ),
        (["cafe\u0301"], "un café", ["café"]),
        (["cafe"], "un café, cafe\u0301", []),
        (
            ["İstanbul", "izmir"],
            "İstanbul, istanbul; ISTANBUL'da İZMİR",
            ["İstanbul", "istanbul", "ISTANBUL", "İZMİR"],
        ),
        (["straße"], "STRASSE straße Straßen", ["STRASSE", "straße"]),
        (["#metoo", "😀", "c++"], "#MeToo #metoos 😀! C++ c", ["#MeToo", "😀", "C++"]),
        (["New York"], "in New\nYork, new\u00a0york", ["New\nYork", "new\u00a0york"]),
        (["well-known"], "well‑known, well-known, unwell-known", ["well‑known", "well-known"]),
        (
            ["한국"],
            "\u1112\u1161\u11ab\u1100\u116e\u11a8 한국",
            ["\u1112\u1161\u11ab\u1100\u116e\u11a8", "한국"],
        ),
        (["लड़का"], "एक लड़का, लड़कापन", ["लड़का"]),
        (["小猫"], "一只小猫坐着，小猫cat", ["小猫", "小猫"]),
        (["cat"], "小猫cat坐着 concat", ["cat"]),
        (["犬", "ネコ"], "犬と子犬とネコだ", ["犬", "犬", "ネコ"]),
        (["แมว"], "ฉันเห็นแมวดำ", ["แมว"]),
        (["ឆ្មា"], "ខ្ញុំឃើញឆ្មាខ្មៅ", ["ឆ្មា"]),
        (["ແມວ"], "ຂ້ອຍເຫັນແມວດຳ", ["ແມວ"]),
        (["ကြောင်"], "ငါကြောင်မြင်တယ်", ["ကြောင်"]),
    ],
)
def test_words_are_found_as_a_reader_of_their_script_would(
    words: list[str], text: str, wanted: list[str]
) -> None:
    assert [found for _, found in marked({"list": words}, text)] == wanted


def test_comments_are_of_files_and_not_of_lists(tmp_path: Path) -> None:
    assert marked({"tag": ["#metoo", ";)"[0] + "x"]}, "a #metoo ;x") == [
        ("tag", "#metoo"),
        ("tag", ";x"),
    ]
    file = tmp_path / "tags.txt"
    file.write_text("  # only comments\n; x\n")
    with pytest.raises(
        CorpusError,
        match="the list has no words; lines that begin with # or ; and a space are comments",
    ):
        WordLists({"tag": str(file)})


def test_a_list_that_labelled_nothing_says_so_in_the_inventory() -> None:
    lists = WordLists({"glad": ["happy"], "sad": ["zzz"]})
    assert [entry.description for entry in lists.concepts(["sad"])] == [
        "Words of the list 'glad'.", "Words of the list 'sad'; none of them stands in the text.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            10**400,
            "holds a number beyond 3.4e\\+38, which no label can be; write a smaller one, or null",
        ),
        (float("inf"), "holds a number beyond"),
        (-1e39, "holds a number beyond"),
        (
            "a\ud83d",
            r"holds 'a\\ud83d' with a lone surrogate, wanted the name of a category in whole characters",
        ),
    ],
)
def test_a_label_that_no_table_can_hold_is_refused(value: object, message: str) -> None:
    with pytest.raises(CorpusError, match=f"file:3: label column 'x' {message}"):
        ColumnLabels("text", ["x"]).labels({"text": "a", "x": value}, "file:3")


def test_a_decimal_number_is_a_number() -> None:
    assert ColumnLabels("text", ["x"]).labels({"text": "a", "x": Decimal("1.5")}, "here") == [
        Label("x", value=1.5)
    ]


def test_names_of_lists_are_whole_characters() -> None:
    with pytest.raises(CorpusError, match="read.word_lists: .* holds a lone surrogate"):
        WordLists({"a\ud83d": ["x"]})
