"""Does a short text speak of a concept? Words weighted by TF-IDF, one logistic regression for each
concept, calibrated.

It is fitted on passages as long as what it will be asked about (whoever cuts them sees to that): a
text is positive for a concept of tokens when any of its tokens carries it. Platt scaling (Platt
1999, with the smoothed targets and Newton's method of Lin, Lin & Weng 2007, all concepts at once)
on passages it was not fitted on turns scores into probabilities. A concept without examples on both
sides cannot be judged: its probabilities are NaN and `unfit` says why.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.special
from jaxtyping import Bool, Float
from safetensors.numpy import load_file, save_file

from components.statistics import auroc, expected_calibration_error

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

VERSION = 1
"""Of the fit; part of the key of every stage that judges with it."""
TOKENS = r"\w+|[^\w\s]"
INVERSE_PENALTY = 3.0
MINIMUM = 5


@dataclasses.dataclass(frozen=True)
class Assessment:
    """How good a classifier is for one concept on texts it has not seen.

    Attributes:
        concept: its name.
        auroc: chance that a positive outranks a negative; None unless both are there.
        calibration_error: expected calibration error; None where the concept is unfit.
        n_positive: texts with the concept.
        n: texts.
    """

    concept: str
    auroc: float | None
    calibration_error: float | None
    n_positive: int
    n: int


def assessed(
    stated: Float[np.ndarray, "text concept"],
    labels: Bool[np.ndarray, "text concept"],
    concepts: Sequence[str],
    unfit: Collection[str],
) -> list[Assessment]:
    """How good stated probabilities are, concept by concept.

    Args:
        stated: of each text.
        labels: which text has which concept.
        concepts: names of the columns.
        unfit: those that cannot be judged.
    """
    return [
        Assessment(
            concept,
            None if concept in unfit else auroc(stated[:, i], labels[:, i]),
            None if concept in unfit else expected_calibration_error(stated[:, i], labels[:, i]),
            int(labels[:, i].sum()),
            len(stated),
        )
        for i, concept in enumerate(concepts)
    ]


class ConceptClassifier:
    """Probabilities of concepts for texts.

    Attributes:
        words: word -> column.
        weight: [concept, word] on TF-IDF.
        bias: [concept]
        idf: [word]
        slope, offset: [concept], from score to log-odds.
        concepts: names of the rows.
        unfit: concept -> why it cannot be judged.
    """

    def __init__(
        self,
        words: Sequence[str],
        arrays: dict[str, np.ndarray],
        concepts: Sequence[str],
        unfit: dict[str, str],
    ) -> None:
        self.words, self.concepts, self.unfit = (
            {word: i for i, word in enumerate(words)},
            tuple(concepts),
            unfit,
        )
        self.weight, self.bias, self.idf = arrays["weight"], arrays["bias"], arrays["idf"]
        self.slope, self.offset = arrays["slope"], arrays["offset"]
        self._vectorizer = _vectorizer(words)
        self._vectorizer.idf_ = self.idf

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, "text concept"]:
        """Uncalibrated log-odds."""
        if not texts:
            return np.zeros((0, len(self.concepts)), np.float32)
        return np.asarray(self._vectorizer.transform(texts) @ self.weight.T + self.bias, np.float32)

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text concept"]:
        """Calibrated probabilities; NaN for concepts that cannot be judged."""
        return scipy.special.expit(self.scores(texts) * self.slope + self.offset).astype(np.float32)

    def assess(
        self, texts: Sequence[str], labels: Bool[np.ndarray, "text concept"]
    ) -> list[Assessment]:
        """What it reaches on other texts, concept by concept."""
        return assessed(self.probabilities(texts), labels, self.concepts, self.unfit)

    def save(self, folder: Path) -> None:
        """Writes classifier.safetensors and classifier.json."""
        described = {"words": list(self.words), "concepts": self.concepts, "unfit": self.unfit}
        arrays = {
            name: getattr(self, name) for name in ("weight", "bias", "idf", "slope", "offset")
        }
        writing = folder / ".classifier.writing"
        writing.write_text(json.dumps(described), encoding="utf-8")
        writing.rename(folder / "classifier.json")
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, writing)
        writing.rename(folder / "classifier.safetensors")

    @classmethod
    def load(cls, folder: Path) -> ConceptClassifier:
        """What `save` wrote."""
        described = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "classifier.safetensors")
        return cls(described["words"], arrays, described["concepts"], described["unfit"])


def fit_classifier(
    texts: Sequence[str],
    labels: Bool[np.ndarray, "text concept"],
    calibrate_texts: Sequence[str],
    calibrate_labels: Bool[np.ndarray, "calibrate_text concept"],
    concepts: Sequence[str],
) -> ConceptClassifier:
    """Fits and calibrates; nothing is drawn, so the same texts give the same classifier.

    Args:
        texts: passages to learn from.
        labels: which of them has which concept.
        calibrate_texts: other passages, to calibrate on.
        calibrate_labels: likewise.
        concepts: names of the columns.
    """
    from sklearn.linear_model import (
        LogisticRegression,  # here: describing the flows need not wait for it
    )

    unfit = {
        concept: reason
        for i, concept in enumerate(concepts)
        if (
            reason := lacking(labels[:, i], "judge") or lacking(calibrate_labels[:, i], "calibrate")
        )
    }
    vectorizer = _vectorizer(None)
    given = vectorizer.fit_transform(texts if any(map(str.strip, texts)) else ["nothing"])
    words = list(vectorizer.get_feature_names_out())
    arrays = {
        "weight": np.zeros((len(concepts), len(words)), np.float32),
        "bias": np.zeros(len(concepts), np.float32),
        "idf": vectorizer.idf_.astype(np.float64),
    }
    for i, concept in enumerate(concepts):
        if concept not in unfit:
            model = LogisticRegression(C=INVERSE_PENALTY, solver="liblinear").fit(
                given, labels[:, i]
            )
            arrays["weight"][i], arrays["bias"][i] = model.coef_[0], model.intercept_[0]
    judged = np.array([concept not in unfit for concept in concepts], bool)
    arrays["slope"] = np.full(len(concepts), np.nan, np.float32)
    arrays["offset"] = arrays["slope"].copy()
    raw = ConceptClassifier(words, arrays, concepts, unfit).scores(calibrate_texts)
    arrays["slope"][judged], arrays["offset"][judged] = platt(
        raw[:, judged], calibrate_labels[:, judged]
    )
    return ConceptClassifier(words, arrays, concepts, unfit)


def _vectorizer(words: Sequence[str] | None) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(token_pattern=TOKENS, vocabulary=words, sublinear_tf=True)


def lacking(present: Bool[np.ndarray, " text"], split: str) -> str | None:
    """Why a concept has too few passages on one side to learn it from; None where it has not."""
    n, n_positive = len(present), int(present.sum())
    if min(n_positive, n - n_positive) < MINIMUM:
        return f"{n_positive} of {n} {split} passages have the concept; at least {MINIMUM} with and without it are needed"
    return None


def platt(
    scores: Float[np.ndarray, "text concept"], labels: Bool[np.ndarray, "text concept"]
) -> tuple[Float[np.ndarray, " concept"], Float[np.ndarray, " concept"]]:
    """Slope and offset of each concept's log-odds: 30 damped Newton steps on the cross-entropy with
    smoothed targets."""
    positive = labels.sum(0).astype(np.float64)
    negative = len(labels) - positive
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    z = scores.astype(np.float64)
    slope, offset = np.ones(z.shape[1]), np.zeros(z.shape[1])

    def loss(slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        logit = slope * z + offset
        return (np.logaddexp(0, logit) - target * logit).sum(0)

    now = loss(slope, offset)
    for _ in range(30):
        p = scipy.special.expit(slope * z + offset)
        error, weight = p - target, p * (1 - p) + 1e-9
        ga, gb = (error * z).sum(0), error.sum(0)
        haa, hab, hbb = (weight * z * z).sum(0) + 1e-6, (weight * z).sum(0), weight.sum(0) + 1e-6
        det = haa * hbb - hab * hab
        da, db = (hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det
        size = np.ones_like(slope)
        for _ in range(10):  # halve the step where it does not help
            after = loss(slope - size * da, offset - size * db)
            worse = after > now
            if not worse.any():
                break
            size[worse] /= 2
        size[after > now] = 0.0
        slope, offset = slope - size * da, offset - size * db
        now = np.minimum(now, after)
    return slope.astype(np.float32), offset.astype(np.float32)
