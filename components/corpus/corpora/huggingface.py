"""A data set in a local folder as the `datasets` library saves it (`save_to_disk`): arrow files
beside a state.json.

Read with pyarrow alone. A folder of several splits (`dataset_dict.json`) is read one split at a
time (`subset`); class labels written as numbers come back as their names, which the arrow schema
carries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow

from components.config import Config
from components.corpus.annotations import ColumnLabels
from components.corpus.contract import ConceptEntry, Corpus, Document, corpora
from components.corpus.files import texts
from components.errors import CorpusError
from components.paths import expanded
from components.registry import nearest


class HuggingFaceConfig(Config):
    """A Hugging Face data set saved in a local folder."""

    kind: Literal["huggingface"] = "huggingface"
    """A saved Hugging Face data set."""
    path: str = ""
    """The folder that `save_to_disk` wrote."""
    subset: str = "train"
    """Which part is read where the folder holds several."""
    text_column: str = "text"
    """The column that holds the text."""
    label_columns: list[str] = []
    """Columns that hold labels of the document: true or false, a number, a category, or a class
    label."""


@corpora
class HuggingFace(Corpus):
    """One document for each row."""

    config = HuggingFaceConfig

    def __init__(self, config: HuggingFaceConfig) -> None:
        self.settings = config
        self._columns = ColumnLabels(config.text_column, config.label_columns)

    def files(self) -> Sequence[Path]:
        """The arrow files, in the order that state.json gives them.

        Raises:
            CorpusError: the folder is not one that `save_to_disk` wrote, or has no such part.
        """
        folder = expanded(self.settings.path)
        if (folder / "dataset_dict.json").is_file():
            parts = _said(folder / "dataset_dict.json", "splits")
            if self.settings.subset not in parts:
                raise CorpusError(
                    f"{folder}: no part {self.settings.subset!r}; "
                    f"{nearest(self.settings.subset, parts)}"
                )
            folder /= self.settings.subset
        state = folder / "state.json"
        if not self.settings.path or not state.is_file():
            raise CorpusError(
                f"read.corpus.path: wanted a folder written by datasets' save_to_disk, "
                f"but there is no state.json in {self.settings.path!r}; for parquet files use "
                "kind parquet"
            )
        try:
            return [folder / part["filename"] for part in _said(state, "_data_files")]
        except (KeyError, TypeError):
            raise CorpusError(f"{state}: lists no file names; save the data set again") from None

    def concepts(self) -> Sequence[ConceptEntry]:
        """The concepts of the label columns met so far."""
        return self._columns.concepts()

    def documents(self, split: str, seed: int, labels: bool = True) -> Iterator[Document]:
        """Every row's document, in the order of the files."""
        files = self.files()
        for path in files:
            try:
                with (
                    pyarrow.memory_map(str(path)) as source,
                    pyarrow.ipc.open_stream(source) as stream,
                ):
                    self._columns.check(stream.schema.names, str(path), texts(stream.schema))
                    batches = (batch.select(list(self._columns.columns)) for batch in stream)
                    yield from self._columns.documents(
                        batches, path, files, partial(_name_classes, _class_names(stream.schema))
                    )
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise CorpusError(
                    f"{path}: not readable as arrow ({error}); save the data set again"
                ) from None


def _said(path: Path, name: str) -> list[Any]:
    """A list of one of the files that say what a saved data set is made of."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise CorpusError(
            f"{path}: holds no list {name!r}, as save_to_disk writes one; save the data set again"
        )
    return listed


def _name_classes(names: dict[str, list[str]], row: dict[str, Any], where: str) -> None:
    """Replaces the number of a class label by its name, in place."""
    for column, classes in names.items():
        row[column] = _class_of(row.get(column), classes, f"{where}: label column {column!r}")


def _class_of(value: Any, classes: Sequence[str], where: str) -> Any:
    """The name of a class label that is written as a number; -1 stands for 'no label'."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value >= len(classes):
        raise CorpusError(
            f"{where} holds class {value} of {len(classes)} named ones; save the data set again"
        )
    return classes[value] if value >= 0 else None


def _class_names(schema: pyarrow.Schema) -> dict[str, list[str]]:
    described: dict[str, Any] = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
