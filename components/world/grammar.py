"""The world: a probabilistic grammar of short English stories whose concepts are known exactly.

A story takes three days in a row. Its opening states a weekday, introduces one or two characters,
shows whether things go well, and gives the main character a part in one of the topics; each day
then holds one or more sentences, contributed by the families and chosen by weight; the ending
returns home. The length comes from a hazard after every sentence, and the days are named aloud, so
where the text may go next is always visible in the text.

`nats` is the entropy of the derivation: every random choice's -log p. Two derivations rarely give
one text, so it is a tight bound of the text's own cost; the end token costs nothing and is counted
in the length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from components.config import Config
from components.seeds import derive, numpy_generator
from components.world.contract import Family, Story, WorldConcept, WorldLabel, WorldPair, families
from components.world.draw import Draw, Weighted
from components.world.telling import Telling

Split = Literal[
    "pretrain", "train", "select", "explain", "calibrate", "judge", "validate", "neutral", "test"
]
SPLITS: tuple[Split, ...] = (
    "pretrain", "train", "select", "explain", "calibrate", "judge", "validate", "neutral", "test",
)  # fmt: skip
OPENING = ("weekdays", "characters", "sentiment", "topics")
NO_SPACE_BEFORE = frozenset(".,:?!”")


class WorldConfig(Config):
    """The knobs of the grammar."""

    more: float = Field(default=0.6, gt=0, lt=1)
    """Probability that a day has a further sentence: one minus the hazard."""


class World:
    """Stories without end from a seed, their concepts, minimal pairs and neutral openings."""

    version = 1

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        self.families: dict[str, Family] = {name: family() for name, family in families.items()}
        self._sentences = Weighted(
            [entry for family in self.families.values() for entry in family.sentences]
        )
        senses = self.families["senses"].classes["double"]
        self._doubles: dict[str, tuple[str, ...]] = {}
        for word in senses:
            for concept in self.families["senses"].contextual:
                _, double, topic = concept.split(".")
                if double == word:
                    self._doubles[topic] = (*self._doubles.get(topic, ()), word)

    @cached_property
    def class_of(self) -> dict[str, str]:
        """Word -> its class; words that several families use for structure are 'function'."""
        classes: dict[str, str] = {}
        for family in self.families.values():
            for name, words in family.classes.items():
                for word in words:
                    if classes.get(word, "function") == "function":
                        classes[word] = name
        return classes

    def vocabulary(self) -> list[str]:
        """Every word and punctuation mark, sorted."""
        return sorted(self.class_of)

    def concepts(self) -> list[WorldConcept]:
        """The inventory."""
        return [concept for family in self.families.values() for concept in family.concepts()]

    def rng(self, split: Split, seed: int, index: int) -> np.random.Generator:
        """The stream of one story: independent for every (split, seed, index)."""
        return np.random.Generator(np.random.SFC64(derive(seed, "world", split, index)))

    def stories(
        self, split: Split, seed: int, labels: bool = False, start: int = 0
    ) -> Iterator[Story]:
        """The stories of a split, without end, from the `start`-th on."""
        index = start
        while True:
            yield self.story(self.rng(split, seed, index), labels)
            index += 1

    def story(
        self, rng: np.random.Generator, labels: bool = True, force: Mapping[str, Any] | None = None
    ) -> Story:
        """One story.

        Args:
            rng: the only source of randomness.
            labels: whether to say which concepts are where (several times slower).
            force: choices settled from outside, for minimal pairs.
        """
        telling = self._tell(rng, force or {})
        labelled = tuple(self._labels(telling)) if labels else ()
        return Story(spell(telling.words), labelled, telling.draw.nats, len(telling.words))

    def _tell(self, rng: np.random.Generator, force: Mapping[str, Any]) -> Telling:
        draw = Draw(rng)
        telling = Telling(draw, self._doubles, force)
        for name in OPENING:
            self.families[name].begin(telling)
        weekdays: Any = self.families["weekdays"]
        for part in range(3):
            if part:
                weekdays.turn(telling, part)
            draw.weighted(self._sentences)(telling)
            while draw.chance(self.config.more):
                draw.weighted(self._sentences)(telling)
        self.families["characters"].end(telling)
        self.families["sentiment"].end(telling)
        return telling

    @cached_property
    def _surface(self) -> dict[str, tuple[str, ...]]:
        concepts: dict[str, tuple[str, ...]] = {}
        for family in self.families.values():
            for concept, words in family.surface.items():
                for word in words:
                    concepts[word] = (*concepts.get(word, ()), concept)
        return concepts

    def _labels(self, telling: Telling) -> Iterator[WorldLabel]:
        starts, at = [], 0
        for index, word in enumerate(telling.words):
            at += index > 0 and spaced(telling.words[index - 1], word)
            starts.append(at)
            at += len(word)
        for start, word in zip(starts, telling.words, strict=True):
            for concept in self._surface.get(word, ()):
                yield WorldLabel(concept, start, start + len(word))
        for family in self.families.values():
            for concept, index in family.labels(telling, self.class_of):
                if index is None:
                    yield WorldLabel(concept, None, None)
                else:
                    yield WorldLabel(
                        concept, starts[index], starts[index] + len(telling.words[index])
                    )

    def pairs(self, n: int, seed: int = 0) -> Iterator[WorldPair]:
        """`n` minimal pairs for every topic, valence, main gender and sense.

        Both texts are told with the same choices, except for the one that is forced: they have the
        same number of words and differ in those that carry the concept.
        """
        topics = sorted(self._doubles)
        for concept in (c.concept for c in self.concepts()):
            family, _, rest = concept.partition(".")
            if concept in self.families["topics"].document:
                choices = [({"topic": rest}, {"topic": topic}) for topic in topics if topic != rest]
                contains = ""
            elif concept in self.families["sentiment"].document:
                choices = [
                    (
                        {"valence": rest},
                        {"valence": "negative" if rest == "positive" else "positive"},
                    )
                ]
                contains = ""
            elif concept in self.families["characters"].document and family == "main":
                choices = [({"gender": rest}, {"gender": "male" if rest == "female" else "female"})]
                contains = ""
            elif family == "sense":
                word, topic = rest.split(".")
                other = next(t for t in topics if t != topic and word in self._doubles[t])
                double = (word, self._doubles[topic].index(word))
                choices = [({"topic": topic, "double": double}, {"topic": other, "double": double})]
                contains = word
            else:
                continue
            yield from self._pairs(concept, n, seed, choices, contains)

    def _pairs(
        self, concept: str, n: int, seed: int, choices: list[tuple[Any, Any]], contains: str
    ) -> Iterator[WorldPair]:
        n_made = attempt = 0
        while n_made < n:
            stream = derive(seed, "world", "pairs", concept, attempt)
            positive, negative = choices[attempt % len(choices)]
            attempt += 1
            first = self._tell(np.random.default_rng(stream), positive)
            if contains and contains not in first.words:
                continue
            second = self._tell(np.random.default_rng(stream), negative)
            yield WorldPair(concept, spell(first.words), spell(second.words))
            n_made += 1

    def prompts(self, n: int, seed: int = 0, split: Split = "test") -> list[str]:
        """`n` different openings that name neither a topic nor a valence: the weekday and the
        characters.

        An opening belongs to the one split that a hash of its text names, so splits never share
        one.
        """
        rng = numpy_generator(seed, "world", "prompts", split)
        texts: dict[str, None] = {}
        while len(texts) < n:
            telling = Telling(Draw(rng), self._doubles, {})
            for name in OPENING[:2]:
                self.families[name].begin(telling)
            text = spell(telling.words)
            if SPLITS[derive(0, "world", "prompt", text) % len(SPLITS)] == split:
                texts[text] = None
        return list(texts)


def spaced(before: str, word: str) -> bool:
    """Whether English writes a space between two tokens."""
    return word not in NO_SPACE_BEFORE and before != "“"


def spell(words: list[str]) -> str:
    """Words and punctuation as normal English."""
    parts = words[:1]
    before = words[0]
    for word in words[1:]:
        if spaced(before, word):
            parts.append(" ")
        parts.append(word)
        before = word
    return "".join(parts)
