"""Sums over the captured tokens of a split, from one pass: what differences of means are made of."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from components.steering.contract import Evidence


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Sums in double precision.

    Attributes:
        n_rows: tokens.
        n_inside: tokens with each concept.
        inside: [concept, d_in] sum over tokens with the concept.
        total: sum over all tokens.
        products: [d_in, d_in] sum of x xᵀ over all tokens; None where it was not wanted.
    """

    n_rows: int
    n_inside: Float[np.ndarray, " concept"]
    inside: Float[np.ndarray, "concept d_in"]
    total: Float[np.ndarray, " d_in"]
    products: Float[np.ndarray, "d_in d_in"] | None = None

    @classmethod
    def of(
        cls, evidence: Evidence, products: bool = False, hook_point: str | None = None
    ) -> Moments:
        """One pass over the activations where to steer, or at another hook point."""
        place = hook_point or evidence.hook_point
        n_rows, n_concepts = evidence.labels.get_shape()
        labels = evidence.labels.tocsr().astype(np.float64)
        width = evidence.width(place)
        inside, total = np.zeros((n_concepts, width)), np.zeros(width)
        second = np.zeros((width, width)) if products else None
        for start, x in evidence.batches(place):
            block = x.double().cpu().numpy()
            inside += labels[start : start + len(block)].T @ block
            total += block.sum(0)
            if second is not None:
                second += block.T @ block
        return cls(n_rows, np.asarray(labels.sum(0)).ravel(), inside, total, second)

    def difference(self, column: int) -> Float[np.ndarray, " d_in"]:
        """Mean of the concept's tokens minus mean of all others."""
        n, inside = self.n_inside[column], self.inside[column]
        return inside / n - (self.total - inside) / (self.n_rows - n)

    def covariance_within(self, column: int) -> Float[np.ndarray, "d_in d_in"]:
        """The covariance of tokens around the mean of their class, both classes pooled."""
        assert self.products is not None, "moments without products have no covariance"
        mean = self.total / self.n_rows
        share = self.n_inside[column] / self.n_rows
        difference = self.difference(column)
        whole = self.products / self.n_rows - np.outer(mean, mean)
        return whole - share * (1 - share) * np.outer(difference, difference)
