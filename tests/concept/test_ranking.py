"""Ranking measures are scikit-learn's, ties and silent rows included, for every unit and concept at
once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from components.concept.ranking import (
    Ranking,
    precision_of_codes,
    precision_of_coordinates,
    ranking,
)


def worlds(levels: int):
    """Random (scores [row, unit] on few levels, so that many tie; labels [row, concept])."""

    def build(shape):
        rows, units, concepts, seed = shape
        rng = np.random.default_rng(seed)
        scores = rng.integers(0, levels, (rows, units)) * (rng.random((rows, units)) < 0.5)
        return scores.astype(np.float32), rng.random((rows, concepts)) < rng.random(concepts)

    return st.tuples(
        st.integers(1, 40), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**30)
    ).map(build)


def expected(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[unit, concept], by scikit-learn, one pair at a time."""
    return np.array(
        [
            [
                average_precision_score(has, unit) if has.any() else np.nan
                for has in labels.T.astype(int)
            ]
            for unit in scores.T
        ]
    )


@given(worlds(levels=4))
@settings(max_examples=150, deadline=None)
def test_precision_of_codes_is_scikit_learns_with_ties_and_silent_rows(world) -> None:
    scores, labels = world
    found = np.stack(list(precision_of_codes(sp.csc_matrix(scores), sp.csr_matrix(labels))))
    np.testing.assert_allclose(found, expected(scores, labels), atol=1e-12)


@given(worlds(levels=4))
@settings(max_examples=100, deadline=None)
def test_precision_of_coordinates_is_scikit_learns_for_both_signs(world) -> None:
    scores, labels = world
    scores = scores - 1  # coordinates have either sign
    found = np.stack(list(precision_of_coordinates(scores, sp.csr_matrix(labels))))
    np.testing.assert_allclose(found[:, 0], expected(scores, labels), atol=1e-12)
    np.testing.assert_allclose(found[:, 1], expected(-scores, labels), atol=1e-12)


@given(worlds(levels=5))
@settings(max_examples=100, deadline=None)
def test_ranking_of_one_score_is_scikit_learns(world) -> None:
    scores, labels = world
    has = labels[:, 0]
    found = ranking(scores[:, 0], np.flatnonzero(has))
    if not has.any():
        assert found == Ranking(None, None)
        return
    assert found.ap == pytest.approx(average_precision_score(has, scores[:, 0]), abs=1e-12)
    if has.all():
        assert found.auroc is None
    else:
        assert found.auroc == pytest.approx(roc_auc_score(has, scores[:, 0]), abs=1e-12)


def test_a_silent_latent_scores_the_density_and_a_perfect_one_scores_one() -> None:
    codes = sp.csc_matrix(np.array([[0, 3.0], [0, 0], [0, 2.0], [0, 0]], np.float32))
    labels = sp.csr_matrix(np.array([[True], [False], [True], [False]]))
    assert [row.tolist() for row in precision_of_codes(codes, labels)] == [[0.5], [1.0]]


def test_a_concept_without_positives_has_no_precision() -> None:
    codes = sp.csc_matrix(np.ones((3, 1), np.float32))
    (row,) = precision_of_codes(codes, sp.csr_matrix((3, 2), dtype=bool))
    assert np.isnan(row).all()


def test_codes_below_zero_are_refused() -> None:
    codes = sp.csc_matrix(np.array([[-1.0]], np.float32))
    with pytest.raises(AssertionError, match="a stored code is positive"):
        next(precision_of_codes(codes, sp.csr_matrix(np.ones((1, 1), bool))))
