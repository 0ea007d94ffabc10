"""Gated: an example by hand, gradients against autograd, and which term teaches what."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.architectures.gated import Gated, GatedConfig
from components.dictionary.contract import Moment
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)
LATE = Moment(100, 100, torch.zeros(2).bool(), torch.Generator())


def by_hand(**options):
    dictionary = Gated(GatedConfig(d_sae=2, **options), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(2))
        dictionary.W_dec.copy_(torch.eye(2))
        dictionary.b_gate.copy_(torch.tensor([-1.0, -1.0]))
        dictionary.b_mag.copy_(torch.tensor([0.0, 0.5]))
        dictionary.r_mag.copy_(torch.tensor([2.0, 1.0]).log())
        dictionary.b_dec.copy_(torch.tensor([0.0, 1.0]))
    return dictionary


def test_a_hand_computed_example():
    # (3, 1.5): h = (3, 0.5), gates (2, -0.5), magnitudes (6, 1): the second latent is shut; reconstruction (6, 1)
    dictionary = by_hand(l1=0.5)
    x = torch.tensor([[3.0, 1.5]])
    codes = dictionary.encode(x)
    assert codes.dense().tolist() == [[6.0, 0.0]]
    assert dictionary.decode(codes).tolist() == [[6.0, 1.0]]
    losses = {name: term.item() for name, term in dictionary.loss({HOOK: x}, LATE).losses.items()}
    assert losses == pytest.approx({"reconstruction": 9.25, "l1": 1.0, "gate": 1.25})


def test_the_auxiliary_decode_is_frozen_and_teaches_the_gate():
    dictionary = by_hand()
    dictionary.loss({HOOK: torch.tensor([[3.0, 1.5], [1.0, 4.0]])}, LATE).losses["gate"].backward()
    assert dictionary.b_gate.grad.abs().sum() > 0 and dictionary.W_enc.grad.abs().sum() > 0
    assert dictionary.W_dec.grad is None and dictionary.r_mag.grad is None and dictionary.b_mag.grad is None


def test_gradients_equal_those_of_the_formula_written_plainly():
    x = rows(50, directions())
    dictionary = Gated(GatedConfig(d_sae=48, l1=0.7), *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    dictionary.double()
    with torch.no_grad():
        for weights in (dictionary.b_gate, dictionary.b_mag, dictionary.r_mag):
            weights.add_(0.1 * torch.randn(48, generator=torch.Generator().manual_seed(1)))
    learnt = dict(dictionary.named_parameters())
    outcome = dictionary.loss({HOOK: x}, LATE)
    found = torch.autograd.grad(torch.stack(list(outcome.losses.values())).sum(), list(learnt.values()))
    scaled = dictionary.scaled({HOOK: x})[HOOK]
    h = (scaled - dictionary.b_dec) @ dictionary.W_enc.T
    gates = (h + dictionary.b_gate).relu()
    z = (gates > 0) * (h * dictionary.r_mag.exp() + dictionary.b_mag).relu()
    main = (scaled - z @ dictionary.W_dec - dictionary.b_dec).square().sum(1).mean()
    frozen = (scaled - gates @ dictionary.W_dec.detach() - dictionary.b_dec.detach()).square().sum(1).mean()
    wanted = torch.autograd.grad(main + frozen + 0.7 * gates.sum(1).mean(), list(learnt.values()))
    for name, one, other in zip(learnt, found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_the_penalty_rises_over_its_share_of_training():
    x = {HOOK: torch.tensor([[3.0, 1.5]])}
    moments = [Moment(step, 100, torch.zeros(2).bool(), torch.Generator()) for step in (0, 25, 50)]
    assert [by_hand(l1=1.0, l1_warm_up=0.5).loss(x, now).losses["l1"].item() for now in moments] == [0, 1, 2]
