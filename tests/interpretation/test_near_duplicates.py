"""Near-duplicates: rare sequences rule out only pairs that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.interpretation import near_duplicates


def jaccard(one: list[int], other: list[int]) -> float:
    a, b = ({tuple(row[n : n + 3]) for n in range(len(row) - 2)} for row in (one, other))
    return len(a & b) / len(a | b) if a | b else 0.0


def padded(rows: list[list[int]]) -> np.ndarray:
    tokens = np.full((len(rows), max(3, *map(len, rows))), -1, np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens


WINDOWS = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=12), min_size=2, max_size=8)


@settings(max_examples=200)
@given(WINDOWS, st.sampled_from([0.2, 0.5, 0.8]))
def test_windows_that_do_not_meet_are_no_near_duplicates(
    rows: list[list[int]], threshold: float
) -> None:
    tokens = padded(rows)
    hashed = near_duplicates.sequences(tokens)
    counts = near_duplicates.count(hashed)
    met = near_duplicates.meeting(near_duplicates.rarest(hashed, counts, threshold))
    similar = near_duplicates.similar(tokens, threshold)
    for a, one in enumerate(rows):
        for b, other in enumerate(rows):
            if a != b:
                assert similar[a, b] == (jaccard(one, other) > threshold)
                if similar[a, b]:
                    assert met[a] and met[b]


def test_windows_of_different_words_do_not_meet() -> None:
    tokens = np.random.default_rng(0).integers(0, 5000, (300, 30))
    tokens[7] = tokens[3]
    tokens[7, 15] = 1
    hashed = near_duplicates.sequences(tokens)
    rare = near_duplicates.rarest(hashed, near_duplicates.count(hashed), 0.5)
    assert np.flatnonzero(near_duplicates.meeting(rare)).tolist() == [3, 7]


def test_many_windows_are_compared_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(0).integers(0, 3, (60, 20))
    few = near_duplicates.similar(tokens, 0.5)
    monkeypatch.setattr(near_duplicates, "DENSE", 0)
    np.testing.assert_array_equal(near_duplicates.similar(tokens, 0.5), few)
    assert 60 < few.sum() < 3600
