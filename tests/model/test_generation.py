"""Generation: every row as if it were alone and uncached, edits at exactly their tokens, and a
published greedy text."""

from __future__ import annotations

import json

import pytest
import torch

from components.device import Execution
from components.errors import CapabilityError, InputError
from components.model.generation import generate, uniform
from components.model.intervention import Intervention, add
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from tests import toys

PROMPTS = [[1, 4, 6, 12, 15, 4], [1, 5, 8], [1], [1, 20, 21, 22]]
POINT = "resid_post.1"


@pytest.fixture(params=toys.LAYOUTS, scope="module")
def model(request):
    return toys.tiny_model(request.param)


def plainly(model, prompt, vector, edited, n, stop):
    """Greedy continuation of one prompt without a cache: every step runs the whole text, edited
    where `edited` says."""
    row = list(prompt)
    for _ in range(n):
        mask = torch.tensor([[edited(position, len(prompt)) for position in range(len(row))]])
        token = int(
            model.logits(torch.tensor([row]), edits=[add(POINT, vector, mask)])[0, -1].argmax()
        )
        if token in stop:
            break
        row.append(token)
    return row[len(prompt) :]


@pytest.mark.parametrize(
    ("positions", "edited"),
    [
        ("all", lambda position, prompt: True),
        ("prompt", lambda position, prompt: position < prompt),
        ("generated", lambda position, prompt: position >= prompt),
        ([0, 2, 4], lambda position, prompt: position in (0, 2, 4)),
        ([-1], lambda position, prompt: position == prompt - 1),
        (
            torch.tensor([[0, 1, 0, 1, 0, 1, 1]] * 4).bool(),
            lambda position, prompt: position in (1, 3, 5, 6),
        ),
    ],
)
def test_cached_batched_generation_edits_exactly_the_tokens_named(model, positions, edited):
    vectors = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)) * 3
    ours = generate(
        model,
        PROMPTS,
        max_new_tokens=5,
        temperature=0,
        seeds=[0] * 4,
        stop=[2],
        intervention=Intervention((add(POINT, vectors, positions),)),
    )
    assert ours == [
        plainly(model, p, v, edited, 5, [2]) for p, v in zip(PROMPTS, vectors, strict=True)
    ]


def test_a_rows_sample_does_not_depend_on_its_batch(model):
    def sampled(prompts, seeds):
        return generate(model, prompts, max_new_tokens=12, temperature=1.0, seeds=seeds)

    together = sampled(PROMPTS, [5, 6, 7, 8])
    assert together == [
        sampled([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, [5, 6, 7, 8], strict=True)
    ]
    assert sampled(PROMPTS[::-1], [8, 7, 6, 5]) == together[::-1]
    assert sampled(PROMPTS, [5, 6, 7, 9])[:3] == together[:3]


def test_sampled_tokens_have_the_models_distribution():
    model, n = toys.tiny_model(), 4000
    made = generate(model, [[1, 4]] * n, max_new_tokens=1, temperature=1.5, seeds=range(n), stop=[])
    wanted = (model.logits(torch.tensor([[1, 4]]))[0, -1].double() / 1.5).softmax(0)
    counts = torch.bincount(torch.tensor(made)[:, 0], minlength=model.vocab_size)
    spread = (n * wanted * (1 - wanted)).sqrt()
    assert ((counts - n * wanted).abs() < 4.5 * spread + 1).all()


def test_uniform_numbers_are_even_and_unrelated_between_seeds_and_steps():
    u = torch.stack([uniform(torch.arange(2000), step) for step in range(20)])
    assert u.min() >= 0 and u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 0.01 and abs(float(u.var()) - 1 / 12) < 0.002
    assert torch.corrcoef(u).fill_diagonal_(0).abs().max() < 0.1
    assert torch.corrcoef(u[:, :40].T).fill_diagonal_(0).abs().max() < 0.9
    assert float(uniform(torch.tensor([0]), 0)) == float(uniform(torch.tensor([3, 0]), 0)[1])


def test_rows_end_at_a_stop_token_and_leave_it_out():
    model = toys.tiny_model()
    free = generate(model, PROMPTS, max_new_tokens=10, temperature=1.0, seeds=[1, 2, 3, 4], stop=[])
    assert [len(row) for row in free] == [10] * 4
    stop = free[1][3]
    ended = generate(
        model, PROMPTS, max_new_tokens=10, temperature=1.0, seeds=[1, 2, 3, 4], stop=[stop]
    )
    assert ended == [row[: row.index(stop)] if stop in row else row for row in free]
    assert generate(model, [], max_new_tokens=3, temperature=0, seeds=[]) == []


def test_generation_that_cannot_be_is_refused():
    model = toys.tiny_model()
    with pytest.raises(
        InputError, match="prompt 1 has no tokens; begin it with the model's first token"
    ):
        generate(model, [[1], []], max_new_tokens=1, temperature=0, seeds=[0, 0])
    with pytest.raises(
        InputError,
        match="a prompt of 100 tokens and 29 new ones do not fit the model's 128 positions",
    ):
        generate(model, [[1] * 100], max_new_tokens=29, temperature=0, seeds=[0])
    with pytest.raises(CapabilityError, match="generation"):
        generate(
            LanguageModel(toys.tiny_network().model),
            [[1]],
            max_new_tokens=1,
            temperature=0,
            seeds=[0],
        )


def test_the_greedy_text_that_llama2c_publishes(shared):
    folder = shared / "models/stories260k"
    published = json.loads((folder / "reference.json").read_text())["greedy"]
    model = ModelReference(ModelConfig(path=str(folder))).load(Execution(device="cpu"))
    # steering with strength 0 changes nothing
    zero = Intervention((add("resid_post.2", torch.zeros(64)),))
    n = published["max_new_tokens"]
    ours = generate(
        model,
        [published["start_ids"]],
        max_new_tokens=n,
        temperature=0,
        seeds=[0],
        intervention=zero,
    )
    assert model.tokenizer.decode(ours[0]).strip() == published["text"].strip()
