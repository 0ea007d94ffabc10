"""Independent components: mixed sources are found again, the seed decides, flat directions are left
out."""

from __future__ import annotations

import logging

import pytest
import torch

from components.dictionary.architectures.ica import Ica, IcaConfig
from components.dictionary.contract import Dictionary, Moment, untrained
from tests.planted import HOOK, directions, recovered, rows

PLANTED = directions(n=12, d=12)
X = rows(3000, PLANTED, active=0.6)  # seldom active: far from Gaussian


def begun(x=X, seed=0, **options):
    options = IcaConfig(**({"k": 3} | options))
    return untrained(
        options, HOOK, {HOOK: x.shape[1]}, {HOOK: x}, torch.Generator().manual_seed(seed)
    )


def fitted(x=X, batch=500, **options):
    dictionary = begun(x, **options)
    moment = Moment(0, 1, torch.zeros(dictionary.d_sae).bool(), torch.Generator())
    for part in x.split(batch):
        dictionary.loss({HOOK: part}, moment)
    dictionary.finish()
    return dictionary


def unexplained(dictionary, x=X):
    return (x - dictionary.decode(dictionary.encode(x))).square().sum().item() / (
        x - x.mean(0)
    ).square().sum().item()


def test_independent_sources_mixed_by_a_square_matrix_are_found_again():
    assert recovered(PLANTED, fitted().decoder_directions()).min() > 0.97


def test_by_hand_two_sources_along_known_directions():
    # each row lies on one of two directions, so the sources are those directions
    along = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    lengths = torch.tensor([-3.0, -1.0, 1.0, 3.0]).repeat(100)
    x = torch.cat([lengths[:, None] * along[0], lengths[:, None] * along[1]])
    dictionary = fitted(x, k=1)
    assert recovered(along, dictionary.decoder_directions()).min() > 0.999
    codes = dictionary.encode(x[[3, 403]]).dense().max(1).values
    torch.testing.assert_close(codes, torch.tensor([3.0, 3.0]), atol=0.1, rtol=0)


def test_every_component_together_is_exact_and_rows_have_norm_1():
    dictionary = fitted(k=12)
    assert unexplained(dictionary) == pytest.approx(0, abs=1e-8)
    torch.testing.assert_close(dictionary.decoder_directions().norm(dim=1), torch.ones(24))


def test_the_seed_decides_and_batches_do_not():
    assert torch.equal(fitted().W_dec, fitted(batch=7).W_dec)
    assert not torch.equal(fitted().W_dec, fitted(seed=1).W_dec)


def test_rows_beyond_the_bound_are_not_looked_at():
    dictionary = fitted(torch.cat([X[:1000], X[1000:] * 7]), rows=1000)
    assert torch.equal(dictionary.W_dec, _with_scale_of(dictionary, X[:1000]).W_dec)


def _with_scale_of(other, x):
    dictionary = begun(x, rows=1000)
    dictionary.scales = other.scales
    dictionary.loss({HOOK: x}, Moment(0, 1, torch.zeros(24).bool(), torch.Generator()))
    dictionary.finish()
    return dictionary


def test_directions_that_do_not_vary_become_latents_that_never_fire():
    x = torch.cat([X, torch.full((len(X), 2), 1.5)], dim=1)
    dictionary = fitted(x)
    silent = dictionary.decoder_directions().norm(dim=1) == 0
    assert silent.sum() == 4 and not dictionary.encode(x).dense()[:, silent].any()
    assert unexplained(dictionary, x) == pytest.approx(unexplained(fitted()), rel=1e-2)


def test_too_few_iterations_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        fitted(iterations=1)
    assert (
        "ica-24-k3 has not converged after 1 iterations over 3000 rows; raise iterations or rows"
        in caplog.text
    )


def test_rows_are_in_the_checkpoint_and_not_in_the_artifact(tmp_path):
    assert {"n", "kept"} <= set(begun().state_dict())
    fitted().save(tmp_path)
    assert set(Dictionary.load(tmp_path).state_dict()) == {"W_enc", "W_dec", "b_dec"}


def test_results_of_version_1_are_kept():
    """Golden: if this number changes, raise `Ica.version`."""
    assert Ica.version == 1
    assert unexplained(fitted(k=2)) == pytest.approx(0.098421, rel=1e-2)
