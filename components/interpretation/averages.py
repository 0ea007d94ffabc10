"""Means over latents as columns of a row of scores: of one score, of a paired difference, of a
ratio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.interpretation.contract import Scorer
from components.interpretation.declared import differences_of, range_of
from components.interpretation.key import Row
from components.interpretation.trials import LatentScore
from components.statistics import Interval, bounded, cluster_bootstrap, t_interval

NOBODY = "no latent is active on the split that they are drawn from: the dictionary is dead there (train.tokens, train.lr)"
LEAST_ROOM = 0.05
"""Between floor and probe, for the normalised score; below, its unit is noise."""


def mean_row(
    scores: Sequence[LatentScore], scorer: type[Scorer], baseline: float | None, baseline_name: str
) -> Row:
    """The mean over latents, as columns of a row of scores."""
    values, n_failed = values_of(scores), n_failed_of(scores)
    return {
        **ends(bounded(t_interval(values), *range_of(scorer))),
        "n_failed": n_failed,
        "baseline": baseline,
        "baseline_name": baseline_name,
        "reason": both(missing_of(scores), _caveat(scores, len(values), n_failed)),
    }


def _caveat(scores: Sequence[LatentScore], n: int, n_failed: int) -> str | None:
    """What a reader of a mean over n of these has to know."""
    if not scores:
        return NOBODY
    told = []
    if nulls := [score.reason for score in scores if score.value is None]:
        told.append(f"{len(nulls)} of {len(scores)} latents have none: {nulls[0]}")
    if n_failed and n_failed == n:
        first = asked_of(scores)[0].reason
        told.append(f"all {n_failed} latents stand at chance, the first because: {first}")
    elif n_failed:
        told.append(f"{n_failed} of {n} latents stand at chance")
    return "; ".join(told) or None


def difference_row(
    scores: Sequence[LatentScore], floor: Sequence[LatentScore], scorer: type[Scorer]
) -> Row:
    """The mean paired difference from the floor, as columns of a row of scores."""
    pairs = [
        (ours, theirs)
        for ours, theirs in zip(scores, floor, strict=True)
        if asked_of([ours]) and asked_of([theirs])
    ]
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {
        "measure": f"{scorer.measure.name}.over_floor",
        **ends(bounded(t_interval(values_of(ours) - values_of(theirs)), *differences_of(scorer))),
        "n_failed": n_failed_of(ours),
        "baseline": 0.0,
        "baseline_name": "no difference from shuffled explanations",
        "reason": both(missing_of(scores), nothing_of(scores, floor)),
    }


def normalised_row(
    scores: Sequence[LatentScore],
    floor: Sequence[LatentScore],
    probe: Sequence[LatentScore],
    scorer: type[Scorer],
    generator: np.random.Generator,
) -> Row:
    """Mean above the floor as a share of the probe's, over the latents that have all three, as
    columns of a row of scores."""
    lacking = nothing_of(scores, floor, probe)
    whole = [
        each for each in zip(scores, floor, probe, strict=True) if len(asked_of(each)) == len(each)
    ]
    scores, floor, probe = ([each[place] for each in whole] for place in range(3))
    row: Row = {
        "measure": f"{scorer.measure.name}.normalised",
        "baseline": 0.0,
        "baseline_name": "shuffled explanations, by definition",
        "n": len(scores),
        "n_failed": n_failed_of(scores),
    }
    if not whole:
        return row | {"reason": lacking or NOBODY}
    above, room = values_of(scores) - values_of(floor), values_of(probe) - values_of(floor)
    if room.mean() < LEAST_ROOM:
        little = f"the probe is {room.mean():.3f} above the floor, wanted at least {LEAST_ROOM}"
        return row | {"reason": f"{little}: there is nothing to normalise by"}
    return row | ends(cluster_bootstrap(above, room, np.arange(len(above)), generator))


def mean(scores: Sequence[LatentScore]) -> float | None:
    """Mean over latents; None without any."""
    return mean_of(values_of(scores).tolist())


def asked_of(scores: Sequence[LatentScore]) -> list[LatentScore]:
    """Those that have a score: without those about which nobody was asked, and without nulls."""
    return [score for score in scores if not score.is_missing and score.value is not None]


def missing_of(scores: Sequence[LatentScore]) -> str | None:
    """How many latents nobody was asked about, and why."""
    missing = [score for score in scores if score.is_missing]
    if not missing:
        return None
    n = f"{len(missing)} of {len(scores)} latents are missing"
    return f"{n}, the first because: {missing[0].reason}"


def nothing_of(*sides: Sequence[LatentScore]) -> str | None:
    """Why one of these has no score of any latent; None where each has."""
    for scores in sides:
        if not scores:
            return NOBODY
        if not asked_of(scores):
            return (
                f"none of {len(scores)} latents has a score, the first because: {scores[0].reason}"
            )
    return None


def both(*reasons: str | None) -> str | None:
    """All reasons that there are, in one line."""
    return "; ".join(reason for reason in reasons if reason) or None


def n_failed_of(scores: Sequence[LatentScore]) -> int:
    """Latents that stand at chance because everything about them failed."""
    return sum(score.n_failed == score.n for score in asked_of(scores))


def values_of(scores: Sequence[LatentScore]) -> np.ndarray:
    """Of the latents that have one: who answers does not change which these are."""
    return np.array([score.value for score in asked_of(scores)], dtype=np.float64)


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(values)) if values else None


def ends(interval: Interval) -> Row:
    """Value, interval and n as columns of a row of scores."""
    columns = ("value", "low", "high", "n")
    return {column: getattr(interval, column) for column in columns}
