"""Productions run backwards: every way in which one of them says the words that stand there.

A production is run with choices that are scripted instead of drawn, and what it says is compared
with the text word by word; where they part, the last choice that has another option is taken anew
(backtracking). What a story settles once (topic, mood, role, second character) is a choice as well,
made when a production first asks for it, so the ways of a production find all that a sentence says
about the story and nothing that it does not.

Three things keep the runs few, and none of them changes what is found:

- An option is no option where its words do not stand between here and the end of the stretch.
- What productions share (a subject, a manner, ...) is a step: its ways are found once where it
  stands, and for whoever needs it there each is one choice.
- A stretch is one sentence. Only where a production goes on behind it (`Stretch.ran_over`) need it
  be read again with the next sentence, so sentences are known again whatever follows them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from components.world.draw import Draw
from components.world.families.characters import PEOPLE
from components.world.families.senses import doubles_of
from components.world.families.sentiment import MOODS
from components.world.families.topics import TOPICS
from components.world.telling import Character, Mood, Telling, Topic

MOST_RUNS = 4000
"""Runs of one production on one sentence, at most: no sentence of the world needs so many."""
VALENCES: tuple[Mood, ...] = tuple(MOODS.values())
CHARACTERS: dict[str, Character] = {
    person.name: person for people in PEOPLE.values() for person in people
}
DOUBLES: Mapping[str, tuple[str, ...]] = doubles_of()
NUMBER_OF: dict[str, int] = {topic.name: number for number, topic in enumerate(TOPICS)}

Settled: TypeAlias = tuple[int | None, int | None, int | None]
"""What a story has settled: numbers of its topic, mood and role, None for what it has not."""
NOTHING: Settled = (None, None, None)


def _topics_of() -> dict[str, frozenset[int]]:
    """Word -> the topics that use it and not all do."""
    found: dict[str, frozenset[int]] = {}
    for number, topic in enumerate(TOPICS):
        for word in (*topic.words, *DOUBLES[topic.name]):
            found[word] = found.get(word, frozenset()) | {number}
    return found


TOPICS_OF = _topics_of()


class Parted(Exception):
    """What is said is not what stands there."""


class Place(NamedTuple):
    """What a story has settled where a sentence begins.

    Attributes:
        main: its main character's name.
        other: the other one's name; None where there is none.
        day: number of the weekday.
        part: number of the day in the story.
    """

    main: str
    other: str | None
    day: int
    part: int


class Way(NamedTuple):
    """One way in which words are said.

    Attributes:
        value: what came back.
        length: words of the stretch up to its end.
        settled: what it says about the story.
        script: its choices, for telling it again: numbers of options.
        main, other, day: those of the story behind it.
    """

    value: Any
    length: int
    settled: Settled
    script: tuple[int, ...]
    main: Character
    other: Character | None
    day: int


class Stretch:
    """Words of a text from where a sentence begins.

    Attributes:
        words: the words.
        place: what the story has settled before them.
        known: every word of the world; another option is no word.
        ran_over: whether a production that says all of them wants to go on.
        steps: what productions share, where it has been read.
    """

    __slots__ = ("_idle", "_left", "known", "place", "ran_over", "steps", "words")

    def __init__(self, words: tuple[str, ...], place: Place, known: frozenset[str]) -> None:
        self.words, self.place, self.known = words, place, known
        self.ran_over = False
        self.steps: dict[Any, list[Way]] = {}
        self._left: dict[int, frozenset[str]] = {}
        self._idle: list[_Reading] = []

    def left(self, at: int) -> frozenset[str]:
        """The words from here on."""
        if at not in self._left:
            self._left[at] = frozenset(self.words[at:])
        return self._left[at]

    def ways(
        self, tell: Callable[[Any], Any], at: int = 0, settled: Settled = NOTHING
    ) -> list[Way]:
        """Every way in which something says what stands there, in the order of its options.

        Args:
            tell: says it.
            at: from which word on.
            settled: of the story, before it.
        """
        found: list[Way] = []
        # one for each depth of steps within steps
        reading = self._idle.pop() if self._idle else _Reading(self)
        for _ in range(MOST_RUNS):
            reading.begin(at, settled)
            try:
                value = tell(reading)
            except Parted:
                pass
            else:
                found.append(reading.way(value))
            if not reading.draw.turn():
                break
        else:
            reading = _Reading(self)  # the other one has choices left
        self._idle.append(reading)
        return found


class Script(Draw):
    """Choices that are known beforehand."""

    __slots__ = ("at", "script")

    def __init__(self, script: Sequence[Any]) -> None:
        self.script: Sequence[Any] = script
        self.at = 0
        self.nats = 0.0

    def pick(self, options: Sequence[Any]) -> Any:
        """The next one."""
        self.at += 1
        return options[self.script[self.at - 1]]

    def one(self, options: Sequence[Any]) -> Any:
        """The next one."""
        return self.pick(options)

    def chance(self, probability: float) -> bool:
        """Whether the next one is that it happens."""
        return self.pick((True, False))

    def weighted(self, options: Any) -> Any:
        """The next one."""
        return self.pick(options.values)


class _Search(Script):
    """Choices by a script; where it ends, the first option that is possible."""

    __slots__ = ("_others", "_reading")

    def __init__(self, reading: _Reading) -> None:
        super().__init__([])
        self._reading = reading
        self._others: list[list[Any]] = []
        """For each choice, what else is possible, last first."""

    def pick(self, options: Sequence[Any]) -> Any:
        """The one of the script, or the first one possible."""
        at, script = self.at, self.script
        if at == len(script):
            self.choose(self._reading.possible(options))
        self.at = at + 1
        return options[script[at]]

    def choose(self, possible: list[Any]) -> None:
        """Takes the first of these, and later the others.

        Raises:
            Parted: there is none.
        """
        if not possible:
            raise Parted
        others = possible[:0:-1]
        script: Any = self.script
        script.append(possible[0])
        self._others.append(others)

    def turn(self) -> bool:
        """Takes the last choice anew that has another option; false where none has."""
        script: Any = self.script
        while script and not self._others[-1]:
            script.pop()
            self._others.pop()
        if script:
            script[-1] = self._others[-1].pop()
        return bool(script)

    def flat(self) -> tuple[int, ...]:
        """The choices so far, those of steps among them."""
        parts = (each.script if isinstance(each, Way) else (each,) for each in self.script)
        return tuple(itertools.chain.from_iterable(parts))


class Retelling(Telling):
    """A story that is told again: what is not settled is chosen when it is asked for.

    Attributes:
        settled: topic, mood and role.
    """

    __slots__ = ("settled",)

    def __init__(self, draw: Draw, place: Place) -> None:
        self.settled = NOTHING
        super().__init__(draw, DOUBLES, {})
        self.main, self.day = CHARACTERS[place.main], place.day
        self.other = None if place.other is None else CHARACTERS[place.other]

    @property
    def topic(self) -> Topic:
        """Chosen among all."""
        number, mood, role = self.settled
        if number is not None:
            return TOPICS[number]
        topic = self.draw.one(TOPICS)
        self.settled = NUMBER_OF[topic.name], mood, role
        return topic

    @topic.setter
    def topic(self, value: Topic) -> None:
        self.settled = NUMBER_OF[value.name], *self.settled[1:]

    @property
    def doubles(self) -> tuple[str, ...]:
        """Those of the topic."""
        return DOUBLES[self.topic.name]

    @doubles.setter
    def doubles(self, value: tuple[str, ...]) -> None:
        """They follow from the topic."""

    @property
    def mood(self) -> Mood:
        """Either."""
        topic, number, role = self.settled
        if number is None:
            number = self.draw.one(range(len(VALENCES)))
            self.settled = topic, number, role
        return VALENCES[number]

    @mood.setter
    def mood(self, value: Mood) -> None:
        self.settled = self.settled[0], VALENCES.index(value), self.settled[2]

    @property
    def role(self) -> int:
        """Either of the topic's two."""
        topic, mood, number = self.settled
        if number is None:
            number = self.draw.one((0, 1))
            self.settled = topic, mood, number
        return number

    @role.setter
    def role(self, value: int) -> None:
        self.settled = *self.settled[:2], value


class _Reading(Retelling):
    """A telling that must say what stands there."""

    __slots__ = ("_stretch", "at")

    draw: _Search

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(_Search(self), stretch.place)
        self._stretch = stretch
        self.at = 0
        # all that a production asks of what was told before it
        self.events = [("place", 0, stretch.place.part)]

    def begin(self, at: int, settled: Settled) -> None:
        """Begins anew at this word."""
        place = self._stretch.place
        self.at, self.settled, self.draw.at = at, settled, 0
        self.main, self.day = CHARACTERS[place.main], place.day
        self.other = None if place.other is None else CHARACTERS[place.other]

    def way(self, value: Any) -> Way:
        """What has been said."""
        script = self.draw.flat()
        return Way(value, self.at, self.settled, script, self.main, self.other, self.day)

    def possible(self, options: Sequence[Any]) -> list[int]:
        """Numbers of the options, all of one kind, that may be meant: what is drawn is said in the
        same sentence, so what does not stand in the rest of it is not drawn."""
        stretch, kind = self._stretch, type(options[0])
        stretch.ran_over |= self.at >= len(stretch.words)
        left = stretch.left(self.at)
        if kind is str:
            known = stretch.known
            return [i for i, word in enumerate(options) if word in left or word not in known]
        if kind is tuple:
            return [i for i, words in enumerate(options) if left.issuperset(words)]
        if kind is Character:
            return [i for i, who in enumerate(options) if who.name in left]
        if kind is Topic:
            found = (TOPICS_OF[word] for word in left if word in TOPICS_OF)
            held = frozenset[int]().union(*found)
            return [i for i, topic in enumerate(options) if NUMBER_OF[topic.name] in held]
        return list(range(len(options)))

    def say(self, *words: str) -> None:
        """Compares words with those that stand there."""
        there = self._stretch.words[self.at : self.at + len(words)]
        if there != words:
            if self.at + len(there) == len(self._stretch.words) and there == words[: len(there)]:
                self._stretch.ran_over = True
            raise Parted
        self.at += len(words)

    def mark(self, what: str, value: Any) -> None:
        """Notes nothing: what holds where is asked once the telling is known."""

    def thing(self) -> str:
        return self._step(Telling.thing)

    def double(self) -> str:
        return self._step(Telling.double)

    def adjective(self) -> str:
        return self._step(Telling.adjective)

    def determine(self) -> None:
        self._step(Telling.determine)

    def manner(self) -> None:
        self._step(Telling.manner)

    def stop(self) -> None:
        self._step(Telling.stop)

    def subject(self, capital: bool = True) -> Character:
        return self._step(Telling.subject, capital)

    def _step(self, tell: Callable[..., Any], *given: Any) -> Any:
        """What productions share: its ways from here on are found once, and each is one choice."""
        draw = self.draw
        if draw.at == len(draw.script):
            at, settled, stretch = self.at, self.settled, self._stretch
            key = tell, given, at, settled
            if key not in stretch.steps:
                stretch.steps[key] = stretch.ways(lambda other: tell(other, *given), at, settled)
            draw.choose(stretch.steps[key])
        way = draw.script[draw.at]
        draw.at += 1
        self.at, self.settled = way.length, way.settled
        return way.value
