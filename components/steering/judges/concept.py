"""The concept judge: how probably does the text have the concept, by a classifier of real labelled passages.

It reads the continuation only, never the prompt, the activations or the method; it is fitted on the judge split,
calibrated on the calibrate split, and judged itself on validate: a concept that it ranks with an AUROC below the
threshold there is refused. It counts words, so lists of keywords please it: read it beside fluency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from components.concept.classifier import fit_classifier
from components.config import Config
from components.steering.contract import Continuation, Judge, Material, judges


class ConceptConfig(Config):
    """Settings of the concept judge."""

    kind: Literal["concept"] = "concept"
    """The judge."""
    min_auroc: float = Field(0.9, ge=0, le=1)
    """The gate: what it must reach on validate passages to judge a concept."""


@judges
class ConceptJudge(Judge):
    """A calibrated classifier of passages.

    Attributes:
        classifier: the classifier.
        assessed: what it reaches on validate passages, concept by concept.
    """

    config = ConceptConfig
    column = "concept_probability"

    def __init__(self, config: ConceptConfig, material: Material) -> None:
        fitted, calibrated, tried = material.judge, material.calibrate, material.validate
        self.classifier = fit_classifier(
            fitted.texts, fitted.labels, calibrated.texts, calibrated.labels, material.concepts
        )
        self.assessed = self.classifier.assess(tried.texts, tried.labels)
        self._min_auroc = config.min_auroc

    def scores(self, continuations: Sequence[Continuation]) -> Float[np.ndarray, "text concept"]:
        """Probabilities; NaN where there is no text."""
        found = self.classifier.probabilities([c.text or "" for c in continuations]).astype(np.float64)
        found[[c.text is None for c in continuations]] = np.nan
        return found

    def refusals(self) -> Mapping[str, str]:
        """Concepts with too few passages, or ranked too badly."""
        refused = dict(self.classifier.unfit)
        for found in self.assessed:
            if found.concept in refused:
                continue
            if found.auroc is None:
                refused[found.concept] = f"{found.n_positive} of {found.n} validate passages have the concept"
            elif found.auroc < self._min_auroc:
                refused[found.concept] = f"AUROC {found.auroc:.2f} on validate passages, wanted {self._min_auroc:g}"
        return refused
