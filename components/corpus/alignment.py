"""Labels on characters become labels on tokens: a token carries a label when the two share a
character.

One batch of documents at a time, without a loop over tokens: documents are laid end to end on one
axis of characters, and two binary searches give each label its run of tokens.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int64

from components.corpus.contract import Document


class Aligned(NamedTuple):
    """Labels of one batch.

    Attributes:
        rows: columns concept (code), document (index in the batch), token (null for the whole
            document), value.
        n_lost: labels whose characters no token covers.
    """

    rows: pl.DataFrame
    n_lost: int


def align(
    documents: Sequence[Document], encodings: Sequence[Any], codes: MutableMapping[str, int]
) -> Aligned:
    """Labels of a batch by token position.

    Args:
        documents: texts with labels.
        encodings: their encodings by a fast tokenizer, with `offsets` into the text.
        codes: number of each concept; new ones are added.
    """
    start, end, first_token = _laid_out(documents, encodings)
    base = np.cumsum([0] + [len(document.text) + 1 for document in documents])
    whole: list[tuple[int, int, float]] = []
    spans: list[tuple[int, int, int, int, float]] = []
    for index, document in enumerate(documents):
        for concept, begin, stop, value in document.labels:
            code = codes.setdefault(concept, len(codes))
            if begin is None or stop is None:
                whole.append((code, index, value))
            else:
                spans.append((code, index, begin, stop, value))
    code, index, begin, stop, value = (
        (np.array(column) for column in zip(*spans, strict=True)) if spans else [_NONE] * 5
    )
    # first token that ends after the label begins
    low = np.searchsorted(end, base[index] + begin, side="right")
    # first token that begins after the label ends
    high = np.searchsorted(start, base[index] + stop, side="left")
    n_tokens = np.where(begin < stop, np.maximum(high - low, 0), 0)
    label = np.repeat(np.arange(len(n_tokens)), n_tokens)
    within = np.arange(len(label)) - np.repeat(np.cumsum(n_tokens) - n_tokens, n_tokens)
    frames = [
        _frame(
            code[label], index[label], low[label] + within - first_token[index[label]], value[label]
        ),
        _frame(
            *(
                np.array(column)
                for column in zip(*((c, i, -1, v) for c, i, v in whole), strict=True)
            )
        )
        if whole
        else _frame(*[_NONE] * 4),
    ]
    rows = pl.concat(frames).group_by("concept", "document", "token").agg(pl.col("value").max())
    rows = rows.sort("document", "token", "concept").with_columns(pl.col("token").replace(-1, None))
    return Aligned(rows, int((n_tokens == 0).sum()))


_NONE = np.zeros(0, np.int64)


def _laid_out(
    documents: Sequence[Document], encodings: Sequence[Any]
) -> tuple[
    Int64[np.ndarray, " token"], Int64[np.ndarray, " token"], Int64[np.ndarray, " document"]
]:
    """First and last character of every token on the common axis, and each document's first
    token."""
    lengths = np.array([len(encoding.ids) for encoding in encodings], np.int64)
    flat = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    offsets = np.fromiter(flat, np.int64, 2 * int(lengths.sum())).reshape(-1, 2)
    sizes = np.array([len(document.text) + 1 for document in documents], np.int64)
    offsets += np.repeat(np.cumsum(sizes) - sizes, lengths)[:, None]
    # a normaliser may give a character twice, never go back
    offsets = np.maximum.accumulate(offsets, axis=0)
    return offsets[:, 0], offsets[:, 1], np.cumsum(lengths) - lengths


def _frame(
    concept: np.ndarray, document: np.ndarray, token: np.ndarray, value: np.ndarray
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "concept": concept.astype(np.int32),
            "document": document.astype(np.int32),
            "token": token.astype(np.int32),
            "value": value.astype(np.float32),
        }
    )
