"""Productions run backwards, held against trying every choice there is."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from components.world.draw import Draw
from components.world.grammar import World
from components.world.reading import Reader
from components.world.retelling import (
    CHARACTERS,
    NOTHING,
    Parted,
    Place,
    Retelling,
    Script,
    Stretch,
)
from components.world.telling import Telling

PLACE = Place("Leo", "Anna", 6, 1)
TOLD = (
    "He moored the net at noon .",
    "The sailor found the old lovely bow near the harbor .",
    "She put this heavy anchor beside the broken sail . He looked happy .",
    "“ I love the compass , ” she proudly said .",
    "“ Where is my net ? ” Leo asked . It was still Sunday .",
    "Anna counted aloud : one , two , three . That made three birds .",
    "She gave him the horn . The tank seemed dull .",
    "The bow looked lovely .",
    "Leo was the new singer at the studio .",
    "The last day was Monday . He went to the harbor and steered his sail .",
    "The plan worked as that bow looked perfect .",
    "Luckily , it was a fine week .",
)
CANNOT_BE_TOLD = (
    "Anna counted aloud : one , two , three .",
    "He found lovely the bow bow old .",
    "the the sail anchor lovely broken net .",
    "Sail .",
)
SENTENCES = (*TOLD, *CANNOT_BE_TOLD)
BEHIND = "The sail drifted near the harbor . That made two birds ."


class EveryChoice(Draw):
    """Choices by a script, the first option where it ends; nothing is left out."""

    __slots__ = ("at", "counts", "script")

    def __init__(self, script: Sequence[int]) -> None:
        self.script, self.counts, self.at, self.nats = list(script), [], 0, 0.0

    def one(self, options: Sequence[Any]) -> Any:
        if self.at == len(self.script):
            self.script.append(0)
        self.counts.append(len(options))
        self.at += 1
        return options[self.script[self.at - 1]]

    def chance(self, probability: float) -> bool:
        return self.one((True, False))

    def weighted(self, options: Any) -> Any:
        return self.one(options.values)


class Plain(Retelling):
    """A telling that must say certain words."""

    __slots__ = ("wanted",)

    def say(self, *words: str) -> None:
        if self.wanted[len(self.words) :][: len(words)] != words:
            raise Parted
        self.words.extend(words)


def every_way(tell: Callable[[Telling], None], words: tuple[str, ...], place: Place) -> Iterator:
    """What is settled, said and gone on to in each way, in the order of the choices."""
    script: list[int] = []
    while True:
        draw = EveryChoice(script)
        telling = Plain(draw, place)
        telling.wanted = words
        telling.mark("place", place.part)
        try:
            tell(telling)
        except Parted:
            pass
        else:
            yield telling.settled, len(telling.words), tuple(draw.script), telling.day
        script = draw.script[: draw.at]
        while script and script[-1] + 1 == draw.counts[len(script) - 1]:
            script.pop()
        if not script:
            return
        script[-1] += 1


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def productions(world: World) -> Iterator[Callable[[Telling], None]]:
    for family in world.families.values():
        yield from (sentence for _, sentence in family.sentences)
    families: Any = world.families
    yield functools.partial(families["weekdays"].turn, part=2)
    yield families["topics"].begin
    yield families["sentiment"].begin
    yield families["sentiment"].end
    yield families["characters"].end


def of_a_stretch(
    tell: Callable[[Telling], None], words: tuple[str, ...], known: frozenset[str]
) -> tuple[list[tuple], bool]:
    stretch = Stretch(words, PLACE, known)
    ways = stretch.ways(tell)
    return [(way.settled, way.length, way.script, way.day) for way in ways], stretch.ran_over


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_ways_are_those_of_trying_every_choice_in_the_same_order(
    world: World, sentence: str
) -> None:
    words, known = tuple(sentence.split()), frozenset(world.class_of)
    n_ways = 0
    for tell in productions(world):
        found, _ = of_a_stretch(tell, words, known)
        assert found == list(every_way(tell, words, PLACE)), tell
        n_ways += len(found)
    assert (n_ways > 0) == (sentence in TOLD)


def test_a_stretch_that_nothing_runs_over_is_read_alike_with_more_behind_it(world: World) -> None:
    known = frozenset(world.class_of)
    behind = tuple(BEHIND.split())
    ran_over = set()
    for sentence, tell in itertools.product(SENTENCES, productions(world)):
        first = sentence.split(" ")
        end = min(i for i, word in enumerate(first) if word in ".?!") + 1
        words = tuple(first[:end])
        alone, runs_over = of_a_stretch(tell, words, known)
        more, _ = of_a_stretch(tell, (*words, *behind), known)
        if runs_over:
            ran_over.add(sentence)
        else:
            assert alone == more
    assert ran_over == {each for each in SENTENCES if "aloud" in each or "Where" in each}


def test_a_script_tells_the_same_words_again(world: World) -> None:
    words = tuple(TOLD[1].split())
    tell: Any = next(s for s in productions(world) if getattr(s, "__name__", "") == "handle")
    (way, *_) = Stretch(words, PLACE, frozenset(world.class_of)).ways(tell)
    telling = Retelling(Script(way.script), PLACE)
    tell(telling)
    assert tuple(telling.words) == words[: way.length] and telling.settled == way.settled
    assert telling.main is CHARACTERS["Leo"] and way.settled != NOTHING


def test_what_was_read_before_changes_no_reading(world: World) -> None:
    rng, stories = random.Random(0), []
    for index in range(4):
        text = world.story(world.rng("test", 1, index), labels=False).text
        sentences = re.findall(r"[^.]*\.", text)
        stories += [(" ".join(sentences[:2]), " ".join(sentences[2:8]))]
    for prompt, text in list(stories):
        words = text.split()
        i = rng.randrange(len(words))
        words[i] = rng.choice(world.vocabulary())
        stories += [(prompt, " ".join(words)), (prompt, " ".join(words[: len(words) // 2]))]
    reader = Reader(world)
    one_after_another = [reader.read(*story) for story in [*stories, *stories]]
    alone = [Reader(world).read(*story) for story in stories]
    assert one_after_another == [*alone, *alone]
    assert any(reading and 0 < reading.share < 1 for reading in alone)
