"""Multiplies the code of a latent: by 1 + strength, or to suppress it by 1 - strength. The
reconstruction error is kept.

Nothing is changed where the latent is silent: it can make more of what is there, or less, and put
nothing where there is nothing. Suppressed at strength 1 the latent is off, beyond that it pushes
the other way.

When to use it: with `suppress`, to take a concept out of text that has it.

Source: scaling and negative scaling of latents in Farrell, Lau & Conmy (2024), arXiv:2410.19278.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from components.model.intervention import Intervention
from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.latent_edit import LatentEdit
from components.steering.latents import CandidatesConfig, of_each_latent
from components.steering.vector import PlacedConfig


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleLatent(LatentEdit):
    """Multiplies codes by 1 + strength, or by 1 - strength.

    Attributes:
        suppresses: whether the strength makes them smaller.
    """

    scale = "times its own code"
    suppresses: bool = False

    @property
    def together(self) -> Hashable:
        """Those that go the same way can share a batch too."""
        return super().together, self.suppresses

    @classmethod
    def intervention(
        cls, rows: Sequence[ScaleLatent], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """The strengths with their sign."""
        return super().intervention(rows, -strengths if rows[0].suppresses else strengths)

    @classmethod
    def change(cls, codes: Tensor, strength: Tensor, reference: Tensor) -> Tensor:
        """In proportion to the code."""
        return strength * codes

    def tensors(self) -> Mapping[str, Tensor]:
        """Those of every edit of latents, and the direction."""
        return {**super().tensors(), "suppresses": torch.tensor(self.suppresses)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> LatentEdit:
        """Without its dictionary, at the first hook point."""
        edit = super().restored(tensors, units)
        return dataclasses.replace(edit, suppresses=bool(tensors["suppresses"]))  # type: ignore[call-arg]


class ScaleLatentConfig(PlacedConfig, CandidatesConfig):
    """Settings of scale_latent."""

    suppress: bool = False
    """Whether it makes the latent less active; off, more."""

    @property
    def sign(self) -> int:
        """+1 when more of the steering is meant to give more of the concept."""
        return -1 if self.suppress else 1


@methods
class ScaleLatentMethod(SteeringMethod):
    """A latent's code multiplied."""

    config = ScaleLatentConfig
    steering = ScaleLatent
    reads_dictionary = True

    @classmethod
    def at_most(cls, config: ScaleLatentConfig) -> int:
        """Latents a concept."""
        return config.n_candidates

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The best few latents of each concept."""
        places, suppress = self.settings.where(evidence), self.settings.suppress
        return of_each_latent(
            self.settings,
            evidence,
            self.services.model,
            lambda latent: ScaleLatent.of(evidence, [latent], places, suppresses=suppress),
            sign=self.settings.sign,
        )
