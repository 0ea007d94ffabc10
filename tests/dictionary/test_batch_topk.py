"""BatchTopK: an example by hand, gradients against dense float64 autograd, the threshold, and a
golden run."""

from __future__ import annotations

import pytest
import torch

from components.config import load
from components.dictionary.architectures.batch_topk import BatchTopK, BatchTopKConfig
from components.dictionary.contract import Dictionary, Moment
from components.dictionary.fit import evaluate
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.dictionary.threshold import follow
from components.errors import ConfigError
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)
NONE_DEAD = torch.zeros(3).bool()


def moment(dead, step=0, steps=10):
    return Moment(step, steps, dead, torch.Generator())


def by_hand(k=1):
    dictionary = BatchTopK(BatchTopKConfig(d_sae=3, k=k), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        dictionary.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        dictionary.b_enc.copy_(torch.tensor([0.0, 0.5, 0.0]))
        dictionary.b_dec.copy_(torch.tensor([1.0, 1.0]))
    return dictionary


def test_a_hand_computed_example():
    # u of (3, 2) is (2, 1.5, -2), of (0, 0) (-1, -0.5, 1): the two largest of the batch are both
    # the first token's
    dictionary = by_hand()
    x = torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    outcome = dictionary.loss({HOOK: x}, moment(NONE_DEAD))
    assert outcome.fired.tolist() == [1, 1, 0]
    torch.testing.assert_close(outcome.reconstruction[HOOK], torch.tensor([[3.0, 2.5], [1.0, 1.0]]))
    assert outcome.losses["reconstruction"].item() == pytest.approx((0.25 + 2) / (2 * (1.5**2 + 1)))
    assert dictionary.threshold.item() == 1.5
    # above 1.5, not at it
    assert dictionary.encode(x).dense().tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def reference(p, x, dead, n, k_aux):
    """The loss in plain dense float64 autograd."""
    u = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    keep = (
        torch.zeros(u.numel(), dtype=u.dtype)
        .scatter(0, u.flatten().topk(n).indices, 1.0)
        .view_as(u)
    )
    x_hat = (keep * u.relu()) @ p["W_dec"] + p["b_dec"]
    e = (x - x_hat).detach()
    chosen = torch.where(dead, u, -torch.inf).topk(min(k_aux, int(dead.sum()))).indices
    z_aux = torch.zeros_like(u).scatter(1, chosen, 1.0) * u.relu()
    ratio = (e - z_aux @ p["W_dec"]).square().sum() / (e - e.mean(0)).square().sum()
    fvu = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    return fvu + ratio / 32 * min(1.0, int(dead.sum()) / k_aux)


@pytest.mark.parametrize("n_dead", [1, 5])
def test_value_and_every_gradient_equal_a_dense_float64_reference(n_dead):
    d, d_sae, k = 8, 12, 3
    generator = torch.Generator().manual_seed(n_dead)
    dictionary = BatchTopK(BatchTopKConfig(d_sae=d_sae, k=k), *NAMES, {HOOK: d}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(20, d, dtype=torch.float64, generator=generator)
    dead = torch.arange(d_sae) < n_dead
    copies = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in dictionary.named_parameters()
    }
    ours = torch.stack(list(dictionary.loss({HOOK: x}, moment(dead)).losses.values())).sum()
    theirs = reference(copies, x, dead, k * 20, d // 2)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    for name, parameter in dictionary.named_parameters():
        torch.testing.assert_close(parameter.grad, copies[name].grad, msg=name)


def test_the_threshold_takes_the_first_value_then_a_running_mean_and_ignores_an_empty_batch():
    threshold = torch.tensor(9.0)
    follow(threshold, torch.tensor([3.0, 2.0, 0.0]), moment(NONE_DEAD, step=10, steps=100))
    assert threshold.item() == 2.0
    follow(threshold, torch.tensor([4.0, 3.0]), moment(NONE_DEAD, step=11, steps=100))
    assert threshold.item() == pytest.approx(2 + 1 / 5)  # a memory of a twentieth of 100 updates
    follow(threshold, torch.tensor([0.0]), moment(NONE_DEAD, step=12, steps=100))
    follow(threshold, torch.tensor([]), moment(NONE_DEAD, step=12, steps=100))
    assert threshold.item() == pytest.approx(2.2)
    follow(threshold, torch.tensor([3.2]), moment(NONE_DEAD, step=1001, steps=10**6))
    assert threshold.item() == pytest.approx(2.201)  # the field's decay of 0.999


def learnt(steps, k=3):
    x = rows(6000, directions())
    config = TrainConfig(
        dictionary=BatchTopKConfig(d_sae=64, k=k), tokens=250 * steps, batch_size=250, lr=1e-2
    )
    dictionary = BatchTopK(config.dictionary, *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    learner = Learner(dictionary, config)
    for step in range(steps):
        learner.learn({HOOK: x[torch.arange(step * 250, step * 250 + 250) % 6000]})
    dictionary.finish()
    return learner


@pytest.mark.parametrize("steps", [0, 100, 400])
def test_held_out_rows_use_about_k_latents_after_a_short_run_and_after_none(steps):
    dictionary = learnt(steps).dictionary
    found = evaluate(dictionary, [{HOOK: rows(2000, directions(), seed=9)}])
    assert found["l0"] == pytest.approx(3, rel=0.1)


def test_the_threshold_is_saved(tmp_path):
    dictionary = learnt(20).dictionary
    assert dictionary.threshold > 0
    dictionary.save(tmp_path)
    assert torch.equal(Dictionary.load(tmp_path).threshold, dictionary.threshold)


def test_k_larger_than_d_sae_is_refused():
    with pytest.raises(
        ConfigError, match="k is 9, but there are only d_sae = 4 latents; lower k or raise d_sae"
    ):
        load(BatchTopKConfig, {"d_sae": 4, "k": 9})


def test_results_of_version_1_are_kept():
    """Golden: if these numbers change, raise `BatchTopK.version`."""
    assert BatchTopK.version == 1
    learner = learnt(20)
    found = learner.metrics() | {"threshold": learner.dictionary.threshold.item()}
    wanted = {"loss.reconstruction": 0.549823, "threshold": 1.084619}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)
