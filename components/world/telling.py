"""A story while it is told: its words so far, and what holds for the whole of it.

Families of concepts never import one another. What one of them settles for the whole story (the
topic, the characters, the mood, the day) lies in the `Telling`, where the others find it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from components.world.draw import Draw, Weighted


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

    Beside qualities and adverbs these are structural words (how a thing looks, what joins two
    clauses): two classes of words that stand in equal places equally often give a model no first
    step by which to tell them apart, and it then learns nothing of the valence at all.
    """

    valence: str
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    looked: str
    because: str
    so: str
    luckily: str
    said: tuple[str, ...]


class Telling:
    """A story while it is told: its words so far, and what holds for all of it.

    Attributes:
        draw: the choices.
        force: choices settled from outside (`topic`, `gender`, `valence`, `double`), for minimal
            pairs.
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

    def __init__(
        self, draw: Draw, doubles_of: Mapping[str, tuple[str, ...]], force: Mapping[str, Any]
    ) -> None:
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
        """A noun of the topic: three times in five one of its own, else one that has another sense
        elsewhere."""
        if self.draw.chance(0.6):
            return self.draw.one(self.topic.things)
        return self.double()

    def double(self) -> str:
        """A two-sense word of the topic; `force["double"]` = (word, index) puts a word at an index
        of the table."""
        words = self.doubles
        if "double" in self.force:
            word, index = self.force["double"]
            here = words.index(word)
            words = tuple(
                word if i == index else words[index] if i == here else w
                for i, w in enumerate(words)
            )
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
            self.say(
                self.draw.one(ADVERBS)
                if self.draw.chance(0.6)
                else self.draw.one(self.mood.adverbs)
            )

    def stop(self) -> None:
        """Ends the sentence, two times in five after saying when or how: words that every topic
        shares."""
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
        """Says a subject (pronoun, name, or for the main character 'the' and the role) and returns
        who it is."""
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


def spans(telling: Telling, what: str) -> Iterator[tuple[int, int, Any]]:
    """(first word, one past the last, value) of each stretch over which `what` kept one value."""
    marks = [(at, value) for name, at, value in telling.events if name == what]
    ends = [at for at, _ in marks[1:]] + [len(telling.words)]
    for (at, value), end in zip(marks, ends, strict=False):
        yield at, end, value
