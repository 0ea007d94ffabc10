"""The committed model is what docs/world.md says: near the entropy, right in gender and counting,
and small."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.world.families.characters import PRONOUNS
from components.world.families.counting import NUMBERS
from components.world.grammar import World, WorldConfig
from components.world.pretrain import DOCUMENTS, held_out_loss, story_digest
from components.world.tokenizer import build_tokenizer

DEMO = Path(__file__).resolve().parents[2] / "data" / "demo"
RIVALS = {
    "she": ("he",), "She": ("He",), "her": ("his", "him"), "herself": ("himself",),
    "he": ("she",), "He": ("She",), "his": ("her",), "him": ("her",), "himself": ("herself",),
}  # fmt: skip


@pytest.fixture(scope="module")
def provenance() -> dict:
    return json.loads((DEMO / "provenance.json").read_text())


@pytest.fixture(scope="module")
def world(provenance) -> World:
    return World(WorldConfig(**provenance["config"]["world"]))


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()


def test_it_is_small():
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 10 * 2**20


def test_its_tokenizer_is_that_of_the_grammar(tokenizer, world):
    assert tokenizer.get_vocab() == build_tokenizer(world).get_vocab()


def test_its_loss_is_within_a_tenth_of_a_nat_of_the_entropy(model, tokenizer, world, provenance):
    loss, entropy, n_tokens = held_out_loss(model, tokenizer, world, 90, "validate", 11)
    assert n_tokens > 10_000
    assert 1.0 <= entropy <= 2.0
    assert loss - entropy <= 0.10
    assert loss == pytest.approx(provenance["held_out_loss"], abs=0.05)


@torch.no_grad()
def test_it_gets_gender_and_counting_right(model, tokenizer, world):
    assert {form for forms in PRONOUNS.values() for form in forms} <= set(RIVALS)
    vocabulary = tokenizer.get_vocab()
    pronouns, counts = [], []
    for story in itertools.islice(world.stories("validate", 12, labels=True), 60):
        words = tokenizer.tokenize(story.text)
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(words)]])
        logits = model(input_ids=ids).logits[0]
        alone = all(label.concept != "characters.two" for label in story.labels)
        for at, word in enumerate(words):
            if alone and word in RIVALS:
                pronouns.append(
                    all(
                        logits[at, vocabulary[word]] > logits[at, vocabulary[r]]
                        for r in RIVALS[word]
                    )
                )
            if word in NUMBERS and words[at - 1] == "," and words[at - 2] in NUMBERS:
                counts.append(int(logits[at].argmax()) == vocabulary[word])
    assert len(pronouns) > 100 and len(counts) > 50
    assert sum(pronouns) / len(pronouns) >= 0.99
    assert sum(counts) / len(counts) >= 0.98


def test_it_was_pretrained_on_no_story_of_another_split(world, provenance):
    seen = set(load_file(DEMO / DOCUMENTS)["documents"].tolist())
    assert len(seen) == provenance["stories"]
    for split in (
        "train",
        "select",
        "explain",
        "calibrate",
        "judge",
        "validate",
        "neutral",
        "test",
    ):
        assert not seen & {
            story_digest(s.text) for s in itertools.islice(world.stories(split, 0), 50)
        }
