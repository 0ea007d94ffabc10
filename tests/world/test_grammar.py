"""The grammar keeps its promises: determinism, exact entropy, agreement, and stories that differ
where they should."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from components.config import load
from components.errors import ConfigError
from components.world.draw import Draw, Weighted
from components.world.families.characters import NAMES, PRONOUNS
from components.world.families.counting import NUMBERS
from components.world.families.senses import DOUBLES
from components.world.families.topics import TOPICS
from components.world.families.weekdays import DAYS, ORDINALS
from components.world.grammar import SPLITS, World, WorldConfig
from components.world.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def told(world):
    """Two hundred labelled stories as (story, words)."""
    tokenizer = build_tokenizer(world)
    stories = list(itertools.islice(world.stories("validate", 3, labels=True), 200))
    return [(story, tokenizer.tokenize(story.text)) for story in stories]


def test_a_story_is_the_same_again_from_its_seed_with_or_without_labels(world):
    again = World()
    for index in range(20):
        first = world.story(world.rng("train", 5, index), labels=True)
        second = again.story(again.rng("train", 5, index), labels=False)
        assert (first.text, first.nats, first.n_words) == (second.text, second.nats, second.n_words)
        assert first.labels and not second.labels


def test_the_streams_of_splits_and_seeds_are_disjoint(world):
    streams = [(split, seed) for split in SPLITS for seed in (0, 1)]
    texts = [{s.text for s in itertools.islice(world.stories(*stream), 40)} for stream in streams]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 40 * len(streams)


def test_stories_can_be_started_anywhere(world):
    ten = [s.text for s in itertools.islice(world.stories("test", 0), 10)]
    assert next(world.stories("test", 0, start=7)).text == ten[7]


def test_there_are_twenty_topics_and_forty_words_of_two_senses_and_no_word_belongs_to_two_topics():
    assert len(TOPICS) >= 20
    assert len(DOUBLES) >= 40
    words = [word for topic in TOPICS for word in topic.words]
    assert len(words) == len(set(words))
    assert not set(words) & set(DOUBLES)
    assert all(len(topic.things) == 5 and len(topic.verbs) == 4 for topic in TOPICS)


def test_every_topic_has_four_words_of_two_senses(world):
    for topic in TOPICS:
        assert sum(topic.name in topics for topics in DOUBLES.values()) == 4


def test_a_choice_costs_minus_the_log_of_its_probability():
    draw = Draw(np.random.default_rng(0))
    draw.one("abcd")
    assert draw.nats == pytest.approx(math.log(4))
    happens = draw.chance(0.2)
    assert draw.nats == pytest.approx(math.log(4) - math.log(0.2 if happens else 0.8))
    before = draw.nats
    value = draw.weighted(Weighted([(3, "often"), (1, "rarely")]))
    assert draw.nats - before == pytest.approx(-math.log(0.75 if value == "often" else 0.25))


def test_weighted_choices_come_as_often_as_their_weights_say():
    draw = Draw(np.random.default_rng(1))
    options = Weighted([(3, "often"), (1, "rarely")])
    share = sum(draw.weighted(options) == "often" for _ in range(4000)) / 4000
    assert share == pytest.approx(0.75, abs=0.03)


def test_the_mean_cost_of_a_story_agrees_with_the_entropy_of_its_choices(world):
    """An independent account: over replays, the cost of the opening's choices is log of their
    number of outcomes."""
    for index in range(5):
        draw = Draw(world.rng("test", 9, index))
        draw.one(range(7))
        draw.one(("before", "after", "ordinal"))
        assert draw.nats == pytest.approx(math.log(21))
    stories = list(itertools.islice(world.stories("test", 9), 400))
    per_token = sum(s.nats for s in stories) / sum(s.n_words + 1 for s in stories)
    assert 1.0 <= per_token <= 2.0


def test_stories_are_short(world):
    lengths = [s.n_words for s in itertools.islice(world.stories("test", 2), 300)]
    assert 90 <= np.mean(lengths) <= 135


def test_the_hazard_lengthens_stories():
    short, long = World(WorldConfig(more=0.3)), World(WorldConfig(more=0.8))
    lengths = [
        np.mean([s.n_words for s in itertools.islice(w.stories("test", 0), 60)])
        for w in (short, long)
    ]
    assert lengths[0] < lengths[1]


def test_a_hazard_of_one_is_refused():
    with pytest.raises(ConfigError, match="more: Input should be less than 1"):
        load(WorldConfig, {"more": 1.0})


def test_pronouns_agree_with_the_only_character(told):
    of = {gender: {*forms, forms[0].capitalize()} for gender, forms in PRONOUNS.items()}
    checked = 0
    for story, words in told:
        if any(label.concept == "characters.two" for label in story.labels):
            continue
        gender = next(g for g in NAMES if any(name in words for name in NAMES[g]))
        other = "male" if gender == "female" else "female"
        assert not set(words) & (of[other] | set(NAMES[other]))
        checked += len(set(words) & of[gender])
    assert checked > 100


def test_with_two_characters_the_object_is_the_other_one(told):
    checked = 0
    for story, words in told:
        if not any(label.concept == "characters.two" for label in story.labels):
            continue
        main = next(word for word in words if word in (*NAMES["female"], *NAMES["male"]))
        female_main = main in NAMES["female"]
        for at, word in enumerate(words):
            if word in ("helped", "thanked", "met", "followed", "gave"):
                start = max(i for i in range(at) if words[i] == ".") + 1
                female = (
                    words[start] == "She"
                    or words[start] in NAMES["female"]
                    or (words[start] == "The" and female_main)
                )
                assert words[at + 1] == ("him" if female else "her")
                checked += 1
    assert checked > 20


def test_counts_come_out_right(told):
    declared = open_ended = 0
    for _, words in told:
        for at, word in enumerate(words):
            if word != ":":
                continue
            end = words.index(".", at)
            counted = words[at + 1 : end : 2]
            assert counted == list(NUMBERS[: len(counted)])
            if words[at - 1] == "aloud":
                assert words[end + 1 : end + 4] == ["That", "made", counted[-1]]
                open_ended += 1
            else:
                assert words[at - 2] == counted[-1]
                declared += 1
    assert declared > 20 and open_ended > 20


def test_weekdays_follow_one_another(told):
    for _, words in told:
        day = DAYS.index(words[2])
        if words[5] in ORDINALS:
            assert (ORDINALS.index(words[5]) == words[2:3] and False) or ORDINALS.index(
                words[5]
            ) == day
        else:
            step = 1 if words[6] == "before" else -1
            assert DAYS.index(words[7]) == (day + step) % 7
        for at, word in enumerate(words):
            if words[at - 2 : at] == ["day", "was"]:
                day = (day + 1) % 7
                assert word == DAYS[day]
            elif words[at - 1] == "still":
                assert word == DAYS[day]
            elif words[at - 1] == "been":
                assert word == DAYS[day - 1]


def test_topic_words_stay_in_their_topic_and_qualities_in_their_valence(told, world):
    topic_of = {word: topic.name for topic in TOPICS for word in topic.words}
    for story, words in told:
        present = {label.concept for label in story.labels if label.start is None}
        assert {topic_of[word] for word in words if word in topic_of} == {
            concept.split(".")[1] for concept in present if concept.startswith("topic.")
        }
        valence = next(c.split(".")[1] for c in present if c.startswith("sentiment."))
        moods = {world.class_of[word].rpartition(".")[2] for word in words} & {
            "positive",
            "negative",
        }
        assert moods == {valence}
