"""Gated: a step computed by hand, the frozen decoder of the auxiliary term, what its options
change, a golden run."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.architectures.gated import Gated, GatedConfig
from components.dictionary.contract import Moment, untrained
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from tests.planted import HOOK, directions, rows

NONE_DEAD = torch.zeros(2).bool()


def moment(step=10, steps=10):
    return Moment(step, steps, NONE_DEAD, torch.Generator())


@pytest.fixture
def gated():
    """Two latents on two axes; the second's gate is shut at x = (2, 1)."""
    dictionary = Gated(GatedConfig(d_sae=2, l1=0.5), (HOOK,), (HOOK,), {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(2))
        dictionary.W_dec.copy_(torch.eye(2))
        dictionary.b_gate.copy_(torch.tensor([-1.0, -2.0]))
        dictionary.r_mag.copy_(torch.tensor([2.0, 1.0]).log())
        dictionary.b_mag.copy_(torch.tensor([0.5, 5.0]))
        dictionary.b_dec.copy_(torch.tensor([0.0, 0.25]))
    return dictionary


def test_a_step_by_hand(gated):
    x = torch.tensor([[2.0, 1.0]])  # h = (2, 0.75), gate = (1, -1.25), magnitude = (4.5, 5.75)
    assert gated.encode(x).dense().tolist() == [[4.5, 0.0]]
    losses = gated.loss({HOOK: x}, moment()).losses
    assert losses["reconstruction"].item() == pytest.approx((2 - 4.5) ** 2 + (1 - 0.25) ** 2)
    assert losses["l1"].item() == pytest.approx(0.5 * 1.0)
    assert losses["gate"].item() == pytest.approx((2 - 1) ** 2 + (1 - 0.25) ** 2)


def test_a_magnitude_below_zero_is_no_code_even_where_the_gate_is_open(gated):
    with torch.no_grad():
        gated.b_mag.fill_(-10.0)
    assert gated.encode(torch.tensor([[2.0, 1.0]])).nnz == 0


def test_the_gates_terms_leave_the_decoder_alone_and_the_reconstruction_leaves_the_gate_alone(
    gated,
):
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) + 1
    losses = gated.loss({HOOK: x}, moment()).losses
    of = lambda terms, weights: torch.autograd.grad(  # noqa: E731
        sum(losses[term] for term in terms), weights, retain_graph=True, allow_unused=True
    )
    to_decoder = of(("gate", "l1"), (gated.W_dec, gated.r_mag, gated.b_mag))
    assert all(gradient is None or not gradient.any() for gradient in to_decoder)
    (to_gate,) = of(("reconstruction",), (gated.b_gate,))
    # the decision has no gradient
    torch.testing.assert_close(to_gate, torch.zeros(2), atol=1e-4, rtol=0)
    assert (
        of(("gate",), (gated.b_gate,))[0].any() and of(("reconstruction",), (gated.W_dec,))[0].any()
    )


def test_its_gradients_are_those_of_the_formula_written_out():
    generator = torch.Generator().manual_seed(3)
    dictionary = Gated(GatedConfig(d_sae=7, l1=0.3), (HOOK,), (HOOK,), {HOOK: 4}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(
                0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    at = Moment(10, 10, torch.zeros(7).bool(), generator)
    found = torch.autograd.grad(
        torch.stack(list(dictionary.loss({HOOK: x}, at).losses.values())).sum(),
        list(dictionary.parameters()),
    )
    p = dict(dictionary.named_parameters())
    h = (x - p["b_dec"]) @ p["W_enc"].T
    gate = h + p["b_gate"]
    z = (gate > 0) * (h * p["r_mag"].exp() + p["b_mag"]).relu()
    frozen = gate.relu() @ p["W_dec"].detach() + p["b_dec"].detach()
    loss = (x - z @ p["W_dec"] - p["b_dec"]).square().sum(1).mean() + 0.3 * gate.relu().sum(
        1
    ).mean()
    wanted = torch.autograd.grad(loss + (x - frozen).square().sum(1).mean(), list(p.values()))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_penalty_rises_over_its_warm_up(gated):
    x = torch.tensor([[2.0, 1.0]])
    early = gated.loss({HOOK: x}, moment(step=1, steps=100)).losses["l1"]  # of 5 updates
    assert early.item() == pytest.approx(0.5 / 5)


def test_results_of_version_2_are_kept():
    """Golden: if these numbers change, raise `Gated.version`."""
    assert Gated.version == 2
    x = rows(400, directions())
    dictionary = untrained(
        GatedConfig(d_sae=48), HOOK, {HOOK: 24}, {HOOK: x}, torch.Generator().manual_seed(0)
    )
    learner = Learner(dictionary, TrainConfig(tokens=2000, batch_size=100, lr=3e-3))
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    found = learner.metrics()
    wanted = {
        "loss.reconstruction": 15.7854,
        "loss.gate": 16.1306,
        "loss.l1": 70.4224,
        "l0": 22.3840,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)
