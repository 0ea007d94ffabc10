"""Adds the difference of two means, divided by the covariance within the classes: the direction of
linear discriminant analysis.

Coordinates that vary for reasons of their own are turned down, so what is added says more of the
concept and less of all else. The covariance is shrunk towards a multiple of the identity, because a
direction of hardly any variance would otherwise rule.

When to use it: where mean_difference drags along what the concept's texts merely have in common.

Source: Fisher (1936), https://doi.org/10.1111/j.1469-1809.1936.tb02137.x; shrinkage towards the
mean variance as in Ledoit & Wolf (2004), https://doi.org/10.1016/S0047-259X(03)00096-4, with a
constant instead of their estimate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.moments import Moments
from components.steering.vector import AddVector, VectorConfig


class WhitenedMeanDifferenceConfig(VectorConfig):
    """Settings of whitened_mean_difference."""

    shrinkage: float = Field(0.1, gt=0, le=1)
    """Weight of the mean variance in the covariance; at 1 the direction is mean_difference's."""


@methods
class WhitenedMeanDifference(SteeringMethod):
    """Difference of means over the covariance within the classes."""

    config = WhitenedMeanDifferenceConfig
    steering = AddVector
    any_hook_point = True

    @classmethod
    def at_most(cls, config: WhitenedMeanDifferenceConfig) -> int:
        """One direction a concept."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """One direction for each concept."""
        moments = {
            name: Moments.of(evidence, products=True, hook_point=name)
            for name in self.settings.places(evidence)
        }
        for column, concept in enumerate(evidence.concepts):
            if reason := evidence.one_sided(column):
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            steering = self.settings.along(
                evidence, lambda name, column=column: self._direction(moments[name], column)
            )
            reason = None if steering else "the two means are equal"
            yield Candidate(concept.name, 0, steering, sign=self.settings.sign, reason=reason)

    def _direction(self, moments: Moments, column: int) -> Tensor:
        covariance = moments.covariance_within(column)
        width, weight = len(covariance), self.settings.shrinkage
        variance = max(float(np.trace(covariance)) / width, 1e-12)
        shrunk = (1 - weight) * covariance + weight * variance * np.eye(width)
        return torch.from_numpy(np.linalg.solve(shrunk, moments.difference(column)))
