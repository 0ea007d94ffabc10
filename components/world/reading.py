"""The grammar as a reader: which sentences of a text it could have told, and which concepts they
carry.

The productions that tell a story read one too (`components.world.retelling`): a text is read
sentence by sentence, and every production is asked in which ways it says what stands there.
Sentences are remembered with their readings: texts of one model share most of them.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from components.world.families.characters import OPPOSITE, PEOPLE
from components.world.families.topics import TOPICS
from components.world.grammar import OPENING, World
from components.world.retelling import (
    CHARACTERS,
    NOTHING,
    VALENCES,
    Parted,
    Place,
    Retelling,
    Script,
    Settled,
    Stretch,
)
from components.world.telling import Telling

WORD = re.compile(r"\w+|[^\w\s]")
ENDS = frozenset(".!?")
REACH = 48
"""Words from the beginning of a sentence that a production may say: the longest says fewer."""


@dataclasses.dataclass(frozen=True)
class Told:
    """One way to tell a sentence.

    Attributes:
        settled: what it says about the story.
        script: the choices, for telling it again.
        production: its number.
        length: words.
        after: the place behind it.
    """

    settled: Settled
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Text:
    """A text that is being read.

    Attributes:
        words: those of the prompt and of the continuation.
        n_prompt: how many are the prompt's.
        behind: where the sentence has ended in which each word stands.
        sentences: (where a sentence begins, its place) -> every way to tell it, as far as asked.
    """

    words: Sequence[str]
    n_prompt: int
    behind: Sequence[int]
    sentences: dict[tuple[int, Place], list[Told]] = dataclasses.field(default_factory=dict)


Production: TypeAlias = Callable[[Telling], None]


class Reader:
    """Reads texts of one world.

    Attributes:
        world: the grammar.
    """

    version = 1

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self._known = frozenset(self.world.class_of)
        # words are kept many times: as one string each
        self._spelt = {word: word for word in self._known}
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
        self._remembered: dict[tuple[tuple[str, ...], Place], tuple[list[Told], bool]] = {}
        self._opened: dict[tuple[str, ...], tuple[int, Place] | None] = {}
        self._surface: dict[str, list[str]] = {}
        for family in self.world.families.values():
            for concept, words in family.surface.items():
                for word in words:
                    self._surface.setdefault(word, []).append(concept)

    def read(self, prompt: str, text: str) -> Reading | None:
        """What it says of a text after its prompt; None where the prompt is no opening of the
        world.

        Args:
            prompt: begins with the weekday and the characters, as stories do; it may end inside a
                sentence.
            text: the continuation. Sentences that end in it count, and concepts on its words, and
                those of the whole story.
        """
        found: list[str] = WORD.findall(f"{prompt.rstrip()} {text.lstrip()}")
        words = [self._spelt.get(word, word) for word in found]
        whole = _Text(words, len(WORD.findall(prompt)), _behind(words))
        opened = self._opening(whole)
        if opened is None:
            return None
        start, place = opened
        said = self._walk(whole, start, place)
        # where no sentence says anything of it, nothing tells one from another
        topics, moods, roles = (
            sorted({value for each in said if (value := each[i]) is not None}) or list(default)
            for i, default in enumerate((range(len(TOPICS)), range(len(VALENCES)), (0,)))
        )
        best: list[tuple[list[tuple[int, Told]], Settled]] = []
        most, n_sentences = (-1, 0), 0
        for settled in itertools.product(topics, moods, roles):
            told, missed = self._told(whole, start, place, settled)
            n_told = sum(at + each.length > whole.n_prompt for at, each in told)
            if (n_told, -missed) > most:
                best, most, n_sentences = [], (n_told, -missed), n_told + missed
            if (n_told, -missed) == most:
                best.append((told, settled))
        alike = {settled[:2]: (told, settled) for told, settled in best}
        concepts: dict[str, float] = {}
        for told, settled in alike.values():
            for concept in self._labels(whole, start, place, told, settled):
                concepts[concept] = concepts.get(concept, 0.0) + 1 / len(alike)
        return Reading(n_sentences, most[0], concepts)

    def _opening(self, text: _Text) -> tuple[int, Place] | None:
        """Where the weekday and the characters have been told, and what they are."""
        # the weekday's sentence, that of the main character, and perhaps that of the other one
        end = 0
        for _ in range(3):
            end = text.behind[end]
        opening = tuple(text.words[: min(end, 2 * REACH)])
        if opening not in self._opened:
            self._opened[opening] = self._open(opening)
        return self._opened[opening]

    def _open(self, words: tuple[str, ...]) -> tuple[int, Place] | None:
        nobody = Place(next(iter(CHARACTERS)), None, 0, 0)
        at, day, main, other = 0, 0, "", None
        for number, production in enumerate(self._openings):
            ways = Stretch(words[at : at + REACH], nobody, self._known).ways(production)
            if not ways:
                return None
            way = max(ways, key=lambda each: each.length)
            at += way.length
            if number == 0:
                day = way.day
            else:
                main, other = way.main.name, way.other.name if way.other else None
        return at, Place(main, other, day, 0)

    def _walk(self, text: _Text, start: int, place: Place) -> set[Settled]:
        """All that any sentence says of the story."""
        said: set[Settled] = set()
        at = start
        while at < len(text.words):
            ways = self._sentence(text, at, place)
            said |= {way.settled for way in ways}
            if ways:
                way = max(ways, key=lambda each: each.length)
                at, place = at + way.length, way.after
            else:
                at = text.behind[at]
        return said

    def _told(
        self, text: _Text, start: int, place: Place, settled: Settled
    ) -> tuple[list[tuple[int, Told]], int]:
        """The sentences that can be told if the story has settled this, each with where it begins;
        and how many cannot, those that the text's end cuts off not counted."""
        told, missed, at = [], 0, start
        while at < len(text.words):
            ways = [way for way in self._sentence(text, at, place) if _agree(way.settled, settled)]
            if ways:
                way = max(ways, key=lambda each: each.length)
                told.append((at, way))
                at, place = at + way.length, way.after
                continue
            end = text.behind[at]
            missed += end > text.n_prompt and text.words[end - 1] in ENDS
            at = end
        return told, missed

    def _sentence(self, text: _Text, at: int, place: Place) -> list[Told]:
        """Every way to tell what begins here."""
        here = at, place
        if here not in text.sentences:
            most = min(at + REACH, len(text.words))
            end, ran_over = at, True
            while ran_over and end < most:
                end = min(text.behind[end], most)
                key = tuple(text.words[at:end]), place
                if key not in self._remembered:
                    self._remembered[key] = self._read(*key)
                text.sentences[here], ran_over = self._remembered[key]
        return text.sentences[here]

    def _read(self, words: tuple[str, ...], place: Place) -> tuple[list[Told], bool]:
        """Every way to tell what these words begin with, and whether one needs more of them."""
        stretch = Stretch(words, place, self._known)
        ways: dict[tuple[Settled, int], Told] = {}
        for number, production in enumerate(self._productions):
            if production is _second and place.other is not None:
                continue
            for way in stretch.ways(production):
                turned = way.day != place.day
                if turned and place.part == 2:
                    continue
                after = Place(
                    place.main, way.other.name if way.other else None, way.day, place.part + turned
                )
                told = Told(way.settled, way.script, number, way.length, after)
                ways.setdefault((told.settled, told.length), told)
        return list(ways.values()), stretch.ran_over

    def _labels(
        self,
        text: _Text,
        start: int,
        place: Place,
        told: Sequence[tuple[int, Told]],
        settled: Settled,
    ) -> set[str]:
        """The concepts on words of the continuation, and those of the story, by the families'
        own labels of the sentences told again."""
        source = [i for at, each in told for i in range(at, at + each.length)]
        telling = Retelling(Script(()), place)
        telling.mark("main", telling.main.gender)
        telling.mark("part", 0)
        telling.mark("told", "")
        telling.mark("valence", "")
        for _, each in told:
            telling.draw = Script(each.script)
            telling.settled = NOTHING
            if isinstance(self._productions[each.production], functools.partial):
                telling.mark("place", each.after.part - 1)
            self._productions[each.production](telling)
        telling.settled = settled
        n_prompt = text.n_prompt
        written = {text.words[i] for i in (*range(n_prompt, start), *source) if i >= n_prompt}
        found = {concept for word in written for concept in self._surface.get(word, ())}
        for family in self.world.families.values():
            for concept, index in family.labels(telling, self.world.class_of):
                if index is None or (index >= 0 and source[index] >= n_prompt):
                    found.add(concept)
        return found


def _agree(said: Settled, settled: Settled) -> bool:
    """Whether nothing of what is said is settled otherwise."""
    (topic, mood, role), (own_topic, own_mood, own_role) = said, settled
    return (
        (topic is None or topic == own_topic)
        and (mood is None or mood == own_mood)
        and (role is None or role == own_role)
    )


def _second(telling: Telling) -> None:
    """'Tom was there too.', said behind an opening that ended before it."""
    telling.other = telling.draw.one(PEOPLE[OPPOSITE[telling.main.gender]])
    telling.say(telling.other.name, "was", "there", "too", ".")


def _turn(weekdays: Any, telling: Telling) -> None:
    """'The next day was Wednesday.'"""
    part = next(value for what, _, value in reversed(telling.events) if what == "place") + 1
    if part > 2:
        raise Parted
    weekdays.turn(telling, part)


def _behind(words: Sequence[str]) -> list[int]:
    """Where the sentence of each word has ended; behind the last word the end."""
    behind = [len(words)] * (len(words) + 1)
    for at in range(len(words) - 1, -1, -1):
        behind[at] = at + 1 if words[at] in ENDS else behind[at + 1]
    return behind
