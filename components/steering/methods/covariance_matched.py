"""A control: Gaussian directions with the covariance of the activations, drawn once and judged for
every concept.

Most of a plain Gaussian direction lies where activations hardly vary, and the model hardly reads
there. These lie where activations do vary, so they are the harder null. Each is a mixture of the
captured activations less their mean, weighed by Gaussian numbers: its covariance is theirs.

When to use it: beside random_direction, which stays what others are compared with where it is listed
first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveInt

from components.seeds import numpy_generator
from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.vector import AddVector, VectorConfig


class CovarianceMatchedConfig(VectorConfig):
    """Settings of covariance_matched."""

    n_directions: PositiveInt = 5
    """Directions, beside those that stand in for candidates."""


@methods
class CovarianceMatched(SteeringMethod):
    """Gaussian directions with the covariance of the activations."""

    config = CovarianceMatchedConfig
    steering = AddVector
    control = True
    any_hook_point = True

    @classmethod
    def at_most(cls, config: CovarianceMatchedConfig) -> int:
        """Directions, stand-ins left out."""
        return config.n_directions

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The same directions for all concepts."""
        n = self.settings.n_directions
        drawn = {
            name: self._drawn(evidence, name, n + evidence.stand_ins)
            for name in self.settings.places(evidence)
        }
        for replicate in range(n + evidence.stand_ins):
            steering = self.settings.along(
                evidence, lambda name, replicate=replicate: torch.from_numpy(drawn[name][replicate])
            )
            reason = None if steering else "the activations do not vary"
            stand_in = replicate >= n
            yield Candidate(None, replicate, steering, reason=reason, stand_in=stand_in)

    def _drawn(
        self, evidence: Evidence, hook_point: str, n: int
    ) -> Float[np.ndarray, "direction d_in"]:
        """Mixtures of the activations by weights that sum to nothing, so that their mean drops
        out."""
        generators = [
            numpy_generator(self.services.seed, "covariance_matched", replicate)
            for replicate in range(n)
        ]
        n_rows = len(evidence.document)
        weights = np.stack([generator.normal(size=n_rows) for generator in generators])
        weights -= weights.mean(1, keepdims=True)
        total = np.zeros((n, evidence.width(hook_point)))
        for start, x in evidence.batches(hook_point):
            total += weights[:, start : start + len(x)] @ x.double().cpu().numpy()
        return total
