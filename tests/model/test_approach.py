"""What the unedited model predicts on text that was written under edits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.model.approach import Approach
from components.model.generation import generate
from components.model.intervention import Edit, Intervention, add
from components.model.language_model import LanguageModel
from tests import families, toys

PROMPTS = [[1, 5, 6], [1, 7, 8, 9, 10], [1, 4]]


def written_under(
    model: LanguageModel, *edits: Edit, prompts: list[list[int]] = PROMPTS
) -> tuple[Approach, list[list[int]]]:
    """The approach of a generation, and its text with the prompts."""
    approach = Approach(model, Intervention(edits), prompts)
    intervention = approach.kept() if approach.known else Intervention(edits)
    new = generate(
        model,
        prompts,
        max_new_tokens=6,
        temperature=1.0,
        seeds=range(len(prompts)),
        intervention=intervention,
        stop=[],
    )
    return approach, [[*prompt, *row] for prompt, row in zip(prompts, new, strict=True)]


def padded(texts: list[list[int]]) -> Tensor:
    width = max(map(len, texts))
    return torch.tensor([text + [0] * (width - len(text)) for text in texts])


def vector(model: LanguageModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(len(PROMPTS), model.d_model, generator=generator)


@pytest.mark.parametrize("place", ["resid_post.0", "resid_pre.1", "mlp_out.1", "resid_post.2"])
def test_predictions_are_those_of_the_whole_model_on_the_same_text(place: str) -> None:
    model = toys.tiny_model()
    approach, texts = written_under(model, add(place, vector(model)))
    tokens = padded(texts)
    plain = model.logits(tokens)
    assert approach.known
    for rows in ([0, 1, 2], [2, 0]):
        found = approach.logits(rows, tokens[rows])
        for found_row, row in zip(found, rows, strict=True):
            before_last = len(texts[row]) - 1
            torch.testing.assert_close(
                found_row[:before_last], plain[row, :before_last], atol=1e-4, rtol=1e-4
            )
    with model.edited(add(place, vector(model))):
        assert not torch.allclose(model.logits(tokens), plain, atol=1e-2), "the edit does something"


def test_the_earliest_of_several_edits_decides() -> None:
    model = toys.tiny_model()
    later, earlier = add("resid_post.1", vector(model)), add("resid_pre.1", -vector(model))
    approach, texts = written_under(model, later, earlier)
    tokens = padded(texts)
    found, plain = approach.logits([0, 1, 2], tokens), model.logits(tokens)
    torch.testing.assert_close(found[1, :-1], plain[1, :-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "falcon", "gpt_neo"])
def test_other_networks_too(name: str) -> None:
    model = families.model(name)
    approach, texts = written_under(model, add("resid_post.0", vector(model)))
    tokens = padded(texts)
    found, plain = approach.logits([0, 1, 2], tokens), model.logits(tokens)
    torch.testing.assert_close(found[1, :-1], plain[1, :-1], atol=1e-4, rtol=1e-4)


def test_nothing_is_kept_where_whole_passes_are_needed() -> None:
    model = toys.tiny_model()
    step = add("resid_post.1", vector(model))
    first_block = add("resid_pre.0", vector(model))
    module = add("module:model.layers.1.mlp:output", vector(model))
    for intervention in (
        Intervention(),
        Intervention((step, first_block)),
        Intervention((module,)),
        Intervention((step,), prefix=((5,), (6,), ())),
    ):
        assert not Approach(model, intervention, PROMPTS).known
    assert Approach(model, Intervention((step,)), PROMPTS).known


def test_earlier_blocks_are_not_run_again() -> None:
    model = toys.tiny_model()
    approach, texts = written_under(model, add("resid_post.1", vector(model)))
    approach.logits([0], padded(texts)[:1])  # tries whether blocks can be left out
    passes = []
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: passes.append(number))
    approach.logits([0, 1], padded(texts)[:2])
    assert passes == [2]
