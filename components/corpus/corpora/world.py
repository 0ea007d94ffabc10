"""The embedded world as a corpus: stories without end, every split from streams of its own, labels
known exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from components.corpus.contract import ConceptEntry, Corpus, Document, Label, Pair, corpora
from components.world.grammar import World, WorldConfig


class WorldCorpusConfig(WorldConfig):
    """Stories of the embedded world."""

    kind: Literal["world"] = "world"
    """The embedded world."""


@corpora
class WorldCorpus(Corpus):
    """Stories, their concepts, minimal pairs and neutral openings."""

    config = WorldCorpusConfig
    version = World.version
    knows_splits = True

    def __init__(self, config: WorldCorpusConfig) -> None:
        self._world = World(config)

    def documents(self, split: str, seed: int, labels: bool = True) -> Iterator[Document]:
        """The stories of one split, without end."""
        for index, story in enumerate(self._world.stories(split, seed, labels)):  # pyright: ignore[reportArgumentType]
            listed = [Label(label.concept, label.start, label.end) for label in story.labels]
            yield Document(story.text, f"world seed {seed}, {split} {index}", listed, story.nats)

    def concepts(self) -> Sequence[ConceptEntry]:
        """The inventory of the world."""
        return [
            ConceptEntry(
                entry.concept, entry.concept_kind, entry.unit, entry.family, entry.description
            )
            for entry in self._world.concepts()
        ]

    def pairs(self, n: int, seed: int) -> Iterator[Pair]:
        """Two tellings that differ in one forced choice."""
        return (
            Pair(pair.concept, pair.positive, pair.negative) for pair in self._world.pairs(n, seed)
        )

    def prompts(self, n: int, split: str, seed: int) -> Sequence[str]:
        """Openings that name neither a topic nor a valence."""
        return self._world.prompts(n, seed, split)  # pyright: ignore[reportArgumentType]
