"""Intervals, tests and measures of ranking: pure functions of arrays for every stage.

What an empty input gives is the same everywhere: no value (None) and n = 0, never a zero. A single
replicate has a value and no interval. Resampling takes a numpy generator (components.seeds).
Sources stand at each function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

# not scipy.stats, which takes a third of a second to import and asks the same functions
import scipy.special
from jaxtyping import Bool, Float, Int, Real, Shaped

Alternative = Literal["two-sided", "greater", "less"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: the estimate; None when there was nothing to estimate from.
        low: lower end; None when fewer than two replicates came.
        high: upper end, likewise.
        n: replicates that the estimate rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


ABSENT = Interval(None, None, None, 0)
"""That of nothing."""


def bootstrap_mean(
    values: Real[np.ndarray, " replicate"],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
) -> Interval:
    """Mean with the percentile bootstrap interval over replicates.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    return cluster_bootstrap(
        values,
        None,
        np.arange(len(values)),
        generator,
        confidence=confidence,
        n_resamples=n_resamples,
    )


def cluster_bootstrap(
    numerator: Real[np.ndarray, " row"],
    denominator: Real[np.ndarray, " row"] | None,
    cluster: Int[np.ndarray, " row"],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
) -> Interval:
    """Ratio of sums (a mean when `denominator` is None), with an interval from resampling whole
    clusters.

    Rows of one document are not independent: the documents are what is resampled, so `n` counts
    clusters.

    Source: Davison & Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
    """
    if len(numerator) == 0:
        return ABSENT
    names, member = np.unique(cluster, return_inverse=True)
    over = np.bincount(member, weights=numerator.astype(np.float64))
    under = np.bincount(
        member, weights=None if denominator is None else denominator.astype(np.float64)
    ).astype(float)
    assert np.isfinite(over).all() and np.isfinite(under).all(), (
        "failures enter as chance, not as NaN"
    )
    if under.sum() == 0:
        return Interval(None, None, None, len(names))
    value, n = float(over.sum() / under.sum()), len(names)
    if n < 2:
        return Interval(value, None, None, n)
    draws, at_once = [], max(1, 2**22 // n)  # bounded memory: 4 million indices at a time
    for start in range(0, n_resamples, at_once):
        chosen = generator.integers(0, n, (min(at_once, n_resamples - start), n))
        with np.errstate(invalid="ignore", divide="ignore"):
            draws.append(over[chosen].sum(1) / under[chosen].sum(1))
    tail = (1 - confidence) / 2
    kept = np.concatenate(draws)
    low, high = np.quantile(kept[np.isfinite(kept)], [tail, 1 - tail])
    return Interval(value, float(low), float(high), n)


def t_interval(values: Real[np.ndarray, " replicate"], confidence: float = 0.95) -> Interval:
    """Mean with Student's interval: for few replicates, such as training seeds."""
    n = len(values)
    if n == 0:
        return ABSENT
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None, 1)
    reach = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / np.sqrt(n)
    return Interval(mean, float(mean - reach), float(mean + reach), n)


def bounded(interval: Interval, least: float, most: float) -> Interval:
    """The interval cut to what its score can be; an end that was cut covers the truth no less
    often."""
    low, high = (
        None if end is None else min(max(end, least), most) for end in (interval.low, interval.high)
    )
    return dataclasses.replace(interval, low=low, high=high)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """A share with Wilson's score interval, which stays inside 0 to 1 and has width even at 0 and
    n.

    Source: Wilson (1927), JASA 22, 209-212.
    """
    assert 0 <= successes <= n
    if n == 0:
        return ABSENT
    share, z2 = successes / n, scipy.special.ndtri((1 + confidence) / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = np.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n * n)) / (1 + z2 / n)
    # exact at the ends, where rounding would miss
    low = 0.0 if successes == 0 else float(centre - reach)
    high = 1.0 if successes == n else float(centre + reach)
    return Interval(share, low, high, n)


def clustered_t_interval(
    values: Real[np.ndarray, " row"], cluster: Shaped[np.ndarray, " row"], confidence: float = 0.95
) -> Interval:
    """Mean of rows with Student's interval over clusters of rows that succeed or fail together; `n`
    counts clusters.

    The value is the mean over rows. One row in each cluster gives `t_interval`. No interval with
    fewer than two clusters.

    Source: Cameron & Miller (2015), J. Human Resources 50, 317-372, equations 8 and 11 for a mean.
    """
    if len(values) == 0:
        return ABSENT
    names, member = np.unique(cluster, return_inverse=True)
    mean, n = float(np.mean(values)), len(names)
    if n == 1:
        return Interval(mean, None, None, 1)
    residual = np.bincount(member, weights=values.astype(np.float64) - mean)
    error = np.sqrt(n / (n - 1) * np.sum(residual**2)) / len(values)
    reach = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * error
    return Interval(mean, float(mean - reach), float(mean + reach), n)


def clustered_wilson(
    successes: Bool[np.ndarray, " row"],
    cluster: Shaped[np.ndarray, " row"],
    confidence: float = 0.95,
) -> Interval:
    """A share whose rows succeed or fail together in clusters: Wilson's interval at the effective
    number of rows.

    That number is p (1 - p) over the variance between clusters, at most the number of rows; at a
    share of 0 or 1, where no variance shows, it is the number of clusters. Student's quantile of
    one less than the clusters takes the normal's place. `n` counts rows. With one row in each
    cluster it is `wilson` but for that quantile.

    Source: Dean & Pagano (2015), Journal of Survey Statistics and Methodology 3, 484-503; Korn &
    Graubard (1998), Survey Methodology 24, 193-201, for the effective number and its degrees of
    freedom.
    """
    n = len(successes)
    names, member = np.unique(cluster, return_inverse=True)
    groups = len(names)
    if n == 0 or groups < 2:
        return Interval(None if n == 0 else float(successes.mean()), None, None, n)
    share = float(successes.mean())
    residual = np.bincount(member, weights=successes.astype(np.float64) - share)
    variance = groups / (groups - 1) * float((residual**2).sum()) / n**2
    effective = (
        min(float(n), share * (1 - share) / variance)
        if variance > 0 and 0 < share < 1
        else float(groups)
    )
    z2 = float(scipy.special.stdtrit(groups - 1, (1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * effective)) / (1 + z2 / effective)
    reach = np.sqrt(z2 * share * (1 - share) / effective + z2**2 / (4 * effective**2)) / (
        1 + z2 / effective
    )
    low = 0.0 if share == 0 else max(0.0, float(centre - reach))
    return Interval(share, low, 1.0 if share == 1 else min(1.0, float(centre + reach)), n)


def average_precision_interval(ap: float, n_positive: int, confidence: float = 0.95) -> Interval:
    """Interval of an average precision over so many positives, by its logit; it never leaves 0 to
    1.

    The standard error of the logit is 1 / sqrt(n p (1 - p)); p is drawn in by half a positive, so
    that it has width at 1.

    Source: Boyd, Eng & Page (2013), ECML PKDD, "Area under the precision-recall curve", section
    3.1.
    """
    if n_positive == 0:
        return ABSENT
    drawn_in = (ap * n_positive + 0.5) / (n_positive + 1)
    reach = scipy.special.ndtri((1 + confidence) / 2) / np.sqrt(
        n_positive * drawn_in * (1 - drawn_in)
    )
    centre = scipy.special.logit(drawn_in)
    low, high = (float(scipy.special.expit(centre + sign * reach)) for sign in (-1, 1))
    return Interval(ap, min(low, ap), max(high, ap), n_positive)


def welch(
    one: Real[np.ndarray, " row"], other: Real[np.ndarray, " row2"], confidence: float = 0.95
) -> tuple[Interval, float | None, float | None]:
    """Difference of two means over rows that are no pairs, its p-value of 'equal means'
    (two-sided), degrees of freedom.

    `n` counts the rows of both. Without two rows on each side, or where no row differs from its own
    mean, there is no interval and no p-value.

    Source: Welch (1947), Biometrika 34, 28-35.
    """
    if not len(one) or not len(other):
        return Interval(None, None, None, len(one) + len(other)), None, None
    value, n = float(np.mean(one) - np.mean(other)), len(one) + len(other)
    if min(len(one), len(other)) < 2:
        return Interval(value, None, None, n), None, None
    parts = np.array([np.var(one, ddof=1) / len(one), np.var(other, ddof=1) / len(other)])
    error = float(np.sqrt(parts.sum()))
    if error == 0:
        return Interval(value, None, None, n), None, None
    freedom = float(parts.sum() ** 2 / (parts**2 / np.array([len(one) - 1, len(other) - 1])).sum())
    reach = scipy.special.stdtrit(freedom, (1 + confidence) / 2) * error
    p = float(2 * scipy.special.stdtr(freedom, -abs(value) / error))
    return Interval(value, value - float(reach), value + float(reach), n), p, freedom


def detectable(
    interval: Interval, freedom: float, tests: int = 1, power: float = 0.8, level: float = 0.05
) -> float | None:
    """The least difference that a two-sided test at `level` over so many tests (Bonferroni) sees
    with this power.

    Read off a 95% Student interval of that many degrees of freedom; None where there is none.

    Source: Bloom (1995), Evaluation Review 19, 547-556.
    """
    if interval.low is None or interval.high is None:
        return None
    error = (interval.high - interval.low) / 2 / scipy.special.stdtrit(freedom, 0.975)
    reach = scipy.special.stdtrit(freedom, 1 - level / tests / 2) + scipy.special.stdtrit(
        freedom, power
    )
    return float(reach * error)


def sign_flip_test(
    differences: Real[np.ndarray, " pair"],
    generator: np.random.Generator,
    alternative: Alternative = "two-sided",
    n_flips: int = 10_000,
) -> float | None:
    """p-value of 'paired differences are symmetric about 0', by flipping signs; None without pairs.

    Exact (all 2^n flips) when that is at most `n_flips`, else drawn, the observed one counted in.
    """
    n = len(differences)
    if n == 0:
        return None
    values = differences.astype(np.float64)
    if 2**n <= n_flips:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return _tail_share(float(values.sum()), signs @ values, alternative)
    at_once = max(1, 2**22 // n)
    null = [
        (1 - 2 * generator.integers(0, 2, (min(at_once, n_flips - start), n))) @ values
        for start in range(0, n_flips, at_once)
    ]
    return permutation_p(float(values.sum()), np.concatenate(null), alternative)


def permutation_p(
    observed: float, null: Real[np.ndarray, " draw"], alternative: Alternative = "greater"
) -> float | None:
    """p-value of a statistic against draws from its null, never 0: (1 + as extreme) / (1 + draws).

    Source: Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9, article 39.
    """
    if len(null) == 0:
        return None
    return (1 + _tail_share(observed, null, alternative) * len(null)) / (1 + len(null))


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values adjusted for all tests together (family-wise), in the given order.

    Source: Holm (1979), Scand. J. Statist. 6, 65-70.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p), dtype=np.float64)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def auroc(scores: Real[np.ndarray, " row"], labels: Shaped[np.ndarray, " row"]) -> float | None:
    """Chance that a positive outranks a negative, ties half; None unless both classes are there."""
    return _auroc(*_tied(scores, labels))


def auroc_of_answers(
    scores: Float[np.ndarray, " row"], positive: Bool[np.ndarray, " row"]
) -> float:
    """The same where answers may be missing (NaN): one counts half against every row of the other
    class.

    Both classes must be there.
    """
    above = scores[positive][:, None] > scores[~positive]
    below = scores[positive][:, None] < scores[~positive]
    return float((0.5 + 0.5 * above - 0.5 * below).mean())  # without an answer neither holds


def auroc_interval(
    value: float, n_positive: int, n_negative: int, confidence: float = 0.95
) -> Interval:
    """An AUROC with Newcombe's interval, which holds the values whose own standard error does not
    reject this one.

    The standard error is Hanley and McNeil's at the value that is tried, so the interval stays
    inside 0 to 1 and has width even at 1. It covers near 1 and with ten of each class, where
    DeLong's does not (0.53 at 0.98), nor DeLong's on the logit (0.51): tests/test_statistics.py
    simulates it. With many ties it is wider than it need be.

    Args:
        value: the AUROC, ties half.
        n_positive: rows of one class.
        n_negative: rows of the other.
        confidence: how often it is to cover.

    Source: Newcombe (2006), Statistics in Medicine 25, 559-573, method 5.
    """
    n = n_positive + n_negative
    if n_positive == 0 or n_negative == 0:
        return Interval(None, None, None, n)
    z2, others = float(scipy.special.ndtri((1 + confidence) / 2)) ** 2, n / 2 - 1

    def rejects(tried: float) -> bool:
        spread = 1 + others * ((1 - tried) / (2 - tried) + tried / (1 + tried))
        return (value - tried) ** 2 > z2 * tried * (1 - tried) * spread / (n_positive * n_negative)

    ends = []
    for edge in (0.0, 1.0):
        inside, outside = value, edge
        for _ in range(50):  # halved so often that what is left is below the precision of a double
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if rejects(middle) else (middle, outside)
        ends.append(inside)
    return Interval(value, *ends, n)


def average_precision(
    scores: Real[np.ndarray, " row"], labels: Shaped[np.ndarray, " row"]
) -> float | None:
    """Sum over distinct thresholds of (gain in recall) times precision; None without a positive.

    Rows of equal score enter together, so their order cannot matter. Equal to scikit-learn's
    average_precision_score.
    """
    return _average_precision(*_tied(scores, labels))


def average_precision_sparse(
    values: Real[np.ndarray, " entry"],
    labels: Shaped[np.ndarray, " entry"],
    n_positive: int,
    n_rows: int,
) -> float | None:
    """`average_precision` of a score that is 0 on every row but those listed.

    Args:
        values: the scores that are listed, of either sign.
        labels: whether the row of each listed score is positive.
        n_positive: positive rows in all, listed or not.
        n_rows: rows in all.
    """
    return _average_precision(*_tied_sparse(values, labels, n_positive, n_rows))


def auroc_sparse(
    values: Real[np.ndarray, " entry"],
    labels: Shaped[np.ndarray, " entry"],
    n_positive: int,
    n_rows: int,
) -> float | None:
    """`auroc` of a score that is 0 on every row but those listed; arguments as in
    `average_precision_sparse`."""
    return _auroc(*_tied_sparse(values, labels, n_positive, n_rows))


def expected_calibration_error(
    probabilities: Real[np.ndarray, " row"], outcomes: Shaped[np.ndarray, " row"], n_bins: int = 10
) -> float | None:
    """Mean gap between stated probability and share of outcomes over bins of equal width, weighted
    by rows.

    Source: Guo et al. (2017), arXiv:1706.04599, equation 5.
    """
    n = len(probabilities)
    if n == 0:
        return None
    inside = np.minimum((probabilities * n_bins).astype(np.int64), n_bins - 1)
    stated = np.bincount(inside, weights=probabilities.astype(np.float64), minlength=n_bins)
    came = np.bincount(inside, weights=outcomes.astype(np.float64), minlength=n_bins)
    return float(np.abs(stated - came).sum() / n)


Counts = Int[np.ndarray, " level"]


def _tied(
    scores: Real[np.ndarray, " row"], labels: Shaped[np.ndarray, " row"]
) -> tuple[Counts, Counts]:
    """Positives and rows at each distinct score, highest first."""
    if len(scores) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    assert not np.isnan(ranked[0]), "scores are numbers"  # NaN sorts last, so first here
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    positives = np.cumsum(labels[order].astype(bool), dtype=np.int64)[last]
    return np.diff(positives, prepend=0), np.diff(last + 1, prepend=0)


def _tied_sparse(
    values: Real[np.ndarray, " entry"],
    labels: Shaped[np.ndarray, " entry"],
    n_positive: int,
    n_rows: int,
) -> tuple[Counts, Counts]:
    assert len(values) <= n_rows
    above, below = values > 0, values < 0
    at_zero = n_rows - int(above.sum()) - int(below.sum())
    positive_at_zero = n_positive - int(labels[above | below].astype(bool).sum())
    (p_above, n_above), (p_below, n_below) = (
        _tied(values[above], labels[above]),
        _tied(values[below], labels[below]),
    )
    middle = [at_zero] if at_zero else []
    return (
        np.concatenate(
            [p_above, np.array([positive_at_zero] if at_zero else [], np.int64), p_below]
        ),
        np.concatenate([n_above, np.array(middle, np.int64), n_below]),
    )


def _average_precision(positives: Counts, rows: Counts) -> float | None:
    if positives.sum() == 0:
        return None
    precision = np.cumsum(positives) / np.cumsum(rows)
    return float((positives * precision).sum() / positives.sum())


def _auroc(positives: Counts, rows: Counts) -> float | None:
    negatives = rows - positives
    if positives.sum() == 0 or negatives.sum() == 0:
        return None
    beaten = negatives.sum() - np.cumsum(negatives) + negatives / 2
    return float((positives * beaten).sum() / (float(positives.sum()) * float(negatives.sum())))


def _tail_share(
    observed: float, null: Real[np.ndarray, " draw"], alternative: Alternative
) -> float:
    slack = 1e-9 * max(1.0, abs(observed))  # equal sums in another order still count as equal
    extreme: Bool[np.ndarray, " draw"] = {
        "greater": null >= observed - slack,
        "less": null <= observed + slack,
        "two-sided": np.abs(null) >= abs(observed) - slack,
    }[alternative]
    return float(extreme.mean())


def t_interval_of_groups(
    groups: Sequence[Real[np.ndarray, " _"]], confidence: float = 0.95
) -> Interval:
    """Mean of the means of groups, each group of equal weight whatever its size; empty groups are
    left out.

    The interval is Student's with the degrees of freedom of Welch and Satterthwaite; none where a
    group has one replicate, whose spread nothing tells. `n` counts all replicates.

    Source: Satterthwaite (1946), Biometrics Bulletin 2, 110-114; Welch (1947), Biometrika 34,
    28-35.
    """
    groups = [group for group in groups if len(group)]
    n = sum(map(len, groups))
    if n == 0:
        return ABSENT
    value = float(np.mean([np.mean(group) for group in groups]))
    if min(map(len, groups)) == 1:
        return Interval(value, None, None, n)
    parts = np.array([np.var(group, ddof=1) / len(group) for group in groups]) / len(groups) ** 2
    if parts.sum() == 0:
        return Interval(value, value, value, n)
    # the squares of very small parts would all be 0, and their quotient not a number
    scaled = parts if parts.max() > 1e-100 else parts / parts.max()
    freedom = scaled.sum() ** 2 / sum(
        part**2 / (len(group) - 1) for part, group in zip(scaled, groups, strict=True)
    )
    reach = float(scipy.special.stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(parts.sum()))
    return Interval(value, value - reach, value + reach, n)


def binomial_tail(successes: int, n: int, chance: float) -> float:
    """Chance of at least so many successes of n that are independent, each with this chance."""
    return 1.0 if successes <= 0 else float(scipy.special.bdtrc(successes - 1, n, chance))
