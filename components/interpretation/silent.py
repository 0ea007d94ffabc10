"""Silent windows of one latent, of four kinds.

    random       drawn at random
    same_token   holds the word that the latent fires on most
    neighbour    a neighbouring latent is active: half of the neighbours by the tokens on which both
                 are active, half by the cosine of decoder directions
    near         its mean activation vector is among those closest to the mean over the latent's
                 active windows of the explain split

Silent means that no token inside has any activation. Silent windows have the lengths of active
ones. Nothing that chooses them comes from the test split.

Source: silent windows of neighbours after delphi (arXiv 2410.13928, section 3), which labels random
windows silent unchecked; here all are known to be silent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from components.interpretation.activity import Activity
from components.interpretation.searched import Searched

AHEAD = 2
"""How many times as many windows as wanted are drawn, because near-duplicates go."""
TRIES = 4
"""How often a random window is drawn for one that must be silent, before all are looked through."""


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """What silent windows of a latent are chosen by, from the explain split and the decoder.

    Attributes:
        word: the word that it fires on most; -1 for none.
        neighbours: numbers of the neighbouring latents, by kind.
        distance: of each searched window's mean activation vector, from the mean over the latent's
            active windows; None where there is none.
    """

    word: int
    neighbours: Sequence[Int[np.ndarray, " _"]]
    distance: Float[np.ndarray, " searched"] | None


class Candidates(NamedTuple):
    """Silent windows of one kind, in the order in which they are to be taken.

    Attributes:
        kind: one of `SILENT` (components/interpretation/windows.py).
        tiles: which windows of the split.
        wanted: how many of these.
        of_all: how many of this kind at most, those before counted in.
    """

    kind: str
    tiles: Int[np.ndarray, " window"]
    wanted: int
    of_all: int


def candidates(
    searched: Searched,
    activity: Activity,
    number: int,
    contrast: Contrast,
    lengths: Int[np.ndarray, " active"],
    generator: np.random.Generator,
) -> list[Candidates]:
    """Silent windows of each kind, in the order in which they are to be taken.

    Args:
        searched: the split.
        activity: of the watched latents there.
        number: which of them.
        contrast: what they are chosen by.
        lengths: of active windows, which silent ones are to have too.
        generator: draws.
    """
    config = searched.tiling.config
    n = config.calibrate_per_stratum if searched.split == "calibrate" else config.per_stratum
    silent = np.ones(len(searched.tiles), bool)
    silent[activity.places(number)] = False
    like = np.bincount(lengths, minlength=config.width + 1)
    holding = searched.holding(contrast.word)
    kinds = [("random", n, _random(searched, silent, lengths, AHEAD * n, generator))]
    kinds.append(
        ("same_token", n, _like(searched, holding[silent[holding]], like, AHEAD * n, generator))
    )
    by_kind = [
        _of_neighbours(searched, activity, near, silent, like, generator)
        for near in contrast.neighbours
    ]
    for places, wanted in zip(by_kind, (n - n // 2, n // 2), strict=True):
        kinds.append(("neighbour", wanted, places))
    # what one kind of neighbours could not fill, the other may
    kinds += [("neighbour", n, places) for places in by_kind]
    if contrast.distance is not None:
        kinds.append(("near", n, _nearest(searched, silent, like, contrast.distance, n)))
    return [Candidates(kind, searched.tiles[places], wanted, n) for kind, wanted, places in kinds]


def _random(
    searched: Searched,
    silent: Bool[np.ndarray, " searched"],
    lengths: Int[np.ndarray, " active"],
    n: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    """Places of silent windows whose lengths are distributed as among the active ones."""
    if not len(lengths):
        return np.zeros(0, np.int64)
    order, bounds = searched.by_length
    wanted = generator.choice(lengths, TRIES * n)
    wanted = wanted[bounds[wanted] < bounds[wanted + 1]]
    places = order[generator.integers(bounds[wanted], bounds[wanted + 1])]
    places = places[silent[places]]
    _, first = np.unique(places, return_index=True)
    places = places[np.sort(first)]
    if len(places) >= n:
        return places[:n]
    like = np.bincount(lengths, minlength=len(bounds) - 1)
    return _like(searched, np.flatnonzero(silent), like, n, generator)


def _like(
    searched: Searched,
    places: Int[np.ndarray, " there"],
    like: Int[np.ndarray, " length"],
    n: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    """Some of these windows, drawn such that their lengths are distributed as counted."""
    length = searched.length[places]
    there = np.bincount(length, minlength=len(like))
    chance = (like[: len(there)] / np.maximum(there, 1))[length]
    possible = chance > 0
    if not possible.all():
        places, chance = places[possible], chance[possible]
    # the smallest of exponential numbers over weights are a draw without replacement
    drawn = generator.exponential(size=len(places)) / chance
    if len(drawn) > 4 * n:  # few of many: they are parted off before they are put in order
        # below this bound lie about three times as many as are wanted, seldom fewer than that
        smallest = np.flatnonzero(drawn < 3 * n / chance.sum())
        if len(smallest) < n:
            smallest = np.argpartition(drawn, n)[:n]
        return places[smallest[np.argsort(drawn[smallest])[:n]]]
    return places[np.argsort(drawn)[:n]]


def _of_neighbours(
    searched: Searched,
    activity: Activity,
    neighbours: Int[np.ndarray, " near"],
    silent: Bool[np.ndarray, " searched"],
    like: Int[np.ndarray, " length"],
    generator: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    """Places of silent windows in which a neighbour is active, of each neighbour one in turn."""
    config = searched.tiling.config
    each = []
    for near in neighbours.tolist():
        there = activity.places(near)
        each.append(_like(searched, there[silent[there]], like, config.per_stratum, generator))
    longest = max((len(places) for places in each), default=0)
    turns = np.full((longest, len(each)), -1, np.int64)
    for column, places in enumerate(each):
        turns[: len(places), column] = places
    return turns[turns >= 0][: 2 * AHEAD * config.per_stratum]


def _nearest(
    searched: Searched,
    silent: Bool[np.ndarray, " searched"],
    like: Int[np.ndarray, " length"],
    distance: Float[np.ndarray, " searched"],
    n: int,
) -> Int[np.ndarray, " drawn"]:
    """Places of the silent windows with the smallest distance, of each length about as many as
    among the active ones."""
    places = np.flatnonzero(silent & (like > 0)[np.minimum(searched.length, len(like) - 1)])
    if len(places) > (ahead := 16 * n):
        places = places[np.argpartition(distance[places], ahead)[:ahead]]
    places = places[np.lexsort((places, distance[places]))]
    length = searched.length[places]
    order = np.argsort(length, kind="stable")
    begins = np.searchsorted(length[order], np.arange(len(like)))
    nth = np.empty(len(places), np.int64)
    nth[order] = np.arange(len(places)) - begins[length[order]]
    quota = np.ceil(n * like / max(1, like.sum()))[length]
    later = (nth >= quota) & (nth < AHEAD * quota)  # for those that are near-duplicates
    return np.concatenate([places[nth < quota], places[later]])
