"""The grammar as a reader, on stories whose derivation is known."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from components.world.grammar import World, WorldConfig
from components.world.reading import Reader

DRAWN = 30
"""Stories of which the shortest is read: under the checks of shapes reading takes seconds."""


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def opening(text: str) -> tuple[str, str]:
    """The first two sentences, and the rest."""
    prompt = "".join(re.findall(r"[^.]*\.", text)[:2])
    return prompt, text[len(prompt) :]


def test_every_sentence_of_a_story_is_told_and_its_labels_are_exactly_the_storys(
    reader: Reader,
) -> None:
    stories = itertools.islice(World(WorldConfig(more=0.05)).stories("test", 0, labels=True), DRAWN)
    story = min(stories, key=lambda each: each.n_words)
    prompt, text = opening(story.text)
    reading = reader.read(prompt, text)
    assert reading is not None and reading.n_told == reading.n_sentences > 3
    true = {x.concept for x in story.labels if x.start is None or x.start >= len(prompt)}
    assert {concept for concept, share in reading.concepts.items() if share == 1.0} == true


def test_what_the_grammar_does_not_say_is_not_told(reader: Reader) -> None:
    prompt = "It was Sunday, the day before Monday. Leo woke early."
    text = "He looked happy. Leo was the new sailor at the harbor. It was still Sunday."
    spoilt = reader.read(prompt, f"{text} The sea sea sea the. Leo was moored anchor.")
    assert spoilt is not None and (spoilt.n_told, spoilt.n_sentences) == (3, 5)
    words = text.split()
    random.Random(0).shuffle(words)
    shuffled = reader.read(prompt, " ".join(words))
    assert shuffled is not None and shuffled.share < 0.3


def test_a_sentence_of_another_topic_is_told_by_another_story_alone(reader: Reader) -> None:
    prompt = "It was Sunday, the day before Monday. Leo woke early."
    one = " He looked happy. Leo was the new sailor at the harbor. He moored the net."
    reading = reader.read(prompt, one)
    assert reading is not None and reading.share == 1.0
    assert reading.concepts["topic.sea"] == 1.0 and "topic.farm" not in reading.concepts
    mixed = reader.read(prompt, f"{one} He milked the goat.")
    assert mixed is not None and (mixed.n_told, mixed.n_sentences) == (3, 4)
    assert mixed.concepts["topic.sea"] == 1.0 and "word.tractor" not in mixed.concepts


def test_where_two_readings_tell_as_much_each_has_its_part(reader: Reader) -> None:
    prompt = "It was Sunday, the day before Monday. Leo woke early."
    reading = reader.read(prompt, " He noticed the bow.")  # of the sea, or of music
    assert reading is not None and reading.share == 1.0
    assert reading.concepts["sense.bow.sea"] == pytest.approx(0.5)
    assert reading.concepts["topic.music"] == pytest.approx(0.5)
    assert reading.concepts["word.bow"] == pytest.approx(1.0)


def test_a_sentence_that_the_end_cuts_off_does_not_count(reader: Reader) -> None:
    prompt = "It was Sunday, the day before Monday. Leo woke early."
    reading = reader.read(prompt, " He looked happy. Leo was the new")
    assert reading is not None and (reading.n_told, reading.n_sentences) == (1, 1)


def test_what_is_no_opening_of_the_world_is_not_read(reader: Reader) -> None:
    assert reader.read("Once upon a time there was", "a dog.") is None
    assert reader.read("", "") is None
