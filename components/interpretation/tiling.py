"""A split cut once into windows that never cross a document and serve as active or silent for any
latent.

So both classes have one distribution of position, and silence is known, not hoped for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from components.config import Config
from components.errors import InputError
from components.interpretation.sample import TENTHS
from components.interpretation.windows import SILENT, Texts, Vocabulary


class ContextsConfig(Config):
    """Which windows stand for a latent."""

    width: int = Field(default=32, ge=4, le=512)
    """Tokens of a window, at most."""
    shortest: int = Field(default=24, ge=2)
    """Tokens of a window, at least; what is left of a document and shorter is not used."""
    top: NonNegativeInt = 20
    """Windows of the explain split with the highest activation."""
    weighted: NonNegativeInt = 0
    """Windows of the explain split drawn with chances in proportion to the square of their largest
    activation, as SAEBench has them."""
    per_tenth: PositiveInt = 5
    """Windows drawn from each tenth of the active windows, ordered by activation, of the explain
    and test splits."""
    calibrate_per_tenth: PositiveInt = 2
    """The same for the calibrate split."""
    per_stratum: PositiveInt = 25
    """Silent windows of each kind (random, same_token, neighbour, near) of the explain and test
    splits."""
    calibrate_per_stratum: PositiveInt = 10
    """The same for the calibrate split."""
    pool: NonNegativeInt = 2000
    """Windows of the test split, drawn once and for every latent, on which precision at natural
    density is measured; all of them where there are fewer, 0 for none."""
    fewest: PositiveInt = 10
    """A latent with fewer active or fewer silent windows on the explain or the test split is
    skipped and counted."""
    near_duplicate: float = Field(default=0.5, gt=0, le=1)
    """Of two windows that share more than this part of their three-token sequences, one is
    dropped."""
    rows: PositiveInt = 10_000_000
    """Tokens of each split that are read, at most; each holds 8 bytes of memory."""

    @property
    def windows(self) -> int:
        """Windows of one latent in the test split, at most: active ones, and silent ones of each
        kind."""
        return TENTHS * self.per_tenth + len(SILENT) * self.per_stratum

    @property
    def explain_windows(self) -> int:
        """The same in the explain split."""
        return self.top + self.weighted + self.windows

    @model_validator(mode="after")
    def _fits(self) -> ContextsConfig:
        if self.shortest > self.width:
            raise ValueError(f"shortest ({self.shortest}) is more than width ({self.width})")
        if self.fewest > TENTHS * self.per_tenth:
            most = (
                f"the {TENTHS * self.per_tenth} windows that ten tenths of per_tenth "
                f"({self.per_tenth}) can give"
            )
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
        # what has a row for each token stays in four bytes
        columns = {
            name: np.asarray(column)[: config.rows].astype(np.int32, copy=False)
            for name, column in provenance.items()
        }
        token, document, position = (columns[name] for name in ("token", "document", "position"))
        joined = (np.diff(document) == 0) & (np.diff(position) == 1)
        joined &= (np.diff(columns["context"]) == 0) & (np.diff(columns["offset"]) == 1)
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
        tile_of = np.full(len(token), -1, np.int32)
        tile = np.repeat(np.arange(len(first), dtype=np.int32), length)
        tile_of[inside(first, length)] = tile
        return cls(
            config, vocabulary, token, first, length, tile_of, document[first], position[first]
        )

    def __len__(self) -> int:
        return len(self.first)

    def tokens(self, tiles: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, "chosen width"]:
        """Token ids as [window, token], -1 beyond the end of a window."""
        width = np.arange(self.config.width)
        at = np.minimum(self.first[tiles][:, None] + width, len(self.token) - 1)
        here = width < self.length[tiles][:, None]
        return np.where(here, self.token[at].astype(np.int64), -1)

    def texts(self, tiles: Int[np.ndarray, " chosen"]) -> Texts:
        """The windows as a reader sees them."""
        return Texts(self.tokens(tiles), self.vocabulary)

    def rows(self, tiles: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " row"]:
        """The rows of some windows, one window after the other."""
        return inside(self.first[tiles], self.length[tiles])


def inside(
    first: Int[np.ndarray, " window"], length: Int[np.ndarray, " window"]
) -> Int[np.ndarray, " row"]:
    """The numbers from each first one on, as many as each length says."""
    return np.arange(length.sum()) + np.repeat(first - (np.cumsum(length) - length), length)


def distinct(numbers: Int[np.ndarray, " any"]) -> Int[np.ndarray, " distinct"]:
    """The distinct ones in rising order; of some hundred numbers this is several times as fast as
    numpy's own function, which hashes."""
    ordered = np.sort(numbers)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
