"""Does the explanation follow the activation token by token? Pearson r over all tokens of the test
windows, and Spearman's beside it.

The tokens of all windows, active and silent, are put end to end, and r is taken once: not the mean
of r by window. Where either side is constant r is not defined; it is 0, and the reason says so.
Windows without an answer are taken to be constant at the mean of the answers. Spearman's is r of the
ranks, ties sharing theirs: it asks for the order alone, and most tokens tie, being silent. The
interval resamples windows. At natural density each window counts as often as windows of the split are like
it.

Source: Bills et al. (2023), Language models can explain neurons in language models, correlation
scoring; delphi's simulation scorer gives NaN where ours gives 0.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from pydantic import PositiveInt

from components.config import Config
from components.interpretation import strata
from components.interpretation.contract import LatentRecord, Scorer, scorers
from components.interpretation.trials import Answer, LatentScore, ScorePart, Trials, Unit
from components.report.measure import Measure

SPEARMAN = "spearman"


class SimulationConfig(Config):
    """Pearson r over tokens."""

    resamples: PositiveInt = 200
    """Resamples of windows behind each latent's interval."""


@scorers
class Simulation(Scorer):
    """Pearson r between expected and true activation over tokens."""

    version: ClassVar[int] = 2
    config: ClassVar[type[Config]] = SimulationConfig
    free: ClassVar[bool] = True
    needs: ClassVar[Unit] = "tokens"
    chance: ClassVar[float] = 0.0
    measure: ClassVar[Measure] = Measure(
        "simulation", "Explained, simulation", "Pearson r",
        "Expected against true activation, token by token, by a predictor that sees only the "
        "explanation.",
        rank=1, kinds=1, least=-1, most=1, short="explanation simulation",
    )  # fmt: skip
    strata: ClassVar[tuple[str, ...]] = (*strata.USUAL, SPEARMAN)
    natural: ClassVar[str | None] = "natural_density"

    def trials(self, record: LatentRecord, generator: np.random.Generator) -> Trials:
        """All windows of the test split; true is the activation on every token."""
        trials = strata.trials_of(record.test, record.test.activations)
        every = np.ones(len(record.test), bool)
        strata_of = {**trials.strata, SPEARMAN: every}
        return dataclasses.replace(trials, stands_for=record.test.stands_for, strata=strata_of)

    def score(
        self, answer: Answer, trials: Trials, generator: np.random.Generator | None
    ) -> LatentScore:
        """Pearson r over concatenated tokens; strata from the same pass, because r is made of sums
        over windows."""
        assert isinstance(self.settings, SimulationConfig)
        n = len(trials)
        expected, n_failed, constant = _expected(answer, trials)
        sizes = {name: int(mask.sum()) for name, mask in trials.strata.items()}
        if trials.stands_for is not None:
            sizes["natural_density"] = n
        if constant:
            at_chance = {
                name: ScorePart(self.chance, self.chance, size) for name, size in sizes.items()
            }
            return LatentScore(self.chance, None, None, n, n, answer.reason or constant, at_chance)
        sums = _sums(expected, trials)
        low = high = None
        if generator is not None:
            times = generator.multinomial(n, np.full(n, 1 / n), self.settings.resamples)
            low, high = (float(end) for end in np.quantile(_pearson(times @ sums), [0.025, 0.975]))
        values = _over(trials, sums, expected)
        over = {
            name: ScorePart(value, self.chance, size)
            for (name, size), value in zip(sizes.items(), values, strict=True)
        }
        return LatentScore(
            float(_pearson(sums.sum(0)[None])[0]), low, high, n, n_failed, answer.reason, over
        )


def _expected(
    answer: Answer, trials: Trials
) -> tuple[Float[np.ndarray, "window token"], int, str | None]:
    """What was answered, the mean where nothing was; windows without an answer; which side is
    constant, where one is."""
    present = trials.texts.present
    assert answer.values is not None and answer.values.shape == present.shape
    unanswered = np.any(np.isnan(answer.values) & present, axis=1)
    answered = present & ~unanswered[:, None]
    fill = answer.values[answered].mean() if answered.any() else 0.0
    expected = np.where(answered, answer.values, fill)
    sides = (("the prediction", expected), ("the activation", trials.truth))
    constant = [
        f"{side} is constant over the test tokens"
        for side, values in sides
        if np.ptp(values[present]) == 0
    ]
    return expected, int(unanswered.sum()), next(iter(constant), None)


def _sums(
    expected: Float[np.ndarray, "window token"], trials: Trials
) -> Float[np.ndarray, "window 6"]:
    """Of each window what r is made of; standardised, so that the sums are exact enough for every
    resample."""
    present = trials.texts.present
    x, y = (_standard(values, present) for values in (expected, trials.truth))
    return np.stack(
        [present.sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], axis=1
    )


def _over(
    trials: Trials, sums: Float[np.ndarray, "window 6"], expected: Float[np.ndarray, "window token"]
) -> list[float]:
    """Pearson r over each stratum, Spearman's over all where it is asked for, then Pearson r at
    natural density where windows stand for others."""
    values: list[float] = []
    for name, mask in trials.strata.items():
        if name == SPEARMAN:
            import scipy.stats  # here, since it takes a third of a second to import

            present = trials.texts.present
            ranks = [scipy.stats.rankdata(side[present]) for side in (expected, trials.truth)]
            values.append(float(np.corrcoef(*ranks)[0, 1]))
        else:
            values.append(float(_pearson((mask.astype(np.float64) @ sums)[None])[0]))
    if trials.stands_for is not None:
        values += _pearson((trials.stands_for @ sums)[None]).tolist()
    return values


def _standard(
    values: Float[np.ndarray, "window token"], present: Bool[np.ndarray, "window token"]
) -> Float[np.ndarray, "window token"]:
    there = values[present].astype(np.float64)
    return np.where(present, (values - there.mean()) / there.std(), 0)


def _pearson(sums: Float[np.ndarray, "sample 6"]) -> Float[np.ndarray, " sample"]:
    """r from (n, sums of x, y, xx, yy, xy) of standardised sides; 0 where a resample is
    constant."""
    n, x, y, xx, yy, xy = sums.T
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    constant = spread <= 1e-12 * n * n
    return np.where(constant, 0.0, (n * xy - x * y) / np.where(constant, 1.0, spread))
