"""Explanations that exist already, read from a file and scored like any others.

    .csv, .parquet      columns `latent` (or `index`) and `text` (or `description`, `explanation`)
    .jsonl, .jsonl.gz   the same keys in an object on each line; also a folder of such files,
                        as Neuronpedia exports explanations in bulk
    a folder of .txt    one file for each latent, as delphi writes them: its number ends the name,
                        the text is JSON or plain

`source` says whose they are where a file holds those of several dictionaries, and `author` who
wrote them where it holds several of a latent; whatever is still several is used in the file's
order, the first of each latent, and the log says how many were not. Their bytes are part of the
artifact's key. They are of one dictionary, so no control dictionary is read with them.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from components.config import Config
from components.errors import LONGEST_QUOTATION, InputError
from components.interpretation.contract import Explainer, LatentEvidence, explainers
from components.interpretation.explanation import LONGEST_OF_ALL, Explanation
from components.paths import expanded

log = logging.getLogger(__name__)

SECTION = "interpret.explainer_settings.given"
KINDS = "a .csv, .parquet, .jsonl or .jsonl.gz file, or a folder of .jsonl, .jsonl.gz or .txt files"
NAMES = {
    "latent": ("latent", "index"),
    "text": ("text", "description", "explanation"),
    "source": ("source", "layer"),
    "author": ("author", "explainer", "typeName", "explanationModelName"),
}
"""What a row says, and under which names: those of a plain table, our own table, and
Neuronpedia's."""
_NUMBERED = re.compile(r"(?P<source>.*?)_?(?:latent|feature|neuron)?_?(?P<latent>\d+)")


class GivenConfig(Config):
    """Explanations that exist already, from a file."""

    path: str = ""
    """A .csv, .parquet or .jsonl(.gz) file with latents and texts, or a folder as Neuronpedia or
    delphi fill it."""
    source: str = ""
    """Which dictionary's, where there are several: the column `source` or `layer` (Neuronpedia:
    6-res-jb), or what stands before the number in the names of delphi's files (layers.6)."""
    author: str = ""
    """Whose explanations, where a latent has several: the column `author` or `explainer`,
    Neuronpedia's `typeName` or `explanationModelName`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One explanation as a file has it.

    Attributes:
        latent: index in the dictionary.
        text: what is said of it.
        source: of which dictionary; "" where the file does not say.
        authors: who wrote it, under any of the names that the file has for that.
    """

    latent: int
    text: str
    source: str = ""
    authors: tuple[str, ...] = ()


@explainers
class Given(Explainer):
    """Explanations that exist already, from a file."""

    config: ClassVar[type[Config]] = GivenConfig
    free: ClassVar[bool] = True
    any_dictionary: ClassVar[bool] = False

    @property
    def longest(self) -> int:
        """What Neuronpedia takes: these texts are not ours to shorten."""
        return LONGEST_OF_ALL

    @classmethod
    def files(cls, settings: Any) -> Sequence[Path]:
        """The file, or those of the folder that are read.

        Raises:
            InputError: no path, nothing there, or nothing of a kind that is read.
        """
        if not settings.path:
            raise InputError(
                f"the explainer given needs explanations: set {SECTION}.path to {KINDS}"
            )
        path = expanded(settings.path)
        inside = (
            sorted(file for file in path.iterdir() if _kind(file) in ("jsonl", "txt"))
            if path.is_dir()
            else []
        )
        found = [path] if path.is_file() and _kind(path) in _READERS else inside
        if len({_kind(file) for file in inside}) > 1:
            raise InputError(
                f"{SECTION}.path={path}: the folder holds both .jsonl and .txt files; wanted one "
                "kind"
            )
        if not found:
            there = (
                "holds none"
                if path.is_dir()
                else "is of another kind"
                if path.exists()
                else "is not there"
            )
            raise InputError(f"{SECTION}.path={path} {there}; wanted {KINDS}")
        return found

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """The text of each latent as it stands in the file; null with the reason where it has
        none."""
        assert isinstance(self.settings, GivenConfig)
        texts = _texts(self.files(self.settings), self.settings)
        for of_latent in evidence:
            text = texts.get(of_latent.latent)
            if text is None:
                yield Explanation(
                    None, f"{self.settings.path} has no explanation of latent {of_latent.latent}"
                )
            else:
                yield Explanation.of(text, self.longest)


def _texts(files: Sequence[Path], settings: GivenConfig) -> Mapping[int, str]:
    """Latent -> text, of the source and the author that are wanted."""
    rows = [row for file in files for row in _READERS[_kind(file)](file)]
    for name, several in (
        ("source", lambda row: [row.source]),
        ("author", lambda row: row.authors),
    ):
        if wanted := getattr(settings, name):
            known = sorted({each for row in rows for each in several(row)})
            rows = [row for row in rows if wanted in several(row)]
            if not rows:
                raise InputError(f"{SECTION}.{name}={wanted}: {settings.path} has {_listed(known)}")
    sources = sorted({row.source for row in rows})
    if len(sources) > 1:
        raise InputError(
            f"{settings.path} holds explanations of several dictionaries ({_listed(sources)}); "
            f"set {SECTION}.source"
        )
    texts: dict[int, str] = {}
    for row in rows:
        texts.setdefault(row.latent, row.text)
    if n_more := len(rows) - len(texts):
        log.warning(
            "given: %s further explanations of latents that have one are not used (%s.author)",
            n_more,
            SECTION,
        )
    return texts


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names) or "none"
    return text if len(text) <= LONGEST_QUOTATION else f"{text[:LONGEST_QUOTATION]} ..."


def _kind(path: Path) -> str:
    name = path.name.lower()
    return next(
        (
            kind
            for kind in ("csv", "parquet", "jsonl", "txt")
            if re.search(rf"\.{kind}(\.gz)?$", name)
        ),
        "",
    )


def _table(path: Path) -> Iterator[Row]:
    try:
        frame = (
            pl.read_csv(path, infer_schema=False) if _kind(path) == "csv" else pl.read_parquet(path)
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no readable table: {error}") from None
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        yield from _row(row, f"{path}, row {number}")


def _lines(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from _row(json.loads(line), f"{path}, line {number}")
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}, line {number or 1}: wanted a JSON object on each line; {error}"
        ) from None


def _file(path: Path) -> Iterator[Row]:
    match = _NUMBERED.fullmatch(path.stem)
    if match is None:
        raise InputError(
            f"{path}: wanted a name that ends in the number of the latent, as layers.6_latent12.txt"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no readable text: {error}") from None
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):  # plain text
        decoded = text
    yield Row(int(match["latent"]), decoded if isinstance(decoded, str) else text, match["source"])


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "csv": _table,
    "parquet": _table,
    "jsonl": _lines,
    "txt": _file,
}


def _row(row: object, where: str) -> Iterator[Row]:
    """The row; nothing for one without a text, which explains nothing."""
    if not isinstance(row, Mapping):
        raise InputError(
            f"{where}: wanted an object with latent and text, found {type(row).__name__}"
        )
    values = {
        name: [row[key] for key in keys if row.get(key) is not None] for name, keys in NAMES.items()
    }
    for name in ("latent", "text"):
        if not any(key in row for key in NAMES[name]):
            there = _listed([str(key) for key in row])
            raise InputError(f"{where}: wanted {' or '.join(NAMES[name])}, found {there}")
    if not values["text"]:
        return
    latent = str(values["latent"][0]) if values["latent"] else ""
    if not re.fullmatch(r"\d{1,9}", latent):
        raise InputError(
            f"{where}: wanted the number of a latent, found {latent[:LONGEST_QUOTATION]!r}"
        )
    source = str(values["source"][0]) if values["source"] else ""
    yield Row(int(latent), str(values["text"][0]), source, tuple(map(str, values["author"])))
