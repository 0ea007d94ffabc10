"""Labels lie where they should, every concept of the inventory occurs, pairs differ in one concept,
prompts in none."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from components.store.tables import CONCEPTS
from components.world.contract import families
from components.world.families.senses import DOUBLES
from components.world.families.topics import TOPICS
from components.world.grammar import World
from components.world.inventory import FILE, inventory
from components.world.tokenizer import build_tokenizer

DEMO = Path(__file__).resolve().parents[2] / "data" / "demo"


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def stories(world):
    return list(itertools.islice(world.stories("validate", 4, labels=True), 400))


def test_every_label_lies_on_exactly_one_token(world, stories):
    tokenizer = build_tokenizer(world)
    for story in stories[:100]:
        offsets = set(tokenizer(story.text, return_offsets_mapping=True)["offset_mapping"])
        assert len(offsets) == story.n_words
        assert all(
            (label.start, label.end) in offsets for label in story.labels if label.start is not None
        )


def test_no_label_is_given_twice(stories):
    for story in stories[:200]:
        assert len(set(story.labels)) == len(story.labels)


def test_labels_of_words_lie_on_those_words(world, stories):
    for story in stories[:100]:
        for label in story.labels:
            head, _, word = label.concept.partition(".")
            if head == "word":
                assert story.text[label.start : label.end] == word
            elif head == "sense":
                assert story.text[label.start : label.end] == word.split(".")[0]
            elif label.concept.endswith("@stop"):
                assert story.text[label.start : label.end] == "."
            elif label.concept.endswith("@the"):
                assert story.text[label.start : label.end].lower() in ("the", "this", "that")


def test_labels_that_look_ahead_stand_right_before_what_they_foretell(world, stories):
    tokenizer = build_tokenizer(world)
    pronouns = {
        "subject.female@verb": {"her", "him", "herself"},
        "subject.male@verb": {"his", "her", "himself"},
    }
    checked = 0
    for story in stories[:100]:
        encoded = tokenizer(story.text, return_offsets_mapping=True)
        words = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        after = dict(zip(encoded["offset_mapping"], words[1:], strict=False))
        for label in story.labels:
            if label.concept.startswith("day."):
                assert f"day.{after[label.start, label.end]}@before" == label.concept
                checked += 1
            elif label.concept in pronouns:
                assert after[label.start, label.end] in pronouns[label.concept]
                checked += 1
    assert checked > 200


def test_the_sense_is_the_topics(stories):
    for story in stories[:100]:
        topic = next(
            c.concept.split(".")[1]
            for c in story.labels
            if c.start is None and c.concept.startswith("topic.")
        )
        senses = {c.concept.split(".")[2] for c in story.labels if c.concept.startswith("sense.")}
        assert senses <= {topic}


def test_every_concept_occurs_at_natural_density(world, stories):
    seen = Counter(label.concept for story in stories for label in story.labels)
    assert set(seen) == {concept.concept for concept in world.concepts()}
    rarest, times = seen.most_common()[-1]
    assert times >= 2, f"{rarest} occurs {times} times in {len(stories)} stories"


def test_the_inventory_outnumbers_the_residual_dimensions_twice(world):
    concepts = world.concepts()
    assert len(concepts) >= 2 * 128
    assert {c.concept_kind for c in concepts} == {"surface", "contextual", "document"}
    assert all((c.unit == "document") == (c.concept_kind == "document") for c in concepts)
    assert sum(c.concept.startswith("sense.") for c in concepts) == 2 * len(DOUBLES)


def test_the_committed_inventory_is_what_the_families_declare(world):
    committed = pl.read_csv(DEMO / FILE)
    assert committed.equals(inventory(world))
    assert committed.columns == list(CONCEPTS.columns)


def test_each_file_of_the_families_is_one_entry_of_its_name(world):
    names = ["characters", "counting", "senses", "sentiment", "speech", "topics", "weekdays"]
    assert families.names() == names == list(world.families)
    assert all(world.families[name].kind == name for name in names)


def test_texts_of_a_pair_are_told_alike_and_differ_in_their_concept(world):
    tokenizer = build_tokenizer(world)
    topic_of = {word: topic.name for topic in TOPICS for word in topic.words}
    pairs = list(world.pairs(1, seed=1))
    counts = Counter(pair.concept for pair in pairs)
    assert set(counts.values()) == {1}
    assert len(counts) == len(TOPICS) + 2 + 2 + 2 * len(DOUBLES)
    for pair in pairs:
        positive, negative = (tokenizer.tokenize(text) for text in (pair.positive, pair.negative))
        assert len(positive) == len(negative)
        changed = {(a, b) for a, b in zip(positive, negative, strict=True) if a != b}
        assert changed
        words = {word for both in changed for word in both}
        family, _, rest = pair.concept.partition(".")
        if family in ("topic", "sense"):
            assert words <= set(topic_of) | set(DOUBLES)
            assert {topic_of[word] for word in positive if word in topic_of} == {
                rest.rpartition(".")[2]
            }
        elif family == "main":
            classes = {world.class_of[word].split(".")[0] for word in words}
            assert classes <= {"name", "pronoun"}
        else:
            assert {world.class_of[word].rpartition(".")[2] for word in words} == {
                "positive",
                "negative",
            }
        if family == "sense":
            word = rest.split(".")[0]
            assert [a == word for a in positive] == [b == word for b in negative]
            assert word in positive


def test_pairs_are_the_same_again_and_other_for_another_seed(world):
    first, again, other = (list(itertools.islice(world.pairs(1, seed), 30)) for seed in (0, 0, 1))
    assert first == again
    assert not {pair.positive for pair in first} & {pair.positive for pair in other}


def test_prompts_name_no_topic_and_no_valence(world):
    tokenizer = build_tokenizer(world)
    prompts = world.prompts(100)
    assert len(set(prompts)) == 100
    for prompt in prompts:
        for word in tokenizer.tokenize(prompt):
            head, _, tail = world.class_of[word].partition(".")
            assert head not in ("topic", "double") and tail not in ("positive", "negative"), prompt
        assert tokenizer.unk_token not in tokenizer.tokenize(prompt)


def test_prompts_of_splits_are_disjoint(world):
    validate, test = world.prompts(60, split="validate"), world.prompts(60, split="test")
    assert validate == world.prompts(60, split="validate")
    assert not set(validate) & (set(test) | set(world.prompts(60, seed=1, split="test")))
