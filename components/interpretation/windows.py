"""Windows of text: what stands there, token by token, and how active one latent is on each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from components.spelling import PART, groups, whole

SILENT = ("random", "same_token", "neighbour", "near")
"""Kinds of silent windows (components/interpretation/silent.py)."""


class Vocabulary:
    """Token ids as text. A *word* is a token's text without surrounding space, so that ' sea' and
    'sea' are one.

    Attributes:
        texts: the text of each token id.
        words: the distinct words; grows by the characters that neighbouring tokens make together.
        word_of: the word of each token id, and -1 at the end: `word_of[-1]` is what padding is.
        partial: whether each token id holds bytes that are part of a character; padding, at the
            end, does not.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.words: list[str] = []
        self._ids: dict[str, int] = {}
        self.word_of: Int[np.ndarray, " token_and_padding"] = np.array(
            [*map(self.add, self.texts), -1], dtype=np.int64
        )
        self.partial: Bool[np.ndarray, " token_and_padding"] = np.array(
            [*(PART.search(text) is not None for text in self.texts), False], dtype=bool
        )

    def add(self, text: str) -> int:
        """The number of the word of a text, a new one where it is new."""
        word = text.strip() or text
        number = self._ids.setdefault(word, len(self.words))
        if number == len(self.words):
            self.words.append(word)
        return number

    def find(self, word: str) -> int:
        """The number of a word, or -2, which no token has, where the vocabulary lacks it."""
        return self._ids.get(word, -2)


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Windows of text and nothing else: all that a predictor sees beside the explanation.

    Attributes:
        tokens: token ids, padded with -1 at the end.
        vocabulary: their text.
    """

    tokens: Int[np.ndarray, "window token"]
    vocabulary: Vocabulary

    @property
    def present(self) -> Bool[np.ndarray, "window token"]:
        """Where there is a token, not padding."""
        return self.tokens >= 0

    @functools.cached_property
    def words(self) -> Int[np.ndarray, "window token"]:
        """The word at each token; -1 for padding. Tokens that make a character together have it as
        their word."""
        vocabulary = self.vocabulary
        words = vocabulary.word_of[self.tokens]
        for row in np.flatnonzero(vocabulary.partial[self.tokens].any(1)):
            texts = [vocabulary.texts[token] for token in self.tokens[row].tolist() if token >= 0]
            for first, end in groups(texts):
                if end - first > 1:
                    words[row, first:end] = vocabulary.add(whole(texts[first:end]))
        return words

    @functools.cached_property
    def left(self) -> Int[np.ndarray, "window token"]:
        """The word before each token; -1 for the first, whose left neighbour the window does not
        show."""
        left = np.pad(self.words, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        inside = self.vocabulary.partial[self.tokens]
        for row in np.flatnonzero((inside[:, 1:] & inside[:, :-1]).any(1)):
            texts = [
                self.vocabulary.texts[token] for token in self.tokens[row].tolist() if token >= 0
            ]
            for first, end in groups(texts):
                # inside a character, what stands before is before all of it
                left[row, first:end] = left[row, first]
        return left

    def strings(self) -> list[list[str]]:
        """Each window as the texts of its tokens."""
        return [
            [self.vocabulary.texts[token] for token in row if token >= 0]
            for row in self.tokens.tolist()
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one split chosen for one latent, with its activation on every token.

    Attributes:
        texts: what stands there.
        activations: in units of the activations; 0 where silent and in padding.
        document: the document of each window.
        start: position in the document of its first token.
        role: top, weighted, quantile, or silent (verified: no activation inside).
        quantile: interval of activation, 0 the strongest; -1 for silent windows.
        stratum: random, same_token, neighbour or near for silent windows; "" for the others.
        stands_for: how many windows of the split each stands for, itself included: together all of
            the split, active and silent, at their natural density. 0 for windows that were not
            drawn without a choice.
    """

    texts: Texts
    activations: Float[np.ndarray, "window token"]
    document: Int[np.ndarray, " window"]
    start: Int[np.ndarray, " window"]
    role: Shaped[np.ndarray, " window"]
    quantile: Int[np.ndarray, " window"]
    stratum: Shaped[np.ndarray, " window"]
    stands_for: Float[np.ndarray, " window"]

    def __len__(self) -> int:
        return len(self.role)

    @property
    def active(self) -> Bool[np.ndarray, " window"]:
        """Whether the latent is active inside."""
        return self.role != "silent"

    def part(self, kept: Bool[np.ndarray, " window"]) -> Windows:
        """Some of the windows, in their order."""
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        texts = Texts(self.texts.tokens[kept], self.texts.vocabulary)
        return Windows(
            texts, **{name: column[kept] for name, column in columns.items() if name != "texts"}
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Windows that were drawn once, unselected and for every latent, and where one latent is active
    in them.

    Attributes:
        texts: the windows: one object for all latents, so that what a reader makes of it once can
            be remembered.
        active: whether the latent is active inside.
    """

    texts: Texts
    active: Bool[np.ndarray, " window"]
