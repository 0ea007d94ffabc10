"""Does the explanation follow the activation token by token? Pearson r over all tokens of the test windows.

The tokens of all windows, active and silent, are put end to end, and r is taken once: not the mean of r by window.
Where either side is constant r is not defined; it is 0, and the reason says so. Windows without an answer are taken
to be constant at the mean of the answers. The interval resamples windows. At natural density each window counts as
often as windows of the split are like it.

Source: Bills et al. (2023), Language models can explain neurons in language models, correlation scoring; delphi's
simulation scorer gives NaN where ours gives 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from pydantic import PositiveInt

from components.config import Config
from components.interpretation.contract import Answer, LatentRecord, Part, Score, Scorer, Unit, Windows, scorers


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
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    natural: ClassVar[str] = "natural_density"

    def windows(self, record: LatentRecord) -> Windows:
        """All windows of the test split."""
        return record.test

    def score(self, answer: Answer, windows: Windows, generator: np.random.Generator | None) -> Score:
        """Pearson r over concatenated tokens."""
        assert isinstance(self.settings, SimulationConfig)
        n = len(windows)
        expected, n_failed, constant = _expected(answer, windows)
        if constant:
            return Score(self.chance, None, None, n, n, answer.reason or constant)
        sums = _sums(expected, windows)
        low = high = None
        if generator is not None:
            times = generator.multinomial(n, np.full(n, 1 / n), self.settings.resamples)
            low, high = (float(end) for end in np.quantile(_pearson(times @ sums), [0.025, 0.975]))
        return Score(float(_pearson(sums.sum(0)[None])[0]), low, high, n, n_failed, answer.reason)

    def over(
        self, answer: Answer, windows: Windows, masks: Mapping[str, Bool[np.ndarray, " window"]]
    ) -> Mapping[str, float]:
        """Pearson r over each part, from one pass: r is made of sums over windows."""
        expected, _, constant = _expected(answer, windows)
        if constant or not masks:
            return dict.fromkeys(masks, self.chance)
        found = _pearson(np.array(list(masks.values()), dtype=np.float64) @ _sums(expected, windows))
        return dict(zip(masks, found.tolist(), strict=True))

    def at_natural_density(self, answer: Answer, windows: Windows) -> Part:
        """Pearson r over the tokens of all windows of the split, as far as these stand for them."""
        nothing = Part(self.chance, self.chance, len(windows))
        if answer.values is None:
            return nothing
        expected, _, constant = _expected(answer, windows)
        if constant:
            return nothing
        return nothing._replace(value=float(_pearson((windows.stands_for @ _sums(expected, windows))[None])[0]))


def _expected(answer: Answer, windows: Windows) -> tuple[Float[np.ndarray, "window token"], int, str | None]:
    """What was answered, the mean where nothing was; windows without an answer; which side is constant, where one is."""
    present = windows.texts.present
    assert answer.values is not None and answer.values.shape == present.shape
    unanswered = np.any(np.isnan(answer.values) & present, axis=1)
    answered = present & ~unanswered[:, None]
    fill = answer.values[answered].mean() if answered.any() else 0.0
    expected = np.where(answered, answer.values, fill)
    sides = (("the prediction", expected), ("the activation", windows.activations))
    constant = [f"{side} is constant over the test tokens" for side, values in sides if np.ptp(values[present]) == 0]
    return expected, int(unanswered.sum()), next(iter(constant), None)


def _sums(expected: Float[np.ndarray, "window token"], windows: Windows) -> Float[np.ndarray, "window 6"]:
    """Of each window what r is made of; standardised, so that the sums are exact enough for every resample."""
    present = windows.texts.present
    x, y = (_standard(values, present) for values in (expected, windows.activations))
    return np.stack([present.sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], axis=1)


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
