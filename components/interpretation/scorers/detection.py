"""Can the explanation tell active windows from silent ones? AUROC over windows, for one latent.

Active windows come evenly from every tenth of activation; silent ones are verified. A window without an answer counts
half against every window of the other class. The interval is DeLong's.

Sources: detection after delphi (arXiv 2410.13928, section 3.2), there yes-or-no answers pooled over latents; AUROC as
the Mann-Whitney statistic and its variance after DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44, 837-845.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from components.config import Config
from components.interpretation.contract import Answer, LatentRecord, Score, Scorer, Unit, Windows, scorers


class DetectionConfig(Config):
    """AUROC over windows."""


@scorers
class Detection(Scorer):
    """AUROC over windows, active against silent."""

    config: ClassVar[type[Config]] = DetectionConfig
    free: ClassVar[bool] = True
    needs: ClassVar[Unit] = "windows"
    chance: ClassVar[float] = 0.5

    def windows(self, record: LatentRecord) -> Windows:
        """All windows of the test split."""
        return record.test

    def score(self, answer: Answer, windows: Windows, generator: np.random.Generator) -> Score:
        """Chance that an active window is given more than a silent one, ties half."""
        assert answer.values is not None and answer.values.shape == (len(windows),)
        active, silent = answer.values[windows.active], answer.values[~windows.active]
        above, below = active[:, None] > silent, active[:, None] < silent
        wins = 0.5 + 0.5 * above - 0.5 * below  # without an answer neither holds
        value = float(wins.mean())
        error = np.sqrt(_variance(wins.mean(1)) + _variance(wins.mean(0)))
        low, high = max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error)
        return Score(value, float(low), float(high), len(windows), int(np.isnan(answer.values).sum()), answer.reason)


def _variance(placements: np.ndarray) -> float:
    """Variance of the mean of these placements; 0 for a single one."""
    return float(placements.var(ddof=1) / len(placements)) if len(placements) > 1 else 0.0
