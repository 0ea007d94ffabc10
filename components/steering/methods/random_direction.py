"""The control: Gaussian directions, drawn once and judged for every concept.

Not latents of the dictionary: a random latent can be a latent of the very concept (one gave an uplift of 0.74 in a
trial), so a null made of latents is no null.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import PositiveInt

from components.config import Config
from components.seeds import torch_generator
from components.steering.contract import AddVector, Candidate, Evidence, SteeringMethod, methods


class RandomDirectionConfig(Config):
    """Settings of random_direction."""

    kind: Literal["random_direction"] = "random_direction"
    """The method."""
    n_directions: PositiveInt = 5
    """Directions drawn; the largest uplift among them is the baseline of every method."""


@methods
class RandomDirection(SteeringMethod):
    """Directions uniform on the sphere."""

    config = RandomDirectionConfig
    control = True

    @property
    def at_most(self) -> int:
        """Directions in all."""
        return self.settings.n_directions

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The same directions for all concepts."""
        for replicate in range(self.settings.n_directions):
            generator = torch_generator(evidence.seed, "random_direction", replicate)
            vector = torch.randn(evidence.d_in, generator=generator)
            yield Candidate(None, replicate, AddVector.along(evidence.hook_point, vector, evidence.unit))
