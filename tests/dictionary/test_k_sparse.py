"""k-sparse: by hand, every gradient of the tied weights against float64 autograd, the falling k,
and a golden run."""

from __future__ import annotations

import pytest
import torch

from components.config import load
from components.dictionary.architectures.k_sparse import KSparse, KSparseConfig
from components.dictionary.contract import Moment
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.errors import ConfigError
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)


def moment(step=10, steps=10, d_sae=12):
    return Moment(step, steps, torch.zeros(d_sae).bool(), torch.Generator())


def test_a_hand_computed_example():
    dictionary = KSparse(KSparseConfig(d_sae=3, k=2), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.5], [-1.0, 0.0]]))
        dictionary.b_enc.copy_(torch.tensor([0.0, 0.5, 0.0]))
        dictionary.b_dec.copy_(torch.tensor([1.0, 1.0]))
    x = torch.tensor([[3.0, 3.0], [0.0, 0.0]])  # u = (2, 1.5, -2) and (-1, 0, 1)
    codes = dictionary.encode(x)
    assert codes.dense().tolist() == [[2.0, 1.5, 0.0], [0.0, 0.0, 1.0]]
    assert dictionary.decode(codes).tolist() == [[3.0, 1.75], [0.0, 1.0]]
    loss = dictionary.loss({HOOK: x}, moment(d_sae=3)).losses["reconstruction"].item()
    assert loss == pytest.approx((1.25**2 + 1) / (4 * 1.5**2))


def test_gradients_of_the_tied_weights_equal_dense_float64_autograd():
    generator = torch.Generator().manual_seed(1)
    dictionary = KSparse(KSparseConfig(d_sae=12, k=3), *NAMES, {HOOK: 8}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(20, 8, dtype=torch.float64, generator=generator)
    dictionary.loss({HOOK: x}, moment()).losses["reconstruction"].backward()
    p = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in dictionary.named_parameters()
    }
    u = (x - p["b_dec"]) @ p["W_dec"].T + p["b_enc"]
    z = torch.zeros_like(u).scatter(1, u.topk(3).indices, 1.0) * u.relu()
    x_hat = z @ p["W_dec"] + p["b_dec"]
    ((x - x_hat).square().sum() / (x - x.mean(0)).square().sum()).backward()
    for name, parameter in dictionary.named_parameters():
        torch.testing.assert_close(parameter.grad, p[name].grad, msg=name)


def test_k_falls_over_the_first_half_of_training():
    of = lambda **options: KSparse(KSparseConfig(d_sae=64, **options), *NAMES, {HOOK: 8})  # noqa: E731
    found = lambda dictionary: [dictionary.k_at(moment(step, 100)) for step in (0, 25, 50, 99)]  # noqa: E731
    assert found(of(k=4)) == [16, 10, 4, 4]
    assert found(of(k=4, k_start=4)) == [4, 4, 4, 4]
    assert found(of(k=32)) == [64, 48, 32, 32]  # there are no more than 64
    x = {HOOK: torch.randn(50, 8, generator=torch.Generator().manual_seed(0))}
    dictionary = of(k=2)
    dictionary.begin(x, torch.Generator().manual_seed(0))
    fired = [dictionary.loss(x, moment(step, 100, 64)).fired.sum().item() / 50 for step in (0, 99)]
    assert fired == pytest.approx([8, 2])


def test_more_latents_than_there_are_is_refused():
    with pytest.raises(
        ConfigError, match="k is 2 and k_start 9, but there are only d_sae = 4 latents; lower them"
    ):
        load(KSparseConfig, {"d_sae": 4, "k": 2, "k_start": 9})


def test_results_of_version_1_are_kept():
    """Golden: if these numbers change, raise `KSparse.version`."""
    assert KSparse.version == 1
    x = rows(400, directions())
    dictionary = KSparse(KSparseConfig(d_sae=48, k=2), *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    learner = Learner(
        dictionary, TrainConfig(dictionary=dictionary.options, tokens=2000, batch_size=100, lr=3e-3)
    )
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    found = learner.metrics()
    assert (found["loss.reconstruction"], found["l0"]) == pytest.approx((0.695911, 3.65), rel=1e-3)
