"""JSON lines: one object on each line with a text column and, if you like, label columns; gzipped
or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from components.config import Config
from components.corpus.annotations import ColumnLabels
from components.corpus.contract import ConceptEntry, Corpus, Document, corpora
from components.corpus.files import lines, matching, place
from components.errors import CorpusError
from components.paths import expanded


class JsonlConfig(Config):
    """Files of JSON lines."""

    kind: Literal["jsonl"] = "jsonl"
    """JSON lines."""
    path: str = ""
    """A file, or a folder of them; names that end in .gz are unpacked."""
    pattern: str = "**/*.jsonl*"
    """Which files of a folder are read."""
    text_column: str = "text"
    """The key that holds the text."""
    label_columns: list[str] = []
    """Keys that hold labels of the document: true or false, a number, or a category."""


@corpora
class Jsonl(Corpus):
    """One document for each line."""

    config = JsonlConfig

    def __init__(self, config: JsonlConfig) -> None:
        self.settings = config
        self._columns = ColumnLabels(config.text_column, config.label_columns)

    def files(self) -> Sequence[Path]:
        """The files of JSON lines."""
        return matching(self.settings.path, self.settings.pattern)

    def concepts(self) -> Sequence[ConceptEntry]:
        """The concepts of the label columns met so far."""
        return self._columns.concepts()

    def documents(self, split: str, seed: int, labels: bool = True) -> Iterator[Document]:
        """Every line's document, in the order of the files."""
        files = self.files()
        alone = files == [expanded(self.settings.path)]
        for path in files:
            for number, line in enumerate(lines(path, alone), 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    row = json.loads(line, parse_int=_integer)
                except json.JSONDecodeError as error:
                    raise CorpusError(
                        f"{where}: not JSON ({error.msg}); wanted one object on each line"
                    ) from None
                except RecursionError:
                    raise CorpusError(
                        f"{where}: lists or objects lie too deep in one another; wanted columns"
                    ) from None
                if not isinstance(row, dict):
                    raise CorpusError(
                        f"{where}: holds {type(row).__name__}, wanted one object on each line"
                    )
                self._columns.check(list(row), where)
                text = self._columns.text(row, where)
                yield Document(text, place(path, number, files), self._columns.labels(row, where))


def _integer(digits: str) -> float:
    """Python refuses to read integers of thousands of digits; a column that nobody asked for may
    hold one."""
    return int(digits) if len(digits) < 1000 else float(digits)
