"""Reads an explanation by its meaning: the cosine of its vector and each window's.

A window is the text of its tokens, as a reader sees it. What the vectors of a window and of the
explanation share says whether they are about one thing, in other words too; a rule about single
tokens is read badly, which the strata show.

Source: the embedding score of delphi (arXiv 2410.13928, section 3.2). Deviations: here the cosine
itself is the answer, so that any scorer over windows can use it; the explanation is not put behind
an instruction, because encoders differ in which one they were trained with (a default prompt that
the encoder's own files name is written before every text).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import NonNegativeInt

from components.config import Config, execution
from components.interpretation.contract import Predictor, predictors
from components.interpretation.services import PredictorServices
from components.interpretation.trials import Answer, Question, Unit
from components.interpretation.windows import Texts
from components.spelling import whole

POOL = 500
"""Windows from which a question is taken to be about a pool, whose vectors are kept together."""


class TextEncoderPredictorConfig(Config, title="text_encoder"):
    """Compares meanings; the encoder itself is the section text_encoder."""

    remembered: NonNegativeInt = execution(200_000)
    """Windows whose vectors are remembered: every explainer and its floor ask about the same
    ones."""


@predictors
class TextEncoderPredictor(Predictor):
    """Compares meanings."""

    config: ClassVar[type[Config]] = TextEncoderPredictorConfig
    embeds: ClassVar[bool] = True
    reads_pool: ClassVar[bool] = True
    gives: ClassVar[frozenset[Unit]] = frozenset({"windows", "choice"})
    settings: TextEncoderPredictorConfig

    def __init__(self, config: TextEncoderPredictorConfig, services: PredictorServices) -> None:
        super().__init__(config, services)
        self._known: dict[str, Float32[np.ndarray, " width"]] = {}
        self._shown: weakref.WeakKeyDictionary[Texts, np.ndarray] = weakref.WeakKeyDictionary()

    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        """The cosine of the explanation and each window."""
        for question in questions:
            if not question.explanation.strip():
                yield Answer(None, "an empty explanation has no meaning")
                continue
            explanation = self._embedded([question.explanation])[0]
            windows = self._windows(question.texts)
            yield Answer(windows.astype(np.float64) @ explanation.astype(np.float64))

    def _windows(self, texts: Texts) -> Float32[np.ndarray, "window width"]:
        """The vector of each window. The pool is one object for all latents: its vectors are put
        together once."""
        if texts in self._shown:
            return self._shown[texts]
        vectors = self._vectors([whole(tokens).strip() for tokens in texts.strings()])
        if len(vectors) >= POOL:
            self._shown[texts] = vectors
        return vectors

    def _vectors(self, texts: Sequence[str]) -> Float32[np.ndarray, "text width"]:
        """Vectors of length 1, those that are new computed together."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(new) > self.settings.remembered:
            self._known = {}
            new = list(dict.fromkeys(texts))
        self._known.update(zip(new, self._embedded(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def _embedded(self, texts: Sequence[str]) -> Float32[np.ndarray, "text width"]:
        shown = [text or "." for text in texts]  # white space alone has no token in some encoders
        vectors = self.services.encoder.embed(shown)
        return torch.nn.functional.normalize(vectors, dim=1).numpy()
