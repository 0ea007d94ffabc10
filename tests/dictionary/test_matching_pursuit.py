"""Matching pursuit: by hand, the hand-written backward against autograd in float64, and when a
token stops."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from components.config import load
from components.dictionary.architectures.matching_pursuit import (
    MatchingPursuit,
    MatchingPursuitConfig,
)
from components.dictionary.contract import Moment
from components.dictionary.kernels.pursuit import pursue
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.errors import ConfigError
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)


def test_a_hand_computed_example():
    # (3, 4) - b_dec = (2, 4): <., d> = (2, 4, 4.4), so latent 2 with 4.4; left (-0.64, 0.48):
    # latent 1 with 0.48
    dictionary = MatchingPursuit(MatchingPursuitConfig(d_sae=3, k=2), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        dictionary.b_dec.copy_(torch.tensor([1.0, 0.0]))
    codes = dictionary.encode(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(codes.dense(), torch.tensor([[0.0, 0.48, 4.4]]))
    torch.testing.assert_close(dictionary.decode(codes), torch.tensor([[1 + 2.64, 3.52 + 0.48]]))
    outcome = dictionary.loss(
        {HOOK: torch.tensor([[3.0, 4.0], [1.0, 0.0]])},
        Moment(0, 1, torch.zeros(3).bool(), torch.Generator()),
    )
    assert outcome.losses["reconstruction"].item() == pytest.approx(0.64**2 / (2 * (1 + 4)))
    assert outcome.fired.tolist() == [0, 1, 1]


def by_autograd(x, W, steps, tolerance):
    """The definition, step by step, with a residual kept for each."""
    residual, values, indices = x, [], []
    going = torch.ones(len(x), dtype=torch.bool)
    for _ in range(steps):
        chosen = (residual @ W.T).argmax(1)
        repeated = (
            torch.stack([chosen == before for before in indices]).any(0)
            if indices
            else ~going & going
        )
        going = going & (residual.norm(dim=1) >= tolerance) & ~repeated
        value = (residual * W[chosen]).sum(1).relu() * going
        residual = residual - value[:, None] * W[chosen]
        values.append(value)
        indices.append(chosen)
    return torch.stack(values, 1), residual


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_the_backward_by_hand_equals_autograd_in_float64(steps, normed):
    generator = torch.Generator().manual_seed(steps)
    W = torch.randn(14, 6, dtype=torch.float64, generator=generator)
    W = (normalize(W, dim=1) if normed else 0.8 * W).requires_grad_()
    x = torch.randn(30, 6, dtype=torch.float64, generator=generator).requires_grad_()
    to_values, to_left = (
        torch.randn(30, steps, generator=generator),
        torch.randn(30, 6, generator=generator),
    )
    found = []
    for route in (lambda: pursue(x, W, steps, 0.3)[::2], lambda: by_autograd(x, W, steps, 0.3)):
        values, left = route()
        loss = (values * to_values).sum() + (left**2 * to_left).sum()
        found.append((values, left, *torch.autograd.grad(loss, (x, W))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    if steps == 9 and normed:
        assert (found[0][0] == 0).any()  # some have stopped


def test_gradcheck_of_the_whole_function():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    W = normalize(
        torch.randn(7, 5, dtype=torch.float64, generator=generator), dim=1
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, W: pursue(x, W, 3, 1e-3)[::2], (x, W))


def test_a_token_stops_when_nothing_is_left_and_others_go_on():
    x = torch.tensor([[2.0, 0.0, 0.0], [2.0, 1.0, 0.5]])
    values, _, left = pursue(x, torch.eye(3), 3, 0.1)
    assert values.tolist() == [[2, 0, 0], [2, 1, 0.5]] and left.norm() == 0
    values, _, left = pursue(x, torch.eye(3), 3, 0.6)
    assert values.tolist() == [[2, 0, 0], [2, 1, 0]] and left.tolist() == [[0, 0, 0], [0, 0, 0.5]]


def test_a_latent_is_used_once_and_a_second_choice_of_it_stops_the_token():
    W = normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    values, indices, _ = pursue(x, W, 30, 0.0)
    for value, index in zip(values, indices, strict=True):
        used = index[value > 0].tolist()
        assert len(set(used)) == len(used)
        assert (value > 0).int().diff().max() <= 0  # once it stops, it has stopped
    assert ((values > 0).sum(1) < 30).any()


def test_the_centre_is_optional():
    x = rows(200, directions())
    for bias in (True, False):
        dictionary = MatchingPursuit(
            MatchingPursuitConfig(d_sae=48, k=2, bias=bias), *NAMES, {HOOK: 24}
        )
        dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
        learner = Learner(
            dictionary,
            TrainConfig(dictionary=dictionary.options, tokens=400, batch_size=200, lr=1e-2),
        )
        learner.learn({HOOK: x})
        learner.learn({HOOK: x})
        assert bool(dictionary.b_dec.any()) == bias
        torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(48))


def test_k_larger_than_d_sae_is_refused():
    with pytest.raises(
        ConfigError, match="k is 9, but there are only d_sae = 4 latents; lower k or raise d_sae"
    ):
        load(MatchingPursuitConfig, {"d_sae": 4, "k": 9})


def test_results_of_version_1_are_kept():
    """Golden: if these numbers change, raise `MatchingPursuit.version`."""
    assert MatchingPursuit.version == 1
    x = rows(400, directions())
    dictionary = MatchingPursuit(MatchingPursuitConfig(d_sae=48, k=2), *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    learner = Learner(
        dictionary, TrainConfig(dictionary=dictionary.options, tokens=2000, batch_size=100, lr=3e-3)
    )
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    found = learner.metrics()
    assert (found["loss.reconstruction"], found["l0"]) == pytest.approx((0.631096, 2.0), rel=1e-3)
