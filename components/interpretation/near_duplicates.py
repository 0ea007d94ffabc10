"""Windows of text that are nearly the same: more than a part of their three-token sequences are
shared (Jaccard).

Most windows have no near-duplicate, so most are told apart without comparing pairs: two windows
that share enough sequences share at least one of the rarest few of each, in any order of rarity
that is the same for all. Only windows that meet there are compared exactly.

Source: prefix filtering, Chaudhuri, Ganti & Kaushik (2006), ICDE; Bayardo, Ma & Srikant (2007),
WWW, section 3. Deviation: sequences are told apart by a hash of 32 bits, which can only add pairs
to the exact comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int, Int64, UInt32

BUCKETS = 20
"""Bits of the hash by which sequences are counted: 4 MiB of counts, whatever the text."""
DENSE = 1 << 19
"""Windows times sequences up to which a dense product is the faster one."""
AT_ONCE = 1 << 14
"""Windows that are hashed at a time."""
NONE = np.uint32(0xFFFFFFFF)
"""Where there is no sequence."""


def sequences(tokens: Int[np.ndarray, "window token"]) -> UInt32[np.ndarray, "window sequence"]:
    """A hash of each three tokens that follow one another; a value that no sequence has where a
    window is shorter."""
    if tokens.shape[1] < 3:
        return np.full((len(tokens), 1), NONE)
    ids = tokens.astype(np.uint64)
    mixed = ids[:, :-2] * np.uint64(0x9E3779B97F4A7C15) + ids[:, 1:-1]
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9) + ids[:, 2:]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed = (mixed >> np.uint64(32)).astype(np.uint32)
    return np.where(tokens[:, 2:] >= 0, np.minimum(hashed, NONE - np.uint32(1)), NONE)


def count(hashed: UInt32[np.ndarray, "window sequence"]) -> Int64[np.ndarray, " bucket"]:
    """How often sequences of each bucket come."""
    there = hashed[hashed != NONE] >> np.uint32(32 - BUCKETS)
    return np.bincount(there, minlength=1 << BUCKETS)


def rarest(
    hashed: UInt32[np.ndarray, "window sequence"],
    counts: Int64[np.ndarray, " bucket"],
    threshold: float,
) -> UInt32[np.ndarray, "window rare"]:
    """The rarest sequences of each window, as many as two near-duplicates cannot avoid to share
    one of.

    Args:
        hashed: of `sequences`.
        counts: of `count`, over every window that may be compared.
        threshold: the part that near-duplicates share.
    """
    often = np.minimum(counts[hashed >> np.uint32(32 - BUCKETS)], NONE - 1).astype(np.uint64)
    keys = np.sort(np.where(hashed == NONE, ~np.uint64(0), often << np.uint64(32) | hashed), 1)
    keys[:, 1:][keys[:, 1:] == keys[:, :-1]] = ~np.uint64(0)  # one that comes twice counts once
    keys.sort(1)
    n = (keys != ~np.uint64(0)).sum(1)
    needed = n - np.floor(threshold * n).astype(np.int64)
    rare = keys[:, : max(1, int(needed.max(initial=0)))].astype(np.uint32)
    return np.where(np.arange(rare.shape[1]) < needed[:, None], rare, NONE)


def stacked(
    parts: Sequence[UInt32[np.ndarray, "_ _"]],
) -> UInt32[np.ndarray, "window rare"]:
    """The rarest sequences of several sets of windows below one another."""
    width = max(part.shape[1] for part in parts)
    below = np.full((sum(map(len, parts)), width), NONE)
    start = 0
    for part in parts:
        below[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return below


def meeting(rare: UInt32[np.ndarray, "window rare"]) -> Bool[np.ndarray, " window"]:
    """Which windows share a rare sequence with another: only these can be near-duplicates."""
    ordered = np.sort(rare, axis=None)
    ordered = ordered[: np.searchsorted(ordered, NONE)]
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(shared):
        return np.zeros(len(rare), bool)
    at = np.minimum(np.searchsorted(shared, rare), len(shared) - 1)
    return (shared[at] == rare).any(1)


def similar(
    tokens: Int[np.ndarray, "window token"], threshold: float
) -> Bool[np.ndarray, "window window"]:
    """Which windows share more than `threshold` of their three-token sequences (Jaccard)."""
    base = int(tokens.max(initial=0)) + 2
    keys = ((tokens[:, :-2] + 1) * base + tokens[:, 1:-1] + 1) * base + tokens[:, 2:] + 1
    window, at = np.nonzero(tokens[:, 2:] >= 0)
    distinct, column = np.unique(keys[window, at], return_inverse=True)
    shape = (len(tokens), max(1, len(distinct)))
    if shape[0] * shape[1] <= DENSE:
        has = np.zeros(shape, np.float32)
        has[window, column] = 1
        common = has @ has.T
    else:
        ones = np.ones(len(window), np.float32)
        sparse = scipy.sparse.csr_matrix((ones, (window, column)), shape=shape)
        sparse.data[:] = 1  # a sequence that comes twice counts once
        common = (sparse @ sparse.T).toarray()
    size = common.diagonal()
    return common > threshold * (size[:, None] + size - common)
