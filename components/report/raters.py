"""How far two raters agree: Cohen's kappa, and the AUROC of one rater's numbers for the other's
answers, with intervals from resampling whole clusters.

Rows of one cluster (explanations of a latent, texts that are judged for a target) are alike, so the
clusters are what is resampled. A resample is a weight for each cluster, how often it was drawn, and
both statistics are made of sums over clusters or pairs of clusters: all resamples are one product of
matrices. A resample in which a statistic has no value is left out.

Sources: Cohen (1960), Educational and Psychological Measurement 20, 37-46; percentile interval over
clusters: Davison & Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from components.statistics import Interval, auroc

FEWEST_CLUSTERS = 10
"""Clusters below which resampling gives no interval."""
RESAMPLES = 2000
ENDS = (0.025, 0.975)


def kappa(one: Bool[np.ndarray, " row"], other: Bool[np.ndarray, " row"]) -> float | None:
    """Agreement beyond chance, -1 to 1; None where chance alone agrees always."""
    if not len(one):
        return None
    (value,) = _kappas(_answers(one, other).sum(axis=0, keepdims=True))
    return None if np.isnan(value) else float(value)


def clustered_kappa(
    one: Bool[np.ndarray, " row"],
    other: Bool[np.ndarray, " row"],
    cluster: Shaped[np.ndarray, " row"],
    generator: np.random.Generator,
) -> Interval:
    """Kappa with its 95% interval; `n` counts clusters, and with fewer than FEWEST_CLUSTERS there
    is no interval."""
    member, n = _members(cluster)
    value = kappa(one, other)
    if value is None or n < FEWEST_CLUSTERS:
        return Interval(value, None, None, n)
    counts = np.zeros((n, 4))
    np.add.at(counts, member, _answers(one, other))
    return Interval(value, *_ends(_kappas(_weights(n, generator) @ counts)), n)


def clustered_auroc(
    scores: Real[np.ndarray, " row"],
    labels: Bool[np.ndarray, " row"],
    cluster: Shaped[np.ndarray, " row"],
    generator: np.random.Generator,
) -> Interval:
    """AUROC (ties half) with its 95% interval; `n` counts clusters, and with fewer than
    FEWEST_CLUSTERS there is no interval."""
    member, n = _members(cluster)
    value = auroc(scores, labels)
    if value is None or n < FEWEST_CLUSTERS:
        return Interval(value, None, None, n)
    positive, negative = scores[labels][:, None], scores[~labels][None, :]
    beats = (positive > negative) + 0.5 * (positive == negative)
    of_positive, of_negative = np.eye(n)[member[labels]], np.eye(n)[member[~labels]]
    won = of_positive.T @ beats @ of_negative  # [cluster of the positive, of the negative]
    weights = _weights(n, generator)
    pairs = (weights @ of_positive.sum(axis=0)) * (weights @ of_negative.sum(axis=0))
    with np.errstate(invalid="ignore"):  # no positive or no negative was drawn: 0 / 0
        drawn = ((weights @ won) * weights).sum(axis=1) / pairs
    return Interval(value, *_ends(drawn), n)


def _answers(
    one: Bool[np.ndarray, " row"], other: Bool[np.ndarray, " row"]
) -> Float[np.ndarray, "row 4"]:
    """Which of the four pairs of answers each row is: both yes, one, the other, neither."""
    return np.stack([one & other, one & ~other, ~one & other, ~one & ~other], axis=1).astype(float)


def _kappas(counts: Float[np.ndarray, "draw 4"]) -> Float[np.ndarray, " draw"]:
    """Kappa of each table of counts; NaN where chance alone agrees always."""
    both, only_one, only_other, neither = counts.T
    n = counts.sum(axis=1)  # sums of counts are exact: divided late, perfect agreement is exactly 1
    yes, also, agree = (both + only_one) / n, (both + only_other) / n, (both + neither) / n
    by_chance = yes * also + (1 - yes) * (1 - also)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(by_chance == 1, np.nan, (agree - by_chance) / (1 - by_chance))


def _members(cluster: Shaped[np.ndarray, " row"]) -> tuple[Int[np.ndarray, " row"], int]:
    """The number of each row's cluster, and how many there are."""
    names, member = np.unique(cluster, return_inverse=True)
    return member, len(names)


def _weights(n: int, generator: np.random.Generator) -> Float[np.ndarray, "draw cluster"]:
    """How often each cluster was drawn, resample by resample."""
    picked = generator.integers(n, size=(RESAMPLES, n))
    weights = np.zeros((RESAMPLES, n))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], picked), 1)
    return weights


def _ends(drawn: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    low, high = np.quantile(drawn[~np.isnan(drawn)], ENDS)
    return float(low), float(high)
