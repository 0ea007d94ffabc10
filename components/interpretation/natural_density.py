"""Scores at natural density: precision on windows that nobody chose.

The pool is one unselected draw of windows of the test split, the same for every latent
(components/interpretation/searched.py). Who answers cheaply is asked about all of it for every
latent. Who does not is asked about a few of its windows for each, so many that all latents that it
reads together make up the pool, and one value is told of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from components.interpretation.contract import LatentRecord
from components.interpretation.trials import Answer, LatentScore, Pooled, ScorePart, Trials
from components.interpretation.windows import Pool, Texts
from components.seeds import numpy_generator
from components.statistics import ABSENT, Interval, average_precision

RESAMPLES = 200
"""Resamples of latents behind the interval of a pooled value."""


def pools(
    records: Sequence[LatentRecord],
    trials: Sequence[Trials],
    whole: bool,
    seed: int,
    at_most: int | None = None,
) -> list[Pool | None]:
    """What each latent is asked about: all of the pool, or its part of it where not the whole is
    wanted; None where it has no score, or the scorer asks about no pool. `at_most` latents are
    asked about in the end; all when None."""
    asked = [each.pool if each.null is None else None for each in trials]
    if whole:
        return asked
    n = sum(
        pool is not None and record.reason is None
        for record, pool in zip(records, asked, strict=True)
    )
    parts: list[Pool | None] = []
    for record, pool in zip(records, asked, strict=True):
        if pool is None:
            parts.append(None)
            continue
        generator = numpy_generator(seed, "pooled", record.latent)
        size = min(len(pool.active), -(-len(pool.active) // max(1, min(n, at_most or n))))
        places = np.sort(generator.choice(len(pool.active), size, replace=False))
        texts = Texts(pool.texts.tokens[places], pool.texts.vocabulary)
        parts.append(Pool(texts, pool.active[places]))
    return parts


def told(score: LatentScore, name: str, pool: Pool, answer: Answer, whole: bool) -> LatentScore:
    """The score with what was answered about the pool: a value of its own under this name, or its
    part of one that is told of all latents together; an empty part where nobody was asked."""
    if answer.is_missing:  # such windows are missing, and do not stand at chance
        none = np.zeros(0)
        return score if whole else dataclasses.replace(score, pooled=Pooled(none, none > 0))
    if whole:
        part = over_pool(answer.values, pool.active)
        strata = dict(score.strata) if part is None else {**score.strata, name: part}
        return dataclasses.replace(score, strata=strata)
    nothing = np.full(len(pool.active), np.nan)
    values = nothing if answer.values is None else answer.values
    return dataclasses.replace(score, pooled=Pooled(values, pool.active))


def over_pool(
    values: Float[np.ndarray, " window"] | None, active: Bool[np.ndarray, " window"]
) -> ScorePart | None:
    """Average precision over unselected windows.

    Args:
        values: the answers; NaN where there is none, None for none at all. These stand at chance,
            the share of windows that are active.
        active: whether the latent is active in each.

    Returns:
        None where it is active in none of them.
    """
    if not active.any():
        return None
    chance = float(active.mean())
    known = np.zeros(len(active), bool) if values is None else ~np.isnan(values)
    precision = average_precision(values[known], active[known]) if known.any() else None
    share = 0.0 if precision is None else float(known.mean())
    value = share * (precision or 0.0) + (1 - share) * chance
    return ScorePart(value, chance, len(active))


def together(answered: Sequence[Pooled]) -> tuple[Interval, float | None]:
    """Average precision over the answers about all latents at once, and chance.

    The interval resamples latents, with the same draws at every call.
    """

    def value(chosen: Sequence[Pooled]) -> ScorePart | None:
        values, active = (np.concatenate(column) for column in zip(*chosen, strict=True))
        return over_pool(values, active)

    part = value(answered) if answered else None
    if part is None:
        return ABSENT, None
    generator, n = numpy_generator(0, "pooled", "interval"), len(answered)
    draws = (generator.integers(0, n, n).tolist() for _ in range(RESAMPLES if n > 1 else 0))
    resampled = [value([answered[number] for number in draw]) for draw in draws]
    values = [each.value for each in resampled if each is not None]
    if not values:
        return Interval(part.value, None, None, n), part.chance
    low, high = (float(end) for end in np.quantile(values, [0.025, 0.975]))
    return Interval(part.value, low, high, n), part.chance
