"""A split cut once into windows that never cross a document and serve as active or silent for any
latent.

So both classes have one distribution of position, and silence is known, not hoped for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator

from components.config import Config
from components.errors import InputError
from components.interpretation.sample import TENTHS
from components.interpretation.windows import Vocabulary


class ContextsConfig(Config):
    """Which windows stand for a latent."""

    width: int = Field(default=32, ge=4, le=512)
    """Tokens of a window, at most."""
    shortest: int = Field(default=24, ge=2)
    """Tokens of a window, at least; what is left of a document and shorter is not used."""
    top: int = Field(default=20, ge=0)
    """Windows of the explain split with the highest activation."""
    per_tenth: PositiveInt = 5
    """Windows drawn from each tenth of the active windows, ordered by activation, of the explain
    and test splits."""
    calibrate_per_tenth: PositiveInt = 2
    """The same for the calibrate split."""
    fewest: PositiveInt = 10
    """A latent with fewer active or fewer silent windows on the explain or the test split is
    skipped and counted."""
    near_duplicate: float = Field(default=0.5, gt=0, le=1)
    """Of two windows that share more than this part of their three-token sequences, one is
    dropped."""
    rows: PositiveInt = 1_000_000
    """Tokens of each split that are read, at most: bounds memory."""

    @model_validator(mode="after")
    def _fits(self) -> ContextsConfig:
        if self.shortest > self.width:
            raise ValueError(f"shortest ({self.shortest}) is more than width ({self.width})")
        if self.fewest > TENTHS * self.per_tenth:
            most = f"the {TENTHS * self.per_tenth} windows that ten tenths of per_tenth ({self.per_tenth}) can give"
            raise ValueError(
                f"fewest ({self.fewest}) is more than {most}; every latent would be skipped"
            )
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class Tiling:
    """One split cut into windows: runs of consecutive rows inside one document of one context.

    Attributes:
        config: how it was cut, and how many windows are drawn from it.
        vocabulary: text of tokens.
        token: token id of each row.
        first: first row of each window.
        length: its number of tokens.
        tile_of: the window of each row, or -1.
        document: of each window.
        start: position in the document of its first token.
    """

    config: ContextsConfig
    vocabulary: Vocabulary
    token: Int[np.ndarray, " row"]
    first: Int[np.ndarray, " window"]
    length: Int[np.ndarray, " window"]
    tile_of: Int[np.ndarray, " row"]
    document: Int[np.ndarray, " window"]
    start: Int[np.ndarray, " window"]

    @classmethod
    def cut(
        cls,
        provenance: Mapping[str, object],
        vocabulary: Vocabulary,
        split: str,
        config: ContextsConfig,
    ) -> Tiling:
        """Each run of text into windows of nearly equal length, between `shortest` and `width`."""
        columns = {name: np.asarray(column)[: config.rows] for name, column in provenance.items()}
        token, document, position, context, offset = (
            columns[name].astype(np.int64)
            for name in ("token", "document", "position", "context", "offset")
        )
        joined = (
            (np.diff(document) == 0)
            & (np.diff(context) == 0)
            & (np.diff(offset) == 1)
            & (np.diff(position) == 1)
        )
        begin = np.flatnonzero(np.append(True, ~joined)) if len(token) else np.zeros(0, np.int64)
        size = np.diff(np.append(begin, len(token)))
        whole = -(-size // config.width)
        fits = size // config.shortest >= whole
        n = np.where(fits, whole, size // config.width)
        if not n.sum():
            raise InputError(
                f"interpret: the {split} split ({len(token)} tokens) has no run of "
                f"{config.shortest} tokens inside one document; lower interpret.contexts.shortest "
                "(and width), or read more text into that split"
            )
        used = np.where(fits, size, n * config.width)
        run = np.repeat(np.arange(len(begin)), n)
        number = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        first = begin[run] + number * used[run] // n[run]
        length = begin[run] + (number + 1) * used[run] // n[run] - first
        tile = np.repeat(np.arange(len(first)), length)
        tile_of = np.full(len(token), -1)
        tile_of[first[tile] + np.arange(len(tile)) - (np.cumsum(length) - length)[tile]] = tile
        return cls(
            config, vocabulary, token, first, length, tile_of, document[first], position[first]
        )

    def holding(self, word: int) -> Bool[np.ndarray, " window"]:
        """Which windows hold a word."""
        rows, words = self._by_word
        tiles = self.tile_of[rows[slice(*np.searchsorted(words, [word, word + 1]))]]
        holds = np.zeros(len(self.first), bool)
        holds[tiles[tiles >= 0]] = True
        return holds

    def silence(
        self, active: Int[np.ndarray, " active"], lengths: Int[np.ndarray, " chosen"]
    ) -> Float[np.ndarray, " window"]:
        """Chances to draw each silent window, such that lengths are distributed as among the chosen
        active ones."""
        silent = np.ones(len(self.first), bool)
        silent[active] = False
        longest = self.config.width + 1
        there = np.bincount(self.length[silent], minlength=longest)
        return (
            silent * (np.bincount(lengths, minlength=longest) / np.maximum(there, 1))[self.length]
        )

    def rows(
        self, tiles: Int[np.ndarray, " chosen"], column: Int[np.ndarray, " row"]
    ) -> Int[np.ndarray, "chosen width"]:
        """A column of rows as [window, token], -1 beyond the end of a window."""
        width = np.arange(self.config.width)
        at = np.minimum(self.first[tiles][:, None] + width, len(column) - 1)
        return np.where(width < self.length[tiles][:, None], column[at], -1)

    @functools.cached_property
    def _by_word(self) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """Rows in the order of their words, and these words."""
        words = self.vocabulary.word_of[self.token]
        order = np.argsort(words, kind="stable")
        return order, words[order]
