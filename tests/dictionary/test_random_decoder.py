"""A frozen decoder: by hand, every gradient but the decoder's, and what training leaves as it
was."""

from __future__ import annotations

import pytest
import torch

from components.config import load
from components.dictionary.architectures.random_decoder import RandomDecoder, RandomDecoderConfig
from components.dictionary.contract import Moment
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.errors import ConfigError
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)
MOMENT = Moment(0, 10, torch.zeros(12).bool(), torch.Generator())


def learner_of(x, **options):
    dictionary = RandomDecoder(RandomDecoderConfig(**options), *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    return Learner(
        dictionary, TrainConfig(dictionary=dictionary.options, tokens=2000, batch_size=100, lr=3e-3)
    )


def test_a_hand_computed_example():
    dictionary = RandomDecoder(RandomDecoderConfig(d_sae=2, k=1), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        dictionary.W_dec.copy_(torch.tensor([[0.6, 0.8], [1.0, 0.0]]))
        dictionary.b_enc.copy_(torch.tensor([0.0, 0.5]))
        dictionary.b_dec.copy_(torch.tensor([1.0, 1.0]))
    x = torch.tensor([[2.0, 2.0], [0.0, 3.0]])  # u = (2, 1.5) and (-2, 2.5)
    codes = dictionary.encode(x)
    assert codes.dense().tolist() == [[2.0, 0.0], [0.0, 2.5]]
    torch.testing.assert_close(dictionary.decode(codes), torch.tensor([[2.2, 2.6], [3.5, 1.0]]))
    loss = dictionary.loss(
        {HOOK: x}, Moment(0, 1, torch.zeros(2).bool(), torch.Generator())
    ).losses["reconstruction"]
    assert loss.item() == pytest.approx((0.2**2 + 0.6**2 + 3.5**2 + 2**2) / (2 * (1 + 0.25)))


def test_gradients_equal_dense_float64_autograd_and_the_decoder_has_none():
    generator = torch.Generator().manual_seed(1)
    dictionary = RandomDecoder(RandomDecoderConfig(d_sae=12, k=3), *NAMES, {HOOK: 8}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(20, 8, dtype=torch.float64, generator=generator)
    dictionary.loss({HOOK: x}, MOMENT).losses["reconstruction"].backward()
    p = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in dictionary.named_parameters()
    }
    u = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    z = torch.zeros_like(u).scatter(1, u.topk(3).indices, 1.0) * u.relu()
    x_hat = z @ p["W_dec"] + p["b_dec"]
    ((x - x_hat).square().sum() / (x - x.mean(0)).square().sum()).backward()
    for name in ("W_enc", "b_enc", "b_dec"):
        torch.testing.assert_close(dictionary.get_parameter(name).grad, p[name].grad, msg=name)
    assert dictionary.W_dec.grad is None


def test_training_moves_the_encoder_and_leaves_the_decoder():
    x = rows(400, directions())
    learner = learner_of(x, d_sae=48, k=2)
    before = {name: tensor.clone() for name, tensor in learner.dictionary.state_dict().items()}
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    after = learner.dictionary.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "W_enc",
        "b_enc",
        "b_dec",
    }


def test_k_larger_than_d_sae_is_refused():
    with pytest.raises(
        ConfigError, match="k is 9, but there are only d_sae = 4 latents; lower k or raise d_sae"
    ):
        load(RandomDecoderConfig, {"d_sae": 4, "k": 9})


def test_results_of_version_1_are_kept():
    """Golden: if these numbers change, raise `RandomDecoder.version`."""
    assert RandomDecoder.version == 1
    x = rows(400, directions())
    learner = learner_of(x, d_sae=48, k=2)
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    assert learner.metrics()["loss.reconstruction"] == pytest.approx(0.719829, rel=1e-3)
