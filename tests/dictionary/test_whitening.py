"""Whitened rows have equal variances; what learnt them is folded into weights that read activations
as any other's."""

from __future__ import annotations

import pytest
import torch

from components.config import load
from components.dictionary.contract import Dictionary, architectures, untrained
from components.dictionary.fit import evaluate
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.dictionary.whitening import whitening_of
from components.errors import ConfigError, DictionaryError
from tests.planted import HOOK, directions, rows

D_IN = 24
SPREAD = torch.logspace(0, -2, D_IN)
X = rows(4000, directions(d=D_IN)) * SPREAD + 3.0
ABLE = [name for name, entry in architectures.items() if entry.folds]


def learner(kind, tokens=20_000):
    sizes = {
        "d_sae": 64,
        "k": 3,
        "target_l0": 3.0,
        "l1": 1.0,
        "prefixes": (0.75, 1.0),
        "weights": (0.5, 0.5),
    }
    fields = architectures[kind].config.model_fields
    options = architectures[kind].config(
        **{name: value for name, value in sizes.items() if name in fields}
    )
    config = TrainConfig(
        dictionary=options, tokens=tokens, batch_size=200, lr=1e-2, normalise="whiten"
    )
    whitening = whitening_of(X, 0.01)
    sample = {HOOK: whitening.whitened(X)}
    dictionary = untrained(options, HOOK, {HOOK: D_IN}, sample, torch.Generator().manual_seed(0))
    return Learner(dictionary, config, whitening=whitening)


def test_whitened_rows_have_equal_variances_and_come_back():
    whitening = whitening_of(X, 1e-6)
    whitened = whitening.whitened(X)
    torch.testing.assert_close(torch.cov(whitened.T), torch.eye(D_IN), atol=0.02, rtol=0.02)
    torch.testing.assert_close(whitening.restored(whitened), X, atol=1e-3, rtol=1e-3)


def test_the_floor_keeps_what_is_nearly_noise_small():
    variances = torch.cov(whitening_of(X, 0.1).whitened(X).T).diagonal()
    assert variances.max() < 1 and variances.min() < 0.2


def test_rows_that_do_not_vary_are_refused():
    with pytest.raises(
        DictionaryError, match=r"the 5 activations sampled do not vary.*train\.normalise=scale"
    ):
        whitening_of(torch.ones(5, 3), 0.1)


@pytest.mark.parametrize("kind", ABLE)
def test_folded_weights_give_the_same_codes_and_reconstruction(kind, tmp_path):
    one = learner(kind)
    for step in range(one.steps if one.learnt else 0):
        one.learn({HOOK: X[torch.arange(step * 200, step * 200 + 200) % len(X)]})
    before, rebuilt = one.rebuilt({HOOK: X}, HOOK)
    fvu = evaluate(one.dictionary, [{HOOK: X}], one)["fvu"]
    one.finish()
    after = one.dictionary.encode(X)
    assert (before.dense() > 0).eq(
        after.dense() > 0
    ).double().mean() > 0.9999  # a tie may round to the other side
    torch.testing.assert_close(
        one.dictionary.decode(after).double().mean(0),
        rebuilt.double().mean(0),
        rtol=1e-3,
        atol=1e-3,
    )
    assert evaluate(one.dictionary, [{HOOK: X}])["fvu"] == pytest.approx(fvu, rel=1e-3)
    one.dictionary.save(tmp_path)
    again = Dictionary.load(tmp_path)
    assert torch.equal(again.encode(X).values, after.values)


def test_an_architecture_that_cannot_be_folded_is_refused_with_those_that_can():
    with pytest.raises(
        ConfigError,
        match=r"normalise is whiten, and pca has no encoder.*take one of batch_topk, gated",
    ):
        load(TrainConfig, {"dictionary": {"kind": "pca"}, "normalise": "whiten"})
