"""Twenty-four topics, each with its own people, things, places, actions and events.

The topic is settled in the opening and holds for the whole document; it shows on its own words and
must be remembered on the words that every topic shares. Contextual concepts: the topic on a
determiner, on an adjective, on an adverb, none of which says it.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.world.contract import Family, WordLabels, families
from components.world.telling import ADVERBS, CIRCUMSTANCES, QUALITIES, Telling, Topic

TOPICS = tuple(
    Topic(name, *(tuple(words.split()) for words in groups.split(",")))
    for name, groups in {
        "sea": "sailor captain, anchor sail net compass lighthouse, harbor beach, moored steered hauled launched, sank drifted floated",
        "river": "rafter angler, canoe paddle pebble trout bridge, waterfall dam, crossed rowed dredged netted, flowed splashed overflowed",
        "money": "banker cashier, coin wallet loan cheque purse, treasury exchange, paid spent saved borrowed, doubled matured dwindled",
        "farm": "farmer shepherd, tractor hay plow goat egg, barn stable, milked fed harvested herded, mooed grazed hatched",
        "kitchen": "cook baker, oven soup flour pan spoon, pantry bakery, baked stirred tasted fried, boiled sizzled melted",
        "music": "singer drummer, guitar violin melody flute song, studio hall, tuned strummed composed hummed, echoed resounded chimed",
        "school": "teacher student, lesson pencil textbook chalk homework, classroom library, studied taught learned memorized, squeaked smudged tore",
        "garden": "gardener florist, rose tulip hedge fern shovel, greenhouse lawn, watered planted weeded trimmed, bloomed sprouted wilted",
        "sport": "player goalkeeper, ball goal trophy racket whistle, stadium gym, kicked threw scored dribbled, bounced spun rebounded",
        "army": "soldier general, rifle helmet flag cannon uniform, fort trench, guarded fired attacked defended, exploded marched retreated",
        "weather": "forecaster meteorologist, cloud rain snow thunder rainbow, valley hilltop, predicted forecasted measured braved, thundered froze drizzled",
        "hospital": "doctor nurse, bandage medicine wound syringe stretcher, clinic ward, cured healed bandaged examined, bled ached recovered",
        "law": "lawyer judge, verdict crime contract jury gavel, prison courthouse, accused convicted signed appealed, prevailed adjourned lapsed",
        "computer": "programmer hacker, keyboard screen laptop password website, datacenter lab, coded typed downloaded installed, crashed rebooted blinked",
        "theater": "actor dancer, curtain costume script mask spotlight, balcony backstage, rehearsed performed applauded directed, premiered flopped dimmed",
        "travel": "traveler tourist, suitcase map ticket passport taxi, airport hotel, packed booked visited toured, departed arrived landed",
        "forest": "ranger woodcutter, pine moss mushroom acorn branch, clearing cabin, chopped gathered felled climbed, rustled swayed rotted",
        "space": "astronaut astronomer, rocket planet comet telescope moon, observatory spaceport, orbited explored discovered photographed, glowed twinkled spiraled",
        "sewing": "tailor dressmaker, fabric zipper ribbon dress yarn, boutique workshop, sewed stitched hemmed knitted, frayed unraveled wrinkled",
        "building": "builder carpenter, hammer brick ladder cement beam, scaffold foundation, hammered built welded sawed, collapsed leaned cracked",
        "office": "manager clerk, desk printer stapler memo envelope, lobby cubicle, filed printed copied scheduled, buzzed shredded piled",
        "wildlife": "zookeeper hunter, elephant tiger owl snake monkey, jungle savanna, tracked tamed hunted rescued, roared prowled slithered",
        "cards": "dealer gambler, ace joker dice jackpot wager, casino saloon, shuffled dealt gambled folded, flipped toppled scattered",
        "pets": "breeder veterinarian, puppy kitten hamster parrot leash, kennel shelter, petted groomed brushed leashed, purred wagged meowed",
    }.items()
)  # fmt: skip
SHARED_VERBS = (
    "saw", "found", "took", "wanted", "moved", "carried", "watched", "touched", "remembered", "needed", "lost", "kept",
    "showed", "chose", "hid", "brought", "cleaned", "described", "dropped", "lifted", "held", "sold", "bought", "liked",
)  # fmt: skip
NEUTRAL = {
    "determiner": "the",
    "adverb": "adverb",
    "quality": "adjective",
    "manner.positive": "adverb",
    "manner.negative": "adverb",
    "adjective.positive": "adjective",
    "adjective.negative": "adjective",
}
ON = {
    "the": "a determiner",
    "adverb": "an adverb",
    "adjective": "an adjective shared by all topics",
}


@families
class Topics(Family):
    """What the story is about."""

    classes = {
        **{f"topic.{topic.name}": topic.words for topic in TOPICS},
        "verb.shared": SHARED_VERBS,
        "adverb": ADVERBS,
        "quality": QUALITIES,
        "circumstance": tuple(dict.fromkeys(phrase[1] for phrase in CIRCUMSTANCES)),
        "determiner": ("the", "The", "this", "This", "that"),
        "function": (
            "near", "put", "beside", "and", "went", "to", "was", "new", "at", "with", "a", ".", ",",
            *dict.fromkeys(phrase[0] for phrase in CIRCUMSTANCES),
        ),
    }  # fmt: skip
    surface = {
        **{f"topicword.{topic.name}": topic.words for topic in TOPICS},
        **{
            f"word.{word}": (word,)
            for topic in TOPICS
            for word in (topic.things[0], topic.places[0])
        },
        "class.verb.shared": SHARED_VERBS,
        "class.adverb": ADVERBS,
        "class.quality": QUALITIES,
        "class.circumstance": tuple(dict.fromkeys(phrase[1] for phrase in CIRCUMSTANCES)),
        "class.determiner": ("the", "The", "this", "This", "that"),
    }
    contextual = {
        **{
            f"topic.{t.name}@{on}": f"{text}, in a story about {t.name}"
            for t in TOPICS
            for on, text in ON.items()
        },
    }
    document = {f"topic.{topic.name}": f"a story about {topic.name}" for topic in TOPICS}

    def __init__(self) -> None:
        self.by_name = {topic.name: topic for topic in TOPICS}
        self.sentences = ((0.11, act), (0.14, handle), (0.1, happen), (0.08, put), (0.07, go))

    def begin(self, telling: Telling) -> None:
        """'Anna was the new sailor at the harbor.'"""
        topic = telling.draw.one(TOPICS)
        telling.about(self.by_name[telling.force.get("topic", topic.name)])
        telling.role = telling.draw.one((0, 1))
        telling.say(telling.main.name, "was", "the", "new")
        telling.mark("told", telling.topic.name)
        telling.say(
            telling.topic.roles[telling.role],
            "at",
            "the",
            telling.draw.one(telling.topic.places),
            ".",
        )

    def labels(self, telling: Telling, class_of: Mapping[str, str]) -> WordLabels:
        """The topic once it has been told, on words that do not say it."""
        name = telling.topic.name
        yield f"topic.{name}", None
        told = next(at for what, at, _ in telling.events if what == "told")
        for at in range(told + 1, len(telling.words)):
            if on := NEUTRAL.get(class_of[telling.words[at]]):
                yield f"topic.{name}@{on}", at


def act(telling: Telling) -> None:
    """'She moored the sail.'"""
    telling.subject()
    telling.manner()
    telling.say(telling.draw.one(telling.topic.verbs))
    telling.determine()
    telling.say(telling.thing())
    telling.stop()


def handle(telling: Telling) -> None:
    """'Anna found the lovely compass near the beach.'"""
    telling.subject()
    telling.manner()
    telling.say(telling.draw.one(SHARED_VERBS))
    telling.determine()
    telling.say(telling.adjective(), telling.thing())
    if telling.draw.chance(0.5):
        telling.say("near", "the", telling.draw.one(telling.topic.places))
    telling.stop()


def happen(telling: Telling) -> None:
    """'The net drifted near the harbor.'"""
    telling.say("The", telling.thing())
    telling.manner()
    telling.say(telling.draw.one(telling.topic.events))
    if telling.draw.chance(0.4):
        telling.say("near", "the", telling.draw.one(telling.topic.places))
    telling.stop()


def put(telling: Telling) -> None:
    """'He put this anchor beside the lovely net.'"""
    telling.subject()
    telling.manner()
    telling.say("put")
    telling.determine()
    telling.say(telling.thing(), "beside")
    telling.determine()
    telling.say(telling.adjective(), telling.thing())
    telling.stop()


def go(telling: Telling) -> None:
    """'She went to the harbor and launched her sail.'"""
    who = telling.subject()
    telling.manner()
    telling.say("went", "to", "the", telling.draw.one(telling.topic.places), "and")
    telling.say(telling.draw.one(telling.topic.verbs))
    telling.agree(who, who.possessive)
    telling.say(telling.thing())
    telling.stop()
