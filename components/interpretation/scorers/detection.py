"""Can the explanation tell active windows from silent ones? AUROC over windows, for one latent.

Active windows come evenly from every tenth of activation; silent ones are verified. A window
without an answer counts half against every window of the other class. The interval is Newcombe's,
which covers near 1 and for ten windows.

At natural density: average precision over windows, each counted as often as windows of the split
are like it. AUROC on equal numbers of active and silent windows hides false positives, of which a
rare latent has many.

Sources: detection after delphi (arXiv 2410.13928, section 3.2), there yes-or-no answers pooled over
latents; AUROC as the Mann-Whitney statistic.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from components.config import Config
from components.interpretation import strata
from components.interpretation.contract import (
    Answer,
    LatentRecord,
    LatentScore,
    ScorePart,
    Scorer,
    Trials,
    Unit,
    scorers,
)
from components.report.measure import Measure
from components.statistics import auroc_interval, auroc_of_answers, average_precision_weighted


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
    measure: ClassVar[Measure] = Measure(
        "detection", "Explained, detection", "AUROC",
        "Chance that an active window is given more than a silent one by a predictor that sees "
        "only the explanation.",
        rank=0, kinds=0, least=0, most=1, short="explanation detection",
    )  # fmt: skip
    strata: ClassVar[tuple[str, ...]] = strata.USUAL
    natural: ClassVar[str | None] = "average_precision"

    def trials(self, record: LatentRecord, generator: np.random.Generator) -> Trials:
        """All windows of the test split; true is that the latent is active inside."""
        windows = record.test
        whole = float(windows.stands_for.sum())
        share = float(windows.stands_for[windows.active].sum()) / whole if whole else 0.0
        return strata.trials_of(windows, windows.active, natural_chance=share)

    def score(
        self, answer: Answer, trials: Trials, generator: np.random.Generator | None
    ) -> LatentScore:
        """Chance that an active window is given more than a silent one, ties half."""
        assert answer.values is not None and answer.values.shape == (len(trials),)
        value = auroc_of_answers(answer.values, trials.truth)
        n_active = int(trials.truth.sum())
        low = high = None
        if generator is not None:
            interval = auroc_interval(value, n_active, len(trials) - n_active)
            low, high = interval.low, interval.high
        n_failed = int(np.isnan(answer.values).sum())
        return LatentScore(
            value,
            low,
            high,
            len(trials),
            n_failed,
            answer.reason,
            self._at_natural_density(answer, trials),
        )

    def _at_natural_density(self, answer: Answer, trials: Trials) -> dict[str, ScorePart]:
        """Average precision over windows; those without an answer stand at chance, the share that
        is active."""
        stands_for, chance = trials.stands_for, trials.natural_chance
        assert answer.values is not None and self.natural
        if stands_for is None or not stands_for.sum():
            return {}
        known = ~np.isnan(answer.values)
        precision = average_precision_weighted(
            answer.values[known], trials.truth[known], stands_for[known]
        )
        share = float(stands_for[known].sum()) / float(stands_for.sum())
        value = chance if precision is None else share * precision + (1 - share) * chance
        return {self.natural: ScorePart(value, chance, len(trials))}
