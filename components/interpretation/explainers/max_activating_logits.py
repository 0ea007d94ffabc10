"""Asks a language model about the strongest windows and about the tokens that a latent makes
likelier.

What a latent reads and what it writes are one explanation here. Windows as in `max_activating`;
tokens by the logit lens, the most promoted first.

Source: the output side after Gur-Arieh et al. (arXiv 2501.08319), who ask for it apart. The wording
of the prompt is ours (prompts/max_activating_logits.txt).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import NonNegativeInt, PositiveInt

from components.config import Config
from components.interpretation.contract import LatentEvidence, explainers
from components.interpretation.showing import chosen, lines_of, numbered
from components.interpretation.tiling import ContextsConfig
from components.interpretation.writing import AskingExplainer, WriterConfig, tokens_of_windows
from components.spelling import marked

TOKENS_OF_A_PROMOTED = 6


class MaxActivatingLogitsConfig(WriterConfig):
    """The strongest windows, and the tokens made likelier."""

    top: NonNegativeInt = 20
    """Windows with the highest activation."""
    by_decile: NonNegativeInt = 20
    """Windows from all tenths of the active ones, equally many from each."""
    weighted: NonNegativeInt = 0
    """Windows drawn with chances in proportion to the square of their largest activation, as
    SAEBench has them; interpret.contexts.weighted draws them."""
    tokens: PositiveInt = 10
    """Promoted tokens, at most."""


@explainers
class MaxActivatingLogits(AskingExplainer):
    """The strongest windows, and the tokens made likelier."""

    config: ClassVar[type[Config]] = MaxActivatingLogitsConfig
    values: ClassVar[tuple[str, ...]] = ("windows", "promoted", "longest")
    needed: ClassVar[tuple[str, ...]] = ("windows", "promoted")

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> int:
        """Windows and tokens."""
        n = settings.top + settings.by_decile + settings.weighted
        return tokens_of_windows(n, contexts) + TOKENS_OF_A_PROMOTED * settings.tokens

    def shown(self, evidence: LatentEvidence) -> Mapping[str, str] | str:
        """Windows with marks and promoted tokens; nothing is asked where there are none."""
        if not evidence.promoted:
            return (
                "no promoted tokens: no model with logits, or a direction that is not added to its "
                "residual stream; max_activating asks without them"
            )
        windows, of = evidence.windows, self.settings
        picked = windows.part(chosen(windows, of.top, of.by_decile, of.weighted))
        tokens = [repr(marked(token)) for token in evidence.promoted[: of.tokens]]
        return {"windows": numbered(lines_of(picked)), "promoted": ", ".join(tokens)}
