"""Asks a language model what the strongest windows of a latent have in common.

40 windows by default: the 20 with the highest activation, and 20 from all tenths of the active
ones, so that what is written holds for weak activation too. Tokens above 0.3 of their window's
largest activation stand between marks. Temperature 0.

Source: delphi's default explainer (arXiv 2410.13928, section 3.1; 40 windows of 32 tokens, marked).
Deviations: windows of every tenth beside the top ones; one short phrase and no thoughts before it;
the wording of the prompt is ours (prompts/max_activating.txt).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt

from components.config import Config
from components.interpretation.contract import LatentEvidence, explainers
from components.interpretation.showing import MARKED, chosen, lines_of, numbered
from components.interpretation.tiling import ContextsConfig
from components.interpretation.writing import AskingExplainer, WriterConfig, tokens_of_windows


class MaxActivatingConfig(WriterConfig):
    """What the strongest windows have in common."""

    top: NonNegativeInt = 20
    """Windows with the highest activation."""
    by_decile: NonNegativeInt = 20
    """Windows from all tenths of the active ones, equally many from each."""
    weighted: NonNegativeInt = 0
    """Windows drawn with chances in proportion to the square of their largest activation, as
    SAEBench has them; interpret.contexts.weighted draws them."""
    marked: float = Field(default=MARKED, ge=0, lt=1)
    """Share of its window's largest activation above which a token is marked."""


@explainers
class MaxActivating(AskingExplainer):
    """What the strongest windows have in common."""

    config: ClassVar[type[Config]] = MaxActivatingConfig

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> int:
        """That many windows."""
        return tokens_of_windows(settings.top + settings.by_decile + settings.weighted, contexts)

    def shown(self, evidence: LatentEvidence) -> Mapping[str, str] | str:
        """Windows with marks."""
        windows, of = evidence.windows, self.settings
        picked = windows.part(chosen(windows, of.top, of.by_decile, of.weighted))
        return {"windows": numbered(lines_of(picked, self.settings.marked))}
