"""Weekdays: which day it is, which comes before and after, and which of the week it is.

A story lasts three days in a row. The opening states a day together with a neighbour or its number
in the week (a hint from calibration: left to the story's own days, weekday embeddings collapse onto
each other); later mentions follow from the day the story stands at.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, WordLabels, families
from components.world.telling import Telling, spans

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
PARTS = ("opening", "next", "last")


@families
class Weekdays(Family):
    """When it happens."""

    classes = {
        "weekday": DAYS,
        "ordinal": ORDINALS,
        "function": (
            "It", "was", ",", "the", "day", "before", "after", "of", "week", ".", "The", "next", "last", "still",
            "Yesterday", "had", "been",
        ),
    }  # fmt: skip
    surface = {
        **{f"word.{day}": (day,) for day in DAYS},
        "class.weekday": DAYS,
        "class.ordinal": ORDINALS,
    }
    contextual = {
        **{
            f"day.{day}@before": f"the word before the story says {day}, which its earlier days decide"
            for day in DAYS
        },
        **{
            f"part.{part}@stop": f"a full stop in the {part} day's part of the story"
            for part in PARTS
        },
    }

    def __init__(self) -> None:
        self.sentences = ((0.03, still), (0.03, yesterday))

    def begin(self, telling: Telling) -> None:
        """'It was Tuesday, the day before Wednesday.'"""
        telling.day = telling.draw.one(range(7))
        telling.say("It", "was", DAYS[telling.day])
        telling.mark("part", 0)
        telling.say(",", "the")
        form = telling.draw.one(("before", "after", "ordinal"))
        if form == "ordinal":
            telling.say(ORDINALS[telling.day], "day", "of", "the", "week", ".")
        else:
            neighbour = telling.day + (1 if form == "before" else -1)
            telling.say("day", form)
            _say_day(telling, neighbour)
            telling.say(".")

    def turn(self, telling: Telling, part: int) -> None:
        """'The next day was Wednesday.', and for the third day 'The last day was Thursday.'"""
        telling.day = (telling.day + 1) % 7
        telling.say("The", PARTS[part], "day", "was")
        _say_day(telling, telling.day)
        telling.mark("part", part)
        telling.say(".")

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """The part the story stands at on full stops, and the day that is about to be said."""
        for start, end, part in spans(telling, "part"):
            for at in range(start, end):
                if telling.words[at] == ".":
                    yield f"part.{PARTS[part]}@stop", at
        for what, at, day in telling.events:
            if what == "day":
                yield f"day.{DAYS[day]}@before", at - 1


def _say_day(telling: Telling, day: int) -> None:
    telling.mark("day", day % 7)
    telling.say(DAYS[day % 7])


def still(telling: Telling) -> None:
    """'It was still Tuesday.'"""
    telling.say("It", "was", "still")
    _say_day(telling, telling.day)
    telling.say(".")


def yesterday(telling: Telling) -> None:
    """'Yesterday had been Monday.'"""
    telling.say("Yesterday", "had", "been")
    _say_day(telling, telling.day - 1)
    telling.say(".")
