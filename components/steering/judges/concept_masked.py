"""The concept judge without the concept's words: does anything but them tell the concept?

The words that set passages of the concept apart most (`words` of them, by log-odds on the judge
split) are deleted from every text, and a classifier of words is fitted, calibrated and tried on
what is left. An effect of steering that `concept` sees and this judge does not is called lexical: it
is keywords. A concept that its words alone tell (below the threshold on validate passages) has no
value here: whatever is gained of it is lexical.

It is read beside `concept` and does not decide which concepts are steered towards, unless
`steer.measure` or `steer.panel` names it.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from pydantic import Field, PositiveInt

from components.concept.classifier import ConceptClassifier, fit_classifier
from components.concept.distinctive import WORD, distinctive_words
from components.config import Config
from components.report.measure import Measure
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges


class ConceptMaskedConfig(Config):
    """Settings of the masked concept judge."""

    words: PositiveInt = 50
    """Words of each concept that are deleted."""
    min_auroc: float = Field(0.7, ge=0, le=1)
    """What it must reach on validate passages to judge a concept."""


@judges
class ConceptMasked(Judge):
    """A calibrated classifier of passages whose tell-tale words are deleted."""

    config = ConceptMaskedConfig
    measure = Measure(
        "concept_masked", "Concept without its words", "probability",
        "Concept probability once the concept's own words are deleted; no gain here means lexical.",
        rank=13, kinds=23, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Finds each concept's words and learns from what is left without them."""
        super().fit(material)
        self._masked: dict[int, tuple[frozenset[str], ConceptClassifier]] = {}
        self._refused: dict[str, str] = {}
        for column, name in enumerate(material.concepts):
            has = material.judge.labels[:, column]
            inside, outside = (
                [t for t, there in zip(material.judge.texts, has, strict=True) if there == wanted]
                for wanted in (True, False)
            )
            words = frozenset(distinctive_words(inside, outside, self.settings.words))
            learnt, calibrated = (
                ([masked(text, words) for text in of.texts], of.labels[:, [column]])
                for of in (material.judge, material.calibrate)
            )
            fitted = fit_classifier(*learnt, *calibrated, [name])
            if why := self._unfit(fitted, words, material, column):
                self._refused[name] = why
            else:
                self._masked[column] = words, fitted

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """Probabilities."""
        n_concepts = len(self.material.concepts)
        if why := self.silence():
            return Verdicts.nothing(len(texts), n_concepts, why)
        values: Float[np.ndarray, "text concept"] = np.full((len(texts), n_concepts), np.nan)
        for column, (words, fitted) in self._masked.items():
            left = [masked(each.text or "", words) for each in texts]
            values[:, column] = fitted.probabilities(left)[:, 0]
        return Verdicts(values)

    def refusals(self) -> Mapping[str, str]:
        """Concepts that nothing but their words tells."""
        return self._refused

    def silence(self) -> str | None:
        """That no concept can be judged."""
        return self.all_refused()

    def _unfit(
        self, fitted: ConceptClassifier, words: frozenset[str], material: Material, column: int
    ) -> str | None:
        name, tried = material.concepts[column], material.validate
        if name in fitted.unfit:
            return fitted.unfit[name]
        left = [masked(text, words) for text in tried.texts]
        reached = fitted.assess(left, tried.labels[:, [column]])[0].auroc
        if reached is None:
            n_positive = int(tried.labels[:, column].sum())
            return f"{n_positive} of {len(tried.texts)} validate passages have the concept"
        if reached < self.settings.min_auroc:
            return (
                f"without its {len(words)} words AUROC {reached:.2f} on validate passages, wanted "
                f"{self.settings.min_auroc:g}: its words alone tell it"
            )
        return None


def masked(text: str, words: frozenset[str]) -> str:
    """The text without these words (lower case)."""
    return WORD.sub(lambda found: "" if found.group().lower() in words else found.group(), text)
