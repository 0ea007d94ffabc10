"""What a corpus promises: documents with labels, the inventory of concepts, minimal pairs, prompts.

A corpus that knows the splits of the product (a generated world) yields each split's own documents.
One that does not (files) yields all its documents, and `read` divides them by the digest of their
text.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from components.config import Config
from components.registry import Registry


class Label(NamedTuple):
    """One concept, present in a stretch of text or in the whole document."""

    concept: str
    """Name, as in the inventory."""
    start: int | None = None
    """First character; None when the whole document is meant."""
    end: int | None = None
    """Character after the last; None likewise."""
    value: float = 1.0
    """1 for present; other values for graded concepts."""


class Document(NamedTuple):
    """A text, where it came from, and what is known of it."""

    text: str
    """The text."""
    source: str
    """File and line, or seed and index."""
    labels: Sequence[Label] = ()
    """What is not listed is absent."""
    nats: float | None = None
    """What the text costs under the process that wrote it, in nats, the end included; None where
    nobody knows."""


class ConceptEntry(NamedTuple):
    """A row of the inventory: the columns of the concepts table."""

    concept: str
    """Name."""
    concept_kind: str
    """surface (readable off the token), contextual, or document."""
    unit: str
    """token, or document."""
    family: str
    """The family it belongs to."""
    description: str
    """One sentence."""


class Pair(NamedTuple):
    """Two texts that differ in one concept."""

    concept: str
    """The concept that differs."""
    positive: str
    """The text with it."""
    negative: str
    """The text without it."""


class Corpus(ABC):
    """A source of documents.

    Class attributes: `kind` (the file's name, set by the registry), `version` (raised when
    documents change), `config` (the section's type), `knows_splits`.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    config: ClassVar[type[Config]]
    knows_splits: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, config: Any) -> None: ...

    @abstractmethod
    def documents(self, split: str, seed: int, labels: bool = True) -> Iterator[Document]:
        """Documents of one split, perhaps without end; of all splits together where `knows_splits`
        is False.

        Args:
            split: the split asked for; means nothing where `knows_splits` is False.
            seed: of everything drawn.
            labels: whether labels are wanted.

        Raises:
            CorpusError: what is there is not documents of text.
        """

    def concepts(self) -> Sequence[ConceptEntry]:
        """The inventory; of a corpus that learns its concepts by reading, those met so far."""
        return ()

    def pairs(self, n: int, seed: int) -> Iterator[Pair]:
        """`n` minimal pairs for each concept that has such pairs."""
        return iter(())

    def prompts(self, n: int, split: str, seed: int) -> Sequence[str]:
        """`n` different openings that name no topic; none where the corpus has no such thing."""
        return ()

    def files(self) -> Sequence[Path]:
        """The files whose bytes the documents depend on; they enter the key of what is read from
        them."""
        return ()


corpora: Registry[type[Corpus]] = Registry("corpus", "components.corpus.corpora")


_SURROGATE = re.compile("[\ud800-\udfff]")


def sound(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which JSON can write, and no tokenizer, table
    or file can hold."""
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def text_digest(text: str) -> int:
    """blake2b-64 of the text, as a signed integer: what makes two documents the same."""
    hashed = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(hashed, "little", signed=True)
