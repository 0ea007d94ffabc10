"""One pass over the codes: what stays of each latent is what a look at everything would choose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.interpretation import activity
from components.interpretation.activity import Smallest, read
from components.interpretation.contexts import cut_splits
from components.interpretation.tiling import ContextsConfig
from components.interpretation.windows import Vocabulary
from components.store.shards import ActivationShards, CodeShards
from tests.interpretation.planted import D_SAE, WORDS, Planted

ENTRIES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=60)


@given(ENTRIES, st.integers(0, 5), st.integers(1, 9))
def test_the_smallest_of_each_latent_stay_in_whatever_portions_they_come(
    entries: list[tuple[int, int]], n: int, portion: int
) -> None:
    kept = Smallest(4, n)
    for start in range(0, len(entries), portion):
        part = entries[start : start + portion]
        latent, priority = np.array(part, np.int64).T
        rows = np.arange(start, start + len(part))
        kept.add(latent, priority.astype(np.uint32), rows, rows.astype(np.float32))
        kept.kept()  # sorts in what waits
    for latent in range(4):
        mine = [(priority, row) for row, (of, priority) in enumerate(entries) if of == latent]
        rows, values = kept.kept().of(latent)
        assert rows.tolist() == [row for _, row in sorted(mine)[:n]]
        assert values.tolist() == rows.tolist()


@pytest.fixture(scope="module", params=["explain", "test"])
def split(request: pytest.FixtureRequest) -> str:
    return request.param


def test_counts_and_strongest_windows_are_those_of_all_codes(planted: Planted, split: str) -> None:
    vocabulary = Vocabulary([f" {word}" for word in WORDS])
    activations = ActivationShards(planted.inputs["activations"])
    searched = cut_splits(activations, vocabulary, ContextsConfig())[split]
    codes = CodeShards(planted.inputs["codes"])
    latents = np.arange(1, D_SAE, 2)
    found = read(codes, searched, latents, 7)
    dense, tiling = codes.codes(split).dense().numpy(), searched.tiling
    for number, latent in enumerate(latents):
        largest = np.array(
            [
                dense[a : a + n, latent].max()
                for a, n in zip(tiling.first, tiling.length, strict=True)
            ]
        )
        assert found.n_active[number] == (largest > 0).sum()
        assert found.places(number).tolist() == np.flatnonzero(largest > 0).tolist()
        row, value = found.strongest.of(number)
        wanted = np.sort(largest[largest > 0])[::-1][: 40 if split == "explain" else 0]
        np.testing.assert_array_equal(value, wanted)
        np.testing.assert_array_equal(dense[row, latent], wanted)
        row, value = found.sample.of(number)
        assert len(row) == min(activity.KEPT, (largest > 0).sum())
        assert len(set(tiling.tile_of[row].tolist())) == len(row)
        np.testing.assert_array_equal(value, largest[tiling.tile_of[row]])


def test_the_sample_is_uniform_and_the_weighted_one_follows_the_square() -> None:
    values = np.repeat(np.array([1.0, 2.0, 4.0], np.float32), 200)
    tiles, times = np.arange(600), np.zeros((2, 3))
    for salt in range(200):
        random = activity.random_of(np.zeros(600, np.int64), tiles, salt * 10**9)
        race = activity.race(random, values)
        for which, priority in enumerate((random, race)):
            smallest = Smallest(1, 30)
            smallest.add(np.zeros(600, np.int64), priority, tiles, values)
            times[which] += np.bincount(smallest.kept().of(0)[0] // 200, minlength=3)
    shares = times / times.sum(1, keepdims=True)
    np.testing.assert_allclose(shares[0], 1 / 3, atol=0.02)
    np.testing.assert_allclose(shares[1], np.array([1, 4, 16]) / 21, atol=0.03)
