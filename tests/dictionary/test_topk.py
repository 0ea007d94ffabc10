"""TopK: an example by hand, AuxK against a hand-written float64 reference, and a golden run."""

from __future__ import annotations

import pytest
import torch

from components.config import load
from components.dictionary.architectures import topk
from components.dictionary.architectures.topk import TopK, TopKConfig
from components.dictionary.contract import Moment
from components.dictionary.learner import Learner
from components.dictionary.nonlinearities import largest_of
from components.dictionary.settings import TrainConfig
from components.errors import ConfigError
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)


def moment(dead):
    return Moment(0, 10, dead, torch.Generator())


def by_hand(**options):
    dictionary = TopK(TopKConfig(**options), *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        dictionary.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        dictionary.b_enc.copy_(torch.tensor([0.0, 0.5, 0.0]))
        dictionary.b_dec.copy_(torch.tensor([1.0, 1.0]))
    return dictionary


def test_a_hand_computed_example():
    # u of (3, 2) is (2, 1.5, -2): latents 0 and 1; of (0, 0): (-1, -0.5, 1): latent 2, and latent 1
    # rectified to nothing
    dictionary = by_hand(d_sae=3, k=2)
    x = torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    codes = dictionary.encode(x)
    assert codes.dense().tolist() == [[2.0, 1.5, 0.0], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(dictionary.decode(codes), torch.tensor([[3.0, 2.5], [1.6, 1.8]]))
    outcome = dictionary.loss({HOOK: x}, moment(torch.zeros(3).bool()))
    assert outcome.losses["reconstruction"].item() == pytest.approx(
        (0.25 + 1.6**2 + 1.8**2) / (2 * (1.5**2 + 1))
    )
    assert set(outcome.losses) == {"reconstruction"} and outcome.fired.tolist() == [1, 1, 1]


def test_the_largest_are_taken_before_they_are_rectified():
    codes = by_hand(d_sae=3, k=3).encode(torch.tensor([[3.0, 2.0]]))
    assert codes.dense().tolist() == [[2.0, 1.5, 0.0]] and codes.nnz == 2


def test_k_larger_than_d_sae_is_refused():
    with pytest.raises(
        ConfigError, match="k is 9, but there are only d_sae = 4 latents; lower k or raise d_sae"
    ):
        load(TopKConfig, {"d_sae": 4, "k": 9})


def auxk_reference(p, x, dead, k, k_aux):
    """Loss with AuxK in plain dense float64 autograd, as section A.2 of arXiv:2406.04093 and this
    module say."""
    u = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    z = torch.zeros_like(u).scatter(1, u.topk(k).indices, 1.0) * u.relu()
    x_hat = z @ p["W_dec"] + p["b_dec"]
    e = (x - x_hat).detach()
    of_dead = torch.where(dead, u, -torch.inf)
    chosen = of_dead.topk(min(k_aux, int(dead.sum()))).indices
    z_aux = torch.zeros_like(u).scatter(1, chosen, 1.0) * u.relu()
    ratio = (e - z_aux @ p["W_dec"]).square().sum() / (e - e.mean(0)).square().sum()
    fvu = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    return fvu + ratio / 32 * min(1.0, int(dead.sum()) / k_aux)


def searched_as_on_a_gpu(pre, chosen, k):
    return pre.masked_fill(~chosen, -torch.inf).topk(k).indices


@pytest.mark.parametrize("search", [largest_of, searched_as_on_a_gpu])
@pytest.mark.parametrize("n_dead", [1, 3, 7, 12])
def test_auxk_equals_a_hand_written_float64_reference_in_value_and_in_every_gradient(
    n_dead, search, monkeypatch
):
    monkeypatch.setattr(topk, "largest_of", search)
    d, d_sae, k = 8, 12, 3
    generator = torch.Generator().manual_seed(n_dead)
    dictionary = TopK(TopKConfig(d_sae=d_sae, k=k), *NAMES, {HOOK: d}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(20, d, dtype=torch.float64, generator=generator)
    dead = torch.zeros(d_sae).bool()
    dead[torch.randperm(d_sae, generator=generator)[:n_dead]] = True
    copies = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in dictionary.named_parameters()
    }

    ours = torch.stack(list(dictionary.loss({HOOK: x}, moment(dead)).losses.values())).sum()
    theirs = auxk_reference(copies, x, dead, k, k_aux=d // 2)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    for name, parameter in dictionary.named_parameters():
        torch.testing.assert_close(parameter.grad, copies[name].grad, msg=name)


@pytest.mark.parametrize("n_dead", [0, 4])
def test_multi_topk_equals_a_dense_float64_reference_in_value_and_in_every_gradient(n_dead):
    d, d_sae, k = 8, 16, 2
    generator = torch.Generator().manual_seed(n_dead)
    options = TopKConfig(d_sae=d_sae, k=k, multi_topk_coefficient=1 / 8)
    dictionary = TopK(options, *NAMES, {HOOK: d}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(20, d, dtype=torch.float64, generator=generator)
    dead = torch.arange(d_sae) < n_dead
    p = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in dictionary.named_parameters()
    }
    ours = torch.stack(list(dictionary.loss({HOOK: x}, moment(dead)).losses.values())).sum()

    u = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    wide = torch.zeros_like(u).scatter(1, u.topk(4 * k).indices, 1.0) * u.relu()
    left = (x - wide @ p["W_dec"] - p["b_dec"]).square().sum() / (x - x.mean(0)).square().sum()
    fvu = (x - dictionary_of(p, u, k)).square().sum() / (x - x.mean(0)).square().sum()
    theirs = (auxk_reference(p, x, dead, k, d // 2) if n_dead else fvu) + left / 8
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    for name, parameter in dictionary.named_parameters():
        torch.testing.assert_close(parameter.grad, p[name].grad, msg=name)


def dictionary_of(p, u, k):
    return (
        torch.zeros_like(u).scatter(1, u.topk(k).indices, 1.0) * u.relu() @ p["W_dec"] + p["b_dec"]
    )


def test_the_clip_inside_the_optimiser_is_the_clip_before_it():
    x = rows(200, directions())
    config = TrainConfig(
        dictionary=TopKConfig(d_sae=48, k=2), tokens=200, batch_size=200, lr=1e-2, clip=1e-3
    )
    dictionary = TopK(config.dictionary, *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    learner = Learner(dictionary, config)
    learner.learn({HOOK: x})
    first = [learner.optimiser.state[weights]["exp_avg"] for weights in learner.learnt.values()]
    norm = torch.stack([moment.norm() for moment in first]).norm() / (
        1 - dictionary.recipe.betas[0]
    )
    assert norm.item() == pytest.approx(1e-3, rel=1e-4)


def test_auxk_trains_the_encoder_of_a_dead_latent_and_is_absent_when_none_is_dead_or_its_weight_is_zero():
    x = {HOOK: torch.randn(30, 2, generator=torch.Generator().manual_seed(0))}
    dead = torch.tensor([False, False, True])
    dictionary = by_hand(d_sae=3, k=1)
    dictionary.loss(x, moment(dead)).losses["auxk"].backward()
    assert dictionary.W_enc.grad[2].norm() > 0 and dictionary.W_dec.grad[2].norm() > 0
    assert dictionary.W_enc.grad[:2].norm() == 0
    assert "auxk" not in dictionary.loss(x, moment(torch.zeros(3).bool())).losses
    assert "auxk" not in by_hand(d_sae=3, k=1, auxk_coefficient=0).loss(x, moment(dead)).losses


def test_auxk_brings_silent_latents_back():
    x = rows(1000, directions())
    config = TrainConfig(
        dictionary=TopKConfig(d_sae=64, k=3),
        tokens=12_000,
        batch_size=200,
        lr=1e-2,
        dead_after=1000,
    )

    def silent_share(coefficient):
        options = TopKConfig(d_sae=64, k=3, auxk_coefficient=coefficient)
        dictionary = TopK(options, *NAMES, {HOOK: 24})
        dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
        with torch.no_grad():
            dictionary.b_enc[
                :32
            ] = -3.0  # half of the latents start silent, now and then above zero
        learner = Learner(dictionary, config)
        for step in range(learner.steps):
            learner.learn({HOOK: x[torch.arange(step * 200, step * 200 + 200) % 1000]})
        return learner.metrics()["dead_share"]

    assert silent_share(0.0) > 0.4
    assert silent_share(1 / 32) < 0.2


def test_results_of_version_1_are_kept():
    """Golden: if these numbers change, raise `TopK.version`."""
    assert TopK.version == 1
    x = rows(400, directions())
    dictionary = TopK(TopKConfig(d_sae=48, k=2), *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    learner = Learner(
        dictionary,
        TrainConfig(
            dictionary=dictionary.options, tokens=2000, batch_size=100, dead_after=100, lr=3e-3
        ),
    )
    for step in range(20):
        learner.learn({HOOK: x[torch.arange(step * 100, step * 100 + 100) % 400]})
    found = learner.metrics()
    wanted = {"loss.reconstruction": 0.675525, "loss.auxk": 0.013265, "l0": 2, "dead_share": 3 / 48}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)
