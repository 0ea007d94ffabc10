"""A user's own labels: columns beside the text, and lists of words, as labels of the one labels
table.

A column says something of the whole document. True or false: concept `<column>`. A number: graded
concept `<column>`, present where it is above 0. Text: one concept `<column>.<value>` for each
value. Null: nothing is said. A word list marks its words and phrases wherever they stand, whole and
in any case (`WordLists`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow

from components.corpus.contract import ConceptEntry, Document, Label, sound
from components.corpus.files import lines, place, rows
from components.errors import CorpusError
from components.paths import expanded
from components.registry import nearest
from components.writing_systems import MARKS, UNSPACED

_WORD = re.compile(rf"[^\W{UNSPACED}]+(?:[{MARKS}]+[^\W{UNSPACED}]*)*")
MAXIMUM_VALUES = 200
_LARGEST = float(np.finfo(np.float32).max)  # what the labels table holds


class ColumnLabels:
    """Labels of documents from named columns; learns its inventory as it reads.

    Args:
        text_column: the column that holds the text.
        label_columns: the columns that hold labels.
    """

    def __init__(self, text_column: str, label_columns: Sequence[str]) -> None:
        self.text_column, self.label_columns = text_column, tuple(label_columns)
        self._met: dict[str, ConceptEntry] = {}
        self._texts: Sequence[str] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (self.text_column, *self.label_columns)

    def concepts(self) -> list[ConceptEntry]:
        """The concepts met so far, by name."""
        return [self._met[name] for name in sorted(self._met)]

    def check(self, known: Sequence[str], where: str, texts: Sequence[str] | None = None) -> None:
        """Refuses columns that are not there.

        Args:
            known: the columns that are there.
            where: file, and row where there is one.
            texts: those of `known` that hold text; None where each row may say something else.

        Raises:
            CorpusError: with the nearest names.
        """
        for column in self.columns:
            if column not in known:
                raise CorpusError(f"{where}: no column {column!r}; {nearest(column, known)}")
        self._texts = texts

    def documents(
        self,
        batches: Iterable[pyarrow.RecordBatch],
        path: Path,
        files: Sequence[Path],
        mend: Callable[[dict[str, Any], str], None] | None = None,
    ) -> Iterator[Document]:
        """One document for each row of one file's batches.

        Args:
            batches: the batches, with the columns that are read.
            path: the file.
            files: all files of the corpus.
            mend: changes a row in place; the second argument says where the row stands.

        Raises:
            CorpusError: as `text` and `labels`.
        """
        number = 0
        for batch in batches:
            for row in rows(batch, f"{path}, after row {number}"):
                where = f"{path}, row {number}"
                if mend:
                    mend(row, where)
                yield Document(
                    self.text(row, where), place(path, number, files), self.labels(row, where)
                )
                number += 1

    def text(self, row: Mapping[str, Any], where: str) -> str:
        """The text of one row; empty where it is null.

        Raises:
            CorpusError: the column holds something else.
        """
        text = row[self.text_column]
        if text is None:
            return ""
        if not isinstance(text, str):
            texts = (
                [name for name, value in row.items() if isinstance(value, str)]
                if self._texts is None
                else self._texts
            )
            advice = (
                f"set read.corpus.text_column to one of {', '.join(texts)}"
                if texts
                else "write the text as a string"
            )
            raise CorpusError(
                f"{where}: column {self.text_column!r} holds {type(text).__name__}, wanted text; "
                f"{advice}"
            )
        return text

    def labels(self, row: Mapping[str, Any], where: str) -> list[Label]:
        """The labels of one row.

        Raises:
            CorpusError: a value that is no truth value, number or text, or a column of too many
                values.
        """
        labels = []
        for column in self.label_columns:
            value = row[column]
            if value is None or value != value:  # noqa: PLR0124 - a number that is none (NaN) says nothing
                continue
            if isinstance(value, bool | int | float | Decimal):
                self._meet(column, column, "")
                if abs(value) > _LARGEST:
                    raise CorpusError(
                        f"{where}: label column {column!r} holds a number beyond {_LARGEST:.3g}, "
                        "which no label can be; write a smaller one, or null where nothing is "
                        "known"
                    )
                if value:
                    labels.append(Label(column, value=float(value)))
            elif isinstance(value, str):
                if value != sound(value):
                    raise CorpusError(
                        f"{where}: label column {column!r} holds {value!r} with a lone surrogate, "
                        "wanted the name of a category in whole characters"
                    )
                self._meet(f"{column}.{value}", column, f" is {value!r}")
                labels.append(Label(f"{column}.{value}"))
            else:
                raise CorpusError(
                    f"{where}: label column {column!r} holds {type(value).__name__}, "
                    "wanted true or false, a number, or the name of a category"
                )
            if len(self._met) > MAXIMUM_VALUES * len(self.label_columns):
                raise CorpusError(
                    f"{where}: label column {column!r} has more than {MAXIMUM_VALUES} different "
                    "values, wanted a category; leave it out of read.corpus.label_columns"
                )
        return labels

    def _meet(self, concept: str, column: str, described: str) -> None:
        if concept not in self._met:
            self._met[concept] = ConceptEntry(
                concept,
                "document",
                "document",
                column,
                f"Documents whose column {column!r}{described or ' is set'}.",
            )


class WordLists:
    """Labels on words: concept -> its words and phrases.

    Case does not count, nor whether an accent is a character of its own, nor which apostrophe,
    hyphen or space is typed. An entry stands as a whole: between characters that are no letters of
    its word. `dog` marks the dog of `dog's` and of `l'dog`, but nothing in `dogs`, `hot-dog` or,
    for `don`, in `don't`. Scripts without spaces have no such borders: there it is marked wherever
    it stands.

    Args:
        lists: concept -> the words themselves, or the name of a file with one on each line (# and ;
            begin comments).

    Raises:
        CorpusError: a list without words, or a file that is not there.
    """

    version: ClassVar[int] = 2

    def __init__(self, lists: Mapping[str, str | Sequence[str]]) -> None:
        self.lists = dict(lists)
        self._by_word: dict[str, list[tuple[str, str]]] = {}  # first word -> (entry, concept)
        self._by_letter: dict[
            str, list[tuple[str, str]]
        ] = {}  # first letter -> the same, of what begins with no word
        for concept, words in self.lists.items():
            if concept != sound(concept):
                raise CorpusError(
                    f"read.word_lists: {concept!r} holds a lone surrogate, wanted a name of whole "
                    "characters"
                )
            entries = {
                " ".join(folded(entry).text.split())
                for entry in (_file_of(words, concept) if isinstance(words, str) else words)
            }
            for entry in sorted(entries - {""}):
                if not any(unicodedata.category(letter)[0] in "LNS" for letter in entry):
                    raise CorpusError(
                        f"read.word_lists.{concept}: {entry!r} holds no letter, digit or symbol; "
                        "leave it out of the list"
                    )
                first = _WORD.match(entry)
                index, key = (
                    (self._by_word, first.group()) if first else (self._by_letter, entry[0])
                )
                index.setdefault(key, []).append((entry, concept))
            if not entries - {""}:
                comments = (
                    "; lines that begin with # or ; and a space are comments"
                    if isinstance(words, str)
                    else ""
                )
                raise CorpusError(f"read.word_lists.{concept}: the list has no words{comments}")
        letters = "".join(re.escape(letter) for letter in sorted(self._by_letter))
        self._start = re.compile(rf"{_WORD.pattern}|[{letters}]" if letters else _WORD.pattern)

    def files(self) -> list[Path]:
        """The files that hold lists."""
        return [expanded(words) for words in self.lists.values() if isinstance(words, str)]

    def concepts(self, silent: Collection[str] = ()) -> list[ConceptEntry]:
        """One concept for each list; those in `silent`, which labelled nothing, say so."""
        return [
            ConceptEntry(
                concept,
                "surface",
                "token",
                "words",
                f"Words of the list {concept!r}"
                + ("; none of them stands in the text." if concept in silent else "."),
            )
            for concept in sorted(self.lists)
        ]

    def labels(self, text: str) -> Iterator[Label]:
        """Every place where an entry stands as a whole."""
        folds = folded(text)
        read = folds.text
        for match in self._start.finditer(read):
            start, first = match.start(), match.group()
            for entry, concept in self._by_word.get(first) or self._by_letter.get(first) or ():
                end = start + len(entry)
                if read.startswith(entry, start) and _is_whole(read, start, end):
                    yield Label(concept, folds.start[start], folds.end[end - 1])


class Folded(NamedTuple):
    """A text in which what a reader takes for the same is the same.

    Attributes:
        text: the folded text.
        start: where each of its characters begins in the text it was made from.
        end: where each ends there.
    """

    text: str
    start: Sequence[int]
    end: Sequence[int]


def folded(text: str) -> Folded:
    """Small letters, accents on their letters, one kind of apostrophe, hyphen and space."""
    text = text.translate(_SAME)
    small = text.casefold()
    if text.isascii() or (
        len(small) == len(text) and unicodedata.is_normalized("NFC", text) and "\u0307" not in small
    ):
        return Folded(small, range(len(text)), range(1, len(text) + 1))
    parts, start, end = [], [], []
    for cluster in _CLUSTER.finditer(text):
        # The dot that small letters of İ carry goes, so that İ and I are one letter, as in any case
        # they are.
        letters = unicodedata.normalize("NFC", unicodedata.normalize("NFC", cluster[0]).casefold())
        letters = _DOTTED.sub("i", letters)
        parts.append(letters)
        start += [cluster.start()] * len(letters)
        end += [cluster.end()] * len(letters)
    return Folded("".join(parts), start, end)


_SAME = {
    ord(letter): same
    for letters, same in (("’‘ʼ＇`´", "'"), ("‐‑", "-"), ("\n\t\r\u00a0\u202f\u3000", " "))
    for letter in letters
}
# A letter and its marks, or the parts of a Korean syllable: what NFC may make one character of.
_CLUSTER = re.compile(rf"(?s)[\u1100-\u115f][\u1160-\u11a7][\u11a8-\u11ff]?|.[{MARKS}]*")
_DOTTED = re.compile("i\u0307")
_LETTER = re.compile(rf"[^\W{UNSPACED}]|[{MARKS}]")
_CONTINUED = re.compile(rf"-[^\W{UNSPACED}]")
# of don't, can't: the negation is no word of its own, and changes the one before
_CONTRACTED = re.compile(r"'t(?!\w)")


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no letter of the same word stands before or behind."""
    if start and _LETTER.match(text, start):
        joined = text[start - 1] == "-" and start > 1 and _LETTER.match(text, start - 2)
        if joined or _LETTER.match(text, start - 1):
            return False
    return not _LETTER.match(text, end - 1) or not any(
        behind.match(text, end) for behind in (_LETTER, _CONTINUED, _CONTRACTED)
    )


def _file_of(name: str, concept: str) -> list[str]:
    path = expanded(name)
    if not path.is_file():
        raise CorpusError(
            f"read.word_lists.{concept}: wanted a list of words or a file of them, but no file is "
            f"at {name!r}"
        )
    comment = re.compile(r"\s*[#;](\s|$)")  # a word may begin with such a sign, as #metoo does
    return [line for line in lines(path) if not comment.match(line)]
