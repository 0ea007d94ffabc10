"""JumpReLU: an example by hand, the straight-through gradients, the three penalties, and activations of another scale."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from components.dictionary.architectures.jumprelu import JumpRelu, JumpReluConfig, jump, step
from components.dictionary.contract import Moment
from components.dictionary.train import Learner, TrainConfig
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)
X = rows(2000, directions())


def begun(x=X, **options):
    dictionary = JumpRelu(JumpReluConfig(d_sae=48, **options), *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    return dictionary


def by_hand(**options):
    dictionary = JumpRelu(JumpReluConfig(d_sae=2, **options), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(2))
        dictionary.W_dec.copy_(torch.eye(2))
        dictionary.threshold.copy_(torch.tensor([1.0, 2.0]))
        dictionary.b_dec.copy_(torch.tensor([0.0, 1.0]))
    return dictionary


def penalty(penalty, step=100):
    moment = Moment(step, 100, torch.zeros(2).bool(), torch.Generator())
    x = {HOOK: torch.tensor([[3.0, 2.5], [1.5, 4.0]])}  # u: (3, 1.5), (1.5, 3); on: 1 and 2 latents
    return by_hand(penalty=penalty, target=2.0, coefficient=4.0).loss(x, moment).losses[penalty].item()


def test_a_hand_computed_example():
    dictionary = by_hand(target=1.0)
    codes = dictionary.encode(torch.tensor([[3.0, 2.5], [1.0, 4.0]]))  # u: (3, 1.5), (1, 3); at the threshold is off
    assert codes.dense().tolist() == [[3.0, 0.0], [0.0, 3.0]]
    assert dictionary.decode(codes).tolist() == [[3.0, 1.0], [0.0, 4.0]]


def test_the_penalties():
    assert penalty("l0_target") == pytest.approx(4 * (1.5 / 2 - 1) ** 2)
    assert penalty("l0") == pytest.approx(4 * 1.5 / 2)
    tanh = torch.tensor([12.0, 6.0, 12.0]).tanh().sum().item() / 2
    assert penalty("tanh") == pytest.approx(4 * tanh / 2)
    assert penalty("l0", step=0) == 0


@pytest.mark.parametrize("bandwidth", [0.2, 1.0])
def test_straight_through_gradients_are_those_of_the_formula(bandwidth):
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(200, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    threshold = torch.rand(6, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    near = ((pre - threshold).abs() < bandwidth / 2).double()
    to_pre, to_threshold = torch.autograd.grad((jump(pre, threshold, bandwidth) * weights).sum(), (pre, threshold))
    torch.testing.assert_close(to_pre, weights * (pre > threshold))
    torch.testing.assert_close(to_threshold, -(weights * near).sum(0) * threshold / bandwidth)
    (to_threshold,) = torch.autograd.grad((step(pre, threshold, bandwidth) * weights).sum(), threshold)
    torch.testing.assert_close(to_threshold, -(weights * near).sum(0) / bandwidth)
    # The box is the slope of a ramp: autograd of clamp((u - theta) / bandwidth + 1/2, 0, 1) is the step's gradient.
    ramp = ((pre - threshold) / bandwidth + 0.5).clamp(0, 1)
    torch.testing.assert_close(to_threshold, torch.autograd.grad((ramp * weights).sum(), threshold)[0])


def test_tokens_below_the_threshold_move_it_too():
    pre, threshold = torch.tensor([[0.9]]), torch.tensor([1.0], requires_grad=True)
    (found,) = torch.autograd.grad(step(pre, threshold, 0.5).sum(), threshold)
    assert found.item() == -2


@pytest.mark.parametrize("target", [2.0, 6.0])
def test_l0_starts_at_the_target_and_is_held_there(target):
    dictionary = begun(target=target)
    assert dictionary.encode(X).nnz / len(X) == pytest.approx(target, rel=0.1)
    learner = Learner(dictionary, TrainConfig(dictionary=dictionary.options, tokens=20_000, batch_size=100))
    for at in range(learner.steps):
        learner.learn({HOOK: X[torch.arange(at * 100, at * 100 + 100) % len(X)]})
    assert dictionary.encode(X).nnz / len(X) == pytest.approx(target, rel=0.2)


def test_the_scale_of_activations_changes_nothing_but_the_scale():
    first, second = begun(target=4.0), begun(X * 64, target=4.0)  # a power of two: exact in floating point
    assert second.scale == pytest.approx(first.scale / 64)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(second.encode(X[:50] * 64).dense(), 64 * first.encode(X[:50]).dense())


def test_a_target_beyond_the_latents_is_refused():
    with pytest.raises(ValidationError, match="lower it or raise d_sae"):
        JumpReluConfig(d_sae=16, target=17)
