"""Characters: one or two people with names, genders and the pronouns that agree.

Where there are two they have opposite genders, so a pronoun says who is meant, and the object of
'helped' is always the other one: agreement within a sentence and reference across sentences are
both decidable.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, WordLabels, families
from components.world.telling import Character, Telling

NAMES = {
    "female": (
        "Anna",
        "Mary",
        "Lucy",
        "Emma",
        "Sara",
        "Rosa",
        "Clara",
        "Nina",
        "Ella",
        "Ida",
        "Vera",
        "Lena",
        "Julia",
        "Alice",
    ),
    "male": (
        "Tom",
        "Jack",
        "Peter",
        "Ben",
        "Sam",
        "Max",
        "Leo",
        "Paul",
        "Karl",
        "Hugo",
        "Oscar",
        "Felix",
        "David",
        "Simon",
    ),
}
PRONOUNS = {"female": ("she", "her", "her", "herself"), "male": ("he", "him", "his", "himself")}
PEOPLE = {
    gender: tuple(Character(name, gender, *PRONOUNS[gender]) for name in names)
    for gender, names in NAMES.items()
}
OPPOSITE = {"female": "male", "male": "female"}
PLANS = (
    ("woke", "early"), ("had", "a", "plan"), ("left", "the", "house"), ("was", "ready"), ("made", "some", "tea"),
    ("read", "a", "letter"),
)  # fmt: skip
HELPED = ("helped", "thanked", "met", "followed")
BELONGINGS = ("bag", "coat", "book", "lunch", "umbrella", "diary")
ON = {"stop": "a full stop", "comma": "a comma", "quote": "a closing quotation mark"}


@families
class Characters(Family):
    """Who the story is about."""

    classes = {
        **{f"name.{gender}": names for gender, names in NAMES.items()},
        "pronoun.female": ("she", "She", "her", "herself"),
        "pronoun.male": ("he", "He", "him", "his", "himself"),
        "helping": HELPED,
        "belonging": BELONGINGS,
        "function": (
            "woke", "early", "had", "a", "plan", "left", "the", "house", "was", "ready", "there", "too", ".",
            "gave", "opened", "cared", "for", "trusted", "made", "some", "tea", "read", "letter", "At", "last", "went", "home", "the",
        ),
    }  # fmt: skip
    surface = {
        **{f"class.name.{gender}": names for gender, names in NAMES.items()},
        "class.pronoun.female": ("she", "She", "her", "herself"),
        "class.pronoun.male": ("he", "He", "him", "his", "himself"),
    }
    contextual = {
        **{
            f"main.{g}@{on}": f"{text}, in a story with a {g} main character"
            for g in NAMES
            for on, text in ON.items()
        },
        **{
            f"subject.{g}@verb": f"the word before a pronoun that a {g} subject decides"
            for g in NAMES
        },
    }
    document = {
        **{f"main.{gender}": f"a story with a {gender} main character" for gender in NAMES},
        "characters.two": "a story with two characters",
    }

    def __init__(self) -> None:
        self.sentences = ((0.05, help_or_trust), (0.04, give), (0.04, belongings))

    def begin(self, telling: Telling) -> None:
        """'Anna woke early. Tom was there too.'"""
        gender = telling.draw.one(("female", "male"))
        gender = telling.force.get("gender", gender)
        telling.main = telling.draw.one(PEOPLE[gender])
        telling.mark("main", gender)
        telling.say(telling.main.name, *telling.draw.one(PLANS), ".")
        telling.other = None
        if telling.draw.chance(0.4):
            telling.other = telling.draw.one(PEOPLE[OPPOSITE[gender]])
            telling.say(telling.other.name, "was", "there", "too", ".")

    def end(self, telling: Telling) -> None:
        """'At last Anna went home.'"""
        telling.say("At", "last")
        telling.subject(capital=False)
        telling.say("went", "home", ".")

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """The main character's gender on punctuation, and the subject's where a pronoun is about to
        agree with it."""
        gender = telling.main.gender
        yield f"main.{gender}", None
        if telling.other is not None:
            yield "characters.two", None
        on = {".": "stop", ",": "comma", "”": "quote"}
        first = next(at for what, at, _ in telling.events if what == "main")
        for at in range(first + 1, len(telling.words)):
            if place := on.get(telling.words[at]):
                yield f"main.{gender}@{place}", at
        for what, at, who in telling.events:
            if what == "agree":
                yield f"subject.{who}@verb", at - 1


def help_or_trust(telling: Telling) -> None:
    """'Tom helped her.' with two characters, 'Tom trusted himself.' with one."""
    who = telling.subject()
    telling.manner()
    if telling.other is None:
        telling.say("trusted")
        telling.agree(who, who.reflexive)
    else:
        telling.say(telling.draw.one(HELPED))
        telling.agree(who, _but(telling, who).object)
    telling.stop()


def give(telling: Telling) -> None:
    """'She gave him the net.' with two characters, 'She cared for her net.' with one."""
    who = telling.subject()
    telling.manner()
    if telling.other is None:
        telling.say("cared", "for")
        telling.agree(who, who.possessive)
    else:
        telling.say("gave")
        telling.agree(who, _but(telling, who).object)
        telling.determine()
    telling.say(telling.thing())
    telling.stop()


def belongings(telling: Telling) -> None:
    """'She opened her bag.'"""
    who = telling.subject()
    telling.manner()
    telling.say("opened")
    telling.agree(who, who.possessive)
    telling.say(telling.draw.one(BELONGINGS))
    telling.stop()


def _but(telling: Telling, who: Character) -> Character:
    assert telling.other is not None
    return telling.main if who is telling.other else telling.other
