"""Does a short text speak of a concept? Pieces of words (2 to 4 characters), naive Bayes,
calibrated.

The second opinion beside `components.concept.classifier`, of another family: a generative model
instead of a discriminative one, over pieces of words instead of words. It is fitted and calibrated
on the same passages and says NaN where that one does.

Source: naive Bayes over which pieces a text has (the pieces that it lacks are left out, as in a
multinomial model with clipped counts; Rennie et al. 2003, ICML), hashed character n-grams inside
word boundaries. Scores are divided by their spread and calibrated by Platt scaling, because naive
Bayes counts what goes together as if it did not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse
import scipy.special
from jaxtyping import Bool, Float

from components.concept.classifier import Assessment, assessed, lacking, platt

VERSION = 1
"""Of the fit."""
PIECES = (2, 4)
BUCKETS = 2**16
SMOOTHING = 0.5
FEWEST = 3
"""Texts that have a piece, at least."""


class CharacterClassifier:
    """Probabilities of concepts for texts, by pieces of words.

    Attributes:
        concepts: names of the columns.
        unfit: concept -> why it cannot be judged.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Bool[np.ndarray, "text concept"],
        calibrate_texts: Sequence[str],
        calibrate_labels: Bool[np.ndarray, "calibrate_text concept"],
        concepts: Sequence[str],
    ) -> None:
        """Fits and calibrates; nothing is drawn.

        Args:
            texts: passages to learn from.
            labels: which of them has which concept.
            calibrate_texts: other passages, to calibrate on.
            calibrate_labels: likewise.
            concepts: names of the columns.
        """
        self.concepts = tuple(concepts)
        self.unfit: Mapping[str, str] = {
            concept: reason
            for i, concept in enumerate(concepts)
            if (
                reason := lacking(labels[:, i], "judge")
                or lacking(calibrate_labels[:, i], "calibrate")
            )
        }
        counted = self._counted(texts)
        n_inside, n_outside = labels.sum(0), (~labels).sum(0)
        inside = (counted.T @ labels.astype(np.float64) + SMOOTHING) / (n_inside + 2 * SMOOTHING)
        outside = (counted.T @ (~labels).astype(np.float64) + SMOOTHING) / (
            n_outside + 2 * SMOOTHING
        )
        # pieces that hardly any text has say nothing but how many texts there are
        known = np.asarray(counted.sum(axis=0)).ravel() >= FEWEST
        self._weight = np.where(known[:, None], np.log(inside) - np.log(outside), 0.0)
        judged = np.array([concept not in self.unfit for concept in concepts], bool)
        self._slope = np.full(len(concepts), np.nan)
        self._offset = self._slope.copy()
        raw = self._scores(calibrate_texts)
        # scores of one unit, where Newton's steps begin well
        self._unit = np.where(judged, np.maximum(raw.std(0), 1e-9), 1.0) if len(raw) else 1.0
        if judged.any():
            self._slope[judged], self._offset[judged] = platt(
                (raw / self._unit)[:, judged], calibrate_labels[:, judged]
            )

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text concept"]:
        """Calibrated probabilities; NaN for concepts that cannot be judged."""
        return scipy.special.expit(self._scores(texts) / self._unit * self._slope + self._offset)

    def assess(
        self, texts: Sequence[str], labels: Bool[np.ndarray, "text concept"]
    ) -> list[Assessment]:
        """What it reaches on other texts, concept by concept."""
        return assessed(self.probabilities(texts), labels, self.concepts, self.unfit)

    def _scores(self, texts: Sequence[str]) -> Float[np.ndarray, "text concept"]:
        if not texts:
            return np.zeros((0, len(self.concepts)))
        return np.asarray(self._counted(texts) @ self._weight)

    @staticmethod
    def _counted(texts: Sequence[str]) -> scipy.sparse.csr_matrix:
        """Which pieces each text has."""
        if not texts:
            return scipy.sparse.csr_matrix((0, BUCKETS), dtype=np.float64)
        from sklearn.feature_extraction.text import (
            HashingVectorizer,  # here: describing the flows need not wait for it
        )

        pieces = HashingVectorizer(
            analyzer="char_wb", ngram_range=PIECES, n_features=BUCKETS, norm=None,
            alternate_sign=False, binary=True,
        )  # fmt: skip
        return scipy.sparse.csr_matrix(pieces.transform(texts), dtype=np.float64)
