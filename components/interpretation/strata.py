"""One latent's score over strata of its windows: what a pooled score mixes, held apart.

A score over all windows depends on which silent windows there were to draw: those that hold the
latent's own word are harder, and a latent has none to half of them. It depends on how strongly the
active ones are active, too. So the same score stands beside it over part of the windows.

    strongest      active windows of the upper three tenths by activation, against all silent ones
    weakest        those of the lower three
    decile_1 ...   those of one tenth, the strongest first
    random         all active windows against the silent ones drawn at random
    same_token     against the silent ones that hold the word that the latent fires on most
    neighbour      against the silent ones in which a neighbouring latent is active
    near           against the silent ones whose mean activation vector is closest
    macro          mean over the kinds of silent windows that every latent has

and at natural density (components/interpretation/natural_density.py); a scorer names that itself. A
latent that was skipped, and one of which there is no score, does not say which kinds every latent
has.

Source: intervals of activation after delphi (arXiv 2410.13928, section 3.2); strata of silent
windows are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from components.interpretation.contract import Scorer
from components.interpretation.sample import TENTHS
from components.interpretation.trials import Answer, LatentScore, ScorePart, Trials
from components.interpretation.windows import SILENT, Windows

OUTER = 3
"""Tenths that count as the strongest, and as the weakest."""
DECILES = tuple(f"decile_{number}" for number in range(1, TENTHS + 1))
"""Tenths of activation, the strongest first."""
KINDS = SILENT
"""Kinds of silent windows, which the macro mean weighs alike."""
MACRO = "macro"
USUAL = ("strongest", "weakest", *DECILES, *KINDS, MACRO)
"""What a scorer declares whose trials are whole windows of the test split."""


def masks(windows: Windows) -> Mapping[str, Bool[np.ndarray, " window"]]:
    """Which windows belong to each stratum; only strata with active and with silent windows."""
    active, tenth = windows.active, windows.quantile
    parts = {"strongest": ~active | (tenth < OUTER), "weakest": ~active | (tenth >= TENTHS - OUTER)}
    parts |= {name: ~active | (tenth == number) for number, name in enumerate(DECILES)}
    parts |= {kind: active | (windows.stratum == kind) for kind in KINDS}
    return {name: mask for name, mask in parts.items() if 0 < active[mask].sum() < mask.sum()}


def trials_of(
    windows: Windows,
    truth: Float[np.ndarray, " window"]
    | Float[np.ndarray, "window token"]
    | Bool[np.ndarray, " window"],
) -> Trials:
    """Trials that show whole windows, with their strata."""
    return Trials(windows.texts, truth, strata=masks(windows))


def common(trials: Sequence[Trials], counted: Sequence[bool]) -> list[Trials]:
    """The trials of all latents, told which kinds of silent windows every latent has.

    Args:
        trials: of each latent.
        counted: whether a latent has a say: not where it was skipped.
    """
    have = [
        set(each.strata)
        for each, counts in zip(trials, counted, strict=True)
        if counts and each.null is None
    ]
    kinds = tuple(kind for kind in KINDS if have and all(kind in strata for strata in have))
    return [dataclasses.replace(each, kinds=kinds) for each in trials]


def told(score: LatentScore, answer: Answer, trials: Trials, scorer: Scorer) -> LatentScore:
    """The score with all its strata: those that the scorer left out, the macro mean, and natural
    density last, where the windows of the trials stand for others.

    Args:
        score: over all trials.
        answer: to all trials; without values everything stands at chance.
        trials: what was asked.
        scorer: says what is measured.
    """
    parts = {name: _part(name, score, answer, trials, scorer) for name in trials.strata}
    kinds = KINDS if trials.kinds is None else trials.kinds
    values = [parts[kind].value for kind in kinds if kind in parts]
    if values:
        parts[MACRO] = ScorePart(float(np.mean(values)), scorer.chance, len(trials))
    if scorer.natural and trials.stands_for is not None:
        at_chance = ScorePart(trials.natural_chance, trials.natural_chance, len(trials))
        parts[scorer.natural] = score.strata.get(scorer.natural, at_chance)
    return dataclasses.replace(score, strata=parts)


def _part(
    name: str, score: LatentScore, answer: Answer, trials: Trials, scorer: Scorer
) -> ScorePart:
    if name in score.strata:
        return score.strata[name]
    mask = trials.strata[name]
    chance = trials.chances.get(name, scorer.chance)
    trials, value = trials.part(mask), chance
    if answer.values is not None:
        value = scorer.score(
            dataclasses.replace(answer, values=answer.values[mask]), trials, None
        ).value
    return ScorePart(value, chance, len(trials))
