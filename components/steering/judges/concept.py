"""The concept judge: how probably does the text have the concept, by a classifier of real labelled
passages.

It reads the continuation only, never the prompt, the activations or the method; it is fitted on the
judge split, calibrated on the calibrate split, and judged itself on validate: a concept that it
ranks with an AUROC below the threshold there is refused. It counts words, so lists of keywords
please it: read it beside fluency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from components.concept.classifier import fit_classifier
from components.config import Config
from components.report.measure import Measure
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges


class ConceptConfig(Config):
    """Settings of the concept judge."""

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
    measure = Measure(
        "concept", "Concept probability", "probability", "That the text has the concept, by a classifier of passages.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Learns from judge passages, is calibrated on others, and tried on validate passages."""
        learnt, calibrated, tried = material.judge, material.calibrate, material.validate
        self.classifier = fit_classifier(
            learnt.texts, learnt.labels, calibrated.texts, calibrated.labels, material.concepts
        )
        self.assessed = self.classifier.assess(tried.texts, tried.labels)

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """Probabilities."""
        return Verdicts(
            self.classifier.probabilities([c.text or "" for c in texts]).astype(np.float64)
        )

    def refusals(self) -> Mapping[str, str]:
        """Concepts with too few passages, or ranked too badly."""
        refused = dict(self.classifier.unfit)
        wanted = self.settings.min_auroc
        for result in self.assessed:
            if result.concept in refused:
                continue
            if result.auroc is None:
                refused[result.concept] = (
                    f"{result.n_positive} of {result.n} validate passages have the concept"
                )
            elif result.auroc < wanted:
                refused[result.concept] = (
                    f"AUROC {result.auroc:.2f} on validate passages, wanted {wanted:g}"
                )
        return refused
