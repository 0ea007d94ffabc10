"""Sentiment: a story goes well or badly, and says so wherever a quality, a manner, a feeling or an
outcome is named.

The valence is settled in the opening; every adjective, reaction and outcome, many adverbs, the
verbs of seeming and saying, and the ending follow it, about one token in seven, so a model that
does not track it loses a bit on each. A first version, in which the valences differed by adjectives
and feelings alone, was not learnt in 4 million tokens: the two classes of words stood in the same
places and their embeddings fell together.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, WordLabels, families
from components.world.telling import Mood, Telling

MOODS = {
    "positive": Mood(
        "positive",
        tuple(
            [
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
            ]
        ),
        tuple(
            [
                "happily",
                "gladly",
                "proudly",
                "kindly",
                "bravely",
                "gracefully",
                "joyfully",
                "skillfully",
            ]
        ),
        looked="looked",
        because="when",
        so="as",
        luckily="Luckily",
        said=("said", "sang", "called"),
    ),
    "negative": Mood(
        "negative",
        tuple(
            [
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
            ]
        ),
        tuple(
            ["sadly", "angrily", "badly", "nervously", "bitterly", "clumsily", "grimly", "wearily"]
        ),
        looked="seemed",
        because="because",
        so="so",
        luckily="Alas",
        said=("moaned", "muttered", "growled"),
    ),
}
FEELINGS = {
    "positive": ("happy", "glad", "cheerful", "proud", "calm", "hopeful"),
    "negative": ("sad", "lonely", "miserable", "worried", "angry", "tired"),
}
REACTIONS = {
    "positive": ("smiled", "laughed", "cheered", "rejoiced", "danced", "clapped"),
    "negative": ("cried", "frowned", "sighed", "wept", "sobbed", "groaned"),
}
OUTCOMES = {"positive": ("worked", "succeeded"), "negative": ("failed", "backfired")}
ON = {"stop": "the full stop", "the": "a determiner"}


@families
class Sentiment(Family):
    """Whether the story goes well."""

    classes = {
        **{f"feeling.{valence}": words for valence, words in FEELINGS.items()},
        **{f"reaction.{valence}": words for valence, words in REACTIONS.items()},
        **{f"outcome.{valence}": words for valence, words in OUTCOMES.items()},
        **{f"adjective.{valence}": mood.adjectives for valence, mood in MOODS.items()},
        **{f"manner.{valence}": mood.adverbs for valence, mood in MOODS.items()},
        **{f"saying.{valence}": mood.said for valence, mood in MOODS.items()},
        **{
            f"frame.{valence}": (mood.looked, mood.because, mood.so, mood.luckily)
            for valence, mood in MOODS.items()
        },
        "function": ("The", "plan", "it", "was", "a", "week", ".", ","),
    }
    surface = {
        **{f"class.adjective.{valence}": mood.adjectives for valence, mood in MOODS.items()},
        **{f"class.manner.{valence}": mood.adverbs for valence, mood in MOODS.items()},
        **{f"class.saying.{valence}": mood.said for valence, mood in MOODS.items()},
        **{f"class.feeling.{valence}": words for valence, words in FEELINGS.items()},
        **{f"class.reaction.{valence}": words for valence, words in REACTIONS.items()},
    }
    contextual = {
        f"sentiment.{valence}@{on}": f"{text}, in a story that has shown itself {valence}"
        for valence in MOODS
        for on, text in ON.items()
    }
    document = {f"sentiment.{valence}": f"a {valence} story" for valence in MOODS}

    def __init__(self) -> None:
        self.sentences = ((0.05, react), (0.04, judge), (0.05, because))

    def begin(self, telling: Telling) -> None:
        """'She looked happy.', or 'She seemed sad.'"""
        valence = telling.draw.one(tuple(MOODS))
        telling.mood = MOODS[telling.force.get("valence", valence)]
        telling.say(telling.main.subject.capitalize())
        telling.mark("valence", telling.mood.valence)
        telling.say(telling.mood.looked, telling.draw.one(FEELINGS[telling.mood.valence]), ".")

    def end(self, telling: Telling) -> None:
        """'Luckily, it was a wonderful week.', or 'Alas, it was a terrible week.'"""
        telling.say(telling.mood.luckily, ",", "it", "was", "a", telling.adjective(), "week", ".")

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """The valence once it has shown."""
        valence = telling.mood.valence
        yield f"sentiment.{valence}", None
        shown = next(at for what, at, _ in telling.events if what == "valence")
        for at in range(shown, len(telling.words)):
            word = telling.words[at]
            if word == "." or class_of[word] == "determiner":
                yield f"sentiment.{valence}@{'stop' if word == '.' else 'the'}", at


def react(telling: Telling) -> None:
    """'Tom smiled and looked proud.', or 'Tom cried and seemed sad.'"""
    telling.subject()
    telling.manner()
    telling.say(telling.draw.one(REACTIONS[telling.mood.valence]), "and", telling.mood.looked)
    telling.say(telling.draw.one(FEELINGS[telling.mood.valence]), ".")


def judge(telling: Telling) -> None:
    """'The plan worked as the anchor looked perfect.', or 'The plan failed so the anchor seemed
    cheap.'"""
    telling.say("The", "plan", telling.draw.one(OUTCOMES[telling.mood.valence]), telling.mood.so)
    telling.determine()
    telling.say(telling.thing(), telling.mood.looked, telling.adjective(), ".")


def because(telling: Telling) -> None:
    """'She laughed when the net looked great.', or 'She wept because the net seemed dull.'"""
    telling.subject()
    telling.manner()
    telling.say(telling.draw.one(REACTIONS[telling.mood.valence]), telling.mood.because)
    telling.determine()
    telling.say(telling.thing(), telling.mood.looked, telling.adjective(), ".")
