"""Asks a language model about tokens and their activations, one pair a line.

Activations are levels from 0 to 10 of the largest in the windows that are shown; behind each window
its tokens of a level above 0 stand once more, as what is silent is most of it.

Source: Bills et al. (2023), Language models can explain neurons in language models, OpenAI: token and
activation a line, levels 0 to 10, non-zero ones repeated. Deviations: no worked examples before the
question, and the wording is ours (prompts/token_activation_pairs.txt).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveInt

from components.config import Config
from components.interpretation.contract import LatentEvidence, explainers
from components.interpretation.showing import TOKENS_OF_A_TOKEN
from components.interpretation.tiling import ContextsConfig
from components.interpretation.writing import AskingExplainer, WriterConfig, tokens_of_windows
from components.spelling import groups, marked, whole

LEVELS = 10


class TokenActivationPairsConfig(WriterConfig):
    """Tokens and their activations, a line each."""

    top: PositiveInt = 5
    """Windows with the highest activation."""


@explainers
class TokenActivationPairs(AskingExplainer):
    """Tokens and their activations, a line each."""

    config: ClassVar[type[Config]] = TokenActivationPairsConfig

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> int:
        """Each token of that many windows, its level, and once more."""
        return tokens_of_windows(settings.top, contexts, 2 * (TOKENS_OF_A_TOKEN + 3))

    def shown(self, evidence: LatentEvidence) -> Mapping[str, str] | str:
        """The strongest windows as pairs."""
        windows = evidence.windows
        strongest = np.argsort(-windows.activations.max(1), kind="stable")[: self.settings.top]
        picked = np.zeros(len(windows), bool)
        picked[strongest] = True
        part = windows.part(picked & windows.active)
        largest = float(part.activations.max(initial=0)) or 1.0
        levels = np.ceil(LEVELS * part.activations / largest).astype(int)
        return {
            "windows": "\n\n".join(
                _pairs(tokens, row.tolist(), number)
                for number, (tokens, row) in enumerate(
                    zip(part.texts.strings(), levels, strict=True), 1
                )
            )
        }


def _pairs(tokens: list[str], levels: list[int], number: int) -> str:
    """One window: every token with its level, then those above 0."""
    pairs = [
        (marked(whole(tokens[a:b])).strip() or "\\s", max(levels[a:b])) for a, b in groups(tokens)
    ]
    every = "\n".join(f"{token}\t{level}" for token, level in pairs)
    active = "\n".join(f"{token}\t{level}" for token, level in pairs if level)
    return f"Text {number}\n{every}\nActive in text {number}\n{active}"
