"""Neutral text, on which side effects are measured: beginnings of contexts to set strengths on, and
other text beside it."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.steering.passages import contexts
from components.store.artifact import Artifact


@dataclasses.dataclass(frozen=True, eq=False)
class Neutral:
    """Text on which side effects are measured.

    Attributes:
        tokens: beginnings of contexts.
        mask: tokens of documents (no special tokens, no padding): those whose predictions count.
    """

    tokens: Int[Tensor, "context position"]
    mask: Bool[Tensor, "context position"]

    def first(self, n: int) -> Neutral:
        """The first contexts of it."""
        return Neutral(self.tokens[:n], self.mask[:n])

    def cut(self, n: int | None) -> Neutral:
        """The first n tokens of each context, where they are longer; None for all."""
        if n is None or self.tokens.shape[1] <= n:
            return self
        return Neutral(self.tokens[:, : max(0, n)], self.mask[:, : max(0, n)])

    @classmethod
    def read(cls, corpus: Artifact, n_tokens: int, length: int) -> tuple[Neutral, Neutral]:
        """The first `length` tokens of each context of the neutral split: about `n_tokens` to set
        strengths on, from half the contexts at most, and up to four times as many, of other
        documents, to measure them on. The second is empty where the split has no more.
        """
        parts, n, others = cls._parted(corpus, n_tokens, length)
        tokens, mask = parts["token"][:, :length].long(), parts["document"][:, :length] >= 0
        return cls(tokens[:n], mask[:n]), cls(tokens[others][: 4 * n], mask[others][: 4 * n])

    @classmethod
    def whole(cls, corpus: Artifact, n_tokens: int, length: int) -> Neutral:
        """Whole contexts of the documents on which no strength was set, about `n_tokens`, at least
        two contexts: at the beginning of a context, where strengths are set, the same edit costs
        less than behind it.
        """
        parts, _, others = cls._parted(corpus, n_tokens, length)
        tokens, mask = parts["token"][others].long(), parts["document"][others] >= 0
        n = max(2, round(n_tokens / tokens.shape[1]))
        return cls(tokens[:n], mask[:n])

    @staticmethod
    def _parted(
        corpus: Artifact, n_tokens: int, length: int
    ) -> tuple[dict[str, Tensor], int, Tensor]:
        """The split's contexts, how many of them set strengths, and which share no document with
        those."""
        parts = contexts(corpus, "neutral")
        document = parts["document"]
        n = max(1, min(len(document) // 2, round(n_tokens / length)))
        met = torch.isin(document, document[:n, :length]) & (document >= 0)
        return parts, n, (torch.arange(len(document)) >= n) & ~met.any(dim=1)
