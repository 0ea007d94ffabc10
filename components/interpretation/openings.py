"""Beginnings of documents, as the model reads them: what is gone on from, and what costs are
measured on.

They are of the explain split, where nothing is scored. The prompts and the text on which costs are
measured share no document.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.corpus.encoding import Encoder
from components.interpretation.tiling import Tiling
from components.model.language_model import LanguageModel


def openings(
    model: LanguageModel, explain: Tiling, n: int, length: int
) -> Int[Tensor, "opening token"]:
    """The first tokens of the first n documents of the split that are long enough, behind the
    model's first token where it has one. There are fewer rows where the split has fewer.

    Args:
        model: the model.
        explain: the split.
        n: openings.
        length: tokens of a document in each.
    """
    begins = _beginnings(explain, length)[:n]
    return _behind_first(model, _rows(explain, begins, length))


def neutral(
    model: LanguageModel, explain: Tiling, n_tokens: int, skipped: int, length: int
) -> tuple[Int[Tensor, "text token"], Bool[Tensor, "text token"]]:
    """Whole windows at the beginning of documents, about so many tokens, and which of their tokens
    count: those of the document.

    Args:
        model: the model.
        explain: the split.
        n_tokens: wanted.
        skipped: openings that were taken; none of these texts is of a document of theirs.
        length: tokens of a document in those.
    """
    taken = explain.document[_beginnings(explain, length)[:skipped]]
    shortest = explain.config.shortest
    others = _beginnings(explain, shortest)
    others = others[~np.isin(explain.document[others], taken)]
    tokens = _behind_first(model, _rows(explain, others[: -(-n_tokens // shortest)], shortest))
    counts = torch.ones(tokens.shape, dtype=torch.bool)
    counts[:, : tokens.shape[1] - shortest] = False
    return tokens, counts


def _beginnings(explain: Tiling, length: int) -> Int[np.ndarray, " window"]:
    """The first window of each document that is long enough."""
    return np.flatnonzero((explain.start == 0) & (explain.length >= length))


def _rows(
    explain: Tiling, windows: Int[np.ndarray, " window"], length: int
) -> Int[np.ndarray, "window token"]:
    return explain.token[explain.first[windows][:, None] + np.arange(length)]


def _behind_first(
    model: LanguageModel, rows: Int[np.ndarray, "text token"]
) -> Int[Tensor, "text token_and_first"]:
    tokens = torch.from_numpy(rows).long()
    first = Encoder.of(model).bos if model.tokenizer is not None else None
    if first is None:
        return tokens
    return torch.cat([torch.full((len(tokens), 1), first), tokens], dim=1)
