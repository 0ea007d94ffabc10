"""Sentiment: a story goes well or badly, and says so wherever a quality, a feeling or an outcome is named.

The valence is settled in the opening; every adjective, every reaction, every outcome and the ending follow it, so a
model that does not track it loses a bit on each of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, Found, Telling, families

FEELINGS = {"positive": ("happy", "glad", "cheerful", "proud"), "negative": ("sad", "lonely", "miserable", "worried")}
REACTIONS = {
    "positive": ("smiled", "laughed", "cheered", "rejoiced"),
    "negative": ("cried", "frowned", "sighed", "wept"),
}
OUTCOMES = {"positive": ("worked", "succeeded"), "negative": ("failed", "backfired")}
ADJECTIVES = {
    "positive": (
        "lovely",
        "bright",
        "wonderful",
        "perfect",
        "beautiful",
        "splendid",
        "nice",
        "great",
        "fine",
        "charming",
        "fresh",
        "shiny",
        "sturdy",
        "pleasant",
        "superb",
        "priceless",
    ),
    "negative": (
        "horrible",
        "dreadful",
        "broken",
        "dirty",
        "terrible",
        "gloomy",
        "nasty",
        "bad",
        "rotten",
        "shabby",
        "cheap",
        "damaged",
        "dull",
        "faulty",
        "useless",
        "filthy",
    ),
}
ON = {"stop": "the full stop", "the": "a determiner"}


@families
class Sentiment(Family):
    """Whether the story goes well."""

    classes = {
        **{f"feeling.{valence}": words for valence, words in FEELINGS.items()},
        **{f"reaction.{valence}": words for valence, words in REACTIONS.items()},
        **{f"outcome.{valence}": words for valence, words in OUTCOMES.items()},
        **{f"adjective.{valence}": words for valence, words in ADJECTIVES.items()},
        "function": ("felt", "and", "The", "plan", "looked", "It", "was", "a", "week", ".", "because", "the"),
    }
    surface = {
        **{f"class.adjective.{valence}": words for valence, words in ADJECTIVES.items()},
        **{f"class.feeling.{valence}": words for valence, words in FEELINGS.items()},
        **{f"class.reaction.{valence}": words for valence, words in REACTIONS.items()},
    }
    contextual = {
        f"sentiment.{valence}@{on}": f"{text}, in a story that has shown itself {valence}"
        for valence in ADJECTIVES
        for on, text in ON.items()
    }
    document = {f"sentiment.{valence}": f"a {valence} story" for valence in ADJECTIVES}

    def __init__(self) -> None:
        self.sentences = ((0.05, react), (0.04, judge), (0.04, because))

    def begin(self, telling: Telling) -> None:
        """'She felt happy.'"""
        valence = telling.draw.one(("positive", "negative"))
        telling.valence = telling.force.get("valence", valence)
        telling.adjectives = ADJECTIVES[telling.valence]
        telling.say(telling.main.subject.capitalize(), "felt", telling.draw.one(FEELINGS[telling.valence]))
        telling.mark("valence", telling.valence)
        telling.say(".")

    def end(self, telling: Telling) -> None:
        """'It was a wonderful week.'"""
        telling.say("It", "was", "a", telling.adjective(), "week", ".")

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> Found:
        """The valence once it has shown."""
        yield f"sentiment.{telling.valence}", None
        shown = next(at for what, at, _ in telling.events if what == "valence")
        for at in range(shown, len(telling.words)):
            word = telling.words[at]
            if word == "." or class_of[word] == "determiner":
                yield f"sentiment.{telling.valence}@{'stop' if word == '.' else 'the'}", at


def react(telling: Telling) -> None:
    """'Tom smiled and felt proud.'"""
    telling.subject()
    telling.manner()
    telling.say(telling.draw.one(REACTIONS[telling.valence]), "and", "felt")
    telling.say(telling.draw.one(FEELINGS[telling.valence]), ".")


def judge(telling: Telling) -> None:
    """'The plan worked and the anchor looked perfect.'"""
    telling.say("The", "plan", telling.draw.one(OUTCOMES[telling.valence]), "and")
    telling.determine()
    telling.say(telling.thing(), "looked", telling.adjective(), ".")


def because(telling: Telling) -> None:
    """'She laughed because the net was great.'"""
    telling.subject()
    telling.manner()
    telling.say(telling.draw.one(REACTIONS[telling.valence]), "because")
    telling.determine()
    telling.say(telling.thing(), "was")
    telling.say(telling.adjective(), ".")
