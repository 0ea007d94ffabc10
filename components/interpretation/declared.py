"""What the stage measures, as its manifest declares it: each scorer's own measure, and of each its
strata, its value at natural density and its differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from components.interpretation.contract import Scorer
from components.interpretation.controls import CONTROLS, ControlName
from components.report.measure import Measure, Measures

OF_A_STRATUM = {
    "strongest": "only the active windows of the upper three tenths by activation stand against all silent ones",
    "weakest": "only the active windows of the lower three tenths by activation stand against all silent ones",
    "neighbour": "only the silent windows in which a neighbouring latent is active stand against the active ones",
    "near": "only the silent windows whose mean activation vector is closest stand against the active ones",
    "random": "only the silent windows drawn at random stand against the active ones",
    "same_token": "only the silent windows with the word that the latent fires on most stand against the active ones",
    "macro": "each kind of silent windows that every latent has counts alike",
    **{
        f"decile_{n}": f"only the active windows of tenth {n} by activation (1 the strongest) stand against all silent ones"
        for n in range(1, 11)
    },
    "silent": "only marks in silent windows stand against the right ones",
    "active": "only marks on other tokens of active windows stand against the right ones",
}
OF_ANOTHER_KIND = {
    "spearman": ("Spearman", "Spearman's r over the same tokens: only the order counts."),
    "first": (
        "picked first",
        "How often the latent's own set of continuations comes first of all.",
    ),
}
"""What a scorer tells beside its score, over the same trials: label and about."""
SHARES = (
    Measure(
        "dead_share", "Latents dead in interpretation", "share", "Latents that are never active, so none is sampled.",
        "lower", rank=38, kinds=38, least=0, most=1,
    ),
    Measure(
        "skipped_share", "Latents skipped in interpretation", "share", "Latents that could not be explained.",
        "lower", rank=39, kinds=39, least=0, most=1,
    ),
    Measure(
        "rare_share", "Latents too rare to be explained", "share",
        "Sampled latents that are active in too few windows.",
        "lower", rank=39, kinds=39, least=0, most=1,
    ),
    Measure(
        "ubiquitous_share", "Latents that no text is without", "share",
        "Sampled latents that are active in over a third of windows; detection says nothing there.",
        "lower", rank=39, kinds=39, least=0, most=1,
    ),
)  # fmt: skip


def measures(
    scorers: Iterable[type[Scorer]],
    controls: Collection[ControlName] = tuple(CONTROLS),
    others: Iterable[Measure] = (),
) -> Measures:
    """What the scorers declare, and of each its strata, its value at natural density and its
    differences; and other measures of the stage.

    Args:
        scorers: those listed.
        controls: those listed.
        others: of scorers of latents.
    """
    of_scorers = (each for scorer in scorers for each in _measures(scorer, controls))
    return Measures.declared("interpret", [*SHARES, *of_scorers, *others])


def _measures(scorer: type[Scorer], controls: Collection[ControlName]) -> Iterator[Measure]:
    own = scorer.measure
    least, most = differences_of(scorer)
    yield own
    apart = {"unit": "difference", "least": least, "most": most, "part_of": own.name}
    for control in controls:
        called = CONTROLS[control]
        # headlines are few: of the controls the one that every run has
        short = f"{own.short} over {control}" if own.short and control == "untrained" else ""
        yield _derived(
            own,
            f"over_{control}",
            label=f"{own.label}, over the {called}",
            about=f"Score minus that of the {called}; other latents, so unpaired.",
            rank=10 + own.rank,
            short=short,
            **apart,
        )
        yield _derived(
            own,
            f"above_{control}",
            label=f"{own.label}, share of pairs above the {called}",
            about=f"How often a latent scores higher than one of the {called}; a tie counts half.",
            unit="share",
            least=0,
            most=1,
            rank=40 + own.rank,
            short="",
            part_of=own.name,
        )
    yield _derived(
        own,
        "normalised",
        label=f"{own.label}, normalised",
        about="0 is the floor, 1 the probe; a ratio of means, never compared between dictionaries.",
        unit="ratio",
        least=None,
        most=None,
        better="neither",
        rank=20 + own.rank,
        short="",
        part_of=own.name,
    )
    about = "Score minus that of another latent's explanation."
    yield _derived(
        own,
        "over_floor",
        label=f"{own.label}, over the floor",
        about=about,
        rank=40 + own.rank,
        short="",
        **apart,
    )
    for stratum in scorer.strata:
        about = (
            f"The score where {OF_A_STRATUM.get(stratum, 'only some of what was asked counts')}."
        )
        label = f"{stratum.replace('_', ' ')} windows"
        label, about = OF_ANOTHER_KIND.get(stratum, (label, about))
        label = f"{own.label}, {label}"
        part = {"label": label, "about": about, "rank": 30, "part_of": own.name, "short": ""}
        yield _derived(own, stratum, **part)
    if scorer.natural:
        about = "Over windows as often as the split has such."
        label = f"{own.label}, {scorer.natural.replace('_', ' ')}"
        yield _derived(own, scorer.natural, label=label, about=about, rank=20, short="")


def _derived(own: Measure, name: str, **changes: Any) -> Measure:
    changes["kinds"] = changes["rank"]
    return dataclasses.replace(own, name=f"{own.name}.{name}", **changes)


def range_of(scorer: type[Scorer]) -> tuple[float, float]:
    """The least and the greatest value of a score."""
    least, most = scorer.measure.least, scorer.measure.most
    assert least is not None and most is not None, f"scorer {scorer.kind} has no range"
    return least, most


def differences_of(scorer: type[Scorer]) -> tuple[float, float]:
    """The least and the most that a difference of two scores can be."""
    least, most = range_of(scorer)
    return least - most, most - least
