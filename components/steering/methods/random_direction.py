"""The control: Gaussian directions, drawn once and judged for every concept.

Not latents of the dictionary: a random latent can be a latent of the very concept (one gave an
uplift of 0.74 in a trial), so a null made of latents is no null. The largest of the first
`n_directions` is what other methods must exceed: with 20, one direction that exceeds them all has
an empirical p of 1/21, which is below 0.05. The stand-ins behind them are what chance gives a
method that chooses among several candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import PositiveInt

from components.seeds import torch_generator
from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.vector import AddVector, VectorConfig


class RandomDirectionConfig(VectorConfig):
    """Settings of random_direction."""

    n_directions: PositiveInt = 20
    """Directions that every method is compared with; 20 or more, so that exceeding them all means
    something."""


@methods
class RandomDirection(SteeringMethod):
    """Directions uniform on the sphere."""

    config = RandomDirectionConfig
    version = 2
    steering = AddVector
    control = True
    any_hook_point = True

    @classmethod
    def at_most(cls, config: RandomDirectionConfig) -> int:
        """Directions that others are compared with."""
        return config.n_directions

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The same directions for all concepts."""
        n = self.settings.n_directions
        for replicate in range(n + evidence.stand_ins):
            generator = torch_generator(self.services.seed, "random_direction", replicate)
            steering = self.settings.along(
                evidence,
                lambda name, g=generator: torch.randn(evidence.width(name), generator=g),
            )
            yield Candidate(None, replicate, steering, stand_in=replicate >= n)
