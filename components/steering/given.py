"""Files of the user's own, with a text a row: JSONL or parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from components.config import Config
from components.errors import InputError
from components.paths import expanded


def files_of(path: str, pattern: str) -> list[Path]:
    """The files of a path, itself or a folder; none where it names nothing."""
    if not path:  # a folder of that name would be all that stands where the command runs
        return []
    root = expanded(path)
    found = [root] if root.is_file() else sorted(root.glob(pattern))
    return [file for file in found if file.suffix in (".jsonl", ".parquet")]


class FilesConfig(Config):
    """Files of the user's own, none by default.

    Attributes:
        section: where these settings stand, for errors.
    """

    section: ClassVar[str]
    path: str = ""
    """A file (JSONL or parquet), or a folder of them; empty: nothing is measured."""
    pattern: str = "**/*"
    """Which files of a folder are read."""

    def files(self) -> list[Path]:
        """The files that are read, none where the path is empty; their bytes are in the key.

        Raises:
            InputError: the path names none.
        """
        found = files_of(self.path, self.pattern)
        if self.path and not found:
            raise InputError(
                f"no JSONL or parquet file at {self.path} ({self.pattern}); set {self.section}.path "
                "to one, or to a folder of them"
            )
        return found


def rows_of(path: Path, columns: Sequence[str], settings: str) -> pl.DataFrame:
    """The rows of a file.

    Args:
        path: the file.
        columns: that it must have.
        settings: what an error tells to set.

    Raises:
        InputError: a file that cannot be read, or a column that is missing.
    """
    try:
        frame = (
            pl.read_parquet(path)
            if path.suffix == ".parquet"
            else pl.read_ndjson(path, infer_schema_length=None)
        )
    except pl.exceptions.PolarsError as error:
        wanted = "a parquet table" if path.suffix == ".parquet" else "one JSON object a line"
        told = " ".join(str(error).split())
        raise InputError(f"{path}: wanted {wanted}, got something else ({told:.120})") from error
    if missing := [name for name in columns if name not in frame.columns]:
        raise InputError(
            f"{path} has no column {missing[0]!r} (it has {', '.join(frame.columns)}); set "
            f"{settings}"
        )
    return frame
