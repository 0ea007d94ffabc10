"""What stands at, before and earlier than each token of a window, as integer keys: the features of
offline methods.

A key names a condition on a token, of one of five shapes; `incidences` lists for a shape every
(token, condition) that holds. Counting, probing and choosing words all start from these lists, so
none of them loops over tokens.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from components.interpretation.phrase import Term
from components.interpretation.windows import Texts

Shape = Literal["word", "left", "pair", "near", "word_near"]
BASE = 2**31
"""More than there are words: the number of a pair of words is the same whichever words the
vocabulary has met by then."""
SHAPES: tuple[Shape, ...] = ("word", "left", "pair", "near", "word_near")


LARGEST_TABLE = 1 << 21
"""Entries of a table of pairs, at most; what is more is sorted."""


class Incidences(NamedTuple):
    """Which conditions hold where.

    Attributes:
        token: number of the token, counting windows row by row, padding included.
        key: number of the condition, unique within its shape.
    """

    token: Int[np.ndarray, " incidence"]
    key: Int[np.ndarray, " incidence"]


def incidences(texts: Texts, shape: Shape) -> Incidences:
    """Every (token, condition) of one shape that holds in these windows."""
    words, left = texts.words, texts.left
    if shape in ("word", "left", "pair"):
        key = {"word": words, "left": left, "pair": left * BASE + words}[shape]
        token = np.flatnonzero((words >= 0) & ((left >= 0) | (shape == "word")))
        return Incidences(token, key.ravel()[token])
    window, at, earlier = _earlier(words, strictly=shape == "word_near")
    key = (
        words[window, earlier]
        if shape == "near"
        else words[window, at] * BASE + words[window, earlier]
    )
    return Incidences(window * words.shape[1] + at, key)


def numbered(
    key: Int[np.ndarray, " incidence"], shape: Shape, texts: Texts
) -> tuple[Int[np.ndarray, " condition"], Int[np.ndarray, " incidence"]]:
    """The distinct conditions, ascending, and the number of each incidence's: np.unique, without
    sorting a long list."""
    n = len(texts.vocabulary.words)
    if shape in ("word", "left", "near"):
        return _tabled(key, n)
    first, second = np.divmod(key, BASE)
    firsts, a = _tabled(first, n)
    seconds, b = _tabled(second, n)
    if len(firsts) * len(seconds) > LARGEST_TABLE:
        return np.unique(key, return_inverse=True)
    pairs, of = _tabled(a * len(seconds) + b, len(firsts) * len(seconds))
    return (
        firsts[pairs // len(seconds)] * BASE + seconds[pairs % len(seconds)]
        if len(pairs)
        else pairs
    ), of


def _tabled(
    key: Int[np.ndarray, " incidence"], size: int
) -> tuple[Int[np.ndarray, " condition"], Int[np.ndarray, " incidence"]]:
    there = np.zeros(size, bool)
    there[key] = True
    met = np.flatnonzero(there)
    # unset where nothing is met: a table of millions is not filled for thousands
    number = np.empty(size, np.int64)
    number[met] = np.arange(len(met))
    return met, number[key]


def term(key: int, shape: Shape, texts: Texts) -> Term:
    """The condition as words."""
    names = texts.vocabulary.words
    first, second = divmod(key, BASE)
    match shape:
        case "word":
            return Term(word=names[key])
        case "left":
            return Term(left=names[key])
        case "near":
            return Term(near=names[key])
        case "pair":
            return Term(word=names[second], left=names[first])
        case "word_near":
            return Term(word=names[first], near=names[second])


def first_occurrences(words: Int[np.ndarray, "window token"]) -> Bool[np.ndarray, "window token"]:
    """Where a word stands that the window has not held before; nowhere in padding."""
    order = np.argsort(words, axis=1, kind="stable")
    ranked = np.take_along_axis(words, order, 1)
    fresh = np.ones(words.shape, bool)
    fresh[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    first = np.zeros(words.shape, bool)
    np.put_along_axis(first, order, fresh, 1)
    return first & (words >= 0)


def _earlier(
    words: Int[np.ndarray, "window token"], strictly: bool
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """(window, token, first occurrence of a word at or before it): each distinct earlier word
    once."""
    at, earlier = np.tril_indices(words.shape[1], -1 if strictly else 0)
    window, pair = np.nonzero(first_occurrences(words)[:, earlier] & (words >= 0)[:, at])
    return window, at[pair], earlier[pair]
