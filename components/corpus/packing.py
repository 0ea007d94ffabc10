"""Documents into contexts of one length: packed `[bos] document [eos] document [eos] ... pad`, or
each alone.

Packed (`Packer`): a document that fits into a context is never cut, and few positions are wasted,
because a document goes into the fullest of a bounded number of open contexts that still holds it
(best fit, Johnson 1974, with bounded space). A longer document is cut into pieces that start
contexts of their own. The end token is left out where a document ends exactly at the end of its
context. Padding is always at the end, so a causal model sees nothing of it.

Padded (`Padder`): each document stands alone, between the tokens that its tokenizer puts around a
text. That is what a model needs whose attention looks both ways: it would see the other documents
of its context. A longer document is cut into pieces, each in a context of its own.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int32

Grid = Int32[np.ndarray, "context position"]


@dataclasses.dataclass(frozen=True)
class Packed:
    """Contexts as three arrays of one shape.

    Attributes:
        token: token ids.
        document: document number; -1 on padding and special tokens.
        position: position of the token inside its document; -1 likewise.
        mask: 1 for every token that is no padding, special ones included; 0 for padding.
    """

    token: Grid
    document: Grid
    position: Grid
    mask: Grid

    def __len__(self) -> int:
        return len(self.token)


@dataclasses.dataclass(order=True)
class _Open:
    room: int
    number: int
    pieces: list[tuple[int, np.ndarray, np.ndarray]] = dataclasses.field(compare=False)
    """Document, position of each token in it (-1 for special ones), ids."""


class Packer:
    """Packs documents as they come, with bounded memory: at most `n_open` unfinished contexts.

    Args:
        bos: first token of every context; None for none.
        eos: token after every document; None for none.
        pad: token for what stays empty.
        context_length: tokens in a context, special tokens and padding included.
        n_open: unfinished contexts to choose from.
    """

    def __init__(
        self, bos: int | None, eos: int | None, pad: int, context_length: int, n_open: int = 64
    ) -> None:
        self.bos, self.eos, self.pad, self.context_length, self.n_open = (
            bos,
            eos,
            pad,
            context_length,
            n_open,
        )
        self.capacity = context_length - (bos is not None)
        assert self.capacity > 0, "a context holds at least one token beside the first"
        self._open: list[_Open] = []  # by room, fullest first; equal room by age
        self._closed: list[_Open] = []
        self._opened = 0

    def add(
        self,
        document: int,
        ids: Sequence[int] | np.ndarray,
        special: Bool[np.ndarray, " token"] | None = None,
    ) -> None:
        """Places one document.

        Args:
            document: its number.
            ids: its tokens.
            special: which of them are special tokens that stand in its text: the model reads them,
                but they are no part of the document, and positions are counted without them.
        """
        tokens, position = _numbered(ids, special)
        for start in range(0, len(tokens), self.capacity):
            piece = tokens[start : start + self.capacity]
            fits = bisect.bisect_left(self._open, len(piece), key=lambda context: context.room)
            if start + len(piece) < len(tokens) or fits == len(self._open):
                context = _Open(self.capacity, self._opened, [])
                self._opened += 1
            else:
                context = self._open.pop(fits)
            context.pieces.append((document, position[start : start + len(piece)], piece))
            ends = self.eos is not None and start + len(piece) == len(tokens)
            context.room = max(0, context.room - len(piece) - ends)
            bisect.insort(self._open, context)
            if not context.room or len(self._open) > self.n_open:
                self._closed.append(self._open.pop(0))

    def take(self) -> Packed:
        """The contexts finished since the last call."""
        done, self._closed = self._closed, []
        shape = (len(done), self.context_length)
        token = np.full(shape, self.pad, np.int32)
        document, position = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        mask = np.zeros(shape, np.int32)
        for row, context in enumerate(done):
            at = 0
            if self.bos is not None:
                token[row, 0] = self.bos
                at = 1
            for number, places, piece in context.pieces:
                end = at + len(piece)
                token[row, at:end] = piece
                document[row, at:end] = np.where(places < 0, -1, number)
                position[row, at:end] = places
                if self.eos is not None and end < self.context_length:
                    token[row, end] = self.eos
                at = end + (self.eos is not None)
            mask[row, :at] = 1
        return Packed(token, document, position, mask)

    def finish(self) -> Packed:
        """Closes every open context, oldest first, and returns what was not yet taken."""
        self._closed += sorted(self._open, key=lambda context: context.number)
        self._open = []
        return self.take()


class Padder:
    """Puts each document, or each piece of a long one, into a context of its own, with padding
    behind it.

    Args:
        first: tokens before each piece.
        last: tokens behind each piece.
        pad: token for what stays empty.
        context_length: tokens in a context, special tokens and padding included.
    """

    def __init__(
        self, first: Sequence[int], last: Sequence[int], pad: int, context_length: int
    ) -> None:
        self.first, self.last, self.pad, self.context_length = (
            list(first),
            list(last),
            pad,
            context_length,
        )
        self.capacity = context_length - len(self.first) - len(self.last)
        assert self.capacity > 0, "a context holds at least one token beside those around it"
        self._pieces: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(
        self,
        document: int,
        ids: Sequence[int] | np.ndarray,
        special: Bool[np.ndarray, " token"] | None = None,
    ) -> None:
        """Places one document; arguments as those of `Packer.add`."""
        tokens, position = _numbered(ids, special)
        for start in range(0, len(tokens), self.capacity):
            part = slice(start, start + self.capacity)
            self._pieces.append((document, position[part], tokens[part]))

    def take(self) -> Packed:
        """The contexts made since the last call."""
        pieces, self._pieces = self._pieces, []
        shape = (len(pieces), self.context_length)
        token, mask = np.full(shape, self.pad, np.int32), np.zeros(shape, np.int32)
        document, position = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        for row, (number, places, piece) in enumerate(pieces):
            whole = [*self.first, *piece.tolist(), *self.last]
            token[row, : len(whole)] = whole
            mask[row, : len(whole)] = 1
            inside = slice(len(self.first), len(self.first) + len(piece))
            document[row, inside] = np.where(places < 0, -1, number)
            position[row, inside] = places
        return Packed(token, document, position, mask)

    def finish(self) -> Packed:
        """What was not yet taken."""
        return self.take()


def _numbered(
    ids: Sequence[int] | np.ndarray, special: Bool[np.ndarray, " token"] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a document, and the position of each in it: -1 for special ones, which positions do
    not count."""
    tokens = np.asarray(ids, dtype=np.int32)
    return tokens, np.arange(len(tokens)) if special is None else np.where(
        special, -1, np.cumsum(~special) - 1
    )


def pack(
    documents: Iterable[Sequence[int] | np.ndarray],
    *,
    bos: int | None,
    eos: int | None,
    pad: int,
    context_length: int,
) -> Packed:
    """Packs token ids of documents, numbered in their order.

    Args:
        documents: token ids of each document, without special tokens.
        bos: first token of every context; None for none.
        eos: token after every document; None for none.
        pad: token for what stays empty.
        context_length: tokens in a context.
    """
    packer = Packer(bos, eos, pad, context_length)
    for number, ids in enumerate(documents):
        packer.add(number, ids)
    return packer.finish()
