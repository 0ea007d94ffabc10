"""Directions in the place of latents: as often active as was asked, on the explain split and by its
thresholds elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.interpretation import directions as module
from components.interpretation.directions import (
    DirectionCodes,
    gaussian_directions,
    signed_coordinates,
)
from components.store.artifact import Store
from components.store.shards import ActivationShards
from tests import toys

D, N = 12, 4000
DENSITY = np.array([0.001, 0.01, 0.1, 0.6])


@pytest.fixture
def activations(tmp_path: Path) -> ActivationShards:
    random = torch.Generator().manual_seed(0)
    x = {
        split: {"resid_post.0": torch.randn(n, D, generator=random) + 1}
        for split, n in (("explain", N), ("test", N))
    }
    return ActivationShards(toys.activations(Store(tmp_path), x, rows_per_shard=900))


def codes_of(
    activations: ActivationShards, directions: torch.Tensor, limit: int = N
) -> DirectionCodes:
    return DirectionCodes(activations, "resid_post.0", directions, DENSITY, "explain", limit)


def test_each_direction_is_as_often_active_as_asked(activations: ActivationShards) -> None:
    directions = gaussian_directions(4, D, np.random.default_rng(0))
    codes = codes_of(activations, directions)
    assert codes.density.tolist() == pytest.approx(DENSITY.tolist(), abs=1e-9)
    explain = codes.codes("explain")
    counted = np.bincount(explain.indices.numpy(), minlength=4) / N
    assert counted.tolist() == codes.density.tolist()
    elsewhere = np.bincount(codes.codes("test").indices.numpy(), minlength=4) / N
    assert np.abs(elsewhere - DENSITY).max() < 0.03 and (elsewhere != codes.density).any()


def test_codes_are_what_a_projection_exceeds_its_threshold_by(
    activations: ActivationShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions = gaussian_directions(4, D, np.random.default_rng(0))
    at_once = codes_of(activations, directions)
    x = activations.rows("test", "resid_post.0", torch.arange(N))
    expected = (x @ directions.T - at_once.thresholds).relu()
    assert torch.allclose(at_once.codes("test").dense(), expected, atol=1e-5)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 1500)
    monkeypatch.setattr(module, "ENTRIES_HELD", N)
    in_parts = codes_of(activations, directions)
    assert torch.allclose(in_parts.thresholds, at_once.thresholds, atol=1e-6)
    assert len(list(in_parts.iterate("test"))) > 20
    assert torch.allclose(in_parts.codes("test").dense(), expected, atol=1e-5)


def test_only_the_first_tokens_set_a_threshold(activations: ActivationShards) -> None:
    directions = gaussian_directions(4, D, np.random.default_rng(0))
    codes = codes_of(activations, directions, limit=1000)
    first = codes.codes("explain").rows(0, 1000)
    counted = np.bincount(first.indices.numpy(), minlength=4) / 1000
    assert counted.tolist() == pytest.approx(DENSITY.tolist())


def test_ties_make_a_direction_rarer_and_never_more_frequent(tmp_path: Path) -> None:
    x = torch.zeros(100, 2)
    x[:5, 0] = 1.0
    shards = ActivationShards(toys.activations(Store(tmp_path), {"explain": {"mlp_hidden.0": x}}))
    density = np.array([0.2, 0.03])
    codes = DirectionCodes(shards, "mlp_hidden.0", torch.eye(2)[[0, 0]], density, "explain", 100)
    assert codes.density.tolist() == [0.05, 0.0]


def test_random_directions_have_length_1_and_are_drawn_from_the_generator() -> None:
    one, same = (gaussian_directions(50, D, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one, same) and torch.allclose(one.norm(dim=1), torch.ones(50))
    assert one.mean(0).abs().max() < 0.2


def test_each_sign_of_a_coordinate_is_drawn_at_most_once() -> None:
    some = signed_coordinates(7, D, np.random.default_rng(0))
    assert some.shape == (7, D) and some.unique(dim=0).shape[0] == 7
    assert (some.abs().sum(1) == 1).all() and set(some.unique().tolist()) == {-1, 0, 1}
    every = signed_coordinates(99, D, np.random.default_rng(0))
    assert every.shape == (2 * D, D) and every.unique(dim=0).shape[0] == 2 * D
