"""Lists the words on which a latent is most active: a table of tokens, learnt on the explain split.

A control. Whatever an explanation says in prose has to beat this list, or the list says as much.
Words come in the order of their excess: the activation summed over a word's occurrences, less what
as many tokens get on average. So a word that is frequent but no more active than others stands
last, and context plays no part. The list ends where it holds nearly all of the excess, or is long
enough.

Source: token lookup tables as a baseline for explanations after Bills et al. (2023), Language
models can explain neurons in language models. Deviation: a list without values, because a string is
all that a predictor sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from components.config import Config
from components.interpretation.contract import Explainer, LatentEvidence, explainers
from components.interpretation.explanation import Explanation
from components.interpretation.phrase import Term, write
from components.interpretation.windows import Windows


class TokenLookupConfig(Config):
    """The words on which it is most active."""

    terms: PositiveInt = 12
    """Words of the list, at most."""
    share: float = Field(default=0.95, gt=0, le=1)
    """Share of the excess of all words above the average at which the list ends."""


@explainers
class TokenLookup(Explainer):
    """The words on which it is most active."""

    config: ClassVar[type[Config]] = TokenLookupConfig
    free: ClassVar[bool] = True
    role: ClassVar[Literal["entry", "control"]] = "control"

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """A list of words for each latent, from its explain windows alone."""
        assert isinstance(self.settings, TokenLookupConfig)
        for of_latent in evidence:
            yield _explain(of_latent.windows, self.settings, self.longest)


def _explain(windows: Windows, settings: TokenLookupConfig, longest: int) -> Explanation:
    texts, present = windows.texts, windows.texts.present
    activation = windows.activations[present].astype(np.float64)
    words = texts.words[present]
    excess = np.bincount(words, weights=activation - activation.mean())
    order = np.argsort(-excess, kind="stable")
    order = order[excess[order] > 0]
    held = excess[order].cumsum()
    enough = int(np.searchsorted(held, settings.share * held[-1])) + 1 if len(held) else 0
    listed: list[Term] = []
    for number in order[:enough].tolist():
        term = Term(texts.vocabulary.words[number])
        if term.readable() and len(write([*listed, term])) <= longest:
            listed.append(term)
        if len(listed) == settings.terms:
            break
    if not listed:
        return Explanation(None, "no readable word has more activation than the average token")
    return Explanation(write(listed))
