"""Random directions: by hand, and the very control that the chain puts beside every dictionary."""

from __future__ import annotations

import pytest
import torch

from components.config import load
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.architectures.untrained import Untrained, UntrainedConfig
from components.dictionary.contract import untrained
from components.errors import ConfigError
from tests.planted import HOOK, directions, rows

X = rows(300, directions())


def begun(options, seed=0):
    return untrained(options, HOOK, {HOOK: 24}, {HOOK: X}, torch.Generator().manual_seed(seed))


def test_a_hand_computed_example():
    dictionary = Untrained(UntrainedConfig(d_sae=3, k=1), (HOOK,), (HOOK,), {HOOK: 2})
    dictionary.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    dictionary.W_enc.copy_(dictionary.W_dec)
    dictionary.b_dec.copy_(torch.tensor([1.0, 0.0]))
    # centred (1, 2) and (-1, -1)
    codes = dictionary.encode(torch.tensor([[2.0, 2.0], [0.0, -1.0]]))
    torch.testing.assert_close(codes.dense(), torch.tensor([[0.0, 0.0, 2.2], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(
        dictionary.decode(codes), torch.tensor([[1 + 2.2 * 0.6, 2.2 * 0.8], [1.0, 0.0]])
    )


def test_it_is_topk_before_its_first_update_but_for_the_gain():
    ours, theirs = begun(UntrainedConfig(d_sae=64, k=3)), begun(TopKConfig(d_sae=64, k=3))
    a, b = ours.encode(X), theirs.encode(X)
    gain = a.values / b.values
    assert torch.equal(a.indices, b.indices) and torch.equal(ours.W_dec, theirs.W_dec)
    torch.testing.assert_close(gain, torch.full_like(gain, gain[0].item()))


def test_the_gain_has_the_least_error_and_no_overshoot():
    """Random directions overlap: as they stand they reconstruct worse than the mean."""
    dictionary = begun(UntrainedConfig(d_sae=2000, k=64))

    def error():
        rebuilt = dictionary.decode(dictionary.encode(X))
        return ((X - rebuilt).square().sum() / (X - X.mean(0)).square().sum()).item()

    best, found = error(), {}
    for factor in (0.9, 1.1):
        dictionary.W_enc.mul_(factor)
        found[factor] = error()
        dictionary.W_enc.div_(factor)
    theirs = begun(TopKConfig(d_sae=2000, k=64))
    plain = (X - theirs.decode(theirs.encode(X))).square().sum() / (X - X.mean(0)).square().sum()
    assert best < min(found.values()) and best < 0.6 and plain > 1.0


def test_another_seed_draws_other_directions():
    options = UntrainedConfig(d_sae=64, k=3)
    assert not torch.equal(begun(options).W_dec, begun(options, seed=1).W_dec)


def test_k_larger_than_d_sae_is_refused():
    with pytest.raises(
        ConfigError, match="k is 9, but there are only d_sae = 4 latents; lower k or raise d_sae"
    ):
        load(UntrainedConfig, {"d_sae": 4, "k": 9})


def test_results_of_version_2_are_kept():
    """Golden: if this number changes, raise `Untrained.version`."""
    assert Untrained.version == 2
    dictionary = begun(UntrainedConfig(d_sae=64, k=3))
    left = (X - dictionary.decode(dictionary.encode(X))).square().sum() / (
        X - X.mean(0)
    ).square().sum()
    assert left.item() == pytest.approx(0.623502, rel=1e-3)
