"""How well every unit ranks the tokens (or documents) that have a concept: exact, tied, and never
dense for codes.

Average precision is the mean over positives of (positives at or above it) / (rows at or above it);
rows of equal score stand together, so order among them cannot matter. This equals scikit-learn's
sum over distinct thresholds, and it needs the ranks of positives only. Each unit's rows are sorted
once and serve every concept: the labels' rows are taken in that order, a transposition groups them
by concept, and counting does the rest. For codes, which are zero nearly everywhere, only active
entries are sorted; all silent rows are one tied group at the end.

Source: Manning, Raghavan & Schütze, Introduction to Information Retrieval (2008), section 8.4; ties
as in scikit-learn's `average_precision_score`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Real


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How one unit ranks one concept on one split; None where a class is missing.

    Attributes:
        ap: average precision at natural density.
        auroc: chance that a positive outranks a negative, ties half.
    """

    ap: float | None
    auroc: float | None


def precision_of_codes(
    codes: sp.csc_matrix, labels: sp.csr_matrix
) -> Iterator[Float[np.ndarray, " concept"]]:
    """Average precision of each latent for every concept, one latent at a time; NaN for a concept
    without positives.

    Args:
        codes: [row, latent], positive where a latent is active.
        labels: [row, concept], every stored entry a positive.
    """
    values, rows, start = (
        np.asarray(codes.data, np.float32),
        np.asarray(codes.indices),
        np.asarray(codes.indptr),
    )
    assert not len(values) or values.min() > 0, (
        "a stored code is positive; what is silent is not stored"
    )
    positives, n_rows = _count(labels), len(np.asarray(labels.indptr)) - 1
    with np.errstate(invalid="ignore"):  # nothing over nothing is NaN, on purpose
        at_the_end = positives / n_rows  # precision once every silent row is counted too
        for first, last in itertools.pairwise(start):
            order = first + np.argsort(-values[first:last], kind="stable")
            sums, found = _precision_sums(
                labels[rows[order]].tocsc(), _rows_at_or_above(values[order])
            )
            yield (sums + (positives - found) * at_the_end) / positives


def precision_of_coordinates(
    x: Real[np.ndarray, "row d_in"], labels: sp.csr_matrix
) -> Iterator[Float[np.ndarray, "2 concept"]]:
    """Average precision of each raw coordinate read with sign +1 and -1, one coordinate at a
    time."""
    positives = _count(labels)
    for coordinate in range(x.shape[1]):
        column = np.ascontiguousarray(x[:, coordinate])
        order = np.argsort(column)[::-1]
        ranked, descending = labels[order].tocsc(), column[order]
        down, _ = _precision_sums(ranked, _rows_at_or_above(descending))
        up, _ = _precision_sums(_reversed(ranked), _rows_at_or_above(-descending[::-1]))
        with np.errstate(invalid="ignore"):
            yield np.stack([down, up[::-1]]) / positives


def ranking(
    scores: Real[np.ndarray, " row"], positive_rows: Int[np.ndarray, " positive"]
) -> Ranking:
    """Average precision and AUROC of one dense score from a single sort.

    Args:
        scores: one number for each row.
        positive_rows: rows that have the concept.
    """
    n, n_positive = len(scores), len(positive_rows)
    if n_positive == 0:
        return Ranking(None, None)
    ranked, positive = np.sort(scores), np.sort(scores[positive_rows])
    at_or_above = n - np.searchsorted(ranked, positive, "left")
    true_at_or_above = n_positive - np.searchsorted(positive, positive, "left")
    ap = float(np.mean(true_at_or_above / at_or_above))
    if n == n_positive:
        return Ranking(ap, None)
    above = n - np.searchsorted(ranked, positive, "right")
    true_above = n_positive - np.searchsorted(positive, positive, "right")
    false_above, false_at_or_above = above - true_above, at_or_above - true_at_or_above
    return Ranking(ap, float(1 - np.mean((false_above + false_at_or_above) / 2) / (n - n_positive)))


def _count(labels: sp.csr_matrix) -> Float[np.ndarray, " concept"]:
    return np.bincount(np.asarray(labels.indices), minlength=labels.get_shape()[1]).astype(
        np.float64
    )


def _rows_at_or_above(descending: Real[np.ndarray, " rank"]) -> Int[np.ndarray, " rank"]:
    """For each rank, how many rows score at least as much: the end of its tied group."""
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True)[: len(descending)])
    return np.repeat((last + 1).astype(np.int32), np.diff(last, prepend=-1))


def _reversed(ranked: sp.csc_matrix) -> sp.csc_matrix:
    """Rows and concepts in the opposite order, without sorting again."""
    n_rows, n_concepts = ranked.get_shape()
    start, indices = np.asarray(ranked.indptr), np.asarray(ranked.indices)
    parts = (ranked.data[::-1], n_rows - 1 - indices[::-1], start[-1] - start[::-1])
    return sp.csc_matrix(parts, shape=(n_rows, n_concepts))


def _precision_sums(
    by_concept: sp.csc_matrix, at_or_above: Int[np.ndarray, " rank"]
) -> tuple[Float[np.ndarray, " concept"], Int[np.ndarray, " concept"]]:
    """For each concept, the sum of precision over the positives among the ranked rows, and how many
    those are."""
    start = np.asarray(by_concept.indptr)
    found = np.diff(start)
    some = np.flatnonzero(found)
    sums = np.zeros(len(found))
    if not len(some):
        return sums, found
    rows = at_or_above[by_concept.indices]
    true = np.arange(1, len(rows) + 1, dtype=np.int32) - np.repeat(start[:-1], found)
    last = np.append(rows[1:] != rows[:-1], True)
    last[start[some + 1] - 1] = True
    if not last.all():  # tied positives all count the whole group
        ends = np.flatnonzero(last)
        true = np.repeat(true[ends], np.diff(ends, prepend=-1))
    sums[some] = np.add.reduceat(true / rows, start[some])
    return sums, found
