"""Files of text on this machine: which there are, and their lines, plain or gzipped, with errors
that name the place."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow

from components.corpus.contract import sound
from components.errors import CorpusError
from components.paths import expanded


def matching(path: str, pattern: str) -> list[Path]:
    """The file itself, or every file of a folder that matches, sorted; hidden ones are left out.

    Raises:
        CorpusError: nothing is there, or nothing matches.
    """
    root = expanded(path)
    if root.is_file():
        return [root]
    if not path or not root.is_dir():
        raise CorpusError(
            f"read.corpus.path: wanted a file or folder, but nothing is at {path!r} "
            f"({root.absolute()})"
        )
    paths = sorted(
        file
        for file in root.glob(pattern)
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )
    if not paths:
        raise CorpusError(
            f"read.corpus.path: the folder {path!r} has no file that matches {pattern!r}; set "
            "read.corpus.pattern"
        )
    return paths


def lines(path: Path, alone: bool = True) -> Iterator[str]:
    """The lines of a text file (UTF-8; gzipped if its name ends in .gz), one at a time.

    Args:
        path: the file.
        alone: whether it was named itself; else it is one of a folder, and can be left out.

    Raises:
        CorpusError: bytes that are not UTF-8 text, or not gzip.
    """
    otherwise = "" if alone else ", or leave it out with read.corpus.pattern"
    wanted = f"wanted UTF-8 text (or .gz of it): convert it{otherwise}"
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline=None) as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise CorpusError(f"{path}:{number}: not text, it holds a zero byte; {wanted}")
                yield line
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not text, {error.reason} soon after line {number}; {wanted}"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{path}: the name ends in .gz, but the bytes after line {number} are not whole gzip "
            f"({error}); rename it, or fetch it again"
        ) from None
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read ({error.strerror}); make it readable{otherwise}"
        ) from None


def place(path: Path, number: int, files: Sequence[Path]) -> str:
    """Where a document comes from: file name and line or row, the folder too where there are
    several files."""
    name = path.name if len(files) == 1 else f"{path.parent.name}/{path.name}"
    return f"{sound(name)}:{number}"  # a name that is no UTF-8 holds surrogates


def texts(schema: pyarrow.Schema) -> list[str]:
    """The columns that hold text."""
    kinds = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    types = {
        field.name: field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type
        for field in schema
    }
    return [name for name, type_ in types.items() if any(kind(type_) for kind in kinds)]


def rows(batch: pyarrow.RecordBatch, where: str) -> list[dict[str, Any]]:
    """The rows of a batch of columns.

    Raises:
        CorpusError: bytes that are not UTF-8 in a column of text.
    """
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: a column of text holds bytes that are not UTF-8 ({error.reason}); write it "
            "again"
        ) from None
