"""Label columns and word lists say what a user means by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.corpus.annotations import ColumnLabels, WordLists
from components.corpus.contract import Label
from components.errors import CorpusError


def marked(lists: dict, text: str) -> list[tuple[str, str]]:
    return [(label.concept, text[label.start : label.end]) for label in WordLists(lists).labels(text)]


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
    assert {(entry.concept_kind, entry.unit) for entry in columns.concepts()} == {("document", "document")}


def test_a_truth_value_that_is_false_is_known_but_not_listed() -> None:
    columns = ColumnLabels("text", ["spam"])
    assert columns.labels({"text": "x", "spam": False}, "here") == []
    assert [entry.concept for entry in columns.concepts()] == ["spam"]


def test_a_column_of_names_instead_of_categories_is_refused() -> None:
    columns = ColumnLabels("text", ["author"])
    with pytest.raises(CorpusError, match=r"file:\d+: label column 'author' has more than 200 different values"):
        for number in range(1000):
            columns.labels({"text": "x", "author": f"a{number}"}, f"file:{number}")


def test_a_column_of_lists_is_refused() -> None:
    with pytest.raises(CorpusError, match="row 7: label column 'tags' holds list, wanted true or false, a number, or"):
        ColumnLabels("text", ["tags"]).labels({"text": "x", "tags": ["a"]}, "row 7")


def test_words_are_marked_whole_in_any_case_and_wherever_they_stand() -> None:
    text = "Fox and foxes; a fox-like fox's FOX."
    assert marked({"animal": ["fox"]}, text) == [("animal", "Fox"), ("animal", "fox"), ("animal", "FOX")]


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
    assert [(entry.concept_kind, entry.unit) for entry in lists.concepts()] == [("surface", "token")]


def test_a_list_that_is_not_there_or_empty_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"read.word_lists.glad: wanted a list of words or a file .* 'nowhere.txt'"):
        WordLists({"glad": "nowhere.txt"})
    with pytest.raises(CorpusError, match=r"read.word_lists.glad: the list has no words"):
        WordLists({"glad": [" "]})
    with pytest.raises(CorpusError, match=r"read.word_lists.glad: '!!' holds no letter, digit or symbol; leave it out"):
        WordLists({"glad": ["!!"]})


def test_real_word_lists_mark_real_text(shared: Path) -> None:
    lists = {"good": str(shared / "data/wordlists/opinion_positive.txt")}
    assert marked(lists, "A wonderful day, nothing awful.") == [("good", "wonderful")]
