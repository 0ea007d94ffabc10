"""Files of text on this machine: which there are, and their lines, plain or gzipped, with errors that name the place."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.errors import CorpusError


def matching(path: str, pattern: str) -> list[Path]:
    """The file itself, or every file of a folder that matches, sorted; hidden ones are left out.

    Raises:
        CorpusError: nothing is there, or nothing matches.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    if not path or not root.is_dir():
        raise CorpusError(f"read.corpus.path: wanted a file or folder, but nothing is at {path!r} ({root.absolute()})")
    found = sorted(
        file
        for file in root.glob(pattern)
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )
    if not found:
        raise CorpusError(f"read.corpus.path: the folder {path!r} has no file that matches {pattern!r}")
    return found


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file (UTF-8; gzipped if its name ends in .gz), one at a time.

    Raises:
        CorpusError: bytes that are not UTF-8 text, or not gzip.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline=None) as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise CorpusError(f"{path}:{number}: not text, it holds a zero byte; {_WANTED}")
                yield line
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not text, {error.reason} soon after line {number}; {_WANTED}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{path}: the name ends in .gz, but the bytes after line {number} are not whole gzip ({error}); "
            "rename it, or fetch it again"
        ) from None


_WANTED = "wanted UTF-8 text (or .gz of it): convert it, or leave it out with read.corpus.pattern"


def place(path: Path, number: int, files: Sequence[Path]) -> str:
    """Where a document comes from: file name and line or row, the folder too where there are several files."""
    name = path.name if len(files) == 1 else f"{path.parent.name}/{path.name}"
    return f"{name}:{number}"
