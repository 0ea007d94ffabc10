"""The concept judge: how probably does the text have the concept, by two classifiers of real
labelled passages that must agree.

The two are of different families: a logistic regression over words (TF-IDF), and naive Bayes over
pieces of words. Both are calibrated, and the value is the lower of their probabilities: what
pleases one of them alone does not count. It reads the continuation only, never the prompt, the
activations or the method; both are fitted on the judge split, calibrated on the calibrate split,
and judged themselves on validate: a concept that the agreement ranks with an AUROC below the
threshold there is refused. It counts words and their pieces, so lists of keywords please it: read
it beside fluency and `concept_masked`.

Source: ours, after the two-classifier concept score that stands in for a rating by a language model
(AxBench, arXiv:2501.17148, asks one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from components.concept.characters import CharacterClassifier
from components.concept.classifier import fit_classifier
from components.config import Config
from components.report.measure import Measure
from components.statistics import auroc
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges


class ConceptConfig(Config):
    """Settings of the concept judge."""

    min_auroc: float = Field(0.9, ge=0, le=1)
    """The gate: what it must reach on validate passages to judge a concept."""


@judges
class ConceptJudge(Judge):
    """The lower of two calibrated classifiers of passages.

    Attributes:
        words: the classifier over words.
        pieces: the classifier over pieces of words.
        auroc: concept -> what their agreement reaches on validate passages; None where those have
            one side alone.
    """

    version = 2
    config = ConceptConfig
    measure = Measure(
        "concept", "Concept probability", "probability", "That the text has the concept, by two classifiers of passages that must agree.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Learns from judge passages, is calibrated on others, and tried on validate passages."""
        super().fit(material)
        learnt, calibrated, tried = material.judge, material.calibrate, material.validate
        given = (learnt.texts, learnt.labels, calibrated.texts, calibrated.labels)
        self.words = fit_classifier(*given, material.concepts)
        self.pieces = CharacterClassifier(*given, material.concepts)
        stated = self._probabilities(tried.texts)
        self.auroc = {
            name: None if name in self.words.unfit else auroc(stated[:, i], tried.labels[:, i])
            for i, name in enumerate(material.concepts)
        }

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """Probabilities."""
        return Verdicts(self._probabilities([c.text or "" for c in texts]))

    def refusals(self) -> Mapping[str, str]:
        """Concepts with too few passages, or ranked too badly."""
        refused = dict(self.words.unfit)
        wanted, tried = self.settings.min_auroc, self.material.validate
        for column, (name, reached) in enumerate(self.auroc.items()):
            if name in refused:
                continue
            if reached is None:
                n_positive = int(tried.labels[:, column].sum())
                refused[name] = (
                    f"{n_positive} of {len(tried.texts)} validate passages have the concept"
                )
            elif reached < wanted:
                refused[name] = f"AUROC {reached:.2f} on validate passages, wanted {wanted:g}"
        return refused

    def _probabilities(self, texts: Sequence[str]) -> np.ndarray:
        by_words = self.words.probabilities(texts).astype(np.float64)
        return np.minimum(by_words, self.pieces.probabilities(texts))
