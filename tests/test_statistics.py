"""Every measure against scikit-learn, scipy, a hand calculation, or its nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from components.statistics import (
    Interval,
    auroc,
    auroc_interval,
    auroc_sparse,
    average_precision,
    average_precision_sparse,
    binomial_tail,
    bootstrap_mean,
    bounded,
    cluster_bootstrap,
    clustered_t_interval,
    detectable,
    expected_calibration_error,
    holm,
    permutation_p,
    sign_flip_test,
    t_interval,
    t_interval_of_groups,
    welch,
    wilson,
)

ranked = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(label for _, label in rows) < len(rows)
)


def arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in rows], np.float32), np.array(
        [label for _, label in rows]
    )


@given(ranked)
def test_average_precision_with_ties_equals_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, labels = arrays(rows)
    assert average_precision(scores, labels) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


@given(ranked)
def test_auroc_with_ties_equals_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, labels = arrays(rows)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(ranked, st.randoms())
def test_a_sparse_score_gives_what_the_dense_one_gives(
    rows: list[tuple[int, bool]], random
) -> None:
    scores, labels = arrays(rows)
    # some listed scores may be 0
    listed = (scores != 0) | np.array([random.random() < 0.3 for _ in rows])
    sparse = (scores[listed], labels[listed], int(labels.sum()), len(rows))
    assert average_precision_sparse(*sparse) == pytest.approx(
        average_precision(scores, labels), abs=1e-12
    )
    assert auroc_sparse(*sparse) == pytest.approx(auroc(scores, labels), abs=1e-12)


def test_measures_of_ranking_are_absent_not_zero_without_both_classes() -> None:
    scores = np.array([0.1, 0.2])
    none, every = np.array([False, False]), np.array([True, True])
    assert average_precision(scores, none) is None
    assert auroc(scores, none) is None and auroc(scores, every) is None
    assert average_precision(np.zeros(0), np.zeros(0, bool)) is None
    assert average_precision_sparse(np.zeros(0), np.zeros(0, bool), 0, 10) is None


def test_an_order_of_wide_integers_does_not_wrap_around() -> None:
    assert auroc(np.array([-(2**40), 2**40]), np.array([0, 1])) == 1.0


def test_an_empty_input_has_no_value_and_one_replicate_no_interval() -> None:
    generator = np.random.default_rng(0)
    assert bootstrap_mean(np.zeros(0), generator) == Interval(None, None, None, 0)
    assert t_interval(np.zeros(0)) == Interval(None, None, None, 0)
    assert wilson(0, 0) == Interval(None, None, None, 0)
    assert bootstrap_mean(np.array([2.0]), generator) == Interval(2.0, None, None, 1)
    assert t_interval(np.array([2.0])) == Interval(2.0, None, None, 1)
    assert sign_flip_test(np.zeros(0), generator) is None
    assert permutation_p(1.0, np.zeros(0)) is None
    assert expected_calibration_error(np.zeros(0), np.zeros(0)) is None


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = bootstrap_mean(generator.exponential(1.0, 60), generator, n_resamples=400)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_cluster_bootstrap_is_a_ratio_of_sums_over_whole_clusters() -> None:
    generator = np.random.default_rng(2)
    cluster = np.repeat(np.arange(30), 50)
    # rows of a cluster agree: 30 replicates, not 1500
    numerator = np.repeat(generator.normal(size=30), 50)
    denominator = np.full(1500, 2.0)
    found = cluster_bootstrap(numerator, denominator, cluster, generator)
    naive = bootstrap_mean(numerator, generator)
    assert found.n == 30
    assert found.value == pytest.approx(numerator.sum() / denominator.sum())
    assert (found.high - found.low) * 2 > 4 * (naive.high - naive.low)


def test_a_ratio_over_nothing_is_absent() -> None:
    found = cluster_bootstrap(np.ones(4), np.zeros(4), np.arange(4), np.random.default_rng(0))
    assert found == Interval(None, None, None, 4)


def test_the_t_interval_equals_scipy() -> None:
    values = np.array([0.1, 0.4, 0.35, 0.8])
    low, high = scipy.stats.t.interval(0.95, 3, values.mean(), scipy.stats.sem(values))
    found = t_interval(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (977, 1000)])
def test_wilson_equals_scipy(successes: int, n: int) -> None:
    wanted = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    found = wilson(successes, n)
    assert (found.low, found.high) == (
        pytest.approx(wanted.low, abs=1e-12),
        pytest.approx(wanted.high, abs=1e-12),
    )


def test_the_sign_flip_test_is_exact_for_few_pairs() -> None:
    generator = np.random.default_rng(0)
    assert sign_flip_test(np.array([1.0, 2.0, 3.0]), generator) == pytest.approx(2 / 8)
    assert sign_flip_test(np.array([1.0, 2.0, 3.0]), generator, "greater") == pytest.approx(1 / 8)
    assert sign_flip_test(np.array([1.0, 2.0, 3.0]), generator, "less") == 1.0
    assert sign_flip_test(np.array([0.1, 0.2, -0.3]), generator) == 1.0


def test_the_drawn_sign_flip_test_agrees_with_the_exact_one() -> None:
    values = np.random.default_rng(3).normal(0.4, 1.0, 13)
    exact = sign_flip_test(values, np.random.default_rng(0))
    drawn = sign_flip_test(values, np.random.default_rng(0), n_flips=8000)
    assert drawn == pytest.approx(exact, abs=0.02)


def test_a_permutation_p_value_is_never_zero() -> None:
    assert permutation_p(9.0, np.zeros(99)) == pytest.approx(0.01)
    assert permutation_p(0.0, np.array([-1.0, 0.0, 1.0])) == pytest.approx(3 / 4)
    assert permutation_p(-2.0, np.array([-1.0, 0.0, 3.0]), "two-sided") == pytest.approx(2 / 4)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.5])), [0.09, 0.04, 0.09, 0.5])
    assert holm(np.zeros(0)).shape == (0,)


def test_calibration_error_by_hand() -> None:
    stated, came = np.array([0.05, 0.15, 0.95, 1.0]), np.array([0, 1, 1, 1])
    assert expected_calibration_error(stated, came) == pytest.approx((0.05 + 0.85 + 0.05) / 4)


def test_rows_that_stand_alone_have_the_ordinary_interval() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found, plain = clustered_t_interval(values, np.arange(12)), t_interval(values)
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (plain.value, plain.low, plain.high, plain.n)
    )


def test_clusters_that_move_together_widen_the_interval_as_if_each_were_one_row() -> None:
    each = np.random.default_rng(1).normal(size=9)
    found, plain = (
        clustered_t_interval(np.repeat(each, 4), np.repeat(np.arange(9), 4)),
        t_interval(each),
    )
    assert (found.low, found.high, found.n) == pytest.approx((plain.low, plain.high, 9))
    one = clustered_t_interval(each, np.zeros(9))
    assert (one.low, one.high, one.n) == (None, None, 1)
    assert clustered_t_interval(np.zeros(0), np.zeros(0)) == Interval(None, None, None, 0)


def test_clustered_intervals_cover_where_unclustered_ones_do_not() -> None:
    random = np.random.default_rng(2)
    cluster = np.repeat(np.arange(12), 6)
    covered = {"clustered": 0, "plain": 0}
    for _ in range(600):
        values = random.normal(size=12)[cluster] + random.normal(size=72)
        for name, found in (
            ("clustered", clustered_t_interval(values, cluster)),
            ("plain", t_interval(values)),
        ):
            assert found.low is not None and found.high is not None
            covered[name] += found.low <= 0 <= found.high
    assert 0.92 <= covered["clustered"] / 600 <= 0.98
    assert covered["plain"] / 600 < 0.75


def test_welch_equals_scipy_and_is_absent_without_spread() -> None:
    random = np.random.default_rng(3)
    one, other = random.normal(0.3, 1, 14), random.normal(0, 3, 23)
    interval, p, freedom = welch(one, other)
    expected = scipy.stats.ttest_ind(one, other, equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert (p, freedom) == pytest.approx((expected.pvalue, expected.df))
    assert (interval.low, interval.high, interval.n) == pytest.approx((ends.low, ends.high, 37))
    assert welch(one[:1], other)[1] is None
    assert welch(np.ones(4), np.zeros(4)) == (Interval(1.0, None, None, 8), None, None)


def test_what_is_called_detectable_is_detected_four_times_in_five() -> None:
    random, n, hits = np.random.default_rng(4), 30, 0
    sizes = [detectable(t_interval(random.normal(size=n)), n - 1) for _ in range(400)]
    assert None not in sizes
    effect = float(np.mean(np.array(sizes, np.float64)))
    for _ in range(1000):
        found = t_interval(random.normal(effect, 1, n))
        assert found.low is not None
        hits += found.low > 0
    assert 0.76 <= hits / 1000 <= 0.84
    interval = t_interval(random.normal(size=n))
    more = detectable(interval, n - 1, tests=10)
    one = detectable(interval, n - 1)
    assert one is not None and more is not None and more > one
    assert detectable(Interval(1.0, None, None, 1), 0) is None


def test_an_interval_is_cut_to_what_a_score_can_be() -> None:
    assert bounded(Interval(0.9, 0.7, 1.1, 5), 0, 1) == Interval(0.9, 0.7, 1, 5)
    assert bounded(Interval(-0.9, -1.3, -0.5, 5), -1, 1) == Interval(-0.9, -1, -0.5, 5)
    assert bounded(Interval(0.9, None, None, 1), 0, 1) == Interval(0.9, None, None, 1)


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("truth", [0.7, 0.9, 0.98])
def test_the_interval_of_an_auroc_covers_near_one_and_for_few_rows(truth: float, n: int) -> None:
    generator, hits, wide = np.random.default_rng(0), 0, []
    shift = np.sqrt(2) * scipy.stats.norm.ppf(truth)  # of two normals so far apart
    labels = np.arange(2 * n) < n
    for _ in range(400):
        value = auroc(generator.normal(0, 1, 2 * n) + shift * labels, labels)
        assert value is not None
        found = auroc_interval(value, n, n)
        assert found.low is not None and found.high is not None
        assert 0 <= found.low <= value <= found.high <= 1
        hits += found.low <= truth <= found.high
        wide.append(found.high - found.low)
    # DeLong's: 0.91, 0.82, 0.53 with 10, 0.94, 0.94, 0.86 with 50
    assert 0.93 <= hits / 400 <= 0.99
    assert np.mean(wide) < {10: 0.42, 50: 0.21}[n]  # and is not bought by covering everything


def test_the_interval_of_an_auroc_is_as_worked_out_by_hand() -> None:
    found = auroc_interval(0.9, 10, 10)
    for end in (found.low, found.high):
        assert end is not None
        spread = 1 + 9 * ((1 - end) / (2 - end) + end / (1 + end))  # Newcombe's method 5
        assert abs(0.9 - end) == pytest.approx(
            1.959964 * np.sqrt(end * (1 - end) * spread / 100), rel=1e-5
        )
    assert auroc_interval(1.0, 10, 10).high == 1.0
    assert auroc_interval(0.0, 10, 10).low == 0.0
    assert auroc_interval(0.5, 0, 10) == Interval(None, None, None, 10)


def test_students_interval_covers_means_of_skewed_scores_better_than_the_bootstrap() -> None:
    generator = np.random.default_rng(0)
    truth = 0.1 * 0.5 + 0.9 * 0.8
    for n in (5, 20, 100):
        hits = {"student": 0, "bootstrap": 0}
        for _ in range(400):
            # a tenth at chance
            scores = np.where(generator.random(n) < 0.1, 0.5, generator.beta(8, 2, n))
            found = {
                "student": t_interval(scores),
                "bootstrap": bootstrap_mean(scores, generator, n_resamples=400),
            }
            for name, interval in found.items():
                assert interval.low is not None and interval.high is not None
                hits[name] += interval.low <= truth <= interval.high
        assert 0.90 <= hits["student"] / 400 <= 0.98
        assert hits["student"] >= hits["bootstrap"] - 2


def test_groups_weigh_the_same_whatever_their_size() -> None:
    many, few = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.8, 1.0])
    found = t_interval_of_groups([many, few])
    assert (found.value, found.n) == (pytest.approx((0.25 + 0.9) / 2), 6)
    # the difference of two means is their sum with a sign
    welch = scipy.stats.ttest_ind(many, -few, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low / 2, high / 2))
    one = t_interval(many)
    alone = t_interval_of_groups([many, np.zeros(0)])
    assert (alone.value, alone.low, alone.high, alone.n) == pytest.approx(
        (one.value, one.low, one.high, one.n)
    )


def test_a_group_of_one_gives_no_interval_and_nothing_gives_nothing() -> None:
    one = t_interval_of_groups([np.array([0.1, 0.3]), np.array([0.5])])
    assert (one.value, one.low, one.high, one.n) == (pytest.approx(0.35), None, None, 3)
    assert (
        t_interval_of_groups([])
        == t_interval_of_groups([np.zeros(0)])
        == Interval(None, None, None, 0)
    )
    same = t_interval_of_groups([np.full(3, 0.5), np.full(2, 0.5)])
    assert (same.low, same.high) == (0.5, 0.5)


def test_an_interval_of_groups_scales_with_its_values_however_small() -> None:
    groups = [np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.9])]
    plain = t_interval_of_groups(groups)
    for scale in (2.0**-300, 2.0**-500):
        small = t_interval_of_groups([group * scale for group in groups])
        assert plain.low is not None and plain.high is not None
        wanted = plain.low * scale, plain.high * scale
        assert (small.low, small.high) == pytest.approx(wanted, rel=1e-12, abs=0)


def test_groups_of_unequal_spread_are_covered() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        found = t_interval_of_groups(
            [rng.normal(0.1, 0.3, 6), rng.normal(0.5, 0.05, 20), rng.normal(0.3, 0.1, 11)]
        )
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.3 <= found.high
    assert 0.93 < hits / 1000 < 0.975


@pytest.mark.parametrize(
    ("k", "n", "chance"), [(0, 5, 0.2), (3, 5, 0.2), (5, 5, 0.5), (1, 40, 1 / 21)]
)
def test_the_tail_of_the_binomial_is_scipys(k: int, n: int, chance: float) -> None:
    assert binomial_tail(k, n, chance) == pytest.approx(scipy.stats.binom.sf(k - 1, n, chance))
