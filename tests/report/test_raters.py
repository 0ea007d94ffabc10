"""Kappa and AUROC of two raters: known values, and intervals that are those of resampling cluster by
cluster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from components.report.raters import RESAMPLES, clustered_auroc, clustered_kappa, kappa


def answers(both: int, only_one: int, only_other: int, neither: int) -> tuple[np.ndarray, ...]:
    """Two raters' answers with these counts."""
    counts = (both, only_one, only_other, neither)
    return (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ((20, 5, 10, 15), 0.4),  # alike in 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
        ((45, 15, 25, 15), 6 / 46),  # 0.60; 0.6 * 0.7 + 0.4 * 0.3 = 0.54
        ((25, 35, 5, 35), 14 / 54),  # 0.60 too, but 0.6 * 0.3 + 0.4 * 0.7 = 0.46
        ((5, 0, 0, 2), 1.0),
        ((0, 3, 3, 0), -1.0),
        ((3, 3, 0, 0), 0.0),  # one rater says yes to all
    ],
)
def test_kappa_is_what_is_computed_by_hand(counts: tuple[int, ...], value: float) -> None:
    assert kappa(*answers(*counts)) == pytest.approx(value, abs=1e-12)


def test_kappa_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        one, other = generator.random((2, 30)) < generator.random((2, 1))
        if len({*one.tolist(), *other.tolist()}) == 2:
            assert kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))


def test_there_is_no_kappa_where_chance_alone_agrees_always() -> None:
    assert kappa(*answers(4, 0, 0, 0)) is None
    assert kappa(*answers(0, 0, 0, 4)) is None
    assert kappa(*answers(0, 0, 0, 0)) is None


def looped(
    statistic: Callable[[np.ndarray], float | None], cluster: np.ndarray, seed: int
) -> list[float]:
    """The 95% interval, resample after resample, from the rows themselves."""
    generator = np.random.default_rng(seed)
    rows = [np.flatnonzero(cluster == name) for name in np.unique(cluster)]
    drawn = []
    for _ in range(RESAMPLES):
        picked = generator.integers(len(rows), size=len(rows))
        value = statistic(np.concatenate([rows[number] for number in picked]))
        if value is not None:
            drawn.append(value)
    return np.quantile(drawn, (0.025, 0.975)).tolist()


def raters(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A person's answers, a judge's values with ties, and clusters of unequal size by name."""
    generator = np.random.default_rng(n)
    person = generator.random(n) < 0.4
    values = np.round(0.3 * person + generator.random(n), 1)
    return person, values, np.array([f"target {min(int(k), 11)}" for k in generator.gamma(4, 2, n)])


def test_the_intervals_are_those_of_resampling_cluster_by_cluster() -> None:
    person, values, cluster = raters(90)
    judged = values > 0.5
    found = clustered_kappa(person, judged, cluster, np.random.default_rng(3))
    wanted = looped(lambda rows: kappa(person[rows], judged[rows]), cluster, 3)
    assert (found.value, found.n) == (kappa(person, judged), len(set(cluster)))
    assert [found.low, found.high] == pytest.approx(wanted)

    def auroc(rows: np.ndarray) -> float | None:
        both = len(set(person[rows].tolist())) == 2
        return float(roc_auc_score(person[rows], values[rows])) if both else None

    found = clustered_auroc(values, person, cluster, np.random.default_rng(4))
    assert found.value == pytest.approx(roc_auc_score(person, values))
    assert [found.low, found.high] == pytest.approx(looped(auroc, cluster, 4))


def test_more_rows_of_the_same_clusters_are_no_more_evidence() -> None:
    person, values, cluster = raters(40)
    often = [np.repeat(each, 5) for each in (person, values > 0.5, cluster)]
    once = clustered_kappa(person, values > 0.5, cluster, np.random.default_rng(0))
    assert once == clustered_kappa(*often, np.random.default_rng(0))


def test_a_resample_of_one_answer_alone_is_left_out() -> None:
    person = np.array([True] + [False] * 11)
    values = np.array([0.9] + [0.1] * 11)
    found = clustered_auroc(values, person, np.arange(12), np.random.default_rng(0))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_nine_clusters_have_a_value_and_no_interval() -> None:
    person, values, _ = raters(90)
    cluster = np.arange(90) % 9
    for found in (
        clustered_kappa(person, values > 0.5, cluster, np.random.default_rng(0)),
        clustered_auroc(values, person, cluster, np.random.default_rng(0)),
    ):
        assert found.value is not None and found.low is None and found.n == 9
