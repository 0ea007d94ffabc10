"""ReLU: an example by hand, the penalty's warm-up, and a golden run."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.architectures.relu import Relu, ReluConfig
from components.dictionary.contract import Moment, untrained
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)


def by_hand(**options):
    dictionary = Relu(ReluConfig(d_sae=2, **options), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        dictionary.W_dec.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.5]]))
        dictionary.b_enc.copy_(torch.tensor([-1.0, 0.0]))
        dictionary.b_dec.copy_(torch.tensor([0.0, 1.0]))
    return dictionary


def moment(step=100, steps=100):
    return Moment(step, steps, torch.zeros(2).bool(), torch.Generator())


def test_a_hand_computed_example():
    # (3, 2): u = (2, 2), reconstruction (6, 8 + 1 + 1); (0, 0): u = (-1, -2), reconstruction b_dec
    dictionary = by_hand(l1=0.5)
    x = torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    codes = dictionary.encode(x)
    assert codes.dense().tolist() == [[2.0, 2.0], [0.0, 0.0]]
    assert dictionary.decode(codes).tolist() == [[6.0, 10.0], [0.0, 1.0]]
    outcome = dictionary.loss({HOOK: x}, moment())
    assert outcome.losses["reconstruction"].item() == pytest.approx((9 + 64 + 1) / 2)
    assert outcome.losses["l1"].item() == pytest.approx(0.5 * (2 * 5 + 2 * 0.5) / 2)
    assert outcome.fired.tolist() == [1, 1]


def test_the_penalty_rises_over_its_share_of_training():
    dictionary = by_hand(l1=1.0, l1_warm_up=0.5)
    x = {HOOK: torch.tensor([[3.0, 2.0]])}
    found = [dictionary.loss(x, moment(step, 100)).losses["l1"].item() for step in (0, 25, 50, 99)]
    assert found == pytest.approx([0, 11 / 2, 11, 11])
    assert by_hand(l1=1.0, l1_warm_up=0).loss(x, moment(1, 100)).losses[
        "l1"
    ].item() == pytest.approx(11)


def test_results_of_version_2_are_kept():
    """Golden: if these numbers change, raise `Relu.version`."""
    assert Relu.version == 2
    x = rows(400, directions())
    dictionary = Relu(ReluConfig(d_sae=48, l1=1.0), *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    learner = Learner(
        dictionary, TrainConfig(dictionary=dictionary.options, tokens=2000, batch_size=100, lr=3e-3)
    )
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    found = learner.metrics()
    wanted = {"loss.reconstruction": 22.0437, "loss.l1": 1.08649, "l0": 25.1505}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)


def test_unit_rows_stay_at_norm_one_and_the_penalty_is_then_a_plain_sum():
    x = rows(500, directions(d=12))
    dictionary = untrained(
        ReluConfig(d_sae=32, decoder="unit"), HOOK, {HOOK: 12}, {HOOK: x}, torch.Generator()
    )
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(32))
    learner = Learner(dictionary, TrainConfig(tokens=500, batch_size=100, lr=1e-2))
    for batch in x.split(100):
        learner.learn({HOOK: batch})
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(32))
    found = dictionary.loss(
        {HOOK: x}, Moment(10, 10, torch.zeros(32).bool(), torch.Generator())
    ).losses["l1"]
    plain = 5 * dictionary.encode(x).values.sum() * dictionary.scale / len(x)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=0)


def test_the_form_with_free_rows_starts_them_at_a_tenth():
    x = rows(500, directions(d=12))
    dictionary = untrained(ReluConfig(d_sae=32), HOOK, {HOOK: 12}, {HOOK: x}, torch.Generator())
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.full((32,), 0.1))
