"""Adds the difference of two means: activations of tokens with the concept minus activations of all
others, on select.

For document concepts the tokens are those of documents that have the concept. Sums are taken over
the whole split in double precision and divided once.

Source: DiffMean in Wu et al., AxBench (2025), arXiv:2501.17148; Marks & Tegmark (2023),
arXiv:2310.06824.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from components.config import Config
from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.vector import AddVector


class MeanDifferenceConfig(Config):
    """Settings of mean_difference: there are none."""


@methods
class MeanDifference(SteeringMethod):
    """Mean of the concept's tokens minus mean of the others."""

    config = MeanDifferenceConfig
    steering = AddVector

    @classmethod
    def at_most(cls, config: MeanDifferenceConfig) -> int:
        """One direction a concept."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """One direction for each concept."""
        n_rows, n_concepts = evidence.labels.get_shape()
        labels = evidence.labels.tocsr().astype(np.float64)
        inside, total = np.zeros((n_concepts, evidence.d_in)), np.zeros(evidence.d_in)
        for start, x in evidence.batches(evidence.hook_point):
            block = x.double().cpu().numpy()
            inside += labels[start : start + len(block)].T @ block
            total += block.sum(0)
        n_inside = np.asarray(labels.sum(0)).ravel()
        for column, concept in enumerate(evidence.concepts):
            n = n_inside[column]
            if n in (0, n_rows):
                which = "no" if n == 0 else "every"
                yield Candidate(
                    concept.name,
                    0,
                    None,
                    reason=f"{which} token of the select split has the concept",
                )
                continue
            difference = inside[column] / n - (total - inside[column]) / (n_rows - n)
            steering = AddVector.along(
                evidence.hook_point, torch.from_numpy(difference), evidence.unit
            )
            yield Candidate(
                concept.name, 0, steering, reason=None if steering else "the two means are equal"
            )
