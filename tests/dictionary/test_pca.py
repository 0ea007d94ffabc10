"""Principal components: by hand, against scikit-learn, the best of their rank, and the same in any
batches."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA

from components.dictionary.architectures.pca import Pca, PcaConfig
from components.dictionary.contract import Dictionary, Moment, untrained
from tests.planted import HOOK, directions, rows

X = rows(1200, directions())
MOMENT = Moment(0, 1, torch.zeros(48).bool(), torch.Generator())


def fitted(k, x=X, batch=300, sample=None):
    options, sample = PcaConfig(k=k), x if sample is None else sample
    dictionary = untrained(
        options, HOOK, {HOOK: x.shape[1]}, {HOOK: sample}, torch.Generator().manual_seed(0)
    )
    for rows_ in x.split(batch):
        dictionary.loss({HOOK: rows_}, MOMENT)
    dictionary.finish()
    return dictionary


def unexplained(dictionary, x=X):
    return (x - dictionary.decode(dictionary.encode(x))).square().sum().item() / (
        x - x.mean(0)
    ).square().sum().item()


def test_a_hand_computed_example():
    # along (0.6, 0.8) the rows lie at -2, -1, 1, 2 and across it at +-0.5, around (1, 1)
    along, across = torch.tensor([0.6, 0.8]), torch.tensor([0.8, -0.6])
    x = (
        torch.stack(
            [s * along + t * across for s, t in ((-2, 0.5), (-1, -0.5), (1, -0.5), (2, 0.5))]
        )
        + 1
    )
    dictionary = fitted(1, x)
    expected = torch.stack([along, across, -along, -across])
    torch.testing.assert_close(dictionary.decoder_directions(), expected)
    codes = dictionary.encode(x)
    torch.testing.assert_close(
        codes.dense(),
        torch.tensor([[0, 0, 2.0, 0], [0, 0, 1.0, 0], [1.0, 0, 0, 0], [2.0, 0, 0, 0]]),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(dictionary.decode(codes)[3], 2 * along + 1)


def test_the_components_are_scikit_learns():
    ours, theirs = (
        fitted(3).decoder_directions()[:24],
        torch.from_numpy(PCA().fit(X.double().numpy()).components_),
    )
    torch.testing.assert_close(
        (ours.double() * theirs).sum(1).abs(), torch.ones(24).double(), atol=1e-3, rtol=0
    )


def test_the_first_r_components_leave_less_over_than_any_other_r_directions():
    dictionary = fitted(24)
    centred = X - X.mean(0)
    left = lambda basis: (centred - centred @ basis.T @ basis).square().sum()  # noqa: E731
    for r in (1, 5, 12):
        best = left(dictionary.decoder_directions()[:r])
        generator = torch.Generator().manual_seed(r)
        for _ in range(20):
            other = torch.linalg.qr(torch.randn(24, r, generator=generator)).Q.T
            assert best < left(other)


def test_every_component_together_is_exact_and_each_row_keeps_its_largest():
    assert unexplained(fitted(24)) == pytest.approx(0, abs=1e-8)
    dictionary = fitted(3)
    projected = (X - X.mean(0)) @ dictionary.decoder_directions()[:24].T
    dropped = projected.square().sort(dim=1).values[:, :21].sum(1)
    left = (X - dictionary.decode(dictionary.encode(X))).square().sum(1)
    torch.testing.assert_close(left, dropped, atol=1e-3, rtol=1e-3)


def test_batches_and_a_sample_from_elsewhere_change_nothing():
    far = X[:50] + 100
    for other in (fitted(3, batch=7), fitted(3, batch=1200)):
        torch.testing.assert_close(other.W_dec, fitted(3).W_dec, atol=1e-4, rtol=0)
    shifted = fitted(3, sample=far)
    torch.testing.assert_close(
        shifted.decoder_directions(), fitted(3).decoder_directions(), atol=1e-3, rtol=0
    )
    assert unexplained(shifted) == pytest.approx(unexplained(fitted(3)), rel=1e-4)


def test_sums_are_in_the_checkpoint_and_not_in_the_artifact(tmp_path):
    dictionary = untrained(PcaConfig(k=2), HOOK, {HOOK: 24}, {HOOK: X}, torch.Generator())
    assert {"n", "total", "products"} <= set(dictionary.state_dict())
    made = fitted(2)
    made.save(tmp_path)
    assert set(Dictionary.load(tmp_path).state_dict()) == {"W_dec", "b_dec"}


def test_without_a_batch_it_stays_the_raw_basis():
    dictionary = untrained(PcaConfig(k=2), HOOK, {HOOK: 24}, {HOOK: X}, torch.Generator())
    dictionary.finish()
    assert torch.equal(dictionary.decoder_directions()[:24], torch.eye(24))


def test_results_of_version_1_are_kept():
    """Golden: if this number changes, raise `Pca.version`."""
    assert Pca.version == 1
    assert (fitted(4).name, unexplained(fitted(4))) == (
        "pca-48-k4",
        pytest.approx(0.323257, rel=1e-3),
    )
