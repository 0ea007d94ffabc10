"""A model with drawn weights: what is drawn, what stays, and that its key says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.device import Execution
from components.model.randomised import randomise
from components.model.reference import ModelConfig, ModelReference
from components.model.text_encoder import TextEncoderConfig
from tests import toys

TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4], [1, 5, 8, 13, 16, 20]])
CPU = Execution(device="cpu")


def weights_of(network: Any) -> dict[str, torch.Tensor]:
    """Its parameters by name, as they are now."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_every_matrix_is_drawn_at_its_own_mean_and_deviation_and_no_vector_is(layout: str) -> None:
    before = weights_of(toys.tiny_network(layout))
    network = toys.tiny_network(layout)
    randomise(network, "all", 0)
    drawn = 0
    for name, weight in weights_of(network).items():
        if weight.ndim < 2:
            assert torch.equal(weight, before[name]), name
            continue
        drawn += 1
        error = before[name].std() / weight.numel() ** 0.5
        assert abs(weight.mean() - before[name].mean()) < 5 * error, name
        assert weight.std() == pytest.approx(
            float(before[name].std()), rel=5 / weight.numel() ** 0.5
        ), name
        both = torch.stack([weight.flatten(), before[name].flatten()])
        assert abs(torch.corrcoef(both)[0, 1]) < 5 / weight.numel() ** 0.5, name
    assert drawn > 4


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_embeddings_and_head_stay_where_they_are_left_out(layout: str) -> None:
    before = weights_of(toys.tiny_network(layout))
    network = toys.tiny_network(layout)
    randomise(network, "all_but_embeddings", 0)
    same = {n for n, w in weights_of(network).items() if w.ndim > 1 and torch.equal(w, before[n])}
    embeddings = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}
    positions = {"gpt2": {"transformer.wpe.weight"}}
    head = {"lm_head.weight"} & set(before)  # tied weights are listed once
    assert same == {embeddings[layout], *positions.get(layout, ()), *head}


def test_a_seed_draws_the_same_and_another_seed_something_else() -> None:
    networks = [toys.tiny_network("llama") for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        randomise(network, "all", seed)
    one, same, other = (weights_of(network) for network in networks)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if one[name].ndim > 1)


def test_the_key_has_the_draw_only_where_there_is_one(tmp_path: Path) -> None:
    plain = toys.tiny_reference(tmp_path, "llama").config.model_copy(update={"randomise_seed": 3})
    place = {"path": str(tmp_path), "dtype": plain.dtype}
    keys = [
        ModelReference(ModelConfig(**place, **drawn)).key
        for drawn in (
            {},
            {"randomise": "all"},
            {"randomise": "all", "randomise_seed": 1},
            {"randomise": "all_but_embeddings"},
        )
    ]
    assert len(set(keys)) == 4
    assert ModelReference(plain).key == keys[0]  # the seed of no draw says nothing
    assert "randomise" not in TextEncoderConfig.model_fields


def test_a_reference_loads_the_drawn_weights(tmp_path: Path) -> None:
    toys.tiny_reference(tmp_path, "llama")
    ours, drawn = (
        ModelReference(ModelConfig(path=str(tmp_path), randomise=which)).load(CPU)
        for which in ("none", "all")
    )
    network = toys.tiny_network("llama")
    randomise(network, "all", 0)
    expected = network(TOKENS).logits
    assert torch.allclose(drawn.logits(TOKENS), expected, atol=1e-5)
    assert not torch.allclose(ours.logits(TOKENS), expected, atol=1e-2)
