"""The raw basis: an example by hand, exact with every coordinate, no better with another seed."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.architectures.neurons import Neurons, NeuronsConfig
from components.dictionary.contract import untrained
from components.errors import DictionaryError
from tests.planted import HOOK, directions, rows

X = rows(300, directions())


def begun(k, x=X, seed=0):
    return untrained(
        NeuronsConfig(k=k), HOOK, {HOOK: x.shape[1]}, {HOOK: x}, torch.Generator().manual_seed(seed)
    )


def test_a_hand_computed_example():
    # around (1, 1, 1) the row (4, -1, 2) is (3, -2, 1): latent 0 with 3 and latent 3 + 1 with 2;
    # the smallest is left out
    dictionary = Neurons(NeuronsConfig(k=2), (HOOK,), (HOOK,), {HOOK: 3})
    dictionary.b_dec.fill_(1.0)
    codes = dictionary.encode(torch.tensor([[4.0, -1.0, 2.0]]))
    assert codes.dense().tolist() == [[3, 0, 0, 0, 2, 0]]
    assert dictionary.decode(codes).tolist() == [[4, -1, 1]]
    assert dictionary.decoder_directions().tolist() == [
        [1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1],
    ]  # fmt: skip


def test_every_coordinate_together_is_exact_and_a_reconstruction_gets_better_with_each():
    errors = [
        (X - (d := begun(k)).decode(d.encode(X))).square().sum().item() for k in (1, 4, 12, 24)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(0, abs=1e-6)


def test_it_keeps_the_best_coordinates_of_each_row():
    dictionary = begun(5)
    left = (X - dictionary.decode(dictionary.encode(X))) ** 2
    smallest = (X - X.mean(0)).square().sort(dim=1).values[:, : 24 - 5]
    torch.testing.assert_close(left.sum(1), smallest.sum(1), atol=1e-4, rtol=1e-4)


def test_nothing_is_drawn_and_size_and_name_follow_from_the_width():
    assert torch.equal(begun(3).b_dec, begun(3, seed=1).b_dec)
    assert (begun(3).d_sae, begun(3).name) == (48, "neurons-48-k3")


def test_more_latents_than_there_are_is_refused():
    with pytest.raises(
        DictionaryError, match="k is 49, but neurons has only 48 latents at width 24; lower k"
    ):
        begun(49)


def test_results_of_version_1_are_kept():
    """Golden: if this number changes, raise `Neurons.version`."""
    assert Neurons.version == 1
    dictionary = begun(4)
    left = (X - dictionary.decode(dictionary.encode(X))).square().sum() / (
        X - X.mean(0)
    ).square().sum()
    assert left.item() == pytest.approx(0.425893, rel=1e-3)
