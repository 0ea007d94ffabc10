"""Reads an explanation with a causal language model: how much likelier does it make a window?

The answer for a window is its mean log-probability a token behind a sentence that holds the
explanation, less that behind the same sentence with an uninformative one: the surprisal that the
explanation saves. What a window costs anyway, its length and its rare words, drops out of the
difference.

The model is the one that is looked into, or another one on this machine (`path`). One whose
tokenizer cannot spell the sentence reads no prose: everything then is missing, with that reason.

Source: the surprisal score of delphi (https://github.com/EleutherAI/delphi; arXiv 2410.13928,
section 3.2). Deviations: the difference itself is the answer, so that any scorer over windows can
use it; mean a token, since windows differ in length.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt

from components.config import Config, execution
from components.interpretation.contract import Predictor, predictors
from components.interpretation.services import PredictorServices
from components.interpretation.showing import line
from components.interpretation.trials import Answer, Question, Unit
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference

TEMPLATE = "The following text is about this: {}.\n\n"
UNINFORMATIVE = "anything that a text can be about"
SPELLED = 0.9
"""Share of the words of the sentence that a tokenizer must give back."""
SECTION = "interpret.predictor_settings.language_model"


class LanguageModelConfig(Config, title="language_model"):
    """How much likelier the explanation makes a window."""

    path: str = ""
    """Another causal model than the one that is looked into: a folder or a hub id that is on this
    machine."""
    latents: PositiveInt | None = None
    """Latents whose explanations it scores, at most, of the dictionary and of each control: drawn
    at random, the others are missing. All when absent. What the explainer agent tests with it is
    not limited."""
    batch: int = execution(16, ge=1, le=4096)
    """Windows of one pass."""


@predictors
class LanguageModelPredictor(Predictor):
    """How much likelier the explanation makes a window."""

    config: ClassVar[type[Config]] = LanguageModelConfig
    gives: ClassVar[frozenset[Unit]] = frozenset({"windows", "choice"})
    settings: LanguageModelConfig

    def __init__(self, config: LanguageModelConfig, services: PredictorServices) -> None:
        super().__init__(config, services)
        self._alone: dict[str, float] = {}

    @property
    def at_most(self) -> int | None:
        """As many as are asked for."""
        return self.settings.latents

    @classmethod
    def files(cls, settings: Any) -> Sequence[Path]:
        """Configuration, weights and tokenizer of a model of its own."""
        if not settings.path:
            return []
        reference = ModelReference(ModelConfig(path=settings.path))
        found = {path for pattern in reference.content for path in reference.folder.glob(pattern)}
        return sorted(found)

    @functools.cached_property
    def _reader(self) -> LanguageModel | str:
        """The model, or why there is none that reads prose."""
        reference = self.services.model
        if self.settings.path:
            reference = ModelReference(ModelConfig(path=self.settings.path))
        advice = f"set {SECTION}.path to a model that reads prose"
        if reference is None:
            return f"the activations came without a model; {advice}"
        model = reference.load(self.services.execution)
        if why := model.obstacle("causal_loss"):
            return f"{reference.config.path} gives no probabilities ({why}); {advice}"
        share = _spelled(model.tokenizer, TEMPLATE.format(UNINFORMATIVE))
        if share < SPELLED:
            return (
                f"the tokenizer of {reference.config.path} can spell {share:.0%} of the sentence "
                f"that explanations stand in, so it reads no prose; {advice}"
            )
        return model

    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        """The surprisal that each explanation saves, in nats a token of the window."""
        for question in questions:
            reader = self._reader
            if isinstance(reader, str):
                yield Answer(None, reader, is_missing=True)
                continue
            windows = [line(tokens) for tokens in question.texts.strings()]
            told = self._behind(reader, question.explanation.rstrip(". "), windows)
            new = [text for text in dict.fromkeys(windows) if text not in self._alone]
            alone = self._behind(reader, UNINFORMATIVE, new)
            self._alone |= dict(zip(new, alone.tolist(), strict=True))
            saved = told - np.array([self._alone[text] for text in windows])
            absent = "a window is longer than the model takes" if np.isnan(saved).any() else None
            yield Answer(saved, absent)

    def _behind(self, model: LanguageModel, said: str, windows: Sequence[str]) -> np.ndarray:
        """Mean log-probability of a token of each window behind that explanation; NaN where both
        together are longer than the model takes."""
        before = model.tokenizer(TEMPLATE.format(said))["input_ids"]
        after = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in windows]
        means, length = np.full(len(windows), np.nan), model.context_length
        fits = [
            number
            for number, ids in enumerate(after)
            if ids and (length is None or len(before) + len(ids) <= length)
        ]
        # like lengths together, so that little is padding
        fits.sort(key=lambda number: len(after[number]))
        for first in range(0, len(fits), self.settings.batch):
            numbers = fits[first : first + self.settings.batch]
            longest = max(len(after[number]) for number in numbers)
            rows = [before + after[n] + [0] * (longest - len(after[n])) for n in numbers]
            # what stands behind a row's end changes nothing before it in a causal model
            losses = model.losses(torch.tensor(rows)).cpu().numpy()
            for row, number in zip(losses, numbers, strict=True):
                start = len(before) - 1
                means[number] = -row[start : start + len(after[number])].mean()
        return means


def _spelled(tokenizer: Any, text: str) -> float:
    """The share of the words of a text that come back from its tokens."""
    if tokenizer is None:
        return 0.0
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode([token for token in ids if token != tokenizer.unk_token_id])
    words, there = text.split(), set(back.split())
    return sum(word in there for word in words) / len(words)
