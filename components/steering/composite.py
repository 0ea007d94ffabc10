"""Steering in one number: how much of the target a text gained, and whether it is still text.

There are two composites, and they have names of their own, so that nobody compares them:
`composite` is of two parts (target and fluency), `panel` of three (target, relevance and fluency).

The target is what the judge `steer.measure` says; whether it is still text says the judge
`fluency`. Uplift alone is largest where text breaks: a list of keywords has all of it. So the gain
is normalised and clipped, C = clip((p - p0) / (1 - p0), 0, 1), and joined with the fluency F by the
harmonic mean, which is 0 where either is. The clip makes chance positive: read the composite beside
that of Gaussian directions.

A steering that is meant to lower its target (`Candidate.sign` -1) is scored by the fall instead,
C = clip((p0 - p) / p0, 0, 1): the share that is gone of what was there. What it is compared with is
scored by the fall likewise.

Two parts can still be gamed by a fluent text of the target that has nothing to do with its prompt.
`panel` asks for relevance too, and may have several judges of the target (`steer.panel`), each
with a gain of its own: all of them must be pleased.

Source: the harmonic mean of concept, relevance to the instruction and fluency is that of Wu et al.,
AxBench (2025), arXiv:2501.17148. Deviations: each part lies between 0 and 1 and is graded, where
theirs is a rating of 0, 1 or 2 by a language model, and the target is what a text gained over the
unsteered text of the same prompt and sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

FLUENCY = "fluency"
"""The judge that the gain in the target is joined with."""
RELEVANCE = "relevance"
"""The judge that the composite of three needs beside it."""


def gain(
    probability: Float[np.ndarray, " text"],
    before: Float[np.ndarray, " text"],
    lowers: Bool[np.ndarray, " text"] | bool = False,
) -> Float[np.ndarray, " text"]:
    """The share of what was left to gain that a text gained, clip((p - p0) / (1 - p0), 0, 1); where
    it was to be lowered, the share of what was there that is gone, clip((p0 - p) / p0, 0, 1). NaN
    where either is NaN, and 0 where nothing was left.

    Args:
        probability: what a judge of the target says of each text.
        before: the same of the plain text of the same prompt and sample.
        lowers: whether less of the target is wanted.
    """
    left = np.where(lowers, before, 1.0 - before)
    moved = np.where(lowers, before - probability, probability - before)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(left > 0, np.clip(moved / left, 0.0, 1.0), 0.0 * (probability + before))


def harmonic(parts: Sequence[Float[np.ndarray, " text"]]) -> Float[np.ndarray, " text"]:
    """The harmonic mean of several parts, each 0 to 1: 0 where one of them is 0, NaN where one is
    NaN."""
    stacked = np.stack([np.asarray(part, np.float64) for part in parts])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = len(stacked) / (1.0 / stacked).sum(axis=0)
    known = np.where((stacked == 0).any(axis=0), 0.0, mean)
    return np.where(np.isnan(stacked).any(axis=0), np.nan, known)


def panel(
    gains: Sequence[Float[np.ndarray, " text"]],
    relevance: Float[np.ndarray, " text"],
    fluency: Float[np.ndarray, " text"],
) -> Float[np.ndarray, " text"]:
    """The composite of three: harmonic mean of target, relevance and fluency.

    The target is the harmonic mean of what its judges say was gained, so that it weighs one third
    however many judges it has.

    Args:
        gains: of each judge of the target, what each text gained (0 to 1).
        relevance: 0 to 1.
        fluency: 0 to 1.
    """
    return harmonic([harmonic(gains), relevance, fluency])


def composite(
    probability: Float[np.ndarray, " text"],
    before: Float[np.ndarray, " text"],
    fluency: Float[np.ndarray, " text"],
    lowers: Bool[np.ndarray, " text"] | bool = False,
) -> Float[np.ndarray, " text"]:
    """Harmonic mean of normalised gain and fluency, 0 to 1; NaN where one of the three is.

    Args:
        probability: what the measured judge says of each text.
        before: the same of the plain text of the same prompt and sample; where that is 1, nothing
            was left to gain.
        fluency: 0 to 1.
        lowers: whether less of the target is wanted: the fall then stands for the gain.
    """
    gained = gain(probability, before, lowers)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = gained + fluency
        return np.where(total > 0, 2 * gained * fluency / total, 0.0 * total)
