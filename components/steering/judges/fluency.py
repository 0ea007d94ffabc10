"""Fluency: 1 while the unsteered model finds the text as likely as text can be expected to be,
decaying outside.

The measure is the loss of the continuation under the unsteered model (nats a token, the prompt as
context). The band has two sides, because repetition lowers the loss and "lower is better" could be
gamed: from the 1% quantile of unsteered continuations to the 95% quantile of real passages that
have the concept (all passages where too few have it), since text on a concept is rightly less
expected after a neutral prompt. Outside, exp(-distance / interquartile range of the unsteered
continuations). Where there is no such text to set the band, there is no score, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field, PositiveInt

from components.config import Config
from components.report.measure import Measure
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges


class FluencyConfig(Config):
    """Settings of the fluency judge."""

    lower_quantile: float = Field(0.01, ge=0, le=1)
    """Quantile of unsteered continuations at which the band begins."""
    upper_quantile: float = Field(0.95, ge=0, le=1)
    """Quantile of real passages at which it ends."""
    min_passages: PositiveInt = 20
    """A concept with fewer measured passages takes the quantile of all passages."""


@judges
class Fluency(Judge):
    """A two-sided band of loss under the unsteered model.

    Attributes:
        lower: where the band begins, nats a token.
        upper: where it ends, for each concept.
        scale: interquartile range of unsteered continuations.
    """

    config = FluencyConfig
    measure = Measure(
        "fluency", "Fluency", "0 to 1", "1 inside the band of unsteered loss, both sides.",
        rank=11, kinds=21, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Sets the band."""
        plain = np.array([c.nll for c in material.unsteered if c.nll is not None])
        measured = np.isfinite(material.judge.nll)
        real, labels = material.judge.nll[measured], material.judge.labels[measured]
        self._silence = _lacking(len(plain), len(real))
        if self._silence:
            self.lower = self.scale = np.nan
            self.upper = np.full(labels.shape[1], np.nan)
            return
        self.lower = float(np.quantile(plain, self.settings.lower_quantile))
        enough = labels.sum(0) >= self.settings.min_passages
        limits = [
            np.quantile(real[has] if ok else real, self.settings.upper_quantile)
            for has, ok in zip(labels.T, enough, strict=True)
        ]
        self.upper = np.maximum(np.array(limits, dtype=np.float64), self.lower)
        self.scale = max(float(np.subtract(*np.quantile(plain, [0.75, 0.25]))), 1e-3)

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """By the recorded loss."""
        nll = np.array([np.nan if c.nll is None else c.nll for c in texts])[:, None]
        outside = np.maximum(np.maximum(self.lower - nll, nll - self.upper), 0.0)
        return Verdicts(np.exp(-outside / self.scale))

    def silence(self) -> str | None:
        """That no text set its band, and which setting would change that."""
        return self._silence


def _lacking(n_plain: int, n_real: int) -> str | None:
    if n_plain == 0:
        return "the model wrote nothing after any validate prompt (it ended at once), so no text sets the fluency band"
    if n_real == 0:
        return (
            "no document of the judge split goes on for half a continuation behind its opening, "
            "so no real text sets the fluency band; lower steer.max_new_tokens"
        )
    return None
