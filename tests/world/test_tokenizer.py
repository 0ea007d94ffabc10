"""One token for every word, there and back."""

from __future__ import annotations

import itertools

import pytest

from components.world.families.senses import DOUBLES
from components.world.families.topics import TOPICS
from components.world.grammar import World
from components.world.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def tokenizer(world):
    return build_tokenizer(world)


def test_every_content_word_is_one_token(tokenizer):
    words = [word for topic in TOPICS for word in topic.words] + list(DOUBLES)
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    assert all(len(i) == 1 and i[0] != tokenizer.unk_token_id for i in ids)
    assert len({i[0] for i in ids}) == len(words)


def test_stories_come_back_as_they_were(world, tokenizer):
    for story in itertools.islice(world.stories("test", 6), 200):
        ids = tokenizer(story.text)["input_ids"]
        assert len(ids) == story.n_words
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == story.text
        assert (
            tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == story.text
        )


def test_a_word_of_no_story_is_unknown_and_not_an_error(tokenizer):
    assert tokenizer("The zeppelin sank.")["input_ids"][1] == tokenizer.unk_token_id


def test_it_survives_saving(tmp_path, tokenizer):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "“I love the bank,” she said. Tom counted two steps: one, two."
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<bos>", "<eos>", "<pad>")
