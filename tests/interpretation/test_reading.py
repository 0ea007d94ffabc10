"""A text that lies in no corpus takes the way of a document: special tokens in it are no part of
it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.dictionary.architectures.topk import TopK, TopKConfig
from components.errors import InputError
from components.interpretation.reading import read_text
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.steering.writer import Prompt

PLACE = "resid_post.1"


@pytest.fixture(scope="module")
def model(shared: Path) -> LanguageModel:
    return ModelReference(ModelConfig(path=str(shared / "models/stories260k"))).load()


def test_special_tokens_in_a_text_or_prompt_are_no_part_of_it_and_counted(
    model: LanguageModel,
) -> None:
    dictionary = TopK(TopKConfig(d_sae=32, k=4), (PLACE,), (PLACE,), {PLACE: model.d_model})
    plain = read_text(model, dictionary, "One day. The end.", 64, torch.float32)
    found = read_text(model, dictionary, "One day.</s> <s> The \ud83d end.", 64, torch.float32)
    assert (plain.n_special, found.n_special) == (0, 2)
    assert not set(found.token.tolist()) & {1, 2}
    assert len(found.codes.offsets) == len(found.token) + 1
    with pytest.raises(
        InputError, match="the text has nothing but special tokens: wanted at least one word"
    ):
        read_text(model, dictionary, "</s><s>", 64, torch.float32)


def test_a_prompt_has_one_special_token_its_first(model: LanguageModel) -> None:
    prompt = Prompt.of(model, 3, "One day.</s> <s>")
    assert prompt.tokens[0] == model.tokenizer.bos_token_id
    assert not set(prompt.tokens[1:]) & {1, 2}
    assert prompt.n_special == 2
    assert Prompt.of(model, 0, "One day.").tokens == (
        model.tokenizer.bos_token_id, *model.tokenizer("One day.", add_special_tokens=False)["input_ids"]
    )  # fmt: skip
