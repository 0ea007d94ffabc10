"""A probe that finds what lies in directions of little variance, at natural density."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.linear_model import LogisticRegression

from components.concept.probe import VERSION, Probe, fit_probe
from components.statistics import average_precision

PRECISIONS = [0.9622, 0.8587, 0.7164]


def problem(
    n: int = 4000, d: int = 24, seed: int = 0
) -> tuple[torch.Tensor, scipy.sparse.csc_matrix, torch.Tensor]:
    """Activations, labels and the best possible scores of three concepts of different density.

    All three lie in the directions of least variance of badly scaled activations.
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator)
    noise = torch.randn(n, 3, generator=generator)
    best = z[:, :3] * 3 - torch.tensor([0.5, 4.0, 7.0])
    mixing = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(9)))[0]
    x = (z * torch.logspace(-2, 1, d)) @ mixing + 5.0
    return x, scipy.sparse.csc_matrix((best + noise).numpy() > 0), best


def precision(scores: torch.Tensor, labels: scipy.sparse.csc_matrix) -> list[float]:
    dense = labels.toarray()
    return [average_precision(scores[:, i].numpy(), dense[:, i]) for i in range(dense.shape[1])]


def test_a_probe_is_as_good_as_scikit_learns_logistic_regression_on_whitened_activations() -> None:
    (x, y, _), (x_test, y_test, _) = problem(), problem(seed=1)
    found = precision(fit_probe(x, y).scores(x_test), y_test)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    whiten = vectors / np.sqrt(values)
    for i in range(3):
        model = LogisticRegression(max_iter=1000).fit(
            (x.numpy() - 5) @ whiten, y[:, i].toarray().ravel()
        )
        wanted = average_precision(
            model.decision_function((x_test.numpy() - 5) @ whiten), y_test[:, i].toarray().ravel()
        )
        assert found[i] == pytest.approx(wanted, abs=0.02)


def test_concepts_in_directions_of_little_variance_are_found_about_as_well_as_can_be() -> None:
    (x, y, _), (x_test, y_test, best) = problem(), problem(20000, seed=1)
    found, most = precision(fit_probe(x, y).scores(x_test), y_test), precision(best, y_test)
    assert all(one > limit - 0.1 for one, limit in zip(found, most, strict=True))
    assert found[0] > most[0] - 0.01


def test_scores_are_log_odds() -> None:
    (x, y, _), (x_test, y_test, _) = problem(), problem(seed=1)
    stated = fit_probe(x, y).scores(x_test).sigmoid().mean(0)
    np.testing.assert_allclose(stated.numpy(), y_test.toarray().mean(0), atol=0.02)


def test_whoever_fits_gets_the_same_probe_for_a_concept_whatever_other_concepts_are_fitted_with_it() -> (
    None
):
    x, y, _ = problem(500)
    together = fit_probe(x, y)
    assert torch.equal(together.weight, fit_probe(x, y).weight)
    torch.testing.assert_close(
        fit_probe(x, y[:, [1]]).weight[0], together.weight[1], rtol=1e-3, atol=1e-4
    )


def test_activations_of_half_precision_are_read() -> None:
    x, y, _ = problem(1000)
    assert torch.isfinite(fit_probe(x.bfloat16(), y).scores(x.bfloat16())).all()


def test_a_concept_that_never_comes_and_a_dead_coordinate_leave_finite_scores() -> None:
    x, y, _ = problem(300)
    x[:, 5] = 2.0
    y = scipy.sparse.csc_matrix(
        np.hstack([y.toarray(), np.zeros((300, 1), bool), np.ones((300, 1), bool)])
    )
    scores = fit_probe(x, y).scores(x)
    assert torch.isfinite(scores).all()
    assert scores[:, 3].max() < 0 < scores[:, 4].min()


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    x, y, _ = problem(300)
    probe = fit_probe(x, y, ["a", "b", "c.d"])
    probe.save(tmp_path / "probe.safetensors")
    again = Probe.load(tmp_path / "probe.safetensors")
    assert again.concepts == ("a", "b", "c.d")
    assert torch.equal(again.scores(x), probe.scores(x))
    assert [path.name for path in tmp_path.iterdir()] == ["probe.safetensors"]


def test_results_move_only_with_a_version() -> None:
    (x, y, _), (x_test, y_test, _) = problem(), problem(seed=1)
    scores = fit_probe(x, y).scores(x_test).numpy()
    found = [average_precision(scores[:, i], y_test[:, i].toarray().ravel()) for i in range(3)]
    assert (VERSION, found) == (1, pytest.approx(PRECISIONS, abs=2e-3)), (
        "raise probe.VERSION when the fit changes"
    )
