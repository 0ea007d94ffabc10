"""Parquet: a file or a folder of them, with a text column and, if you like, label columns; read in
batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow
import pyarrow.parquet

from components.config import Config
from components.corpus.annotations import ColumnLabels
from components.corpus.contract import ConceptEntry, Corpus, Document, corpora
from components.corpus.files import matching, texts
from components.errors import CorpusError


class ParquetConfig(Config):
    """Parquet files."""

    kind: Literal["parquet"] = "parquet"
    """Parquet."""
    path: str = ""
    """A file, or a folder of them."""
    pattern: str = "**/*.parquet"
    """Which files of a folder are read."""
    text_column: str = "text"
    """The column that holds the text."""
    label_columns: list[str] = []
    """Columns that hold labels of the document: true or false, a number, or a category."""


@corpora
class Parquet(Corpus):
    """One document for each row."""

    config = ParquetConfig

    def __init__(self, config: ParquetConfig) -> None:
        self.settings = config
        self._columns = ColumnLabels(config.text_column, config.label_columns)

    def files(self) -> Sequence[Path]:
        """The parquet files."""
        return matching(self.settings.path, self.settings.pattern)

    def concepts(self) -> Sequence[ConceptEntry]:
        """The concepts of the label columns met so far."""
        return self._columns.concepts()

    def documents(self, split: str, seed: int, labels: bool = True) -> Iterator[Document]:
        """Every row's document, in the order of the files."""
        files = self.files()
        for path in files:
            try:
                with pyarrow.parquet.ParquetFile(path) as file:
                    self._columns.check(
                        file.schema_arrow.names, str(path), texts(file.schema_arrow)
                    )
                    batches = file.iter_batches(
                        batch_size=1024, columns=list(self._columns.columns)
                    )
                    yield from self._columns.documents(batches, path, files)
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise CorpusError(
                    f"{path}: not readable as parquet ({error}); write it again"
                ) from None
