"""Adds the difference of two means: activations of tokens with the concept minus activations of all
others, on select.

For document concepts the tokens are those of documents that have the concept. Sums are taken over
the whole split in double precision and divided once.

Source: DiffMean in Wu et al., AxBench (2025), arXiv:2501.17148; Marks & Tegmark (2023),
arXiv:2310.06824.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.moments import Moments
from components.steering.vector import AddVector, VectorConfig


class MeanDifferenceConfig(VectorConfig):
    """Settings of mean_difference."""


@methods
class MeanDifference(SteeringMethod):
    """Mean of the concept's tokens minus mean of the others."""

    config = MeanDifferenceConfig
    steering = AddVector
    any_hook_point = True

    @classmethod
    def at_most(cls, config: MeanDifferenceConfig) -> int:
        """One direction a concept."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """One direction for each concept."""
        moments = {
            name: Moments.of(evidence, hook_point=name) for name in self.settings.places(evidence)
        }
        for column, concept in enumerate(evidence.concepts):
            if reason := evidence.one_sided(column):
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            steering = self.settings.along(
                evidence,
                lambda name, column=column: torch.from_numpy(moments[name].difference(column)),
            )
            reason = None if steering else "the two means are equal"
            yield Candidate(concept.name, 0, steering, sign=self.settings.sign, reason=reason)
