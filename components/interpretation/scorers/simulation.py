"""Does the explanation follow the activation token by token? Pearson r over all tokens of the test windows.

The tokens of all windows, active and silent, are put end to end, and r is taken once: not the mean of r by window.
Where either side is constant r is not defined; it is 0, and the reason says so. Windows without an answer are taken
to be constant at the mean of the answers. The interval resamples windows.

Source: Bills et al. (2023), Language models can explain neurons in language models, correlation scoring; delphi's
simulation scorer gives NaN where ours gives 0.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from pydantic import PositiveInt

from components.config import Config
from components.interpretation.contract import Answer, LatentRecord, Score, Scorer, Unit, Windows, scorers


class SimulationConfig(Config):
    """Pearson r over tokens."""

    resamples: PositiveInt = 200
    """Resamples of windows behind each latent's interval."""


@scorers
class Simulation(Scorer):
    """Pearson r between expected and true activation over tokens."""

    config: ClassVar[type[Config]] = SimulationConfig
    free: ClassVar[bool] = True
    needs: ClassVar[Unit] = "tokens"
    chance: ClassVar[float] = 0.0

    def windows(self, record: LatentRecord) -> Windows:
        """All windows of the test split."""
        return record.test

    def score(self, answer: Answer, windows: Windows, generator: np.random.Generator) -> Score:
        """Pearson r over concatenated tokens."""
        assert isinstance(self.settings, SimulationConfig)
        present = windows.texts.present
        assert answer.values is not None and answer.values.shape == present.shape
        unanswered = np.any(np.isnan(answer.values) & present, axis=1)
        answered = present & ~unanswered[:, None]
        n, n_failed = len(windows), int(unanswered.sum())
        fill = answer.values[answered].mean() if answered.any() else 0.0
        expected = np.where(answered, answer.values, fill)
        for side, values in (("the prediction", expected), ("the activation", windows.activations)):
            if np.ptp(values[present]) == 0:
                return Score(self.chance, None, None, n, n, answer.reason or f"{side} is constant over the test tokens")
        # Standardised, so that the sums are exact enough; then six sums for each window suffice for every resample.
        x, y = (_standard(values, present) for values in (expected, windows.activations))
        sums = np.stack([present.sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], axis=1)
        times = generator.multinomial(n, np.full(n, 1 / n), self.settings.resamples)
        low, high = np.quantile(_pearson(times @ sums), [0.025, 0.975])
        return Score(float(_pearson(sums.sum(0)[None])[0]), float(low), float(high), n, n_failed, answer.reason)


def _standard(
    values: Float[np.ndarray, "window token"], present: Bool[np.ndarray, "window token"]
) -> Float[np.ndarray, "window token"]:
    there = values[present].astype(np.float64)
    return np.where(present, (values - there.mean()) / there.std(), 0)


def _pearson(sums: Float[np.ndarray, "sample 6"]) -> Float[np.ndarray, " sample"]:
    """r from (n, sums of x, y, xx, yy, xy) of standardised sides; 0 where a resample is constant."""
    n, x, y, xx, yy, xy = sums.T
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    constant = spread <= 1e-12 * n * n
    return np.where(constant, 0.0, (n * xy - x * y) / np.where(constant, 1.0, spread))
