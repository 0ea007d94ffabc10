"""Writes down the words that tell a latent's active tokens from the rest, by log-odds, in a
sentence template.

For each shape of condition (the word, the word before, both, a word earlier in the window, the word
with one earlier) the candidates are the conditions with the highest z of the log-odds ratio between
active and other tokens. Of these, terms are added one at a time while what they say together
follows the activation better, and written as one phrase of at most `interpret.longest` characters.
What is followed is the square root of the activation (Pearson r over the tokens of the explain
split): the activation itself would be all peaks, and mere presence would forget them.

Source: log-odds ratio with half a token added to each cell, and its standard error: Haldane (1956),
Annals of Human Genetics 20, 309-311. An informative prior (Monroe et al. 2008) was tried and ranks
conditions without a single counterexample far down. Deviation: forward selection follows the
ranking, so that a phrase is not one thing said twelve times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt

from components.config import Config
from components.interpretation.contract import Explainer, LatentEvidence, explainers
from components.interpretation.explanation import Explanation
from components.interpretation.ngrams import SHAPES, Shape, incidences, numbered, term
from components.interpretation.phrase import Term, write
from components.interpretation.windows import Windows

SECTION = "interpret.explainer_settings.log_odds"


class LogOddsConfig(Config):
    """Words and left contexts by log-odds."""

    terms: PositiveInt = 12
    """Terms of a phrase, at most."""
    candidates: PositiveInt = 15
    """Candidates of each shape, those of highest z."""
    z: float = Field(default=2.0, ge=0)
    """The z of the log-odds that a candidate reaches."""
    documents: PositiveInt = 2
    """Documents in which a candidate meets an active token, at least."""
    gain: float = Field(default=0.01, ge=0)
    """What a further term adds to the correlation with the activation, at least."""
    least: float = Field(default=0.1, ge=0, le=1)
    """Correlation of the phrase with the activation, at least; below it there is no explanation."""


class Candidates(NamedTuple):
    """Conditions and where they hold.

    Attributes:
        terms: the conditions in words.
        holds: where each holds.
    """

    terms: list[Term]
    holds: Bool[np.ndarray, "term token"]


@explainers
class LogOdds(Explainer):
    """Words and left contexts by log-odds."""

    config: ClassVar[type[Config]] = LogOddsConfig
    free: ClassVar[bool] = True

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """A phrase for each latent, from its explain windows alone."""
        settings = self.settings
        assert isinstance(settings, LogOddsConfig)
        for of_latent in evidence:
            yield _explain(of_latent.windows, settings, self.longest)


def _explain(windows: Windows, settings: LogOddsConfig, longest: int) -> Explanation:
    by_shape = [_candidates(windows, shape, settings) for shape in SHAPES]
    terms = [term for candidates in by_shape for term in candidates.terms]
    if not terms:
        return Explanation(
            None,
            f"no readable word stands out where it is active, with a z of at least {settings.z:g} "
            f"in {settings.documents} documents ({SECTION}.z, .documents)",
        )
    holds = np.concatenate([candidates.holds for candidates in by_shape])
    present = windows.texts.present.ravel()
    followed = np.sqrt(np.maximum(windows.activations.ravel()[present], 0))
    chosen, reached = _forward(holds[:, present], followed, terms, settings, longest)
    if reached < settings.least:
        return Explanation(
            None,
            f"no words follow its activation: the best reach a correlation of {reached:.2f}, "
            f"short of {settings.least} ({SECTION}.least)",
        )
    return Explanation(write(chosen))


def _forward(
    holds: Bool[np.ndarray, "term token"],
    followed: Float[np.ndarray, " token"],
    terms: list[Term],
    settings: LogOddsConfig,
    longest: int,
) -> tuple[list[Term], float]:
    """Adds the term that most raises the correlation of the union, while it does and the phrase is
    short enough."""
    centred = (followed - followed.mean()) / followed.std()
    union, reached, chosen = np.zeros(holds.shape[1], bool), 0.0, []
    while len(chosen) < settings.terms:
        candidate = holds | union
        share = candidate.mean(1)
        spread = np.sqrt(share * (1 - share))
        r = np.divide(
            candidate @ centred, len(centred) * spread, out=np.zeros(len(share)), where=spread > 0
        )
        best = int(r.argmax())
        if r[best] < reached + settings.gain or len(write([*chosen, terms[best]])) > longest:
            break
        chosen.append(terms[best])
        union, reached = candidate[best], float(r[best])
    return chosen, reached


def _candidates(windows: Windows, shape: Shape, settings: LogOddsConfig) -> Candidates:
    """The conditions of one shape with the highest z that enough documents bear out and that can be
    read."""
    texts, (n_windows, width) = windows.texts, windows.activations.shape
    token, key = incidences(texts, shape)
    active = windows.activations.ravel() > 0
    keys, of = numbered(key, shape, texts)
    n_active = int(active.sum())
    # integers where empty
    y1 = np.bincount(of, weights=active[token], minlength=len(keys)).astype(np.float64)
    y0 = np.bincount(of, minlength=len(keys)) - y1
    z = _z(y1, y0, n_active, int(texts.present.sum()) - n_active)
    ranked = np.argsort(-z, kind="stable")
    terms, rows = [], []
    for number in ranked[z[ranked] >= settings.z].tolist():
        condition = term(int(keys[number]), shape, texts)
        where = token[of == number]
        met = np.unique(windows.document[where[active[where]] // width])
        if len(met) >= settings.documents and condition.readable():
            holds = np.zeros(n_windows * width, bool)
            holds[where] = True
            terms.append(condition)
            rows.append(holds)
        if len(terms) == settings.candidates:
            break
    return Candidates(terms, np.array(rows, dtype=bool).reshape(len(rows), n_windows * width))


def _z(
    y1: Float[np.ndarray, " condition"], y0: Float[np.ndarray, " condition"], n1: int, n0: int
) -> Float[np.ndarray, " condition"]:
    """Log-odds ratio over its standard error, of y1 among n1 active and y0 among n0 other
    tokens."""
    cells = np.stack([y1, n1 - y1, y0, n0 - y0]) + 0.5
    return (np.log(cells) * np.array([[1], [-1], [-1], [1]])).sum(0) / np.sqrt((1 / cells).sum(0))
