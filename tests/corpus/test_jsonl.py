"""JSON lines with labels, and lines that are no such thing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from components.corpus.contract import Label
from components.corpus.corpora.jsonl import Jsonl, JsonlConfig
from components.errors import CorpusError

ROWS = [
    {"text": "a b", "spam": True, "genre": "news"},
    {"text": "c", "spam": False, "genre": "sport"},
]


def written(folder: Path, *rows: object) -> str:
    path = folder / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(path)


def test_rows_become_documents_with_labels(tmp_path: Path) -> None:
    corpus = Jsonl(JsonlConfig(path=written(tmp_path, *ROWS), label_columns=["spam", "genre"]))
    documents = list(corpus.documents("train", 0))
    assert [(document.text, document.source) for document in documents] == [
        ("a b", "a.jsonl:1"),
        ("c", "a.jsonl:2"),
    ]
    assert documents[0].labels == [Label("spam"), Label("genre.news")]
    assert documents[1].labels == [Label("genre.sport")]
    assert [entry.concept for entry in corpus.concepts()] == ["genre.news", "genre.sport", "spam"]


def test_gzip_reads_as_the_lines_inside(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    assert [
        document.text for document in Jsonl(JsonlConfig(path=str(tmp_path))).documents("", 0)
    ] == ["a b"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a"}, r"a.jsonl:1: no column 'text'; known: txt; did you mean 'txt'\?"),
        (
            {"text": 3, "title": "a", "n": 1},
            r"a.jsonl:1: column 'text' holds int, wanted text; set read.corpus.text_column to one of title$",
        ),
        (
            {"text": 3, "n": 1},
            r"a.jsonl:1: column 'text' holds int, wanted text; write the text as a string$",
        ),
        (["a"], r"a.jsonl:1: holds list, wanted one object on each line"),
    ],
)
def test_a_line_of_another_shape_is_refused(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(Jsonl(JsonlConfig(path=written(tmp_path, row))).documents("train", 0))


def test_a_line_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(
        CorpusError,
        match=r"a.jsonl:2: not JSON \(Expecting value\); wanted one object on each line",
    ):
        list(Jsonl(JsonlConfig(path=str(tmp_path / "a.jsonl"))).documents("train", 0))


def test_an_unknown_label_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"no column 'gender'; known: genre, spam, text; did you mean 'genre'\?"
    ):
        list(
            Jsonl(JsonlConfig(path=written(tmp_path, *ROWS), label_columns=["gender"])).documents(
                "train", 0
            )
        )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"text": "a", "n": ' + "[" * 100_000 + "]" * 100_000 + "}",
            r"a.jsonl:1: lists or objects lie too deep",
        ),
        (
            '{"text": "a", "n": ' + "9" * 5000 + "}",
            r"a.jsonl:1: label column 'n' holds a number beyond",
        ),
        ('{"text": "a", "n": 1e999}', r"a.jsonl:1: label column 'n' holds a number beyond"),
        ('{"text": "a", "n": "\\ud83d"}', r"a.jsonl:1: label column 'n' .* lone surrogate"),
    ],
)
def test_what_no_reader_can_hold_is_refused_with_the_line(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(CorpusError, match=message):
        list(Jsonl(JsonlConfig(path=str(tmp_path), label_columns=["n"])).documents("", 0))


def test_a_huge_number_in_a_column_that_nobody_asked_for_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "n": ' + "9" * 5000 + "}")
    assert [
        document.text for document in Jsonl(JsonlConfig(path=str(tmp_path))).documents("", 0)
    ] == ["a"]
