"""Matryoshka: an example by hand, gradients against prefixes decoded anew, refusals, and a golden
run."""

from __future__ import annotations

import pytest
import torch

from components.config import load
from components.dictionary.architectures.matryoshka import Matryoshka, MatryoshkaConfig
from components.dictionary.contract import Moment
from components.dictionary.fit import evaluate
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.errors import ConfigError
from tests.planted import HOOK, directions, rows

NAMES = (HOOK,), (HOOK,)


def moment(dead):
    return Moment(0, 10, dead, torch.Generator())


def test_a_hand_computed_example():
    options = MatryoshkaConfig(d_sae=2, k=2, prefixes=(0.5, 1.0), weights=(0.25, 2.0))
    dictionary = Matryoshka(options, *NAMES, {HOOK: 2})
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(2))
        dictionary.W_dec.copy_(torch.eye(2))
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])  # latent 0 alone gives (3, 0), (1, 0); both give x
    outcome = dictionary.loss({HOOK: x}, moment(torch.zeros(2).bool()))
    assert outcome.losses["reconstruction"].item() == 0
    assert outcome.losses["prefixes"].item() == pytest.approx(0.25 * 16 / (2 + 8))
    torch.testing.assert_close(outcome.reconstruction[HOOK], x)
    assert outcome.fired.tolist() == [2, 1]


def reference(p, x, dead, n, k_aux, widths, weights):
    """Every prefix decoded anew, in plain dense float64 autograd."""
    u = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    keep = (
        torch.zeros(u.numel(), dtype=u.dtype)
        .scatter(0, u.flatten().topk(n).indices, 1.0)
        .view_as(u)
    )
    z = keep * u.relu()
    variance = (x - x.mean(0)).square().sum()
    x_hats = [z[:, :width] @ p["W_dec"][:width] + p["b_dec"] for width in widths]
    loss = sum(
        g * (x - x_hat).square().sum() / variance for g, x_hat in zip(weights, x_hats, strict=True)
    )
    e = (x - x_hats[-1]).detach()
    chosen = torch.where(dead, u, -torch.inf).topk(min(k_aux, int(dead.sum()))).indices
    z_aux = torch.zeros_like(u).scatter(1, chosen, 1.0) * u.relu()
    ratio = (e - z_aux @ p["W_dec"]).square().sum() / (e - e.mean(0)).square().sum()
    return loss + ratio / 32 * min(1.0, int(dead.sum()) / k_aux)


def test_value_and_every_gradient_equal_a_dense_float64_reference():
    d, d_sae, k, weights = 8, 16, 3, (0.5, 1.0, 0.25)
    generator = torch.Generator().manual_seed(1)
    options = MatryoshkaConfig(d_sae=d_sae, k=k, prefixes=(0.125, 0.5, 1.0), weights=weights)
    dictionary = Matryoshka(options, *NAMES, {HOOK: d}).double()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(20, d, dtype=torch.float64, generator=generator)
    dead = torch.arange(d_sae) % 5 == 0
    copies = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in dictionary.named_parameters()
    }
    ours = torch.stack(list(dictionary.loss({HOOK: x}, moment(dead)).losses.values())).sum()
    theirs = reference(copies, x, dead, k * 20, d // 2, (2, 8, 16), weights)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    for name, parameter in dictionary.named_parameters():
        torch.testing.assert_close(parameter.grad, copies[name].grad, msg=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"d_sae": 100}, "d_sae is 100, and prefixes .* take a multiple of 16, as 96"),
        (
            {"prefixes": (0.5, 0.25, 1.0), "weights": (1, 1, 1)},
            "give shares that ascend from above 0 to 1",
        ),
        ({"prefixes": (0.25, 0.5), "weights": (1, 1)}, "give shares that ascend from above 0 to 1"),
        ({"weights": (1.0,)}, "5 prefixes but 1 weights; give one for each"),
        ({"d_sae": 16, "k": 17}, "k is 17, but there are only d_sae = 16 latents"),
    ],
)
def test_bad_options_are_refused_and_say_what_to_do(given, message):
    with pytest.raises(ConfigError, match=message):
        load(MatryoshkaConfig, given)


def learnt(steps):
    x = rows(6000, directions())
    config = TrainConfig(
        dictionary=MatryoshkaConfig(d_sae=64, k=3), tokens=250 * steps, batch_size=250, lr=1e-2
    )
    dictionary = Matryoshka(config.dictionary, *NAMES, {HOOK: 24})
    dictionary.begin({HOOK: x}, torch.Generator().manual_seed(0))
    learner = Learner(dictionary, config)
    for step in range(steps):
        learner.learn({HOOK: x[torch.arange(step * 250, step * 250 + 250) % 6000]})
    dictionary.finish()
    return learner


def test_a_prefix_reconstructs_by_itself_and_held_out_rows_use_about_k_latents():
    dictionary = learnt(200).dictionary
    x = rows(2000, directions(), seed=9)
    assert evaluate(dictionary, [{HOOK: x}])["l0"] == pytest.approx(3, rel=0.1)
    codes = dictionary.encode(x).dense()
    whole = (x - x.mean(0)).square().sum()

    def left(width):
        bias = dictionary.b_dec.detach() / dictionary.scale
        prefix = codes[:, :width] @ dictionary.decoder_directions()[:width].detach() + bias
        return ((x - prefix).square().sum() / whole).item()

    assert left(16) < 0.8 and left(64) < left(32) < left(16) < left(4)


def test_results_of_version_1_are_kept():
    """Golden: if these numbers change, raise `Matryoshka.version`."""
    assert Matryoshka.version == 1
    learner = learnt(20)
    found = learner.metrics() | {"threshold": learner.dictionary.threshold.item()}
    wanted = {"loss.reconstruction": 0.108894, "loss.prefixes": 0.652564, "threshold": 1.235369}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)
