"""The plane in which decoder directions differ most: known axes, exact shares, one way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from components.dictionary.plane import BLOCK, plane


@pytest.mark.parametrize("n", [40, BLOCK + 5])
def test_it_is_that_of_scikit_learn_up_to_the_sign(n: int) -> None:
    directions = torch.randn(n, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(
        1, 13
    )
    at, shares = plane(directions * torch.rand(n, 1))
    unit = torch.nn.functional.normalize(directions, dim=1).double().numpy()
    fitted = PCA(2, svd_solver="full").fit(unit)
    wanted = fitted.transform(unit)
    assert at.shape == (n, 2)
    for axis in range(2):
        ours = at[:, axis].numpy()
        sign = np.sign(np.dot(ours, wanted[:, axis]))
        np.testing.assert_allclose(ours, sign * wanted[:, axis], atol=2e-4)
    np.testing.assert_allclose(shares.numpy(), fitted.explained_variance_ratio_, rtol=1e-3)


def test_the_same_dictionary_is_drawn_the_same_way_round_whatever_its_scale() -> None:
    directions = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    one, _ = plane(directions)
    other, _ = plane(directions * 7)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5), (3, 1), (2, 2)])
def test_small_dictionaries_have_a_place_too(shape: tuple[int, int]) -> None:
    at, shares = plane(torch.ones(shape))
    assert at.shape == (shape[0], 2) and shares.shape == (2,)
    assert torch.isfinite(at).all() and torch.isfinite(shares).all()


def test_it_may_be_ended_between_two_blocks() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plane(torch.ones(4, 3), stop)
