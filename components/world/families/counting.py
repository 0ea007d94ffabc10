"""Counting: sequences of number words that must come out right.

Declared counts say how far they go ('counted four steps: one, two, three, four.') and so must end
there; open counts end at random and then say their total. Either way every number is decided by
what stands before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, WordLabels, families
from components.world.telling import Telling, spans

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
COUNTED = ("steps", "birds", "people", "doors", "windows", "chairs")
LONGEST = 7


@families
class Counting(Family):
    """How many."""

    classes = {
        "number": NUMBERS,
        "counted": COUNTED,
        "function": ("counted", "aloud", ":", ",", ".", "That", "made", "There", "were"),
    }
    surface = {
        **{f"word.{word}": (word,) for word in NUMBERS[1:7]},
        "class.number": NUMBERS,
        "class.counted": COUNTED,
    }
    contextual = {
        **{
            f"count.{n}@comma": f"the comma in a count after {n} have been counted"
            for n in range(1, LONGEST)
        },
        "count.last": "the number word that completes a count whose goal was declared",
        "count.inside": "any token inside a count",
    }
    document = {"counting": "a story in which someone counts"}

    def __init__(self) -> None:
        self.sentences = ((0.035, declared), (0.035, open_ended))

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """How far a count has come."""
        counts = [(start, end, value) for start, end, value in spans(telling, "count") if value]
        if counts:
            yield "counting", None
        for start, end, value in counts:
            reached = 0
            for at in range(start, end):
                yield "count.inside", at
                if telling.words[at] == ",":
                    yield f"count.{reached}@comma", at
                else:
                    reached += 1
            if value == "declared":
                yield "count.last", end - 1


def _count(telling: Telling, total: int, how: str) -> None:
    telling.mark("count", how)
    for number in NUMBERS[: total - 1]:
        telling.say(number, ",")
    telling.say(NUMBERS[total - 1])
    telling.mark("count", None)
    telling.say(".")


def declared(telling: Telling) -> None:
    """'She counted three steps: one, two, three.'"""
    telling.subject()
    telling.manner()
    total = telling.draw.one(range(3, LONGEST + 1))
    telling.say("counted", NUMBERS[total - 1], telling.draw.one(COUNTED), ":")
    _count(telling, total, "declared")


def open_ended(telling: Telling) -> None:
    """'She counted aloud: one, two, three. That made three birds.'"""
    telling.subject()
    telling.manner()
    total = 2
    while total < LONGEST and telling.draw.chance(0.65):
        total += 1
    telling.say("counted", "aloud", ":")
    _count(telling, total, "open")
    telling.say("That", "made", NUMBERS[total - 1], telling.draw.one(COUNTED), ".")
