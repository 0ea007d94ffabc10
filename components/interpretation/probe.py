"""A linear model on the n-grams of a latent's explain windows: what an explanation could reach
without words.

The ceiling of every score: it keeps everything but the bottleneck of a short string, sees the
windows that the explainer saw and answers the questions that predictors answer.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from components.interpretation.contract import LatentRecord
from components.interpretation.ngrams import (
    Incidences,
    Shape,
    first_occurrences,
    incidences,
    numbered,
)
from components.interpretation.trials import Answer, Question, Unit
from components.interpretation.windows import Texts, Windows

DESIGNS: tuple[tuple[Shape, ...], ...] = (
    ("word", "left", "pair"),
    ("word", "left", "pair", "near"),
    ("word", "left", "pair", "word_near"),
)
"""What the probe may look at: the token and its left neighbour, or earlier words too, or the two
together."""
PENALTY = 1.0
"""Of the probe's ridge regression, on the squared weights."""
TOLERANCE = 1e-3
"""The share of the first gradient at which the regression counts as solved."""
STEPS = 500
"""Of the regression, at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class NgramProbe:
    """Ridge regression of the activation on the n-grams at each token: what an explanation could
    reach without words.

    Attributes:
        keys: the conditions met in the explain windows, by shape, ascending.
        weights: of these conditions, by shape.
    """

    keys: Mapping[Shape, Int[np.ndarray, " condition"]]
    weights: Mapping[Shape, Float[np.ndarray, " condition"]]

    @classmethod
    def fit(cls, record: LatentRecord) -> NgramProbe:
        """On the explain windows; of the designs the one that follows the calibrate windows
        best."""
        windows, held_out = record.explain, record.calibrate.texts
        every = tuple(dict.fromkeys(itertools.chain.from_iterable(DESIGNS)))
        blocks = {shape: Block.of(windows, shape) for shape in every}
        met = {shape: _met(held_out, shape) for shape in every}
        fitted = []
        for shapes in DESIGNS:
            design = {shape: blocks[shape] for shape in shapes}
            fitted.append(
                cls({shape: block.keys for shape, block in design.items()}, ridge(design, windows))
            )
        return max(
            fitted, key=lambda probe: _correlation(probe._expected(held_out, met), record.calibrate)
        )

    def answer(self, question: Question, unit: Unit) -> Answer:
        """Expected activation of each token, the largest in each window, or how far it stands out
        on marked tokens.

        Conditions that the explain windows never met say nothing. The explanation is not read.
        """
        texts = question.texts
        expected = self._expected(texts, {shape: _met(texts, shape) for shape in self.keys})
        if unit == "tokens":
            return Answer(expected)
        if unit == "marks":
            return Answer(question.marked(expected))
        return Answer(np.where(texts.present, expected, -np.inf).max(1))

    def _expected(
        self, texts: Texts, met: Mapping[Shape, Incidences]
    ) -> Float[np.ndarray, "window token"]:
        expected = np.zeros(texts.tokens.shape)
        for shape, known in self.keys.items():
            token, key = met[shape]
            at = np.searchsorted(known, key)
            there = np.append(known, -1)[at] == key
            weights = np.bincount(
                token[there], self.weights[shape][at[there]], minlength=texts.tokens.size
            )
            weights = weights.reshape(texts.tokens.shape)
            expected += weights.cumsum(1) if shape == "near" else weights
        return expected


# the pool is asked about for every latent; the others are a latent's own
@functools.lru_cache(maxsize=32)
def _met(texts: Texts, shape: Shape) -> Incidences:
    """The conditions that hold; of those that go on holding to the end of the window (`near`) only
    where they begin.

    What begins is a running sum along the window, and a twentieth of the list of all tokens where
    it holds.
    """
    if shape != "near":
        return incidences(texts, shape)
    token = np.flatnonzero(first_occurrences(texts.words))
    return Incidences(token, texts.words.ravel()[token])


def _correlation(expected: Float[np.ndarray, "window token"], windows: Windows) -> float:
    present = windows.texts.present
    spread = expected[present].std() * windows.activations[present].std() if len(windows) else 0.0
    together = (
        np.cov(expected[present], windows.activations[present], ddof=0)[0, 1] if spread > 0 else 0.0
    )
    return float(together / spread) if spread > 0 else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """The conditions of one shape as columns of a design whose rows are the tokens of the windows,
    padding included.

    Attributes:
        keys: the conditions met, ascending.
        begins: [token, condition], where each holds or begins to hold.
        running: whether a condition that has begun holds to the end of its window.
    """

    keys: Int[np.ndarray, " condition"]
    begins: scipy.sparse.csr_matrix
    running: bool

    @classmethod
    def of(cls, windows: Windows, shape: Shape) -> Block:
        """The conditions of one shape that these windows meet."""
        token, key = _met(windows.texts, shape)
        # thousands, of which most are met once: too many to fit and to trust
        if shape == "word_near":
            met, of = numbered(key, shape, windows.texts)
            active = np.bincount(of[windows.activations.ravel()[token] > 0], minlength=len(met)) > 0
            trusted = (active & (np.bincount(of, minlength=len(met)) >= 3))[of]
            token, key = token[trusted], key[trusted]
        keys, column = numbered(key, shape, windows.texts)
        size = (windows.texts.tokens.size, len(keys))
        return cls(
            keys,
            scipy.sparse.csr_matrix((np.ones(len(token)), (token, column)), shape=size),
            shape == "near",
        )


class _Design:
    """Blocks side by side, as what multiplies; those that run come last, summed along each window
    after the product.

    A library's solver would need the running sums as a sparse matrix, twenty times as long.
    """

    def __init__(self, blocks: Sequence[Block], there: Float[np.ndarray, "window token"]) -> None:
        self._there = there
        sides = [
            [block.begins for block in blocks if block.running == running]
            for running in (False, True)
        ]
        self._forth = [scipy.sparse.csr_matrix(scipy.sparse.hstack(side)) for side in sides if side]
        # a product along rows is the faster one
        self._back = [matrix.T.tocsr() for matrix in self._forth]
        self._ends = [matrix.shape[1] for matrix in self._forth[:-1]]

    def times(self, weights: Float[np.ndarray, " condition"]) -> Float[np.ndarray, " token"]:
        """The design times weights."""
        parts = np.split(weights, self._ends)
        product = self._forth[0] @ parts[0]
        for matrix, part in zip(self._forth[1:], parts[1:], strict=True):
            product += ((matrix @ part).reshape(self._there.shape).cumsum(1) * self._there).ravel()
        return product

    def transposed(self, values: Float[np.ndarray, " token"]) -> Float[np.ndarray, " condition"]:
        """The design turned over times values, which are 0 in padding."""
        from_here = [values, values.reshape(self._there.shape)[:, ::-1].cumsum(1)[:, ::-1].ravel()]
        return np.concatenate(
            [matrix @ side for matrix, side in zip(self._back, from_here, strict=False)]
        )


def ridge(
    blocks: Mapping[Shape, Block], windows: Windows
) -> dict[Shape, Float[np.ndarray, " condition"]]:
    """Weights of a ridge regression of the activation, with an intercept, on all blocks together.

    Conjugate gradients on the least squares; the residual stays centred, so the design need not be.

    Source: Hestenes & Stiefel (1952), J. Res. NBS 49, 409-436, section 10.
    """
    there = windows.texts.present.astype(np.float64)
    order = sorted(blocks, key=lambda shape: blocks[shape].running)
    design = _Design([blocks[shape] for shape in order], there)
    flat, n = there.ravel(), there.sum()
    residual = windows.activations.ravel() * flat
    residual -= flat * (residual.sum() / n)
    gradient = design.transposed(residual)
    weights, step, squared = np.zeros(len(gradient)), gradient.copy(), float(gradient @ gradient)
    enough = TOLERANCE**2 * squared
    for _ in range(STEPS):
        if squared <= enough:
            break
        moved = design.times(step)
        moved -= flat * (moved.sum() / n)
        length = squared / float(moved @ moved + PENALTY * (step @ step))
        weights += length * step
        residual -= length * moved
        gradient = design.transposed(residual) - PENALTY * weights
        squared, before = float(gradient @ gradient), squared
        step = gradient + squared / before * step
    ends = np.cumsum([len(blocks[shape].keys) for shape in order])[:-1]
    return dict(zip(order, np.split(weights, ends), strict=True))
