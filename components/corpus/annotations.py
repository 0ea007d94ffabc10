"""A user's own labels: columns beside the text, and lists of words, as labels of the one labels table.

A column says something of the whole document. True or false: concept `<column>`. A number: graded concept `<column>`,
present where it is above 0. Text: one concept `<column>.<value>` for each value. Null: nothing is said. A word list
marks its words and phrases wherever they stand, whole and in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.corpus.contract import ConceptEntry, Label
from components.corpus.files import lines
from components.errors import CorpusError
from components.registry import nearest

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
MAXIMUM_VALUES = 200


class ColumnLabels:
    """Labels of documents from named columns; learns its inventory as it reads.

    Args:
        text_column: the column that holds the text.
        label_columns: the columns that hold labels.
    """

    def __init__(self, text_column: str, label_columns: Sequence[str]) -> None:
        self.text_column, self.label_columns = text_column, tuple(label_columns)
        self._met: dict[str, ConceptEntry] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (self.text_column, *self.label_columns)

    def concepts(self) -> list[ConceptEntry]:
        """The concepts met so far, by name."""
        return [self._met[name] for name in sorted(self._met)]

    def check(self, known: Sequence[str], where: str) -> None:
        """Refuses columns that are not there.

        Raises:
            CorpusError: with the nearest names.
        """
        for column in self.columns:
            if column not in known:
                raise CorpusError(f"{where}: no column {column!r}; {nearest(column, known)}")

    def text(self, row: Mapping[str, Any], where: str) -> str:
        """The text of one row; empty where it is null.

        Raises:
            CorpusError: the column holds something else.
        """
        text = row[self.text_column]
        if text is None:
            return ""
        if not isinstance(text, str):
            raise CorpusError(
                f"{where}: column {self.text_column!r} holds {type(text).__name__}, wanted text; "
                f"set read.corpus.text_column to one of {', '.join(row)}"
            )
        return text

    def labels(self, row: Mapping[str, Any], where: str) -> list[Label]:
        """The labels of one row.

        Raises:
            CorpusError: a value that is no truth value, number or text, or a column of too many values.
        """
        found = []
        for column in self.label_columns:
            value = row[column]
            if value is None or value != value:  # noqa: PLR0124 - a number that is none (NaN) says nothing
                continue
            if isinstance(value, bool | int | float):
                self._meet(column, column, "")
                if value:
                    found.append(Label(column, value=float(value)))
            elif isinstance(value, str):
                self._meet(f"{column}.{value}", column, f" is {value!r}")
                found.append(Label(f"{column}.{value}"))
            else:
                raise CorpusError(
                    f"{where}: label column {column!r} holds {type(value).__name__}, "
                    "wanted true or false, a number, or the name of a category"
                )
            if len(self._met) > MAXIMUM_VALUES * len(self.label_columns):
                raise CorpusError(
                    f"{where}: label column {column!r} has more than {MAXIMUM_VALUES} different values, "
                    "wanted a category; leave it out of read.corpus.label_columns"
                )
        return found

    def _meet(self, concept: str, column: str, described: str) -> None:
        if concept not in self._met:
            self._met[concept] = ConceptEntry(
                concept, "document", "document", column, f"Documents whose column {column!r}{described or ' is set'}."
            )


class WordLists:
    """Labels on words: concept -> its words and phrases.

    Args:
        lists: concept -> the words themselves, or the name of a file with one on each line (# and ; begin comments).

    Raises:
        CorpusError: a list without words, or a file that is not there.
    """

    def __init__(self, lists: Mapping[str, str | Sequence[str]]) -> None:
        self.lists = dict(lists)
        self._starting: dict[str, list[tuple[str, str]]] = {}  # first word -> (whole entry, concept)
        for concept, given in self.lists.items():
            entries = {
                entry.strip().lower() for entry in (_file_of(given, concept) if isinstance(given, str) else given)
            }
            entries = {entry for entry in entries if entry and not entry.startswith(("#", ";"))}
            for entry in sorted(entries):
                first = _WORD.match(entry)
                if first is None:
                    raise CorpusError(f"read.word_lists.{concept}: {entry!r} does not begin with a word")
                self._starting.setdefault(first.group(), []).append((entry, concept))
            if not entries:
                raise CorpusError(f"read.word_lists.{concept}: the list has no words")

    def files(self) -> list[Path]:
        """The files that hold lists."""
        return [Path(given).expanduser() for given in self.lists.values() if isinstance(given, str)]

    def concepts(self) -> list[ConceptEntry]:
        """One concept for each list."""
        return [
            ConceptEntry(concept, "surface", "token", "words", f"Words of the list {concept!r}.")
            for concept in sorted(self.lists)
        ]

    def labels(self, text: str) -> Iterator[Label]:
        """Every place where an entry stands as a whole."""
        for word in _WORD.finditer(text):
            for entry, concept in self._starting.get(word.group().lower(), ()):
                start, end = word.start(), word.start() + len(entry)
                if end == word.end() or (text[start:end].lower() == entry and not text[end : end + 1].isalnum()):
                    yield Label(concept, start, end)


def _file_of(name: str, concept: str) -> list[str]:
    path = Path(name).expanduser()
    if not path.is_file():
        raise CorpusError(
            f"read.word_lists.{concept}: wanted a list of words or a file of them, but no file is at {name!r}"
        )
    return list(lines(path))
