"""Says the same of every latent: what a score reaches when the explanation tells nothing.

A control. A predictor that gives active windows more than silent ones after reading this has a
habit of its own (long words, rare words, the end of a window), and every explanation profits by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from components.config import Config
from components.interpretation.contract import Explainer, LatentEvidence, explainers
from components.interpretation.explanation import Explanation


class ConstantConfig(Config):
    """The same words for every latent."""

    text: str = Field(default="ordinary English text", min_length=1)
    """What is said of every latent."""


@explainers
class Constant(Explainer):
    """The same words for every latent."""

    config: ClassVar[type[Config]] = ConstantConfig
    free: ClassVar[bool] = True
    role: ClassVar[Literal["entry", "control"]] = "control"

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """The text of the settings, once for each latent."""
        assert isinstance(self.settings, ConstantConfig)
        for _ in evidence:
            yield Explanation.of(self.settings.text, self.longest)
