"""Writes down the words and left contexts that a sparse logistic regression keeps.

The regression foretells for each token of the explain windows whether the latent is active, from
the word, the word before it, and both together; its L1 penalty leaves most weights at zero.
Penalties are tried from the strongest, at which no weight is left, and of those that keep few
enough terms the one with the lowest BIC is taken. Terms with a positive weight are said, the
heaviest first, where a token on which one alone holds is active with at least `probability`. A term
that holds nowhere where the terms before it do not adds nothing and is left out.

Sources: the lasso, Tibshirani (1996), JRSS B 58, 267-288; the number of weights that are not zero
as its degrees of freedom, Zou, Hastie & Tibshirani (2007), Annals of Statistics 35, 2173-2192.
Deviation: negative weights help the fit and are not said, since the phrase language has no `not`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt

from components.config import Config
from components.interpretation.contract import Explainer, LatentEvidence, explainers
from components.interpretation.explanation import Explanation
from components.interpretation.ngrams import Shape, incidences, numbered, term
from components.interpretation.phrase import Term, write
from components.interpretation.windows import Windows

SECTION = "interpret.explainer_settings.logistic"
SHAPES: tuple[Shape, ...] = ("word", "left", "pair")
WEAKEST = 300.0
"""The weakest penalty that is tried, as a fraction of the strongest."""
INTERCEPT = 20
"""liblinear punishes the intercept like a weight; scaled so, hardly."""


class LogisticConfig(Config):
    """Words and left contexts by sparse logistic regression."""

    terms: PositiveInt = 12
    """Terms of a phrase, at most."""
    penalties: int = Field(default=8, ge=2, le=50)
    """Penalties that are tried, evenly spaced on a logarithmic scale."""
    documents: PositiveInt = 2
    """Documents in which a term meets an active token, at least."""
    probability: float = Field(default=0.1, ge=0, le=1)
    """What the regression gives a token on which a term alone holds, at least."""


class Design(NamedTuple):
    """Terms, and where they hold.

    Attributes:
        terms: the conditions in words.
        holds: [token, term], of the tokens of all windows without padding.
    """

    terms: list[Term]
    holds: scipy.sparse.csc_matrix


@explainers
class Logistic(Explainer):
    """Words and left contexts by sparse logistic regression."""

    config: ClassVar[type[Config]] = LogisticConfig
    free: ClassVar[bool] = True

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """A phrase for each latent, from its explain windows alone."""
        assert isinstance(self.settings, LogisticConfig)
        for of_latent in evidence:
            yield _explain(of_latent.windows, self.settings, self.longest)


def _explain(windows: Windows, settings: LogisticConfig, longest: int) -> Explanation:
    design = _design(windows, settings.documents)
    active = windows.activations[windows.texts.present] > 0
    if not design.terms or active.all():
        met = f"no readable word or left context meets it in {settings.documents} documents ({SECTION}.documents)"
        return Explanation(None, "it is active on every token" if design.terms else met)
    weights, intercept = _fit(design.holds, active, settings)
    alone = 1 / (1 + np.exp(-(weights + intercept)))
    heaviest = np.argsort(-weights, kind="stable")
    likely = heaviest[(weights[heaviest] > 0) & (alone[heaviest] >= settings.probability)]
    chosen: list[Term] = []
    union = np.zeros(len(active), bool)
    for number in likely.tolist():
        holds = design.holds[:, [number]].toarray().ravel() > 0
        if (holds & ~union).any() and len(write([*chosen, design.terms[number]])) <= longest:
            chosen.append(design.terms[number])
            union |= holds
    if not chosen:
        best = f"{alone[weights > 0].max(initial=0):.2f}"
        return Explanation(
            None,
            f"no word or left context makes it likely: the best gives a probability of {best}, "
            f"short of {settings.probability} ({SECTION}.probability)",
        )
    return Explanation(write(chosen))


def _design(windows: Windows, documents: int) -> Design:
    """The conditions that enough documents bear out and that can be read."""
    texts, width = windows.texts, windows.activations.shape[1]
    active = windows.activations.ravel() > 0
    row_of = np.cumsum(texts.present.ravel()) - 1
    terms: list[Term] = []
    columns = [np.zeros((int(texts.present.sum()), 0))]
    for shape in SHAPES:
        token, key = incidences(texts, shape)
        keys, of = numbered(key, shape, texts)
        hits = active[token]
        document = windows.document[token[hits] // width]
        # once for each document
        met = np.unique(np.stack([of[hits], document], axis=1), axis=0)[:, 0]
        for number in np.flatnonzero(np.bincount(met, minlength=len(keys)) >= documents).tolist():
            condition = term(int(keys[number]), shape, texts)
            if condition.readable():
                terms.append(condition)
                column = np.zeros((len(columns[0]), 1))
                column[row_of[token[of == number]]] = 1
                columns.append(column)
    return Design(terms, scipy.sparse.csc_matrix(np.concatenate(columns, axis=1)))


def _fit(
    holds: scipy.sparse.csc_matrix, active: Bool[np.ndarray, " token"], settings: LogisticConfig
) -> tuple[Float[np.ndarray, " term"], float]:
    """Weights and intercept at the penalty of lowest BIC among those that keep few enough terms
    with a positive weight."""
    from sklearn.exceptions import (
        ConvergenceWarning,  # here: describing the flows need not wait for it
    )
    from sklearn.linear_model import LogisticRegression

    n, best = len(active), np.inf
    weights, intercept = np.zeros(holds.shape[1]), 0.0
    # below it no weight leaves zero
    strongest = 1 / np.abs(holds.T @ (active - active.mean())).max()
    for c in strongest * np.geomspace(1.5, WEAKEST, settings.penalties):
        fit = LogisticRegression(
            l1_ratio=1,
            C=c,
            solver="liblinear",
            intercept_scaling=INTERCEPT,
            max_iter=200,
            random_state=0,
        )
        with warnings.catch_warnings():
            # nearly there is near enough to choose words
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit.fit(holds, active)
        tried, constant = np.asarray(fit.coef_)[0], float(np.asarray(fit.intercept_)[0])
        if (tried > 0).sum() > settings.terms:
            break
        margin = holds @ tried + constant
        lost = np.logaddexp(0, np.where(active, -margin, margin)).sum()
        bic = 2 * lost + np.log(n) * np.count_nonzero(tried)
        if bic < best:
            best, weights, intercept = bic, tried, constant
    return weights, intercept
