"""Loss terms against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.losses import auxk, fvu, squared_error, weighted_l1

X = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
X_HAT = torch.tensor([[1.0, 1.0], [1.0, 4.0]])


def test_squared_error_sums_dimensions_and_averages_tokens():
    assert squared_error(X, X_HAT).item() == (1 + 4) / 2


def test_fvu_is_a_ratio_of_sums_around_the_mean():
    assert fvu(X, X_HAT).item() == pytest.approx(5 / (2 * (1 + 4)))
    assert fvu(X, X.mean(0).expand_as(X)).item() == 1.0


def test_l1_weighs_each_latent_by_the_norm_of_its_direction():
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    directions = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    assert weighted_l1(values, directions).item() == pytest.approx((5 * (1 + 3) + 0.5 * 2) / 2)


def test_l1_pulls_on_the_norm_of_the_decoder():
    directions = torch.tensor([[3.0, 4.0]], requires_grad=True)
    weighted_l1(torch.tensor([[2.0]]), directions).backward()
    torch.testing.assert_close(directions.grad, torch.tensor([[2 * 0.6, 2 * 0.8]]))


def test_auxk_is_normalised_by_the_spread_of_the_error_and_faded_in():
    error = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    prediction = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert auxk(error, prediction, torch.tensor(1), 4).item() == pytest.approx(4 / 2 * 1 / 4)
    assert auxk(error, prediction, torch.tensor(9), 4).item() == pytest.approx(4 / 2)
    assert auxk(error, prediction, torch.tensor(0), 4).item() == 0


def test_auxk_leaves_the_live_reconstruction_alone():
    error = torch.tensor([[1.0], [3.0]], requires_grad=True)
    prediction = torch.zeros(2, 1, requires_grad=True)
    auxk(error, prediction, torch.tensor(4), 4).backward()
    assert error.grad is None
    torch.testing.assert_close(prediction.grad, torch.tensor([[-1.0], [-3.0]]))


def test_auxk_of_a_constant_error_is_zero_not_nan():
    constant = torch.ones(3, 2)
    assert auxk(constant, torch.zeros(3, 2), torch.tensor(4), 4).item() == 0
