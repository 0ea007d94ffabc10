"""Every operator is exact: nothing at strength 0, the same in any batch, padding and cache, nothing
before the edited token, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from components.device import Execution
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary, untrained
from components.model.continuation import ContinuedRows
from components.model.generation import generate
from components.model.intervention import Intervention, logits_under, replace
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.steering.contract import Steering
from components.steering.methods.clamp_latent import ClampLatent
from components.steering.methods.logit_bias import RaiseWords
from components.steering.methods.reconstruction_only import Reconstruction
from components.steering.methods.scale_latent import ScaleLatent
from components.steering.vector import OPERATORS, AddVector, Vectors
from tests import toys

POINT, FURTHER = "resid_post.1", "attn_out.1"
ROWS = [[1, 4, 6, 12, 15, 4], [1, 5, 8], [1], [1, 20, 21, 22]]
TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4], [1, 5, 8, 13, 16, 20]])


def directions(width: int, n: int) -> torch.Tensor:
    drawn = torch.randn(n, width, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.normalize(drawn, dim=1)


def dictionary_of(model: LanguageModel) -> Dictionary:
    """Random latents, all of them active, with scales and a bias that are not 1 and 0."""
    x = model.read(torch.arange(4, 34)[None].repeat(4, 1), [POINT])[POINT].flatten(0, 1) * 3 + 0.5
    generator = torch.Generator().manual_seed(0)
    made = untrained(
        TopKConfig(d_sae=12, k=12), POINT, {POINT: model.d_model}, {POINT: x}, generator
    )
    with torch.no_grad():
        made.b_dec.copy_(-torch.linalg.pinv(made.W_enc) @ torch.full((12,), 9.0))
    assert made.scale != 1 and (made.b_dec != 0).any()
    return made


def several(model: LanguageModel, name: str, n: int, positions: object = "all") -> list[Steering]:
    """n steerings of one kind; each has a vector, a latent or words of its own."""
    vectors = directions(model.d_model, n)
    if name in OPERATORS:
        units = {POINT: 2.0, FURTHER: 1.0}
        return [
            Vectors({POINT: v, FURTHER: v.roll(1)}, units, name, positions)  # type: ignore[arg-type]
            for v in vectors
        ]
    if name == "vector":
        return [AddVector(POINT, v, 2.0) for v in vectors]
    if name == "words":
        return [RaiseWords.of([[4 + i, 6], [12, 15 + i, 4]]) for i in range(n)]
    kind = {"clamp_latent": ClampLatent, "scale_latent": ScaleLatent}[name]
    dictionary = dictionary_of(model)
    of_latent = torch.tensor([[i, 11 - i] for i in range(n)])
    return [
        kind(POINT, latents, torch.tensor([2.0, 1.0]), positions, dictionary)  # type: ignore[arg-type]
        for latents in of_latent
    ]


EDITS = (*OPERATORS, "clamp_latent", "scale_latent")
ALL = (*EDITS, "vector", "words")


def of(rows: list[Steering], strength: float) -> Intervention:
    return type(rows[0]).intervention(rows, torch.full((len(rows),), strength))


@pytest.fixture(params=("llama", "gpt2"), scope="module")
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return toys.tiny_model(request.param)


@pytest.mark.parametrize("name", ALL)
def test_strength_zero_gives_bitwise_the_plain_logits_and_the_plain_text(
    model: LanguageModel, name: str
) -> None:
    rows = several(model, name, 4)
    four = TOKENS.repeat(2, 1)
    assert torch.equal(logits_under(model, four, of(rows, 0.0)), model.logits(four))
    assert not torch.equal(logits_under(model, four, of(rows, 1.0)), model.logits(four))
    sampled = {"max_new_tokens": 5, "temperature": 1.0, "seeds": [1, 2, 3, 4], "stop": []}
    assert generate(model, ROWS, intervention=of(rows, 0.0), **sampled) == generate(
        model, ROWS, **sampled
    )


@pytest.mark.parametrize("name", EDITS)
def test_batching_and_padding_on_either_side_move_no_logit(model: LanguageModel, name: str) -> None:
    rows = several(model, name, 4)
    width = max(map(len, ROWS))
    for side in ("left", "right"):
        tokens = torch.zeros(4, width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for i, row in enumerate(ROWS):
            part = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            tokens[i, part], mask[i, part] = torch.tensor(row), 1
        together = model.logits(tokens, mask, edits=of(rows, 0.7).edits)
        for i, row in enumerate(ROWS):
            alone = model.logits(torch.tensor([row]), edits=of(rows[i : i + 1], 0.7).edits)[0]
            torch.testing.assert_close(together[i][mask[i].bool()], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", [1, -1]], ids=str)
@pytest.mark.parametrize("name", EDITS)
def test_the_cache_gives_what_whole_rows_give(
    model: LanguageModel, name: str, positions: object
) -> None:
    intervention = of(several(model, name, 4, positions), 0.7)
    found = []
    for cached in (True, False):
        with intervention.applied(model):
            continued, logits = ContinuedRows(model, ROWS, cached), []
            for step in range(4):
                logits.append(continued.next_logits())
                continued.append(torch.tensor([7 + step, 9, 11, 13]))
        found.append(torch.stack(logits))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["prompt", "generated", [-1]], ids=str)
def test_a_text_is_read_as_it_was_written(model: LanguageModel, positions: object) -> None:
    """What costs are measured by: given and generated tokens are told apart in a text too."""
    rows = several(model, "add", 4, positions)
    intervention, met = of(rows, 0.7), []

    def remember(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        met.append(logits[:, -1].clone())
        return logits

    prefix = ((7, 9), (), (13,), (7,))
    whole = Intervention(intervention.edits, prefix, remember)
    settings = {"max_new_tokens": 4, "temperature": 0, "seeds": [0] * 4, "stop": []}
    new = generate(model, ROWS, intervention=whole, **settings)
    longest = max(map(len, ROWS)) + 4
    texts = [[*row, *own] for row, own in zip(ROWS, new, strict=True)]
    tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    lengths = torch.tensor([len(row) for row in ROWS])
    read = logits_under(model, tokens, Intervention(intervention.edits, prefix), lengths)
    for i, row in enumerate(ROWS):
        alone = read[i, len(row) - 1 : len(row) + 3]
        torch.testing.assert_close(alone, torch.stack(met)[:, i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_at_a_position_changes_no_logit_before_it(model: LanguageModel, name: str) -> None:
    plain = model.logits(TOKENS)
    for place in (1, 3):
        changed = logits_under(model, TOKENS, of(several(model, name, 2, [place]), 1.0))
        assert torch.equal(changed[:, :place], plain[:, :place])
        assert not torch.equal(changed[:, place], plain[:, place])


def test_reconstruction_plus_error_is_the_plain_model(model: LanguageModel) -> None:
    dictionary = dictionary_of(model)

    def both(x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, 1)
        rebuilt = dictionary.decode(dictionary.encode(rows))
        return (rebuilt + (rows - rebuilt)).view_as(x)

    plain = model.logits(TOKENS)
    whole = model.logits(TOKENS, edits=[replace(POINT, both)])
    torch.testing.assert_close(whole, plain, atol=1e-5, rtol=1e-5)
    alone = of([Reconstruction(POINT, "all", dictionary)] * 2, 1.0)
    spliced = logits_under(model, TOKENS, alone)
    assert not torch.allclose(spliced, plain, atol=1e-3), "the error matters here"


@pytest.mark.parametrize("name", ("clamp_latent", "scale_latent"))
def test_codes_are_changed_and_the_error_is_kept(model: LanguageModel, name: str) -> None:
    """x' = x + Decode(z') - Decode(z), by the dictionary itself."""
    (steering,) = several(model, name, 1)
    dictionary = steering.dictionary  # type: ignore[attr-defined]
    x = model.read(TOKENS, [POINT])[POINT].flatten(0, 1)
    codes = dictionary.encode(x)
    changed = codes.dense().clone()
    for latent, most in zip((0, 11), (2.0, 1.0), strict=True):
        changed[:, latent] = 1.5 * most if name == "clamp_latent" else 2.5 * changed[:, latent]
    wanted = x + dictionary.decode(type(codes).from_dense(changed)) - dictionary.decode(codes)
    edits = of([steering] * 2, 1.5).edits
    found = model.read(TOKENS, [POINT], edits=edits)[POINT].flatten(0, 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_operators_are_what_they_say() -> None:
    model = toys.tiny_model()
    x = model.read(TOKENS, [POINT])[POINT]
    v = directions(model.d_model, 2)
    units = {POINT: 2.0}
    wanted = {
        "add": x + 0.5 * 2.0 * v[:, None],
        "clamp": x + (0.5 * 2.0 - (x * v[:, None]).sum(2, keepdim=True)) * v[:, None],
        "project_out": x - 0.5 * (x * v[:, None]).sum(2, keepdim=True) * v[:, None],
    }
    for operator, result in wanted.items():
        rows = [Vectors({POINT: each}, units, operator) for each in v]  # type: ignore[arg-type]
        found = model.read(TOKENS, [POINT], edits=of(rows, 0.5).edits)[POINT]
        torch.testing.assert_close(found, result, atol=1e-6, rtol=1e-5)
        if operator == "project_out":
            all_of_it = model.read(TOKENS, [POINT], edits=of(rows, 9.0).edits)[POINT]
            assert (all_of_it * v[:, None]).sum(2).abs().max() < 1e-5, "no more than all"


def test_after_an_exception_inside_a_steering_no_hook_is_left() -> None:
    model = toys.tiny_model()
    plain = model.logits(TOKENS)
    (steering,) = several(model, "clamp_latent", 1)

    class Broken(type(steering.dictionary)):  # type: ignore[misc,name-defined]
        def codes(self, batch: object) -> object:
            raise RuntimeError("inside the dictionary")

    steering.dictionary.__class__ = Broken  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="inside the dictionary"):
        logits_under(model, TOKENS, of([steering] * 2, 1.0))
    with pytest.raises(RuntimeError, match="inside the dictionary"):
        generate(
            model, ROWS[:1], max_new_tokens=3, temperature=0, seeds=[0],
            intervention=of([steering], 1.0),
        )  # fmt: skip
    hooks = (m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())
    assert not any(hooks) and torch.equal(model.logits(TOKENS), plain)


def test_the_published_text_of_stories260k_stands_under_every_operator_at_strength_zero(
    shared: Path,
) -> None:
    folder = shared / "models/stories260k"
    published = json.loads((folder / "reference.json").read_text())["greedy"]
    model = ModelReference(ModelConfig(path=str(folder))).load(Execution(device="cpu"))

    def written(strength: float) -> str:
        parts = [of(several(model, name, 1), strength) for name in ALL]
        edits = tuple(edit for part in parts for edit in part.edits)
        words = next(part.logits for part in parts if part.logits)
        (tokens,) = generate(
            model,
            [published["start_ids"]],
            max_new_tokens=48,
            temperature=0,
            seeds=[0],
            intervention=Intervention(edits, logits=words),
        )
        return model.tokenizer.decode(tokens).strip()

    assert len(written(0.0)) > 100 and published["text"].strip().startswith(written(0.0))
    assert not published["text"].strip().startswith(written(3.0))
