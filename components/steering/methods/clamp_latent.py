"""Sets the code of a latent, whatever it was: strength x its largest activation on the select split.
The reconstruction error is kept.

Where the latent is silent this is add_direction with its decoder direction; where it is active
already, less is added. At strength 0 nothing is set; just above 0 it is switched off.

When to use it: where the text has the latent already here and there, and should have one level of
it everywhere.

Source: Templeton et al. (2024), Scaling Monosemanticity (clamping to a multiple of the largest
activation).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.latent_edit import LatentEdit
from components.steering.latents import CandidatesConfig, of_each_latent
from components.steering.vector import PlacedConfig


@dataclasses.dataclass(frozen=True, eq=False)
class ClampLatent(LatentEdit):
    """Sets codes to strength x their largest activation; at strength 0 it sets none."""

    scale = "largest activations"

    @classmethod
    def change(cls, codes: Tensor, strength: Tensor, reference: Tensor) -> Tensor:
        """Up or down to what is wanted."""
        return torch.where(strength != 0, strength * reference - codes, 0.0)


class ClampLatentConfig(PlacedConfig, CandidatesConfig):
    """Settings of clamp_latent."""


@methods
class ClampLatentMethod(SteeringMethod):
    """A latent's code set to one level."""

    config = ClampLatentConfig
    steering = ClampLatent
    reads_dictionary = True

    @classmethod
    def at_most(cls, config: ClampLatentConfig) -> int:
        """Latents a concept."""
        return config.n_candidates

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The best few latents of each concept."""
        return of_each_latent(
            self.settings,
            evidence,
            self.services.model,
            lambda latent: ClampLatent.of(evidence, [latent], self.settings.where(evidence)),
        )
