"""What a score is worth: whether it tells a right string from a wrong one, and whether it says the
same when windows are drawn again.

Both are asked of every scorer with every predictor that can answer it, over the same windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from components.interpretation import protocol, truth
from components.interpretation.contract import LatentRecord, Predictor, Scorer
from components.interpretation.explanation import Explanation
from components.interpretation.trials import LatentScore
from components.statistics import ABSENT, Interval, bounded, clustered_t_interval
from components.store.stage import Progress

LEAST_RELIABILITY = 0.5
"""Correlation over latents between two draws of windows, below which a score ranks nothing."""
LEAST_LATENTS = 10
Pair = tuple[str, str]
"""Scorer and predictor."""


@dataclasses.dataclass(frozen=True)
class Discrimination:
    """How a score orders strings whose order is known.

    Attributes:
        share: pairs in their order, ties half; chance is 0.5. Interval over families of concepts.
        by_pair: (better, worse) -> the same of one pair of kinds.
        n_latents: latents with at least one pair.
        n_failed: strings that got no score.
    """

    share: Interval
    by_pair: Mapping[tuple[str, str], Interval]
    n_latents: int
    n_failed: int


def score_strings(
    records: Sequence[LatentRecord],
    strings: Sequence[Mapping[str, str]],
    scorer: Scorer,
    predictor: Predictor,
    seed: int,
) -> Generator[Progress, None, list[dict[str, float | None]]]:
    """Kind of string -> score, for each record; None where the string is not there or not read.

    Args:
        records: latents with their windows.
        strings: for each, kind -> string (components/interpretation/truth.py).
        scorer: what is measured.
        predictor: who reads.
        seed: draws the trials, one for all kinds.
    """
    trials = protocol.draw(scorer, records, seed)
    scores: list[dict[str, float | None]] = [{} for _ in records]
    for kind in truth.KINDS:
        explanations = [_explanation(texts.get(kind)) for texts in strings]
        work = protocol.score(kind, records, trials, explanations, scorer, predictor, seed)
        for of_latent, result in zip(scores, (yield from work), strict=True):
            of_latent[kind] = value_of(result)
    return scores


def value_of(score: LatentScore) -> float | None:
    """The score; None where it stands at chance because something failed."""
    return None if score.n_failed == score.n else score.value


def discrimination(
    scores: Sequence[Mapping[str, float | None]], families: Sequence[str]
) -> Discrimination:
    """How these scores order the strings of their latents.

    Args:
        scores: of each latent, by kind of string.
        families: the family of each latent's concept; concepts of one family succeed or fail
            together.
    """
    ordered = [truth.ordered(of_latent) for of_latent in scores]
    there = np.array([n > 0 for _, n in ordered], bool)
    shares = np.array([share for share, _ in ordered])
    family = np.array(families)
    by_pair = {}
    for better, worse in truth.ORDER:
        pairs = [
            (number, truth.ordered({better: of.get(better), worse: of.get(worse)}))
            for number, of in enumerate(scores)
        ]
        of_pair = [(family[number], share) for number, (share, n) in pairs if n]
        by_pair[better, worse] = _share([s for _, s in of_pair], [f for f, _ in of_pair])
    n_failed = sum(value is None for of_latent in scores for value in of_latent.values())
    return Discrimination(
        _share(shares[there].tolist(), family[there].tolist()),
        by_pair,
        int(there.sum()),
        n_failed,
    )


def agreement(
    first: Sequence[float | None], second: Sequence[float | None], seed: int = 0
) -> Interval:
    """Spearman's correlation over latents between two scores of each, with a bootstrap interval
    over latents; absent with fewer than ten latents that have both, or where one is constant."""
    both = np.array(
        [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    ).reshape(-1, 2)
    if len(both) < LEAST_LATENTS:
        return dataclasses.replace(ABSENT, n=len(both))
    value = _spearman(both)
    if value is None:
        return dataclasses.replace(ABSENT, n=len(both))
    generator = np.random.default_rng(seed)
    drawn = [_spearman(both[generator.integers(len(both), size=len(both))]) for _ in range(1000)]
    low, high = np.quantile([each for each in drawn if each is not None], [0.025, 0.975])
    return Interval(value, float(low), float(high), len(both))


def partial_agreement(
    first: Sequence[float | None], second: Sequence[float | None], given: Sequence[float]
) -> float | None:
    """The same, the ranks of a third number (density) regressed out of both; without interval."""
    rows = np.array(
        [
            (a, b, c)
            for a, b, c in zip(first, second, given, strict=True)
            if a is not None and b is not None
        ]
    ).reshape(-1, 3)
    if len(rows) < LEAST_LATENTS:
        return None
    import scipy.stats  # here, since it takes a third of a second to import

    ranks = scipy.stats.rankdata(rows, axis=0)
    left_over = [_without(ranks[:, column], ranks[:, 2]) for column in (0, 1)]
    if min(part.std() for part in left_over) < 1e-9 * len(rows):
        return None
    return float(np.corrcoef(*left_over)[0, 1])


def _explanation(text: str | None) -> Explanation:
    return Explanation(text) if text else Explanation(None, "no such string of this concept")


def _share(shares: Sequence[float], families: Sequence[str]) -> Interval:
    if not shares:
        return ABSENT
    return bounded(clustered_t_interval(np.array(shares), np.array(families)), 0, 1)


def _spearman(both: Float[np.ndarray, "latent 2"]) -> float | None:
    if min(np.ptp(both[:, 0]), np.ptp(both[:, 1])) == 0:
        return None
    import scipy.stats  # here, since it takes a third of a second to import

    return float(scipy.stats.spearmanr(both[:, 0], both[:, 1]).statistic)


def _without(
    values: Float[np.ndarray, " latent"], others: Float[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """What a straight line on the others leaves of the values."""
    others = others - others.mean()
    scale = float(others @ others)
    slope = float(others @ values) / scale if scale else 0.0
    return values - values.mean() - slope * others
