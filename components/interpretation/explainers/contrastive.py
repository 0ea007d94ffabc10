"""Asks a language model what active windows have that silent ones lack.

The silent windows are verified: the latent is active on none of their tokens. Half of them hold the
word that the latent is most active on, where there are such, so that the word alone is no answer.

Source: delphi's contrastive explainer (https://github.com/EleutherAI/delphi), there with the
nearest windows by a text encoder as counter-examples. Deviation: silence is verified and nothing
that scores chose them. The wording of the prompt is ours (prompts/contrastive.txt).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from components.config import Config
from components.interpretation.contract import LatentEvidence, explainers
from components.interpretation.showing import chosen, line, lines_of, numbered
from components.interpretation.tiling import ContextsConfig
from components.interpretation.writing import AskingExplainer, WriterConfig, tokens_of_windows


class ContrastiveConfig(WriterConfig):
    """What active windows have and silent ones lack."""

    top: NonNegativeInt = 10
    """Windows with the highest activation."""
    by_decile: NonNegativeInt = 10
    """Windows from all tenths of the active ones, equally many from each."""
    weighted: NonNegativeInt = 0
    """Windows drawn with chances in proportion to the square of their largest activation, as
    SAEBench has them; interpret.contexts.weighted draws them."""
    silent: PositiveInt = 20
    """Verified silent windows."""


@explainers
class Contrastive(AskingExplainer):
    """What active windows have and silent ones lack."""

    config: ClassVar[type[Config]] = ContrastiveConfig
    values: ClassVar[tuple[str, ...]] = ("windows", "silent", "longest")
    needed: ClassVar[tuple[str, ...]] = ("windows", "silent")

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> int:
        """Windows of both kinds."""
        n = settings.top + settings.by_decile + settings.weighted + settings.silent
        return tokens_of_windows(n, contexts)

    def shown(self, evidence: LatentEvidence) -> Mapping[str, str] | str:
        """Active windows with marks, and silent ones, of both kinds in turn."""
        windows, of, n = evidence.windows, self.settings, self.settings.silent
        active = windows.part(chosen(windows, of.top, of.by_decile, of.weighted))
        kinds = [np.flatnonzero(windows.stratum == kind) for kind in ("same_token", "random")]
        hard = kinds[0][: n // 2]
        silent = np.zeros(len(windows), bool)
        silent[np.concatenate([hard, kinds[1][: n - len(hard)]])] = True
        lines = [line(tokens) for tokens in windows.part(silent).texts.strings()]
        return {"windows": numbered(lines_of(active)), "silent": numbered(lines)}
