"""What a family of concepts promises, and the telling of one story that the families share.

A family declares its vocabulary by class, its concepts, the sentences it contributes and the labels it can read off a
finished telling. Families never import one another: what one of them settles for the whole story (the topic, the
characters, the day) lies in the `Telling`, where the others find it.
Every random choice goes through `Draw`, which takes exactly one number from the stream and adds the choice's cost in
nats; so the derivation entropy of a story is exact, and a telling replayed with one choice forced stays parallel to
the original word by word.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from components.registry import Registry

T = TypeVar("T")
BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Concept:
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
class Label:
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
    labels: tuple[Label, ...]
    nats: float
    n_words: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts that differ in one concept."""

    concept: str
    positive: str
    negative: str


@dataclasses.dataclass(frozen=True)
class Topic:
    """What a story can be about, with the words that belong to it alone."""

    name: str
    roles: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    verbs: tuple[str, ...]
    events: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Every word that only this topic uses."""
        return self.roles + self.things + self.places + self.verbs + self.events


@dataclasses.dataclass(frozen=True)
class Character:
    """A person of the story and the pronouns that agree."""

    name: str
    gender: str
    subject: str
    object: str
    possessive: str
    reflexive: str


@dataclasses.dataclass(frozen=True)
class Mood:
    """How a story goes, and the words that agree with it.

    Beside qualities and adverbs these are structural words (how a thing looks, what joins two clauses): two classes of
    words that stand in equal places equally often give a model no first step by which to tell them apart, and it then
    learns nothing of the valence at all.
    """

    valence: str
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    looked: str
    because: str
    so: str
    luckily: str
    said: tuple[str, ...]


class Draw:
    """Random choices with their cost: each takes one number from the stream and adds to `nats`."""

    __slots__ = ("_at", "_numbers", "_rng", "nats")

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers = rng.random(BLOCK).tolist()
        self._at = 0
        self.nats = 0.0

    def _next(self) -> float:
        if self._at == len(self._numbers):
            self._numbers.extend(self._rng.random(BLOCK).tolist())
        number = self._numbers[self._at]
        self._at += 1
        return number

    def one(self, options: Sequence[T]) -> T:
        """One of several, all equally likely."""
        self.nats += math.log(len(options))
        return options[int(self._next() * len(options))]

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        happens = self._next() < probability
        self.nats -= math.log(probability if happens else 1 - probability)
        return happens

    def weighted(self, options: Weighted[T]) -> T:
        """One of several with given weights."""
        number = self._next()
        at = 0
        while options.cumulative[at] <= number:
            at += 1
        self.nats += options.nats[at]
        return options.values[at]


class Weighted(Sequence[T]):
    """Options with weights, normalised once."""

    def __init__(self, options: Sequence[tuple[float, T]]) -> None:
        total = sum(weight for weight, _ in options)
        self.values = tuple(value for _, value in options)
        self.nats = tuple(-math.log(weight / total) for weight, _ in options)
        self.cumulative = np.cumsum([weight / total for weight, _ in options]).tolist()
        self.cumulative[-1] = 1.0

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)


class Telling:
    """A story while it is told: its words so far, and what holds for all of it.

    Attributes:
        draw: the choices.
        force: choices settled from outside (`topic`, `gender`, `valence`, `double`), for minimal pairs.
        words: words and punctuation so far.
        events: (what, index of the next word, value), for whoever labels the telling afterwards.
        topic: what it is about.
        doubles: the two-sense words that belong to the topic.
        main, other: its characters; `other` has the opposite gender, or is None.
        role: which of the topic's roles the main character has.
        mood: how it goes.
        day: number of the weekday the story stands at.
    """

    __slots__ = (
        "day", "doubles", "doubles_of", "draw", "events", "force", "main", "mood", "other", "role", "topic", "words",
    )  # fmt: skip

    topic: Topic
    main: Character
    other: Character | None
    role: int
    mood: Mood
    day: int

    def __init__(self, draw: Draw, doubles_of: Mapping[str, tuple[str, ...]], force: Mapping[str, Any]) -> None:
        self.draw = draw
        self.doubles_of = doubles_of
        self.force = force
        self.words: list[str] = []
        self.events: list[tuple[str, int, Any]] = []
        self.doubles: tuple[str, ...] = ()

    def say(self, *words: str) -> None:
        """Adds words."""
        self.words.extend(words)

    def mark(self, what: str, value: Any) -> None:
        """Notes that from the next word on something holds."""
        self.events.append((what, len(self.words), value))

    def about(self, topic: Topic) -> None:
        """Settles the topic, and with it the two-sense words."""
        self.topic = topic
        self.doubles = self.doubles_of[topic.name]

    def thing(self) -> str:
        """A noun of the topic: three times in five one of its own, else one that has another sense elsewhere."""
        if self.draw.chance(0.6):
            return self.draw.one(self.topic.things)
        return self.double()

    def double(self) -> str:
        """A two-sense word of the topic; `force["double"]` = (word, index) puts a word at an index of the table."""
        words = self.doubles
        if "double" in self.force:
            word, index = self.force["double"]
            here = words.index(word)
            words = tuple(word if i == index else words[index] if i == here else w for i, w in enumerate(words))
        return self.draw.one(words)

    def adjective(self) -> str:
        """A quality that agrees with the story's mood."""
        return self.draw.one(self.mood.adjectives)

    def determine(self) -> None:
        """Says which one is meant, and half of the time what it is like."""
        self.say(self.draw.weighted(DETERMINERS))
        if self.draw.chance(0.5):
            self.say(self.draw.one(QUALITIES) if self.draw.chance(0.6) else self.adjective())

    def manner(self) -> None:
        """Says, half of the time, how something is done."""
        if self.draw.chance(0.5):
            self.say(self.draw.one(ADVERBS) if self.draw.chance(0.6) else self.draw.one(self.mood.adverbs))

    def stop(self) -> None:
        """Ends the sentence, two times in five after saying when or how: words that every topic shares."""
        if self.draw.chance(0.4):
            self.say(*self.draw.one(CIRCUMSTANCES))
        self.say(".")

    def agree(self, who: Character, form: str) -> None:
        """Says a pronoun that agrees with the sentence's subject."""
        self.mark("agree", who.gender)
        self.say(form)

    def someone(self) -> Character:
        """The main character, or, where there are two, now and then the other one."""
        if self.other is None or not self.draw.chance(0.4):
            return self.main
        return self.other

    def subject(self, capital: bool = True) -> Character:
        """Says a subject (pronoun, name, or for the main character 'the' and the role) and returns who it is."""
        who = self.someone()
        self.mark("subject", who.gender)
        form = self.draw.weighted(MAIN_FORMS if who is self.main else OTHER_FORMS)
        if form == "name":
            self.say(who.name)
        elif form == "role":
            self.say("The" if capital else "the", self.topic.roles[self.role])
        else:
            self.say(who.subject.capitalize() if capital else who.subject)
        return who


DETERMINERS = Weighted([(2, "the"), (1, "this"), (1, "that")])
ADVERBS = (
    "slowly", "quickly", "quietly", "carefully", "suddenly", "again", "often", "soon", "finally", "also", "almost", "never",
    "always", "simply", "secretly", "eagerly", "gently", "patiently", "boldly", "calmly", "barely", "politely", "twice",
    "nearly",
)  # fmt: skip
QUALITIES = (
    "old", "big", "small", "red", "blue", "green", "heavy", "light", "long", "round", "strange", "famous", "gray", "plain",
    "yellow", "narrow", "wide", "modern", "foreign", "wet",
)  # fmt: skip
CIRCUMSTANCES = (
    ("at", "noon"), ("at", "night"), ("before", "dinner"), ("for", "hours"), ("by", "accident"), ("on", "purpose"),
    ("in", "silence"), ("with", "care"), ("without", "help"), ("by", "chance"), ("in", "secret"), ("until", "midnight"),
    ("under", "pressure"), ("after", "sunset"), ("during", "breakfast"), ("within", "minutes"),
)  # fmt: skip
MAIN_FORMS = Weighted([(2, "pronoun"), (1, "name"), (1, "role")])
OTHER_FORMS = Weighted([(3, "pronoun"), (1, "name")])
Sentence = Callable[[Telling], None]
Found = Iterator[tuple[str, int | None]]


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
        """Settles what this family settles for the whole story, and says its part of the opening."""

    def end(self, telling: Telling) -> None:  # noqa: B027
        """Says its part of the ending."""

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> Found:
        """Its contextual and document labels: (concept, index of the word, or None for the document)."""
        yield from ()

    def concepts(self) -> list[Concept]:
        """Its part of the inventory."""
        on_words = [
            Concept(
                name,
                "surface",
                "token",
                self.kind,
                f"the word '{words[0]}'" if len(words) == 1 else f"one of the {len(words)} words of {name}",
            )
            for name, words in self.surface.items()
        ]
        in_context = [Concept(name, "contextual", "token", self.kind, text) for name, text in self.contextual.items()]
        of_documents = [Concept(name, "document", "document", self.kind, text) for name, text in self.document.items()]
        return on_words + in_context + of_documents


families: Registry[type[Family]] = Registry("family", "components.world.families")


def spans(telling: Telling, what: str) -> Iterator[tuple[int, int, Any]]:
    """(first word, one past the last, value) of each stretch over which `what` kept one value."""
    marks = [(at, value) for name, at, value in telling.events if name == what]
    ends = [at for at, _ in marks[1:]] + [len(telling.words)]
    for (at, value), end in zip(marks, ends, strict=False):
        yield at, end, value
