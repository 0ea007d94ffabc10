"""Names the labelled concept that a latent follows best: a word, a topic, whatever the corpus
labels.

How well is Pearson's r between the presence of the concept and the square root of the activation,
over the tokens of the explain windows. A concept of whole documents is present on each of their
tokens.

The last part of the concept's name is quoted as a word, so that a reader who looks for words finds
it; behind it stands the inventory's sentence about the concept, or the whole name where there is
none or it is too long.

Source: best-matching label of a known concept after Bau et al. (2017), Network Dissection, arXiv
1704.05796. Deviation: correlation for intersection over union, because activations are graded and
need no threshold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
from pydantic import Field

from components.config import Config
from components.interpretation.contract import Explainer, LatentEvidence, explainers
from components.interpretation.explanation import Explanation

SECTION = "interpret.explainer_settings.concept_match"


class ConceptMatchConfig(Config):
    """The labelled concept that it follows best."""

    least: float = Field(default=0.1, ge=0, le=1)
    """Correlation of the concept with the activation, at least; below it there is no
    explanation."""


@explainers
class ConceptMatch(Explainer):
    """The labelled concept that it follows best."""

    config: ClassVar[type[Config]] = ConceptMatchConfig
    free: ClassVar[bool] = True

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """The name of the best concept of each latent, from its explain windows and their
        labels."""
        assert isinstance(self.settings, ConceptMatchConfig)
        for of_latent in evidence:
            yield _explain(of_latent, self.settings.least, self.longest)


def _explain(evidence: LatentEvidence, least: float, longest: int) -> Explanation:
    if evidence.label is None:
        return Explanation(None, "the corpus has no labelled concepts")
    if not evidence.labels:
        return Explanation(None, "no labelled concept occurs in the windows of this latent")
    present = evidence.windows.texts.present
    activation = np.sqrt(np.maximum(evidence.windows.activations[present].astype(np.float64), 0))
    concepts = list(evidence.labels)
    r = [_correlation(evidence.labels[concept][present], activation) for concept in concepts]
    best = int(np.argmax(r))
    if r[best] < least:
        nearest = f"the nearest, {concepts[best]}, reaches a correlation of {r[best]:.2f}"
        return Explanation(
            None,
            f"no labelled concept follows its activation: {nearest}, short of {least} "
            f"({SECTION}.least)",
        )
    said = _said(concepts[best], evidence.described.get(concepts[best], ""))
    return Explanation.of(said if len(said) <= longest else _said(concepts[best], ""), longest)


def _correlation(holds: np.ndarray, activation: np.ndarray) -> float:
    """Pearson's r; 0 where either side is constant."""
    spread = holds.std() * activation.std()
    return (
        float(((holds - holds.mean()) * (activation - activation.mean())).mean() / spread)
        if spread > 0
        else 0.0
    )


def _said(concept: str, sentence: str) -> str:
    name = concept.partition("@")[0].rpartition(".")[2].replace("_", " ").strip() or concept
    return f"the concept {json.dumps(name, ensure_ascii=False)}: {sentence or concept}"
