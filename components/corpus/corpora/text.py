"""Plain text: one file or a folder of files, gzipped or not; a document is a paragraph, a line or a
whole file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from components.config import Config
from components.corpus.contract import Corpus, Document, corpora
from components.corpus.files import lines, matching, place
from components.paths import expanded


class TextConfig(Config):
    """Plain text files."""

    kind: Literal["text"] = "text"
    """Plain text."""
    path: str = ""
    """A text file, or a folder of them; names that end in .gz are unpacked."""
    pattern: str = "**/*"
    """Which files of a folder are read."""
    documents: Literal["blank_line", "line", "file"] = "blank_line"
    """What ends a document: a blank line, the end of the line, or the end of the file."""


@corpora
class Text(Corpus):
    """Documents of plain text, one file after another."""

    config = TextConfig

    def __init__(self, config: TextConfig) -> None:
        self.settings = config

    def files(self) -> Sequence[Path]:
        """The text files."""
        return matching(self.settings.path, self.settings.pattern)

    def documents(self, split: str, seed: int, labels: bool = True) -> Iterator[Document]:
        """Every document, in the order of the files."""
        files = self.files()
        alone = files == [expanded(self.settings.path)]
        for path in files:
            began, gathered = 1, []
            for number, line in enumerate(lines(path, alone), 1):
                if self.settings.documents == "blank_line" and not line.strip():
                    yield Document("".join(gathered).strip(), place(path, began, files))
                    began, gathered = number + 1, []
                    continue
                gathered.append(line)
                if self.settings.documents == "line":
                    yield Document(line.strip(), place(path, number, files))
                    began, gathered = number + 1, []
            yield Document("".join(gathered).strip(), place(path, began, files))
