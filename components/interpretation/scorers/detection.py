"""Can the explanation tell active windows from silent ones? AUROC over windows, for one latent.

Active windows come evenly from every tenth of activation; silent ones are verified. A window without an answer counts
half against every window of the other class. The interval is Newcombe's, which covers near 1 and for ten windows.

At natural density: average precision over windows, each counted as often as windows of the split are like it. AUROC on
equal numbers of active and silent windows hides false positives, of which a rare latent has many.

Sources: detection after delphi (arXiv 2410.13928, section 3.2), there yes-or-no answers pooled over latents; AUROC as
the Mann-Whitney statistic.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from components.config import Config
from components.interpretation.contract import Answer, LatentRecord, Part, Score, Scorer, Unit, Windows, scorers
from components.statistics import auroc_interval, average_precision_weighted


class DetectionConfig(Config):
    """AUROC over windows."""


@scorers
class Detection(Scorer):
    """AUROC over windows, active against silent."""

    version: ClassVar[int] = 2
    config: ClassVar[type[Config]] = DetectionConfig
    free: ClassVar[bool] = True
    needs: ClassVar[Unit] = "windows"
    chance: ClassVar[float] = 0.5
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    natural: ClassVar[str] = "average_precision"

    def windows(self, record: LatentRecord) -> Windows:
        """All windows of the test split."""
        return record.test

    def score(self, answer: Answer, windows: Windows, generator: np.random.Generator | None) -> Score:
        """Chance that an active window is given more than a silent one, ties half."""
        assert answer.values is not None and answer.values.shape == (len(windows),)
        active, silent = answer.values[windows.active], answer.values[~windows.active]
        above, below = active[:, None] > silent, active[:, None] < silent
        value = float((0.5 + 0.5 * above - 0.5 * below).mean())  # without an answer neither holds
        low = high = None
        if generator is not None:
            found = auroc_interval(value, len(active), len(silent))
            low, high = found.low, found.high
        return Score(value, low, high, len(windows), int(np.isnan(answer.values).sum()), answer.reason)

    def at_natural_density(self, answer: Answer, windows: Windows) -> Part:
        """Average precision over windows; those without an answer stand at chance, the share that is active."""
        active, stands_for = windows.active, windows.stands_for
        whole = float(stands_for.sum())
        chance = float(stands_for[active].sum()) / whole if whole else 0.0
        if answer.values is None or not whole:
            return Part(chance, chance, len(windows))
        known = ~np.isnan(answer.values)
        found = average_precision_weighted(answer.values[known], active[known], stands_for[known])
        share = float(stands_for[known].sum()) / whole
        return Part(chance if found is None else share * found + (1 - share) * chance, chance, len(windows))
