"""The windows of a split among which silent ones are sought, and the shared pool.

Active windows come from all of a split. Silent ones are plenty, so they are sought among windows
that were drawn once, unselected: at most `SEARCHED` of them, whatever the split holds. In these
every latent's activity is known exactly, which bounds memory, and nothing has to be verified
afterwards.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from jaxtyping import Float, Int, UInt32

from components.interpretation import near_duplicates
from components.interpretation.tiling import Tiling
from components.interpretation.windows import Texts
from components.store.shards import ActivationShards

SEARCHED = 1 << 15
"""Windows among which silent ones are sought, at most: a million tokens."""
AT_ONCE = 2048
"""Windows whose activations are read at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Searched:
    """A split as windows, those among which silent ones are sought, and the pool.

    Attributes:
        split: its name.
        tiling: all windows.
        rarest: of each window the sequences that near-duplicates of it share with it.
        tiles: the windows that are searched, ascending.
        pool: of these, by their place in `tiles`, those of the pool, ascending.
        activations: where the activations of the split are.
        remembered: mean activation vectors that a pass over the running model left, by hook point.
    """

    split: str
    tiling: Tiling
    rarest: UInt32[np.ndarray, "window rare"]
    tiles: Int[np.ndarray, " searched"]
    pool: Int[np.ndarray, " pool"]
    activations: ActivationShards
    remembered: dict[str, Float[np.ndarray, "searched d_in"]] = dataclasses.field(
        default_factory=dict
    )

    @classmethod
    def of(
        cls,
        split: str,
        tiling: Tiling,
        rarest: UInt32[np.ndarray, "window rare"],
        activations: ActivationShards,
        generator: np.random.Generator,
    ) -> Searched:
        """Draws the windows; the pool is part of them, without any choice."""
        drawn = generator.permutation(len(tiling))[:SEARCHED]
        tiles = np.sort(drawn)
        pool = np.sort(np.searchsorted(tiles, drawn[: tiling.config.pool]))
        return cls(split, tiling, rarest, tiles, pool, activations)

    @functools.cached_property
    def place_of(self) -> Int[np.ndarray, " window"]:
        """The place of each window among those that are searched; -1 of the others."""
        place = np.full(len(self.tiling), -1, np.int32)
        place[self.tiles] = np.arange(len(self.tiles))
        return place

    @functools.cached_property
    def length(self) -> Int[np.ndarray, " searched"]:
        """Tokens of each window that is searched."""
        return self.tiling.length[self.tiles]

    @functools.cached_property
    def by_length(self) -> tuple[Int[np.ndarray, " searched"], Int[np.ndarray, " length_and_one"]]:
        """Places ordered by the length of the windows, and where each length begins."""
        order = np.argsort(self.length, kind="stable")
        lengths = np.arange(self.tiling.config.width + 2)
        return order, np.searchsorted(self.length[order], lengths)

    @functools.cached_property
    def shared(self) -> Texts:
        """The pool as a reader sees it: one object for every latent, so that what a reader makes
        of it once can be remembered."""
        return self.tiling.texts(self.tiles[self.pool])

    def holding(self, word: int) -> Int[np.ndarray, " holding"]:
        """Places of the windows that hold a word, ascending."""
        places, bounds = self._by_word
        if not 0 <= word < len(bounds) - 1:
            return places[:0]
        return places[bounds[word] : bounds[word + 1]]

    def means(self, hook_point: str) -> Float[np.ndarray, "searched d_in"] | None:
        """The mean activation vector of each window; None where that hook point was not
        captured."""
        if hook_point in self.remembered:
            return self.remembered[hook_point]
        if hook_point not in self.activations.hook_points:
            return None
        parts = []
        for start in range(0, len(self.tiles), AT_ONCE):
            tiles = self.tiles[start : start + AT_ONCE]
            length = torch.from_numpy(self.tiling.length[tiles])
            rows = torch.from_numpy(self.tiling.rows(tiles))
            x = self.activations.rows(self.split, hook_point, rows).float()
            window = torch.repeat_interleave(length)
            sums = torch.zeros(len(tiles), x.shape[1]).index_add_(0, window, x)
            parts.append((sums / length[:, None]).numpy())
        return np.concatenate(parts)

    @functools.cached_property
    def _by_word(self) -> tuple[Int[np.ndarray, " word_in_window"], Int[np.ndarray, " bounds"]]:
        """Places in the order of the words that their windows hold, and where each word begins."""
        rows = self.tiling.rows(self.tiles)
        words = self.tiling.vocabulary.word_of[self.tiling.token[rows]]
        place = np.repeat(np.arange(len(self.tiles)), self.length)
        keys = np.unique(words * len(self.tiles) + place)
        bounds = np.searchsorted(keys, np.arange(words.max() + 2) * len(self.tiles))
        return (keys % len(self.tiles)).astype(np.int32), bounds


def search(
    cut: dict[str, Tiling],
    activations: ActivationShards,
    generators: dict[str, np.random.Generator],
) -> dict[str, Searched]:
    """The splits with what is searched in each; near-duplicates are found across all of them."""
    config = next(iter(cut.values())).config
    parts = {
        split: [
            np.arange(start, min(len(tiling), start + near_duplicates.AT_ONCE))
            for start in range(0, len(tiling), near_duplicates.AT_ONCE)
        ]
        for split, tiling in cut.items()
    }
    counts = np.zeros(1 << near_duplicates.BUCKETS, np.int64)
    for split, tiling in cut.items():
        for tiles in parts[split]:
            counts += near_duplicates.count(near_duplicates.sequences(tiling.tokens(tiles)))
    searched = {}
    for split, tiling in cut.items():
        rare = [
            near_duplicates.rarest(
                near_duplicates.sequences(tiling.tokens(tiles)), counts, config.near_duplicate
            )
            for tiles in parts[split]
        ]
        rarest = near_duplicates.stacked(rare)
        searched[split] = Searched.of(split, tiling, rarest, activations, generators[split])
    return searched
