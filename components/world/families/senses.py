"""Forty-eight words of two senses: each belongs to two topics, and only the document's topic says
which is meant.

The sentences around them are the same in every topic, and so is the rest of the vocabulary; what
follows from a sense (what such a thing does, who handles it) differs because the topic differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, WordLabels, families
from components.world.telling import Telling

DOUBLES = {
    word: tuple(topics.split())
    for word, topics in {
        "bow": "sea music", "port": "sea computer", "deck": "sea cards", "shell": "sea army",
        "bank": "river money", "bed": "river garden", "mouth": "river hospital", "fork": "river kitchen",
        "bill": "money wildlife", "diamond": "money cards", "note": "money music", "pen": "farm school",
        "calf": "farm hospital", "mouse": "farm computer", "horn": "farm music", "chip": "kitchen computer",
        "dish": "kitchen space", "jam": "kitchen travel", "pitch": "music sport", "board": "school office",
        "class": "school travel", "sentence": "school law", "bulb": "garden theater", "patch": "garden sewing",
        "spade": "garden cards", "court": "sport law", "bat": "sport wildlife", "coach": "sport travel",
        "drill": "army building", "tank": "army pets", "front": "army weather", "bolt": "weather building",
        "draft": "weather office", "mercury": "weather space", "cast": "hospital theater", "nail": "hospital building",
        "case": "law travel", "seal": "law office", "log": "computer forest", "star": "theater space",
        "lead": "theater pets", "trunk": "forest wildlife", "bark": "forest pets", "needle": "forest sewing",
        "pad": "space office", "collar": "sewing pets", "suit": "sewing cards", "crane": "building wildlife",
    }.items()
}  # fmt: skip


def doubles_of() -> dict[str, tuple[str, ...]]:
    """Topic -> its two-sense words (four for each topic)."""
    doubles: dict[str, tuple[str, ...]] = {}
    for word, topics in DOUBLES.items():
        for topic in topics:
            doubles[topic] = (*doubles.get(topic, ()), word)
    return doubles


@families
class Senses(Family):
    """Words of two senses."""

    classes = {
        "double": tuple(DOUBLES),
        "function": (
            "The",
            "the",
            "was",
            ".",
            "Everybody",
            "talked",
            "about",
            "Nobody",
            "forgot",
            "noticed",
        ),
    }
    surface = {f"word.{word}": (word,) for word in DOUBLES}
    contextual = {
        f"sense.{word}.{topic}": f"the word '{word}' as it is meant in stories about {topic}, not {other}"
        for word, topics in DOUBLES.items()
        for topic, other in (topics, topics[::-1])
    }

    def __init__(self) -> None:
        self.sentences = ((0.05, is_like), (0.06, meet), (0.04, talk))

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """The sense of each two-sense word, which is that of the story's topic."""
        for at, word in enumerate(telling.words):
            if class_of[word] == "double":
                yield f"sense.{word}.{telling.topic.name}", at


def is_like(telling: Telling) -> None:
    """'The bank looked lovely.'"""
    telling.say("The", telling.double(), telling.mood.looked, telling.adjective(), ".")


def meet(telling: Telling) -> None:
    """'She noticed the bank.'"""
    telling.subject()
    telling.manner()
    telling.say(telling.draw.one(("noticed", "forgot")))
    telling.determine()
    telling.say(telling.double())
    telling.stop()


def talk(telling: Telling) -> None:
    """'Everybody talked about the bank.'"""
    telling.say(telling.draw.one(("Everybody", "Nobody")), "talked", "about")
    telling.determine()
    telling.say(telling.double())
    telling.stop()
