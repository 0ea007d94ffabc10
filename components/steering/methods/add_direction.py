"""Adds the decoder direction of the latent that ranks the concept's tokens best on the select
split.

By default the rank is average precision (`rank_by`: components/steering/latents.py); the direction
is taken with sign +, since codes are positive. The few best become candidates, and the validate
prompts choose among them: the latent that reads a concept best is not always the one that writes it
(Arad et al. 2025, arXiv:2505.20063, input and output scores).

When to use it: to ask what one latent writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from components.steering.contract import Candidate, Evidence, Steering, SteeringMethod, methods
from components.steering.latents import CandidatesConfig, of_each_latent
from components.steering.vector import AddVector, VectorConfig


class AddDirectionConfig(VectorConfig, CandidatesConfig):
    """Settings of add_direction."""


@methods
class AddDirection(SteeringMethod):
    """Decoder directions of the dictionary's latents."""

    config = AddDirectionConfig
    steering = AddVector
    reads_dictionary = True

    @classmethod
    def at_most(cls, config: AddDirectionConfig) -> int:
        """Latents a concept."""
        return config.n_candidates

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The best few latents of each concept."""
        decoders = self.settings.decoders(evidence)

        def steer(latent: int) -> Steering | str:
            steering = self.settings.along(evidence, lambda name: decoders[name][latent])
            return steering or f"the decoder direction of latent {latent} has no length"

        return of_each_latent(
            self.settings, evidence, self.services.model, steer, self.settings.sign
        )
