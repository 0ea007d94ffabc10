"""Reads the quoted words of an explanation and looks for them: a reader without a model.

The phrase is all it has. A token scores 1 where any term of the phrase holds (the word itself, the
word before it, a word earlier in the window; components/interpretation/phrase.py), else 0; a window
scores the share of its tokens that do, and marks the share among marked tokens less the share among
the others. There is no threshold to set and nothing to learn. Deviation from delphi's simulator
(levels 0 to 10 by a language model): levels cannot be read off words, so the order of terms says
nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from components.config import Config
from components.interpretation.contract import Predictor, predictors
from components.interpretation.phrase import Term, read
from components.interpretation.trials import Answer, Question, Unit
from components.interpretation.windows import Texts


class LexicalConfig(Config):
    """Looks for quoted words."""


@predictors
class Lexical(Predictor):
    """Looks for quoted words."""

    config: ClassVar[type[Config]] = LexicalConfig
    free: ClassVar[bool] = True
    reads_pool: ClassVar[bool] = True
    gives: ClassVar[frozenset[Unit]] = frozenset({"windows", "tokens", "marks", "choice"})

    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        """Where the terms of each explanation hold."""
        for question in questions:
            texts = question.texts
            terms = read(question.explanation)
            if not terms:
                yield Answer(None, "no word can be read from the explanation")
                continue
            holds = np.zeros(texts.tokens.shape, bool)
            for term in terms:
                holds |= _holds(term, texts)
            if unit == "tokens":
                yield Answer(holds.astype(np.float64))
            elif unit == "marks":
                yield Answer(question.marked(holds.astype(np.float64)))
            else:
                # a continuation may have ended at once: it has no token, so none that holds
                yield Answer(holds.sum(1) / np.maximum(texts.present.sum(1), 1))


def _holds(term: Term, texts: Texts) -> Bool[np.ndarray, "window token"]:
    holds = texts.present
    if term.word is not None:
        holds = holds & (texts.words == texts.vocabulary.find(term.word))
    if term.left is not None:
        holds = holds & (texts.left == texts.vocabulary.find(term.left))
    if term.near is not None:
        holds = holds & np.logical_or.accumulate(
            texts.words == texts.vocabulary.find(term.near), axis=1
        )
    return holds
