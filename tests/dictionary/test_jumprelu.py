"""JumpReLU: codes and straight-through gradients by hand and by formula, every penalty, where
thresholds start, a golden run."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.architectures.jumprelu import (
    JumpRelu,
    JumpReluConfig,
    active_latents,
    jump,
)
from components.dictionary.contract import Moment, untrained
from components.dictionary.fit import evaluate
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.errors import DictionaryError
from tests.planted import HOOK, directions, rows

D_IN, D_SAE = 24, 64


def at(d_sae=D_SAE):
    return Moment(10, 10, torch.zeros(d_sae).bool(), torch.Generator())


def begun(x, **options):
    chosen = JumpReluConfig(d_sae=D_SAE, **options)
    return untrained(chosen, HOOK, {HOOK: x.shape[1]}, {HOOK: x}, torch.Generator().manual_seed(0))


def test_the_jump_by_hand():
    u = torch.tensor([[0.4, 0.6], [1.2, -3.0]], requires_grad=True)
    threshold = torch.tensor([0.5, 0.5], requires_grad=True)
    z = jump(u, threshold, 0.4)
    assert z.tolist() == [[0.0, pytest.approx(0.6)], [pytest.approx(1.2), 0.0]]
    z.backward(torch.tensor([[1.0, 10.0], [100.0, 1000.0]]))
    assert u.grad.tolist() == [[0.0, 10.0], [100.0, 0.0]]
    # within 0.2 of the threshold: 0.4 (gradient 1) and 0.6 (gradient 10); theta / bandwidth = 1.25
    assert threshold.grad.tolist() == [pytest.approx(-1.25), pytest.approx(-12.5)]


def test_an_l0_of_more_latents_than_there_are_cannot_be_aimed_at():
    x = rows(300, directions())
    with pytest.raises(
        DictionaryError,
        match="target_l0 is 65, but there are only d_sae = 64 latents; lower target_l0",
    ):
        begun(x, target_l0=65)
    begun(x, target_l0=65, penalty="tanh")


def test_the_number_of_active_latents_counts_both_sides_of_the_threshold():
    u = torch.tensor([[0.4, 0.6], [1.2, -3.0]], requires_grad=True)
    threshold = torch.tensor([0.5, 0.5], requires_grad=True)
    l0 = active_latents(u, threshold, 0.4)
    assert l0.item() == 1.0  # two active entries over two tokens
    (2 * l0).backward()
    assert u.grad is None
    assert threshold.grad.tolist() == [pytest.approx(-2 / 0.4 / 2), pytest.approx(-2 / 0.4 / 2)]


def test_the_estimate_is_the_slope_of_the_mean_over_many_tokens():
    """For a density that is flat around the threshold the estimate is exact: equation 11 of the
    paper."""
    u = torch.linspace(-1, 3, 400_001, dtype=torch.float64)[:, None]
    weight = torch.linspace(1, 2, len(u), dtype=torch.float64)[:, None]
    threshold = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    (jump(u, threshold, 0.2) * weight).mean().backward()
    step = 1e-3
    above, below = ((u * weight * (u > 0.7 + sign * step)).mean() for sign in (1, -1))
    assert threshold.grad.item() == pytest.approx((above - below).item() / (2 * step), rel=1e-2)


def test_codes_are_positive_whatever_the_threshold():
    u, threshold = torch.tensor([[-0.5, 0.5]]), torch.tensor([-1.0, -1.0])
    assert jump(u, threshold, 1.0).tolist() == [[0.0, 0.5]]
    assert active_latents(u, threshold, 1.0).item() == 1.0


@pytest.mark.parametrize("penalty", ["l0_target", "l0", "tanh"])
def test_penalties_by_hand(penalty):
    dictionary = JumpRelu(
        JumpReluConfig(d_sae=2, penalty=penalty, target_l0=4, coefficient=3.0),
        (HOOK,),
        (HOOK,),
        {HOOK: 2},
    )
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(2))
        dictionary.W_dec.copy_(torch.eye(2))
        dictionary.threshold.fill_(0.5)
    x = torch.tensor([[1.0, 0.25], [0.75, 2.0]])
    found = dictionary.loss({HOOK: x}, at(2)).losses["sparsity"].item()
    l0, smooth = 1.5, torch.tensor([4.0, 3.0, 8.0]).tanh().sum().item() / 2
    assert found == pytest.approx(
        3 * {"l0_target": (l0 / 4 - 1) ** 2, "l0": l0 / 2, "tanh": smooth / 2}[penalty]
    )


@pytest.mark.parametrize("penalty", ["l0_target", "l0", "tanh"])
def test_its_gradients_are_those_of_the_formula_written_out(penalty):
    """In float64, against autograd; the two straight-through estimates as surrogates that are
    linear in the threshold."""
    generator, bandwidth = torch.Generator().manual_seed(3), 0.8
    options = JumpReluConfig(
        d_sae=7, penalty=penalty, target_l0=2, coefficient=0.3, bandwidth=bandwidth
    )
    dictionary = JumpRelu(options, (HOOK,), (HOOK,), {HOOK: 4}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(
                0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
        dictionary.threshold.abs_()
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    losses = dictionary.loss({HOOK: x}, at(7)).losses
    found = torch.autograd.grad(
        torch.stack(list(losses.values())).sum(), list(dictionary.parameters())
    )
    p = dict(dictionary.named_parameters())
    theta, fixed = p["threshold"], p["threshold"].detach()
    u = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    above, near = (u > fixed).double(), ((u.detach() - fixed).abs() < bandwidth / 2).double()
    moved = near * (theta - fixed) / bandwidth  # zero, with the slope of K((u - theta) / e) / e
    z = u * above - fixed * moved
    l0 = (above - moved).sum() / len(x)
    terms = {
        "l0_target": (l0 / 2 - 1).square(),
        "l0": l0 / 4,
        "tanh": (4 * z).tanh().sum() / len(x) / 4,
    }
    error = (x - z @ p["W_dec"] - p["b_dec"]).square().sum() / (x - x.mean(0)).square().sum()
    assert 0 < above.mean() < 1 and 0 < near.mean() < 1
    torch.testing.assert_close(
        torch.stack(list(losses.values())), torch.stack([error, 0.3 * terms[penalty]])
    )
    wanted = torch.autograd.grad(error + 0.3 * terms[penalty], list(p.values()))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_results_of_version_3_are_kept():
    """Golden: if these numbers change, raise `JumpRelu.version`."""
    assert JumpRelu.version == 3
    x = rows(400, directions())
    learner = Learner(begun(x, target_l0=3), TrainConfig(tokens=2000, batch_size=100, lr=3e-3))
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    found = learner.metrics()
    wanted = {"loss.reconstruction": 0.693392, "loss.sparsity": 0.325769, "l0": 2.2405}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)


def test_thresholds_start_where_the_sample_uses_the_wanted_number_of_latents():
    x = rows(4000, directions(d=D_IN))
    for start in (1.0, 3.0):
        dictionary = begun(x, target_l0=4, start_l0=start)
        assert dictionary.encode(x).nnz / len(x) == pytest.approx(4 * start, rel=0.1)


def test_it_becomes_as_sparse_as_it_is_told():
    planted = directions(d=D_IN)
    x, held_out = rows(6000, planted), rows(500, planted, seed=9)
    found = {}
    for target in (2.0, 6.0):
        learner = Learner(
            begun(x, target_l0=target), TrainConfig(tokens=150_000, batch_size=250, lr=1e-2)
        )
        for step in range(learner.steps):
            learner.learn({HOOK: x[torch.arange(step * 250, step * 250 + 250) % len(x)]})
        found[target] = evaluate(learner.dictionary, [{HOOK: held_out}])["l0"]
    assert found[2.0] == pytest.approx(2, abs=0.7) and found[6.0] == pytest.approx(6, abs=2)


def test_silent_latents_come_back():
    """Latents that no token reaches: with the term they are active again, without it they stay
    silent."""
    x = rows(2000, directions(d=D_IN))
    silent = {}
    for coefficient in (0.0, 0.01):
        dictionary = begun(x, target_l0=3, dead_coefficient=coefficient)
        with torch.no_grad():
            dictionary.b_enc[:20] = -4.0
        learner = Learner(
            dictionary, TrainConfig(tokens=200_000, batch_size=200, lr=1e-2, dead_after=4000)
        )
        for step in range(learner.steps):
            learner.learn({HOOK: x[torch.arange(step * 200, step * 200 + 200) % len(x)]})
        silent[coefficient] = learner.metrics()["dead_share"]
    assert silent[0.0] >= 20 / dictionary.d_sae and silent[0.01] <= silent[0.0] / 3
