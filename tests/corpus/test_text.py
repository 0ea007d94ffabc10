"""Plain text, gzipped or not, and what is not text."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from components.corpus.corpora.text import Text, TextConfig
from components.errors import ConfigError, CorpusError


def read(path: Path, **kwargs) -> list[tuple[str, str]]:
    corpus = Text(TextConfig(path=str(path), **kwargs))
    return [
        (document.text, document.source)
        for document in corpus.documents("train", 0)
        if document.text
    ]


def test_documents_end_at_blank_lines_lines_or_files(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n\n  \nthree\n")
    assert read(file) == [("one\ntwo", "a.txt:1"), ("three", "a.txt:5")]
    assert read(file, documents="line") == [
        ("one", "a.txt:1"),
        ("two", "a.txt:2"),
        ("three", "a.txt:5"),
    ]
    assert read(file, documents="file") == [("one\ntwo\n\n  \nthree", "a.txt:1")]


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name, text in {
        "b.txt": "second",
        "a/c.md": "first",
        ".hidden": "no",
        ".git/x": "no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [text for text, _ in read(tmp_path)] == ["first", "second"]
    assert [text for text, _ in read(tmp_path, pattern="*.txt")] == ["second"]


def test_gzip_reads_as_the_text_inside(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("é\n\nb".encode()))
    assert [text for text, _ in read(tmp_path / "a.txt.gz")] == ["é", "b"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"read.corpus.path: wanted a file or folder, but nothing is at '.*gone'"
    ):
        read(tmp_path / "gone")
    with pytest.raises(CorpusError, match="wanted a file or folder, but nothing is at ''"):
        list(Text(TextConfig()).documents("train", 0))
    with pytest.raises(CorpusError, match=r"has no file that matches '\*.txt'"):
        read(tmp_path, pattern="*.txt")


@pytest.mark.parametrize("content", [b"ab\nc\0d", "é".encode("latin-1")])
def test_bytes_that_are_not_text_are_refused_with_the_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(
        CorpusError, match=r"x.bin.*not text.*wanted UTF-8 text .*read.corpus.pattern"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"plain text\n", gzip.compress(b"a longer text " * 99)[:-20]],
    ids=["plain", "cut short"],
)
def test_what_is_not_whole_gzip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt.gz").write_bytes(content)
    with pytest.raises(CorpusError, match=r"x.txt.gz: the name ends in .gz, but .* not whole gzip"):
        read(tmp_path)


def test_a_real_gzipped_text_has_paragraphs(shared: Path) -> None:
    assert len(read(shared / "data/tinyshakespeare/input.txt.gz")) > 5000


def test_a_file_whose_name_is_no_text_is_read_under_a_name_that_is(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("a fox")
    found = list(Text(TextConfig(path=str(tmp_path))).documents("", 0))
    assert [(document.text, document.source) for document in found] == [("a fox", "caf�.txt:1")]


def test_the_home_folder_is_meant_by_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("a fox")
    assert [document.text for document in Text(TextConfig(path="~/a.txt")).documents("", 0)] == [
        "a fox"
    ]
    with pytest.raises(
        ConfigError, match=r"'~nobody-here/a.txt': no home folder of that name is known here"
    ):
        Text(TextConfig(path="~nobody-here/a.txt")).files()


def test_advice_to_leave_a_file_out_is_given_where_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"a\0")
    with pytest.raises(CorpusError, match="leave it out with read.corpus.pattern"):
        list(Text(TextConfig(path=str(tmp_path))).documents("", 0))
    with pytest.raises(CorpusError, match="convert it$"):
        list(Text(TextConfig(path=str(tmp_path / "x.txt"))).documents("", 0))
