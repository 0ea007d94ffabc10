"""Quoted speech: the same things said by someone, in the first person and the present, between
quotation marks."""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, WordLabels, families
from components.world.telling import Telling

LIKING = {
    "positive": ("love", "like", "enjoy", "adore"),
    "negative": ("hate", "dislike", "fear", "loathe"),
}


@families
class Speech(Family):
    """What is said."""

    classes = {
        "quote": ("“", "”"),
        **{f"liking.{valence}": words for valence, words in LIKING.items()},
        "function": ("asked", "I", "the", ",", ".", "Where", "is", "my", "?", "This", "!", "the"),
    }
    surface = {
        "class.quote": ("“", "”"),
        **{f"class.liking.{valence}": words for valence, words in LIKING.items()},
    }
    contextual = {
        "speech.inside": "any token between quotation marks",
        "speech.inside@the": "a determiner between quotation marks",
        "speech.inside@comma": "a comma between quotation marks",
        "speech.noun": "a noun of the topic between quotation marks",
    }
    document = {"speech": "a story in which someone speaks"}

    def __init__(self) -> None:
        self.sentences = ((0.06, like), (0.04, where), (0.04, praise))

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """What stands between quotation marks."""
        inside = spoken = False
        nouns = {*telling.topic.things, *telling.topic.places, *telling.doubles}
        for at, word in enumerate(telling.words):
            if word == "“":
                inside = spoken = True
            elif word == "”":
                inside = False
            elif inside:
                yield "speech.inside", at
                if class_of[word] == "determiner":
                    yield "speech.inside@the", at
                elif word == ",":
                    yield "speech.inside@comma", at
                elif word in nouns:
                    yield "speech.noun", at
        if spoken:
            yield "speech", None


def like(telling: Telling) -> None:
    """'“I love the compass,” she said.'"""
    telling.say("“", "I", telling.draw.one(LIKING[telling.mood.valence]))
    telling.determine()
    telling.say(telling.thing(), ",", "”")
    telling.subject(capital=False)
    telling.manner()
    telling.say(telling.draw.one(telling.mood.said))
    telling.stop()


def where(telling: Telling) -> None:
    """'“Where is my net?” Tom asked.'"""
    telling.say("“", "Where", "is", "my", telling.thing(), "?", "”")
    telling.subject(capital=False)
    telling.manner()
    telling.say("asked", ".")


def praise(telling: Telling) -> None:
    """'“This harbor is lovely!” Tom said.'"""
    telling.say(
        "“", "This", telling.draw.one(telling.topic.places), "is", telling.adjective(), "!", "”"
    )
    telling.subject(capital=False)
    telling.manner()
    telling.say(telling.draw.one(telling.mood.said))
    telling.stop()
