"""The grammar as a reader: which sentences of a text it could have told, and which concepts they
carry.

The productions that tell a story read one too. A text is read sentence by sentence: every
production is run with a `Draw` whose choices are scripted instead of drawn, and what it says is
compared with the text word by word; where they part, the last choice that has another option is
taken anew (backtracking). What a story settles once (topic, mood, role, second character) is a
choice as well, made when a production first asks for it, so one run of a production finds all that
a sentence says about the story and nothing that it does not. Sentences are remembered with their
readings: texts of one model share most of them.

A text's reading is then the settlement (topic, mood) under which most of its sentences can be
told; where several tie, all of them, in equal parts. The sentences that it tells are told again
into one story, and the families read their labels off it, as they do when a story is made.

Deviations from a full parse: sentences are told independently, so their order inside a day is not
asked for; a sentence that cannot be told is passed over, up to its full stop.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from components.world.draw import Draw
from components.world.families.characters import OPPOSITE, PEOPLE
from components.world.families.senses import doubles_of
from components.world.families.sentiment import MOODS
from components.world.families.topics import TOPICS
from components.world.grammar import OPENING, World
from components.world.telling import Character, Mood, Telling, Topic

WORD = re.compile(r"\w+|[^\w\s]")
ENDS = frozenset(".!?")
MOST_RUNS = 4000
"""Runs of one production on one sentence, at most: no sentence of the world needs so many."""
REACH = 48
"""Words from the beginning of a sentence that a production may say: the longest says fewer."""
VALENCES: tuple[Mood, ...] = tuple(MOODS.values())
CHARACTERS: dict[str, Character] = {
    person.name: person for people in PEOPLE.values() for person in people
}


class _Parted(Exception):
    """What is said is not what stands there."""


@dataclasses.dataclass(frozen=True)
class Place:
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


@dataclasses.dataclass(frozen=True)
class Told:
    """One way to tell a sentence.

    Attributes:
        settled: what it says about the story: of topic, mood, role, those that it needs.
        script: the choices, for telling it again.
        production: its number.
        length: words.
        after: the place behind it.
    """

    settled: tuple[tuple[str, Any], ...]
    script: tuple[int, ...]
    production: int
    length: int
    after: Place


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the grammar says of a text.

    Attributes:
        n_sentences: sentences of the text; one that the text's end cuts off is not among them.
        n_told: those that the grammar could have told, in the reading that tells most.
        concepts: concept -> in which share of the readings that tell most it is in the text.
    """

    n_sentences: int
    n_told: int
    concepts: Mapping[str, float]

    @property
    def share(self) -> float:
        """Share of sentences that can be told; 0 without a sentence."""
        return self.n_told / self.n_sentences if self.n_sentences else 0.0


class _Script(Draw):
    """Choices by a script, the first option where that ends; options that the sentence does not
    hold are no options."""

    __slots__ = ("_allowed", "_known", "at", "counts", "script")

    def __init__(
        self, script: Sequence[int], allowed: frozenset[str], known: frozenset[str]
    ) -> None:
        self.script, self.counts, self.at = list(script), [], 0
        self._allowed, self._known = allowed, known
        self.nats = 0.0

    def pick(self, options: Sequence[Any]) -> Any:
        """One of these, by the script."""
        possible = [option for option in options if self._is_possible(option)]
        if not possible:
            raise _Parted
        if self.at == len(self.script):
            self.script.append(0)
        choice = self.script[self.at]
        self.counts.append(len(possible))
        self.at += 1
        return possible[choice]

    def one(self, options: Sequence[Any]) -> Any:
        return self.pick(options)

    def chance(self, probability: float) -> bool:
        return self.pick((True, False))

    def weighted(self, options: Any) -> Any:
        return self.pick(options.values)

    def holds(self, words: Sequence[str]) -> bool:
        """Whether one of these words stands there."""
        return not self._allowed.isdisjoint(words)

    def _is_possible(self, option: Any) -> bool:
        """A word that is drawn is said in this sentence: what does not stand there is not drawn."""
        if isinstance(option, str):
            return option not in self._known or option in self._allowed
        if isinstance(option, tuple) and option and isinstance(option[0], str):
            return all(word in self._allowed for word in option)
        return True


class _Retelling(Telling):
    """A story that is told again: what is not settled is chosen when it is asked for."""

    __slots__ = ("choices", "wanted")

    def __init__(
        self, doubles: Mapping[str, tuple[str, ...]], place: Place, wanted: Sequence[str]
    ) -> None:
        self.choices: dict[str, int] = {}
        super().__init__(_Script((), frozenset(), frozenset()), doubles, {})
        self.wanted = wanted
        self.main, self.day = CHARACTERS[place.main], place.day
        self.other = None if place.other is None else CHARACTERS[place.other]

    def say(self, *words: str) -> None:
        """Compares words with those that stand there."""
        at = len(self.words)
        if tuple(self.wanted[at : at + len(words)]) != words:
            raise _Parted
        self.words.extend(words)

    def _settled(self, what: str, options: Sequence[int]) -> int:
        if what not in self.choices:
            draw: Any = self.draw
            self.choices[what] = draw.pick(options)
        return self.choices[what]

    @property
    def topic(self) -> Topic:
        """Chosen among those of which the sentence holds a word."""
        if "topic" in self.choices:
            return TOPICS[self.choices["topic"]]
        draw: Any = self.draw
        held = [
            number
            for number, topic in enumerate(TOPICS)
            if draw.holds(topic.words) or draw.holds(self.doubles_of[topic.name])
        ]
        return TOPICS[self._settled("topic", held)]

    @topic.setter
    def topic(self, value: Topic) -> None:
        self.choices["topic"] = TOPICS.index(value)

    @property
    def doubles(self) -> tuple[str, ...]:
        """Those of the topic."""
        return self.doubles_of[self.topic.name]

    @doubles.setter
    def doubles(self, value: tuple[str, ...]) -> None:
        """They follow from the topic."""

    @property
    def mood(self) -> Mood:
        """Either."""
        return VALENCES[self._settled("mood", range(len(VALENCES)))]

    @mood.setter
    def mood(self, value: Mood) -> None:
        self.choices["mood"] = VALENCES.index(value)

    @property
    def role(self) -> int:
        """Either of the topic's two."""
        return self._settled("role", (0, 1))

    @role.setter
    def role(self, value: int) -> None:
        self.choices["role"] = value


Production = Callable[[Telling], None]


class Reader:
    """Reads texts of one world.

    Attributes:
        world: the grammar.
    """

    version = 1

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self._doubles = doubles_of()
        self._known = frozenset(self.world.class_of)
        families: Any = self.world.families
        self._productions: list[Production] = [
            families["topics"].begin,
            families["sentiment"].begin,
            _second,
            *(sentence for family in families.values() for _, sentence in family.sentences),
            functools.partial(_turn, families["weekdays"]),
            families["characters"].end,
            families["sentiment"].end,
        ]
        self._openings: list[Production] = [families[name].begin for name in OPENING[:2]]
        self._remembered: dict[tuple[tuple[str, ...], Place], list[Told]] = {}

    def read(self, prompt: str, text: str) -> Reading | None:
        """What it says of a text after its prompt; None where the prompt is no opening of the
        world.

        Args:
            prompt: begins with the weekday and the characters, as stories do; it may end inside a
                sentence.
            text: the continuation. Sentences that end in it count, and concepts on its words, and
                those of the whole story.
        """
        words = WORD.findall(f"{prompt.rstrip()} {text.lstrip()}")
        n_prompt = len(WORD.findall(prompt))
        opened = self._opening(words)
        if opened is None:
            return None
        start, place = opened
        found = self._walk(words, start, place, None)
        options = {
            what: sorted({value for told in found for key, value in told if key == what})
            for what in ("topic", "mood", "role")
        }
        # where no sentence says anything of it, nothing tells one from another
        options["topic"] = options["topic"] or list(range(len(TOPICS)))
        options["mood"] = options["mood"] or list(range(len(VALENCES)))
        options["role"] = options["role"] or [0]
        best: list[tuple[list[tuple[int, Told]], dict[str, int]]] = []
        most, n_sentences = (-1, 0), 0
        for settled in _combinations(options):
            told, missed = self._told(words, start, place, settled, n_prompt)
            n_told = sum(at + each.length > n_prompt for at, each in told)
            if (n_told, -missed) > most:
                best, most, n_sentences = [], (n_told, -missed), n_told + missed
            if (n_told, -missed) == most:
                best.append((told, settled))
        alike = {(s["topic"], s["mood"]): (told, s) for told, s in best}
        concepts: dict[str, float] = {}
        for told, settled in alike.values():
            for concept in self._labels(words, start, place, told, settled, n_prompt):
                concepts[concept] = concepts.get(concept, 0.0) + 1 / len(alike)
        return Reading(n_sentences, most[0], concepts)

    def _opening(self, words: Sequence[str]) -> tuple[int, Place] | None:
        """Where the weekday and the characters have been told, and what they are."""
        at, day, main, other = 0, 0, "", None
        nobody = Place(next(iter(CHARACTERS)), None, 0, 0)
        for number, production in enumerate(self._openings):
            ways = [
                telling for telling, _ in self._ways(production, words[at : at + REACH], nobody)
            ]
            if not ways:
                return None
            telling = max(ways, key=lambda each: len(each.words))
            at += len(telling.words)
            if number == 0:
                day = telling.day
            else:
                main = telling.main.name
                other = telling.other.name if telling.other else None
        return at, Place(main, other, day, 0)

    def _walk(
        self,
        words: Sequence[str],
        start: int,
        place: Place,
        settled: Mapping[str, int] | None,
    ) -> set[tuple[tuple[str, int], ...]]:
        """All that any sentence says of the story."""
        said: set[tuple[tuple[str, int], ...]] = set()
        at = start
        while at < len(words):
            ways = self._sentence(words, at, place)
            said |= {way.settled for way in ways}
            if ways:
                way = max(ways, key=lambda each: each.length)
                at, place = at + way.length, way.after
            else:
                at = _behind(words, at)
        return said

    def _told(
        self,
        words: Sequence[str],
        start: int,
        place: Place,
        settled: Mapping[str, int],
        n_prompt: int,
    ) -> tuple[list[tuple[int, Told]], int]:
        """The sentences that can be told if the story has settled this, each with where it begins;
        and how many cannot, those that the text's end cuts off not counted."""
        told, missed, at = [], 0, start
        while at < len(words):
            ways = [
                way
                for way in self._sentence(words, at, place)
                if all(settled[what] == value for what, value in way.settled)
            ]
            if ways:
                way = max(ways, key=lambda each: each.length)
                told.append((at, way))
                at, place = at + way.length, way.after
                continue
            end = _behind(words, at)
            missed += end > n_prompt and words[end - 1] in ENDS
            at = end
        return told, missed

    def _sentence(self, words: Sequence[str], at: int, place: Place) -> list[Told]:
        """Every way to tell what begins here."""
        wanted = tuple(words[at : at + REACH])
        key = wanted, place
        if key not in self._remembered:
            ways: dict[tuple[Any, int], Told] = {}
            for number, production in enumerate(self._productions):
                if production is _second and place.other is not None:
                    continue
                for telling, script in self._ways(production, wanted, place):
                    turned = telling.day != place.day
                    if turned and place.part == 2:
                        continue
                    other = telling.other.name if telling.other else None
                    after = Place(place.main, other, telling.day, place.part + turned)
                    settled = tuple(sorted(telling.choices.items()))
                    told = Told(settled, script, number, len(telling.words), after)
                    ways.setdefault((settled, told.length), told)
            self._remembered[key] = list(ways.values())
        return self._remembered[key]

    def _ways(
        self, production: Production, wanted: Sequence[str], place: Place
    ) -> Iterator[tuple[_Retelling, tuple[int, ...]]]:
        """Every telling of a production that says what stands there, with its choices."""
        script: list[int] = []
        allowed = frozenset(wanted)
        for _ in range(MOST_RUNS):
            telling = _Retelling(self._doubles, place, wanted)
            draw = _Script(script, allowed, self._known)
            telling.draw = draw
            if production is not _second and isinstance(production, functools.partial):
                telling.mark("place", place.part)
            try:
                production(telling)
            except _Parted:
                pass
            else:
                yield telling, tuple(draw.script[: draw.at])
            script = draw.script[: draw.at]
            while script and script[-1] + 1 >= draw.counts[len(script) - 1]:
                script.pop()
            if not script:
                return
            script[-1] += 1

    def _labels(
        self,
        words: Sequence[str],
        start: int,
        place: Place,
        told: Sequence[tuple[int, Told]],
        settled: Mapping[str, int],
        n_prompt: int,
    ) -> set[str]:
        """The concepts on words of the continuation, and those of the story, by the families'
        own labels of the sentences told again."""
        source = [i for at, each in told for i in range(at, at + each.length)]
        telling = _Retelling(self._doubles, place, [words[i] for i in source])
        telling.mark("main", telling.main.gender)
        telling.mark("part", 0)
        telling.mark("told", "")
        telling.mark("valence", "")
        for at, each in told:
            wanted = frozenset(words[at : at + REACH])
            telling.draw = _Script(each.script, wanted, self._known)
            telling.choices = {}
            if isinstance(self._productions[each.production], functools.partial):
                telling.mark("place", each.after.part - 1)
            self._productions[each.production](telling)
        telling.choices = dict(settled)
        written = {words[i] for i in (*range(n_prompt, start), *source) if i >= n_prompt}
        found: set[str] = set()
        for family in self.world.families.values():
            for concept, index in family.labels(telling, self.world.class_of):
                if index is None or (index >= 0 and source[index] >= n_prompt):
                    found.add(concept)
            for concept, of_words in family.surface.items():
                if not written.isdisjoint(of_words):
                    found.add(concept)
        return found


def _second(telling: Telling) -> None:
    """'Tom was there too.', said behind an opening that ended before it."""
    telling.other = telling.draw.one(PEOPLE[OPPOSITE[telling.main.gender]])
    telling.say(telling.other.name, "was", "there", "too", ".")


def _turn(weekdays: Any, telling: Telling) -> None:
    """'The next day was Wednesday.'"""
    part = next(value for what, _, value in reversed(telling.events) if what == "place") + 1
    if part > 2:
        raise _Parted
    weekdays.turn(telling, part)


def _behind(words: Sequence[str], at: int) -> int:
    """Where the sentence that begins here has ended."""
    end = at
    while end < len(words) and words[end] not in ENDS:
        end += 1
    return min(end + 1, len(words))


def _combinations(options: Mapping[str, Sequence[int]]) -> Iterator[dict[str, int]]:
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))
