"""What a family of concepts promises, and what a world gives: stories with labels, and minimal
pairs.

A family declares its vocabulary by class, its concepts, the sentences it contributes and the labels
it can read off a finished telling (`components/world/telling.py`). Every random choice goes through
`Draw` (`components/world/draw.py`).
"""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from components.registry import Registry
from components.world.telling import Telling


@dataclasses.dataclass(frozen=True)
class WorldConcept:
    """One labelled concept of the inventory.

    Attributes:
        concept: dotted name; `a@b` is a, read on tokens of class b.
        concept_kind: readable off the token, only from its context, or true of a whole document.
        unit: whether single tokens or whole documents carry it.
        family: the family that declares it.
        description: one sentence.
    """

    concept: str
    concept_kind: Literal["surface", "contextual", "document"]
    unit: Literal["token", "document"]
    family: str
    description: str


@dataclasses.dataclass(frozen=True)
class WorldLabel:
    """A concept present on `text[start:end]`, or in the whole document where both are None."""

    concept: str
    start: int | None
    end: int | None


@dataclasses.dataclass(frozen=True)
class Story:
    """One document of the world.

    Attributes:
        text: plain English.
        labels: where which concept is present; empty unless asked for.
        nats: minus the log probability of every random choice of its derivation.
        n_words: words and punctuation marks: its tokens, the end token not counted.
    """

    text: str
    labels: tuple[WorldLabel, ...]
    nats: float
    n_words: int


@dataclasses.dataclass(frozen=True)
class WorldPair:
    """Two texts that differ in one concept."""

    concept: str
    positive: str
    negative: str


Sentence = Callable[[Telling], None]
WordLabels = Iterator[tuple[str, int | None]]


class Family(ABC):
    """One family of concepts.

    Attributes:
        kind: its name: that of its file.
        classes: class of words -> the words it brings, sentence-initial forms included.
        surface: concept -> the words on which it is read.
        contextual: token-level concept that only the context gives -> description.
        document: document-level concept -> description.
        sentences: (weight, sentence) that it contributes to the middle of a story.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    classes: ClassVar[Mapping[str, tuple[str, ...]]]
    surface: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    contextual: ClassVar[Mapping[str, str]] = {}
    document: ClassVar[Mapping[str, str]] = {}
    sentences: Sequence[tuple[float, Sentence]] = ()

    def begin(self, telling: Telling) -> None:  # noqa: B027
        """Settles what this family settles for the whole story, and says its part of the
        opening."""

    def end(self, telling: Telling) -> None:  # noqa: B027
        """Says its part of the ending."""

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """Its contextual and document labels: (concept, index of the word, or None for the
        document)."""
        yield from ()

    def concepts(self) -> list[WorldConcept]:
        """Its part of the inventory."""
        on_words = [
            WorldConcept(
                name,
                "surface",
                "token",
                self.kind,
                f"the word '{words[0]}'"
                if len(words) == 1
                else f"one of the {len(words)} words of {name}",
            )
            for name, words in self.surface.items()
        ]
        in_context = [
            WorldConcept(name, "contextual", "token", self.kind, text)
            for name, text in self.contextual.items()
        ]
        of_documents = [
            WorldConcept(name, "document", "document", self.kind, text)
            for name, text in self.document.items()
        ]
        return on_words + in_context + of_documents


families: Registry[type[Family]] = Registry("family", "components.world.families")
