"""What every score stands between: the floor of another latent's explanation, and what a learnt probe reaches.

The floor keeps everything but the match of explanation and latent: each latent is read with the explanation of another
of its density decile. The probe keeps everything but the bottleneck of a short string: a linear model on the n-grams of
the same explain windows that the explainer saw, read on the same test windows.

Source: controls after arXiv 2501.17727, where published scores hardly tell trained from random transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from components.interpretation.contract import Answer, Explanation, LatentRecord, Texts, Unit, Windows
from components.interpretation.ngrams import Shape, incidences

DESIGNS: tuple[tuple[Shape, ...], ...] = (
    ("word", "left", "pair"),
    ("word", "left", "pair", "near"),
    ("word", "left", "pair", "word_near"),
)
"""What the probe may look at: the token and its left neighbour, or earlier words too, or the two together."""


def shuffled(
    records: Sequence[LatentRecord], explanations: Sequence[Explanation], generator: np.random.Generator
) -> list[Explanation]:
    """For each latent the explanation of another, of the same density decile where one there has any.

    Inside a decile the explained latents pass their explanations round in a random circle; a latent without an
    explanation draws one of them.
    """
    explained = np.array([explanation.text is not None for explanation in explanations], dtype=bool)
    decile = np.array([record.decile for record in records], dtype=np.int64)
    donor = np.full(len(records), -1)
    for tenth in np.unique(decile):
        inside = generator.permutation(np.flatnonzero(explained & (decile == tenth)))
        if len(inside) > 1:
            donor[inside] = np.roll(inside, 1)
    for number in np.flatnonzero(donor < 0):
        others = np.flatnonzero(explained & (np.arange(len(records)) != number))
        near = others[decile[others] == decile[number]]
        if len(others):
            donor[number] = generator.choice(near if len(near) else others)
    nobody = Explanation(None, "no other latent has an explanation")
    return [explanations[number] if number >= 0 else nobody for number in donor]


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Ridge regression of the activation on the n-grams at each token: what an explanation could reach without words.

    Attributes:
        keys: the conditions met in the explain windows, by shape, ascending.
        weights: of these conditions, by shape.
    """

    keys: Mapping[Shape, Int[np.ndarray, " condition"]]
    weights: Mapping[Shape, Float[np.ndarray, " condition"]]

    @classmethod
    def fit(cls, record: LatentRecord) -> Probe:
        """On the explain windows; of the designs the one that follows the calibrate windows best."""
        fitted = [cls._fit(record.explain, shapes) for shapes in DESIGNS]
        return max(fitted, key=lambda probe: probe._fit_of(record.calibrate))

    def answer(self, texts: Texts, unit: Unit) -> Answer:
        """Expected activation of each token, or the largest in each window; conditions never met say nothing."""
        expected = np.zeros(texts.tokens.size)
        for shape, known in self.keys.items():
            token, key = incidences(texts, shape)
            at = np.searchsorted(known, key)
            met = np.append(known, -1)[at] == key
            expected += np.bincount(token[met], self.weights[shape][at[met]], minlength=len(expected))
        expected = expected.reshape(texts.tokens.shape)
        return Answer(expected if unit == "tokens" else np.where(texts.present, expected, -np.inf).max(1))

    @classmethod
    def _fit(cls, windows: Windows, shapes: Sequence[Shape]) -> Probe:
        from sklearn.linear_model import Ridge  # here: half a second that describing the flows need not wait for

        keys, columns = {}, []
        for shape in shapes:
            token, key = incidences(windows.texts, shape)
            if shape == "word_near":  # thousands, of which most are met once: too many to fit and to trust
                met, of, times = np.unique(key, return_inverse=True, return_counts=True)
                active = np.bincount(of, weights=windows.activations.ravel()[token] > 0, minlength=len(met)) > 0
                kept = (active & (times >= 3))[of]
                token, key = token[kept], key[kept]
            keys[shape], column = np.unique(key, return_inverse=True)
            size = (windows.texts.tokens.size, len(keys[shape]))
            columns.append(scipy.sparse.csr_matrix((np.ones(len(token)), (token, column)), shape=size))
        rows = np.flatnonzero(windows.texts.present)
        design = scipy.sparse.csr_matrix(scipy.sparse.hstack(columns))[rows]
        model = Ridge(alpha=1.0, solver="lsqr").fit(design, windows.activations.ravel()[rows])
        ends = np.cumsum([len(known) for known in keys.values()])[:-1]
        return cls(keys, dict(zip(keys, np.split(model.coef_, ends), strict=True)))

    def _fit_of(self, windows: Windows) -> float:
        present = windows.texts.present
        expected = np.asarray(self.answer(windows.texts, "tokens").values)[present]
        spread = expected.std() * windows.activations[present].std() if len(windows) else 0.0
        return float(np.cov(expected, windows.activations[present], ddof=0)[0, 1] / spread) if spread > 0 else 0.0
