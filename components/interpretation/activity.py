"""What one pass over the codes of a split leaves of each latent: enough to draw its windows from.

Of every latent a fixed number of active windows stays, whatever the text: the strongest, a uniform
sample, and a sample with chances in proportion to the square of the largest activation. Of the
windows that are searched for silent ones (components/interpretation/searched.py) all activity
stays. So memory grows with the latents that are watched, not with the text.

Samples are drawn by giving each window of each latent a random number that is a hash of both, and
keeping the smallest: neither the order of the shards nor the other latents change them.

Source: weighted sampling in one pass, Efraimidis & Spirakis (2006), Information Processing Letters
97, 181-185.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.sparse
from jaxtyping import Float32, Int, Int32, Int64, UInt32, UInt64

from components.interpretation.directions import DirectionCodes
from components.interpretation.sample import TENTHS
from components.interpretation.searched import Searched
from components.interpretation.tiling import ContextsConfig, Tiling
from components.store.shards import Codes, CodeShards

KEPT = 256
"""Windows of the uniform sample of each latent, at least: tenths are those of the sample where a
latent is active in more."""
PENDING = 1 << 21
"""Windows that wait until they are sorted in."""


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Some active windows of each watched latent, in the order of their priority.

    Attributes:
        offsets: latent number n has entries offsets[n] to offsets[n + 1].
        row: where in each window the activation is largest; it says which window it is.
        value: that activation.
    """

    offsets: Int64[np.ndarray, " latents_and_one"]
    row: Int32[np.ndarray, " entry"]
    value: Float32[np.ndarray, " entry"]

    def of(self, number: int) -> tuple[Int32[np.ndarray, " kept"], Float32[np.ndarray, " kept"]]:
        """Rows and activations of one latent."""
        entries = slice(self.offsets[number], self.offsets[number + 1])
        return self.row[entries], self.value[entries]


@dataclasses.dataclass(frozen=True, eq=False)
class Activity:
    """What is known of the watched latents on one split, by their number.

    Attributes:
        n_active: windows of the split in which each is active.
        strongest: its windows with the largest activations, the largest first.
        sample: a uniform sample of its windows.
        weighted: a sample with chances in proportion to the square of the largest activation.
        offsets: latent number n has the entries offsets[n] to offsets[n + 1] of `place`.
        place: of the searched windows in which it is active, ascending.
    """

    n_active: Int64[np.ndarray, " latent"]
    strongest: Kept
    sample: Kept
    weighted: Kept
    offsets: Int64[np.ndarray, " latents_and_one"]
    place: Int32[np.ndarray, " entry"]

    def places(self, number: int) -> Int32[np.ndarray, " active"]:
        """The searched windows in which a latent is active."""
        return self.place[self.offsets[number] : self.offsets[number + 1]]


class Smallest:
    """Of each latent the n entries with the smallest priority, in whatever order they come.

    Args:
        n_latents: how many latents there are.
        n: entries of each that stay.
    """

    def __init__(self, n_latents: int, n: int) -> None:
        self._n_latents, self._n = n_latents, n
        self._limit = np.full(n_latents, np.iinfo(np.uint32).max, np.uint32)
        self._pending: list[tuple[np.ndarray, ...]] = []
        self._waiting = 0
        self._keys = np.zeros(0, np.uint64)
        self._row, self._value = np.zeros(0, np.int32), np.zeros(0, np.float32)

    def add(
        self,
        latent: Int[np.ndarray, " entry"],
        priority: UInt32[np.ndarray, " entry"],
        row: Int[np.ndarray, " entry"],
        value: Float32[np.ndarray, " entry"],
    ) -> None:
        """Entries in the order of their rows; of equal priority the first stays."""
        if not self._n:
            return
        enters = np.flatnonzero(priority < self._limit[latent])
        keys = latent[enters].astype(np.uint64) << np.uint64(32) | priority[enters]
        self._pending.append((keys, row[enters].astype(np.int32), value[enters]))
        self._waiting += len(enters)
        if self._waiting > PENDING:
            self._merge()

    def kept(self) -> Kept:
        """What stayed."""
        self._merge()
        bounds = np.arange(self._n_latents + 1, dtype=np.uint64) << np.uint64(32)
        return Kept(np.searchsorted(self._keys, bounds), self._row, self._value)

    def _merge(self) -> None:
        columns = zip((self._keys, self._row, self._value), *self._pending, strict=True)
        keys, row, value = (np.concatenate(column) for column in columns)
        order = np.argsort(keys, kind="stable")
        latent = (keys[order] >> np.uint64(32)).astype(np.int64)
        first = np.searchsorted(latent, np.arange(self._n_latents + 1))
        stays = np.arange(len(latent)) - first[latent] < self._n
        order = order[stays]
        self._keys, self._row, self._value = keys[order], row[order], value[order]
        self._pending, self._waiting = [], 0
        full = np.flatnonzero(np.diff(first) >= max(1, self._n))
        last = np.searchsorted(latent[stays], full, side="right") - 1
        self._limit[full] = self._keys[last].astype(np.uint32)


def read(
    codes: CodeShards | DirectionCodes,
    searched: Searched,
    latents: Int[np.ndarray, " latent"],
    salt: int,
) -> Activity:
    """One pass over the codes of a split.

    Args:
        codes: of the dictionary.
        searched: the split.
        latents: the watched latents; they are called by their number in this list.
        salt: makes the samples.
    """
    tiling, n = searched.tiling, len(latents)
    number_of = np.full(codes.d_sae, -1, np.int32)
    number_of[latents] = np.arange(n)
    n_active, two_bytes = np.zeros(n, np.int64), np.min_scalar_type(len(searched.tiles))
    strongest, sample, weighted = (Smallest(n, size) for size in _sizes(tiling.config, searched))
    parts: list[tuple[np.ndarray, np.ndarray]] = []  # of each block: entries of a latent, places
    for block, base in _blocks(codes, searched.split, tiling):
        number, row, value = _largest(block, base, tiling, number_of, n)
        n_active += np.bincount(number, minlength=n)
        tile = tiling.tile_of[row]
        random = random_of(latents[number], tile, salt)
        strongest.add(number, ~value.view(np.uint32), row, value)
        sample.add(number, random, row, value)
        weighted.add(number, race(random, value), row, value)
        place = searched.place_of[tile]
        there = place >= 0
        counts = np.bincount(number[there], minlength=n).astype(np.int32)
        parts.append((counts, place[there].astype(two_bytes)))
    kept = strongest.kept(), sample.kept(), weighted.kept()
    return Activity(n_active, *kept, *_by_latent(parts, n))


def _by_latent(
    parts: list[tuple[np.ndarray, np.ndarray]], n: int
) -> tuple[Int64[np.ndarray, " latents_and_one"], Int32[np.ndarray, " entry"]]:
    """Where the places of each of n latents begin, and the places. The parts are taken away one by
    one, so that both are never there as a whole."""
    offsets = np.zeros(n + 1, np.int64)
    for counts, _ in parts:
        offsets[1:] += counts
    np.cumsum(offsets, out=offsets)
    next_of, places = offsets[:-1].copy(), np.empty(offsets[-1], np.int32)
    while parts:
        counts, place = parts.pop(0)
        first = np.cumsum(counts) - counts
        places[np.repeat(next_of - first, counts) + np.arange(len(place))] = place
        next_of += counts
    return offsets, places


def race(
    random: UInt32[np.ndarray, " entry"], value: Float32[np.ndarray, " entry"]
) -> UInt32[np.ndarray, " entry"]:
    """Priorities whose smallest are a draw with chances in proportion to the square of the value:
    exponential numbers over weights, as their bits, which order positive numbers."""
    exponential = -np.log((random.astype(np.float64) + 1) / 2**32)
    weighed = exponential / value.astype(np.float64) ** 2
    return np.minimum(weighed, np.finfo(np.float32).max).astype(np.float32).view(np.uint32)


def _sizes(config: ContextsConfig, searched: Searched) -> tuple[int, int, int]:
    """Windows kept of each latent: the strongest, the uniform sample, the weighted sample; twice
    as many as are shown, because near-duplicates go."""
    of_explain = searched.split == "explain"
    per_tenth = config.calibrate_per_tenth if searched.split == "calibrate" else config.per_tenth
    top, weighted = (config.top, config.weighted) if of_explain else (0, 0)
    return 2 * top, max(KEPT, 2 * TENTHS * per_tenth + top), 2 * weighted


def _blocks(
    codes: CodeShards | DirectionCodes, split: str, tiling: Tiling
) -> Iterator[tuple[Codes, int]]:
    """The codes of a split as blocks of rows that end where windows end, and the first row of
    each."""
    base, n_rows = 0, len(tiling.tile_of)
    held: Codes | None = None
    for shard in codes.iterate(split):
        first = base + (held.n_rows if held is not None else 0)
        part = shard.rows(0, min(shard.n_rows, n_rows - first))
        block = part if held is None else Codes.cat([held, part])
        end = base + block.n_rows
        if end < n_rows and tiling.tile_of[end - 1] == tiling.tile_of[end] >= 0:
            end = int(tiling.first[tiling.tile_of[end]])  # the last window is not whole yet
        if end > base:
            yield block.rows(0, end - base), base
        held = block.rows(end - base, block.n_rows) if end - base < block.n_rows else None
        base = end
        if base == n_rows:
            return


def _largest(
    block: Codes, base: int, tiling: Tiling, number_of: Int[np.ndarray, " d_sae"], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, row and activation of each window's largest activation of each watched latent, by
    latent, then by window."""
    number, value = number_of[block.indices.numpy()], block.values.numpy()
    row = block.row_index().numpy()
    wanted = (number >= 0) & (value > 0) & (tiling.tile_of[row + base] >= 0)
    offsets = np.append(0, np.bincount(row[wanted], minlength=block.n_rows).cumsum())
    shape = (block.n_rows, n)
    matrix = scipy.sparse.csr_matrix((value[wanted], number[wanted], offsets), shape=shape)
    columns = matrix.tocsc()  # a counting sort
    if not columns.nnz:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    row, value = columns.indices.astype(np.int64) + base, columns.data
    number = np.repeat(np.arange(n), np.diff(columns.indptr))
    tile = tiling.tile_of[row]
    begins = np.append(True, (np.diff(tile) != 0) | (np.diff(number) != 0))
    first = np.flatnonzero(begins)
    largest = np.maximum.reduceat(value, first)
    segment = np.cumsum(begins) - 1
    hits = np.flatnonzero(value == largest[segment])[::-1]
    at = np.empty(len(first), np.int64)
    at[segment[hits]] = hits  # the first of equal ones is written last
    return number[first], row[at], largest


def random_of(
    latent: Int[np.ndarray, " entry"], tile: Int[np.ndarray, " entry"], salt: int
) -> UInt32[np.ndarray, " entry"]:
    """A random number for each latent and window (the finaliser of splitmix64)."""
    mixed: UInt64[np.ndarray, " entry"] = latent.astype(np.uint64) << np.uint64(32)
    mixed = (mixed | tile.astype(np.uint64)) + np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # one less than the most that there is: a limit that is not set yet lets all enter
    return np.minimum((mixed >> np.uint64(32)).astype(np.uint32), np.uint32(0xFFFFFFFE))
