"""Can the explanation tell active windows from silent ones? AUROC over windows, for one latent.

Active windows come evenly from every tenth of activation; silent ones are verified. A window
without an answer counts half against every window of the other class. The interval is Newcombe's,
which covers near 1 and for ten windows.

At natural density: average precision over the shared pool of unselected windows. AUROC on chosen
windows hides false positives, of which a rare latent has many. A latent that is active nowhere in
the pool has none.

A latent that is active in over a third of all windows has no score: there is no text without it.

Sources: detection after delphi (arXiv 2410.13928, section 3.2), there yes-or-no answers pooled over
latents; AUROC as the Mann-Whitney statistic.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from components.config import Config
from components.interpretation import strata
from components.interpretation.contract import LatentRecord, Scorer, scorers
from components.interpretation.tiling import ContextsConfig
from components.interpretation.trials import Answer, LatentScore, Shown, Trials, Unit
from components.report.measure import Measure
from components.statistics import auroc_interval, auroc_of_answers


class DetectionConfig(Config):
    """AUROC over windows."""


@scorers
class Detection(Scorer):
    """AUROC over windows, active against silent."""

    version: ClassVar[int] = 3
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

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> Shown:
        """All windows of the test split, and the pool."""
        return Shown(contexts.windows, pool=contexts.pool)

    def trials(self, record: LatentRecord, generator: np.random.Generator) -> Trials:
        """All windows of the test split; true is that the latent is active inside."""
        trials = strata.trials_of(record.test, record.test.active)
        null = "active in over a third of windows" if record.ubiquitous else None
        return dataclasses.replace(trials, pool=record.pool, null=null)

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
        return LatentScore(value, low, high, len(trials), n_failed, answer.reason)
