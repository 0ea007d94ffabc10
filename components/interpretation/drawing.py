"""The windows of one latent out of a split: top, by tenths of activation, and verified silent ones.

Sources: quantile windows after delphi (arXiv 2410.13928, section 3), which draws explaining and
scoring windows from one list and labels random windows silent unchecked; here neither can happen.
Half of the silent windows hold the very word that the latent fires on most, where there are such: a
harder contrast than random text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from components.interpretation.sample import TENTHS
from components.interpretation.tiling import Tiling
from components.interpretation.windows import Texts, Windows


def draw_windows(
    tiling: Tiling,
    rows: Int[np.ndarray, " active"],
    values: Float[np.ndarray, " active"],
    favourite: int,
    earlier: list[Windows],
    split: str,
    generator: np.random.Generator,
) -> Windows:
    """The windows of one latent.

    Args:
        tiling: the split.
        rows: where it is active, ascending.
        values: how much.
        favourite: the word it fires on most, for the silent windows that hold it; -1 for none.
        earlier: windows of other splits, of which none here may be a near-duplicate.
        split: says how many.
        generator: draws.
    """
    config = tiling.config
    inside = tiling.tile_of[rows] >= 0
    rows, values = rows[inside], values[inside]
    tiles, at = np.unique(tiling.tile_of[rows], return_index=True)
    maximum = np.maximum.reduceat(values, at) if len(at) else np.zeros(0)
    ranked = tiles[np.argsort(-maximum, kind="stable")]
    tenths = np.array_split(ranked, TENTHS)
    n_top = config.top if split == "explain" else 0
    per_tenth = config.calibrate_per_tenth if split == "calibrate" else config.per_tenth
    # Twice as many as wanted are drawn, because near-duplicates go.
    groups = [_Draw("top", "", ranked[: 2 * n_top], n_top)]
    groups += [
        _Draw("quantile", "", generator.permutation(tenth)[: 2 * per_tenth + n_top], per_tenth)
        for tenth in tenths
    ]
    before = [windows.texts.tokens for windows in earlier]
    distinct = _distinct(tiling, groups, before)
    active = np.concatenate([group.tiles for group in distinct])
    weights = tiling.silence(tiles, tiling.length[active])
    holds = tiling.holding(favourite)
    half = len(active) // 2
    groups = [_Draw("silent", "same_token", _draw(weights * holds, 2 * half, generator), half)]
    groups += [_Draw("silent", "random", _draw(weights, 2 * len(active), generator), len(active))]
    distinct += _distinct(
        tiling, groups, [*before, tiling.rows(active, tiling.token)], in_all=len(active)
    )
    tenth_of = np.full(len(tiling.first), -1)
    tenth_of[ranked] = np.repeat(np.arange(TENTHS), [len(tenth) for tenth in tenths])
    drawn = np.concatenate([group.tiles for group in distinct[1:]])
    # a tenth of activation, or one of two silent kinds
    kind_of = np.where(tenth_of >= 0, tenth_of, TENTHS + holds)
    top = np.zeros(len(distinct[0].tiles))  # was not drawn and stands for nothing
    stands_for = np.concatenate([top, _stands_for(kind_of, drawn, tenth_of >= 0)])
    return _gather(tiling, distinct, tenth_of, stands_for, rows, values)


class _Draw(NamedTuple):
    role: str
    stratum: str
    tiles: Int[np.ndarray, " window"]
    wanted: int


def _distinct(
    tiling: Tiling, groups: list[_Draw], before: list[np.ndarray], in_all: int | None = None
) -> list[_Draw]:
    """The first windows of each group, as many as wanted, none a near-duplicate of one kept before
    it."""
    candidates = np.concatenate([group.tiles for group in groups])
    tokens = np.concatenate([*before, tiling.rows(candidates, tiling.token)])
    similar = _similar(tokens, tiling.config.near_duplicate)
    accepted = np.zeros(len(tokens), bool)
    accepted[: len(tokens) - len(candidates)] = True
    number, n_accepted, distinct = len(tokens) - len(candidates), 0, []
    for group in groups:
        good: list[int] = []
        for tile in group.tiles.tolist():
            if (
                len(good) < group.wanted
                and n_accepted != in_all
                and not similar[number][accepted].any()
            ):
                accepted[number] = True
                n_accepted += 1
                good.append(tile)
            number += 1
        distinct.append(group._replace(tiles=np.array(good, dtype=np.int64)))
    return distinct


def _gather(
    tiling: Tiling,
    distinct: list[_Draw],
    tenth_of: Int[np.ndarray, " window"],
    stands_for: Float[np.ndarray, " chosen"],
    rows: Int[np.ndarray, " active"],
    values: Float[np.ndarray, " active"],
) -> Windows:
    tiles = np.concatenate([group.tiles for group in distinct])
    sizes = [len(group.tiles) for group in distinct]
    role = np.repeat([group.role for group in distinct], sizes)
    stratum = np.repeat([group.stratum for group in distinct], sizes)
    activations = np.zeros((len(tiles), tiling.config.width), dtype=np.float32)
    place = np.full(len(tiling.first), -1)
    place[tiles] = np.arange(len(tiles))
    window = place[tiling.tile_of[rows]]
    here = window >= 0
    activations[window[here], rows[here] - tiling.first[tiles][window[here]]] = values[here]
    silent = role == "silent"
    assert not activations[silent].any(), "a silent window is silent"
    assert (activations[~silent].max(1, initial=0) > 0).all(), "an active window is active"
    texts = Texts(tiling.rows(tiles, tiling.token), tiling.vocabulary)
    where = (tiling.document[tiles], tiling.start[tiles])
    return Windows(texts, activations, *where, role, tenth_of[tiles], stratum, stands_for)


def _stands_for(
    kind_of: Int[np.ndarray, " window"],
    chosen: Int[np.ndarray, " chosen"],
    active: Bool[np.ndarray, " window"],
) -> Float[np.ndarray, " chosen"]:
    """How many windows of the split each chosen one stands for.

    All windows of a kind share the windows of that kind; a kind without a chosen window is stood
    for by the others of its class (active or silent), so that together they are all windows of the
    split.
    """
    there, drawn = (
        np.bincount(kind_of, minlength=TENTHS + 2),
        np.bincount(kind_of[chosen], minlength=TENTHS + 2),
    )
    weights = (there / np.maximum(drawn, 1))[kind_of[chosen]]
    for of_class in (active, ~active):
        mine = of_class[chosen]
        weights[mine] *= of_class.sum() / max(weights[mine].sum(), 1)
    return weights


def _draw(
    weights: Float[np.ndarray, " window"], n: int, generator: np.random.Generator
) -> Int[np.ndarray, " drawn"]:
    n = min(n, int((weights > 0).sum()))
    return (
        generator.choice(len(weights), n, replace=False, p=weights / weights.sum())
        if n
        else np.zeros(0, np.int64)
    )


def _similar(
    tokens: Int[np.ndarray, "window token"], threshold: float
) -> Bool[np.ndarray, "window window"]:
    """Which windows share more than `threshold` of their three-token sequences (Jaccard)."""
    base = int(tokens.max(initial=0)) + 2
    keys = ((tokens[:, :-2] + 1) * base + tokens[:, 1:-1] + 1) * base + tokens[:, 2:] + 1
    window, at = np.nonzero(tokens[:, 2:] >= 0)
    _, column = np.unique(keys[window, at], return_inverse=True)
    shape = (len(tokens), int(column.max(initial=0)) + 1)
    has = scipy.sparse.csr_matrix((np.ones(len(window), np.float32), (window, column)), shape=shape)
    has.data[:] = 1  # a sequence that comes twice counts once
    common = (has @ has.T).toarray()
    size = common.diagonal()
    return common > threshold * (size[:, None] + size - common)
