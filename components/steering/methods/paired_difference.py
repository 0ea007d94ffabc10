"""Adds the mean difference over minimal pairs: activations of the text with the concept minus those
of the text without it.

What both texts of a pair share cancels, so few pairs go far. The activation of a text is that of
its last token, where the model has read all of it, or the mean over its tokens.

When to use it: where texts come in pairs that differ in one thing (a trait, an answer, a tone).

Source: contrastive activation addition, Rimsky et al. (2024), arXiv:2312.06681. Deviation: texts
are read as they are, not as answers to a multiple-choice question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import polars as pl
import torch
from pydantic import PositiveInt
from torch import Tensor

from components.corpus.encoding import Encoder
from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.vector import AddVector, VectorConfig

AT_ONCE = 64


class PairedDifferenceConfig(VectorConfig):
    """Settings of paired_difference."""

    position: Literal["last", "mean"] = "mean"
    """Where a text is read: at its last token, or the mean over its tokens."""
    n_pairs: PositiveInt = 512
    """Pairs of each concept, at most; the first ones."""


@methods
class PairedDifference(SteeringMethod):
    """Mean difference over minimal pairs."""

    config = PairedDifferenceConfig
    steering = AddVector
    any_hook_point = True

    @classmethod
    def at_most(cls, config: PairedDifferenceConfig) -> int:
        """One direction a concept."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """One direction for each concept that has pairs on select."""
        for concept in evidence.concepts:
            pairs = evidence.pairs.filter(pl.col("concept") == concept.name).sort("pair")
            pairs = pairs.head(self.settings.n_pairs)
            if not pairs.height:
                reason = (
                    "the select split has no minimal pair of it; a corpus that brings pairs has "
                    "them (the table `pairs`), and so have sets whose rows are pairs "
                    "(steer.targets.other_column)"
                )
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            read = {
                name: [self._read(name, pairs[side].to_list()) for side in ("positive", "negative")]
                for name in self.settings.places(evidence)
            }
            there = np.isfinite(next(iter(read.values()))).all((0, 2))
            if not there.any():
                yield Candidate(concept.name, 0, None, reason="no pair has two texts with tokens")
                continue
            means = {
                name: torch.from_numpy((positive - negative)[there].mean(0))
                for name, (positive, negative) in read.items()
            }
            steering = self.settings.along(evidence, means.get)
            reason = None if steering else "the two sides of its pairs are read alike"
            yield Candidate(concept.name, 0, steering, sign=self.settings.sign, reason=reason)

    def _read(self, hook_point: str, texts: Sequence[str]) -> np.ndarray:
        """One activation for each text, float64 [text, d_in]; NaN for a text without tokens."""
        model, encoder = self.services.model, Encoder.of(self.services.model)
        head = () if encoder.bos is None else (encoder.bos,)
        rows = [[*head, *each.ids] for each in encoder.encode(texts, offsets=False)]
        read = np.full((len(rows), model.width(hook_point)), np.nan)
        whole = [i for i, row in enumerate(rows) if len(row) > len(head)]
        room = model.context_length
        for start in range(0, len(whole), AT_ONCE):
            part = whole[start : start + AT_ONCE]
            cut = [rows[i][:room] for i in part]
            lengths = torch.tensor([len(row) for row in cut])
            width = int(lengths.max())
            tokens = torch.tensor([row + [0] * (width - len(row)) for row in cut])
            x = model.read(tokens, [hook_point])[hook_point].cpu().double()
            read[part] = self._placed(x, lengths, len(head)).numpy()
        return read

    def _placed(self, x: Tensor, lengths: Tensor, n_head: int) -> Tensor:
        """The last token of each row, or the mean over its tokens, the first special one left
        out."""
        if self.settings.position == "last":
            return x[torch.arange(len(x)), lengths - 1]
        position = torch.arange(x.shape[1])[None]
        mask = ((position >= n_head) & (position < lengths[:, None])).to(x)
        return (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
