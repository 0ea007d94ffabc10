"""One latent's score over strata of its windows: what a pooled score mixes, held apart.

A score over all windows depends on which silent windows there were to draw: those that hold the latent's own word are
harder, and a latent has none to half of them. It depends on how strongly the active ones are active, too. So the same
score stands beside it over part of the windows.

    strongest      the active windows of the upper three tenths by activation, against all silent ones
    weakest        those of the lower three
    random         all active windows against the silent ones drawn at random
    same_token     all active windows against the silent ones that hold the word the latent fires on most
    macro          mean of `random` and `same_token`, of those that the latent has: each counts alike in every latent

and at natural density, each window counted as often as windows of the split are like it; a scorer names that itself.

Source: intervals of activation after delphi (arXiv 2410.13928, section 3.2); strata of silent windows are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from components.interpretation.contract import Answer, Part, Scorer, Windows
from components.interpretation.sample import TENTHS

OUTER = 3
"""Tenths that count as the strongest, and as the weakest."""
KINDS = ("random", "same_token")
"""Kinds of silent windows, which the macro mean weighs alike."""
MACRO = "macro"


def masks(windows: Windows) -> Mapping[str, Bool[np.ndarray, " window"]]:
    """Which windows belong to each stratum; only strata with active and with silent windows."""
    active, tenth = windows.active, windows.quantile
    found = {"strongest": ~active | (tenth < OUTER), "weakest": ~active | (tenth >= TENTHS - OUTER)}
    found |= {kind: active | (windows.stratum == kind) for kind in KINDS}
    return {name: mask for name, mask in found.items() if 0 < active[mask].sum() < mask.sum()}


def score(answer: Answer, windows: Windows, scorer: Scorer) -> dict[str, Part]:
    """The score over each stratum that the latent has, their macro mean, and the score at natural density.

    Args:
        answer: to all windows; without values everything stands at chance.
        windows: that were asked about.
        scorer: says what is measured.
    """
    parts = masks(windows)
    values = dict.fromkeys(parts, scorer.chance) if answer.values is None else scorer.over(answer, windows, parts)
    found = {name: Part(values[name], scorer.chance, int(mask.sum())) for name, mask in parts.items()}
    kinds = [found[kind] for kind in KINDS if kind in found]
    if kinds:
        mean = float(np.mean([part.value for part in kinds]))
        found[MACRO] = Part(mean, scorer.chance, len(windows))
    return found | {scorer.natural: scorer.at_natural_density(answer, windows)}
