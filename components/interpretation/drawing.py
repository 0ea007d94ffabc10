"""The windows of one latent out of a split: active ones by their strength, and silent ones.

    top          the strongest of the explain split
    weighted     drawn with chances in proportion to the square of the largest activation
    quantile     drawn from each tenth of activation

    silent       of four kinds (components/interpretation/silent.py)

No window is a near-duplicate of another of the latent's, in any split.

Sources: tenths after delphi (arXiv 2410.13928, section 3), which draws explaining and scoring
windows from one list; here that cannot happen. Weighted windows after SAEBench's automatic
interpretation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from components.interpretation import near_duplicates
from components.interpretation.activity import Activity
from components.interpretation.sample import TENTHS
from components.interpretation.searched import Searched
from components.interpretation.silent import AHEAD, Contrast, candidates
from components.interpretation.tiling import distinct
from components.interpretation.windows import SILENT

ROLES = ("top", "weighted", "quantile", "silent")


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """The windows of one latent in one split, without their text.

    Attributes:
        tiles: which windows of the split.
        role: index in `ROLES`.
        stratum: index in `SILENT`; -1 for active windows.
        tenth: interval of activation, 0 the strongest; -1 for silent windows.
        stands_for: how many windows of the split each stands for.
    """

    tiles: Int[np.ndarray, " window"]
    role: Int[np.ndarray, " window"]
    stratum: Int[np.ndarray, " window"]
    tenth: Int[np.ndarray, " window"]
    stands_for: Float[np.ndarray, " window"]


@dataclasses.dataclass
class _Group:
    """Windows in the order in which they are taken.

    Attributes:
        role: index in `ROLES`.
        stratum: index in `SILENT`, or -1.
        tenth: of activation, or -1.
        tiles: the windows.
        wanted: how many.
        of_all: how many of this stratum at most, those of earlier groups counted in.
    """

    role: int
    stratum: int
    tenth: int
    tiles: Int[np.ndarray, " window"]
    wanted: int
    of_all: int


def draw_windows(
    searched: Searched,
    activity: Activity,
    number: int,
    contrast: Contrast,
    earlier: Sequence[tuple[Searched, Drawn]],
    generator: np.random.Generator,
) -> Drawn:
    """The windows of one latent.

    Args:
        searched: the split.
        activity: of the watched latents there.
        number: which of them.
        contrast: what silent windows are chosen by.
        earlier: windows of other splits, of which none here may be a near-duplicate.
        generator: draws.
    """
    active = _active_groups(searched, activity, number, generator)
    lengths = searched.tiling.length[np.concatenate([group.tiles for group in active])]
    silent = [
        _Group(ROLES.index("silent"), SILENT.index(kind), -1, tiles, wanted, of_all)
        for kind, tiles, wanted, of_all in candidates(
            searched, activity, number, contrast, lengths, generator
        )
    ]
    chosen = _distinct(searched, active + silent, earlier)
    groups = [(group, tiles) for group, tiles in zip(active + silent, chosen, strict=True)]
    sizes = [len(tiles) for _, tiles in groups]
    n_active = int(activity.n_active[number])
    n_silent = len(searched.tiling) - n_active
    tiles = np.concatenate(chosen)
    role, stratum = (
        np.repeat(np.array([getattr(group, name) for group, _ in groups], np.int8), sizes)
        for name in ("role", "stratum")
    )
    tenth = np.repeat(np.array([group.tenth for group, _ in groups], np.int8), sizes)
    tenth[role < ROLES.index("quantile")] = _tenth_of(activity, number, searched, tiles[role < 2])
    stands_for = _stands_for(role, stratum, tenth, n_active, n_silent)
    return Drawn(tiles.astype(np.int32), role, stratum, tenth, stands_for)


def _active_groups(
    searched: Searched, activity: Activity, number: int, generator: np.random.Generator
) -> list[_Group]:
    config, of = searched.tiling.config, searched.tiling.tile_of
    explain, calibrate = searched.split == "explain", searched.split == "calibrate"
    n_top, n_weighted = (config.top, config.weighted) if explain else (0, 0)
    per_tenth = config.calibrate_per_tenth if calibrate else config.per_tenth
    strongest = of[activity.strongest.of(number)[0]][: AHEAD * n_top]
    weighted = of[activity.weighted.of(number)[0]][: AHEAD * n_weighted]
    groups = [
        _Group(0, -1, -1, strongest, n_top, n_top),
        _Group(1, -1, -1, weighted, n_weighted, n_weighted),
    ]
    ahead = AHEAD * per_tenth + n_top + n_weighted
    for tenth, tiles in enumerate(_tenths(activity, number, searched)):
        drawn = generator.permutation(tiles)[:ahead]
        groups.append(_Group(2, -1, tenth, drawn, per_tenth, per_tenth))
    return groups


def _tenths(activity: Activity, number: int, searched: Searched) -> list[Int[np.ndarray, " _"]]:
    """The uniform sample of a latent's active windows in ten equal parts, the strongest first."""
    row, value = activity.sample.of(number)
    order = np.lexsort((row, -value))
    tiles = searched.tiling.tile_of[row[order]]
    ends = _ends_of_tenths(len(tiles))
    return [tiles[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _ends_of_tenths(n: int) -> list[int]:
    """Where ten parts of n end; the first ones have one more where n cannot be divided."""
    each, more = divmod(n, TENTHS)
    return [each * number + min(number, more) for number in range(1, TENTHS + 1)]


def _tenth_of(
    activity: Activity, number: int, searched: Searched, tiles: Int[np.ndarray, " chosen"]
) -> Int[np.ndarray, " chosen"]:
    """The tenth of activation of windows that were not drawn from one: as their largest activation
    stands in the sample."""
    row, value = activity.sample.of(number)
    if not len(tiles):
        return np.zeros(0, np.int8)
    ends = _ends_of_tenths(len(row))
    largest = dict(zip(searched.tiling.tile_of[row].tolist(), value.tolist(), strict=True))
    for kept in (activity.strongest, activity.weighted):
        rows, values = kept.of(number)
        largest |= zip(searched.tiling.tile_of[rows].tolist(), values.tolist(), strict=True)
    own = np.array([largest[tile] for tile in tiles.tolist()])
    rank = np.searchsorted(np.sort(-value), -own)
    return np.minimum(np.searchsorted(ends, rank, side="right"), TENTHS - 1)


def _distinct(
    searched: Searched, groups: Sequence[_Group], earlier: Sequence[tuple[Searched, Drawn]]
) -> list[Int[np.ndarray, " _"]]:
    """The first windows of each group, as many as wanted, none a near-duplicate of one chosen
    before it."""
    candidates = distinct(np.concatenate([group.tiles for group in groups]))
    rare = [where.rarest[drawn.tiles] for where, drawn in earlier] + [searched.rarest[candidates]]
    met = near_duplicates.meeting(near_duplicates.stacked(rare))
    n_before = len(met) - len(candidates)
    meeting = np.flatnonzero(met)
    tokens, start = [], 0
    for where, tiles in [(w, drawn.tiles) for w, drawn in earlier] + [(searched, candidates)]:
        tokens.append(where.tiling.tokens(tiles[met[start : start + len(tiles)]]))
        start += len(tiles)
    similar = near_duplicates.similar(np.concatenate(tokens), searched.tiling.config.near_duplicate)
    accepted = meeting < n_before
    # of most windows that meet, none is a near-duplicate after all (each is similar to itself)
    with_others = np.flatnonzero((meeting >= n_before) & (similar.sum(1) > 1))
    row_of = dict(
        zip(candidates[meeting[with_others] - n_before].tolist(), with_others.tolist(), strict=True)
    )
    return _taken(groups, similar, accepted, row_of)


def _taken(
    groups: Iterable[_Group],
    similar: Bool[np.ndarray, "met met"],
    accepted: Bool[np.ndarray, " met"],
    row_of: dict[int, int],
) -> list[Int[np.ndarray, " _"]]:
    seen: set[int] = set()
    n_of: dict[tuple[int, int, int], int] = {}
    chosen = []
    for group in groups:
        kind = (group.role, group.stratum, group.tenth)
        room = max(0, min(group.wanted, group.of_all - n_of.get(kind, 0)))
        tiles = [tile for tile in dict.fromkeys(group.tiles.tolist()) if tile not in seen]
        if row_of.keys().isdisjoint(tiles):
            good = tiles[:room]
        else:
            good = _apart(tiles, room, similar, accepted, row_of)
        seen.update(good)
        n_of[kind] = n_of.get(kind, 0) + len(good)
        chosen.append(np.array(good, dtype=np.int64))
    return chosen


def _apart(
    tiles: Iterable[int],
    room: int,
    similar: Bool[np.ndarray, "met met"],
    accepted: Bool[np.ndarray, " met"],
    row_of: dict[int, int],
) -> list[int]:
    """The first of these windows, each none of those accepted so far; it is accepted itself."""
    good: list[int] = []
    for tile in tiles:
        if len(good) >= room:
            break
        row = row_of.get(tile)
        if row is not None:
            if (similar[row] & accepted).any():
                continue
            accepted[row] = True
        good.append(tile)
    return good


def _stands_for(
    role: Int[np.ndarray, " chosen"],
    stratum: Int[np.ndarray, " chosen"],
    tenth: Int[np.ndarray, " chosen"],
    n_active: int,
    n_silent: int,
) -> Float[np.ndarray, " chosen"]:
    """How many windows of the split each chosen one stands for.

    Only windows that were drawn without any choice stand for others: those from a tenth for the
    active ones, each tenth for as many, and random ones for the silent ones. Together they are all
    windows of the split.
    """
    weights = np.zeros(len(role), np.float32)
    drawn = role == ROLES.index("quantile")
    weights[drawn] = 1 / np.bincount(tenth[drawn], minlength=TENTHS)[tenth[drawn]]
    weights[stratum == SILENT.index("random")] = 1
    for mask, n in ((drawn, n_active), (stratum >= 0, n_silent)):
        weights[mask] *= n / max(float(weights[mask].sum()), 1e-9)
    return weights
