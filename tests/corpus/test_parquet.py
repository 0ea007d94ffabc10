"""Parquet files, whatever type holds the text."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow
import pyarrow.parquet
import pytest

from components.corpus.contract import Label
from components.corpus.corpora.parquet import Parquet, ParquetConfig
from components.errors import CorpusError


def test_rows_become_documents_with_labels(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "body": pyarrow.array(["a b", None, "c"]).dictionary_encode(),
            "good": [True, None, False],
            "other": [1, 2, 3],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    config = ParquetConfig(path=str(tmp_path), text_column="body", label_columns=["good"])
    documents = list(Parquet(config).documents("train", 0))
    assert [document.text for document in documents] == ["a b", "", "c"]
    assert [document.source for document in documents] == [
        "a.parquet:0",
        "a.parquet:1",
        "a.parquet:2",
    ]
    assert [list(document.labels) for document in documents] == [[Label("good")], [], []]


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    pl.DataFrame({"texts": ["a"], "id": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        CorpusError, match=r"a.parquet: no column 'text'; known: id, texts; did you mean 'texts'\?"
    ):
        list(Parquet(ParquetConfig(path=str(tmp_path))).documents("train", 0))


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text")
    with pytest.raises(CorpusError, match=r"a.parquet: not readable as parquet"):
        list(Parquet(ParquetConfig(path=str(tmp_path / "a.parquet"))).documents("train", 0))


def test_a_real_file_of_reviews_has_two_categories(shared: Path) -> None:
    path = shared / "data/sentence_polarity/sentence_polarity.parquet"
    corpus = Parquet(ParquetConfig(path=str(path), label_columns=["label"]))
    assert sum(1 for document in corpus.documents("train", 0) if document.text) > 10_000
    assert [entry.concept for entry in corpus.concepts()] == ["label.negative", "label.positive"]


def test_a_text_column_of_another_type_is_refused_with_the_columns_that_hold_text(
    tmp_path: Path,
) -> None:
    body = pyarrow.array(["a"]).dictionary_encode()
    table = pyarrow.table({"text": [{"en": "a"}], "title": ["a"], "body": body, "n": [1]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    wanted = r"a.parquet, row 0: column 'text' holds dict, wanted text; set read.corpus.text_column to one of title, body$"
    with pytest.raises(CorpusError, match=wanted):
        list(Parquet(ParquetConfig(path=str(tmp_path))).documents("train", 0))


def test_text_that_is_not_utf_8_is_refused_with_the_file(tmp_path: Path) -> None:
    column = pyarrow.array([b"good", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(
        CorpusError,
        match=r"a.parquet, after row 0: a column of text holds bytes that are not UTF-8",
    ):
        list(Parquet(ParquetConfig(path=str(tmp_path))).documents("train", 0))
