"""Words of captured text as sequences of tokens: a word begins where a token carries a space, or
where the text before it ended in none of a word's letters.

A word may be several tokens; methods that deal with words deal with all of them.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float, Int

from components.corpus.encoding import Encoder
from components.spelling import PART, whole
from components.writing_systems import MARKS, UNSPACED

LONGEST = 8
"""Tokens of a word, at most; what is longer is no word but a string."""
_UNSPACED = re.compile(f"[{UNSPACED}]")


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """The words of some rows.

    Attributes:
        spelt: the token ids of each distinct word.
        texts: how each reads, without the space before it.
        word_of: the word of each row.
    """

    spelt: list[tuple[int, ...]]
    texts: list[str]
    word_of: Int[np.ndarray, " row"]

    @classmethod
    def of(
        cls, model: Any, token: Int[np.ndarray, " row"], document: Int[np.ndarray, " row"]
    ) -> Words:
        """Rows in the order of the text."""
        read = vocabulary(model)
        begins = begins_word(read, token)
        begins[1:] |= document[1:] != document[:-1]
        begins[:1] = True
        starts = np.flatnonzero(begins)
        ends = np.append(starts[1:], len(token))
        known: dict[tuple[int, ...], int] = {}
        numbers = np.empty(len(starts), np.int64)
        listed = token.tolist()
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            spelling = tuple(listed[start : min(end, start + LONGEST)])
            numbers[number] = known.setdefault(spelling, len(known))
        spelt = list(known)
        texts = [whole([read[t] for t in word if t < len(read)]).strip() for word in spelt]
        return cls(spelt, texts, np.repeat(numbers, ends - starts))

    @property
    def sayable(self) -> Bool[np.ndarray, " word"]:
        """Which of them hold a letter or a digit."""
        return np.array([any(c.isalnum() for c in text) for text in self.texts], bool)

    def sums(self, values: Float[np.ndarray, " row"]) -> Float[np.ndarray, " word"]:
        """The sum over the rows of each word."""
        return np.bincount(self.word_of, weights=values, minlength=len(self.spelt))


_read: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()


def vocabulary(model: Any) -> list[str]:
    """How each token of the model reads, made once."""
    if model not in _read:
        _read[model] = [row["text"] for row in Encoder.of(model).vocabulary()]
    return _read[model]


def begins_word(read: list[str], token: Int[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
    """Which rows begin a word by what their token and the one before read: a space, a mark, or a
    script that has no spaces."""

    def kinds(text: str) -> tuple[bool, bool]:
        """(it begins anew whatever stands before it, what follows begins anew)."""
        if PART.search(text):  # a part of a character
            return False, False
        first, last = (text[:1], text[-1:]) if text else (" ", " ")
        return not _goes_on(first), not _goes_on(last)

    table = np.array([kinds(text) for text in read] or [(True, True)], bool)
    at = np.minimum(token, len(table) - 1)
    begins = table[at, 0].copy()
    begins[1:] |= table[at[:-1], 1]
    return begins


def _goes_on(character: str) -> bool:
    """Whether a word goes on over this character."""
    letter = character.isalnum() or character in MARKS
    return letter and not _UNSPACED.match(character)
