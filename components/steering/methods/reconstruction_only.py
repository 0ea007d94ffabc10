"""A control: the dictionary's reconstruction in the place of the activations, and no steering.

What a dictionary loses also changes what a model writes. This says how much of an effect comes from
that alone, for methods that steer in the reconstruction; the methods here keep the error, so they
lose nothing of it. It has no strength; its cost is measured.

When to use it: once for each dictionary.

Source: the spliced reconstruction of Bricken et al. (2023), Towards Monosemanticity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from components.dictionary.contract import Dictionary
from components.model.intervention import Edit, Intervention
from components.steering.contract import Candidate, Evidence, Steering, SteeringMethod, methods
from components.steering.latent_edit import elsewhere, on
from components.steering.latents import NO_DICTIONARY
from components.steering.vector import (
    PlacedConfig,
    Where,
    hashable,
    restored_positions,
    saved_positions,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction(Steering):
    """Replaces activations by their reconstruction.

    Attributes:
        hook_point: where the dictionary reads and writes.
        positions: at which tokens.
        dictionary: None until a restored one is joined with its own.
    """

    graded = False
    hook_point: str
    positions: Where = "all"
    dictionary: Dictionary | None = None

    @property
    def together(self) -> Hashable:
        """One dictionary, the same places."""
        return id(self.dictionary), hashable(self.positions)

    @classmethod
    def intervention(
        cls, rows: Sequence[Reconstruction], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """The same for all rows; strengths have no meaning."""
        first = rows[0]
        given = first.dictionary
        assert given is not None, "a restored steering is joined with its dictionary first"

        def function(x: Tensor, mask: Tensor) -> Tensor:
            dictionary, inside, changed = on(given, x.device), mask[:, :, 0], x.clone()
            if inside.any():
                codes = dictionary.encode(x[inside])
                changed[inside] = dictionary.decode(codes, first.hook_point).to(x.dtype)
            return changed

        return Intervention((Edit(first.hook_point, function, first.positions),))

    def tensors(self) -> Mapping[str, Tensor]:
        """The positions."""
        return saved_positions(self.positions)

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Reconstruction:
        """Without its dictionary, at the first hook point."""
        return cls(next(iter(units)), restored_positions(tensors))

    def joined(self, dictionary: Callable[[], Dictionary]) -> Reconstruction:
        """The same with its dictionary."""
        return dataclasses.replace(self, dictionary=dictionary())


class ReconstructionOnlyConfig(PlacedConfig):
    """Settings of reconstruction_only."""


@methods
class ReconstructionOnly(SteeringMethod):
    """The reconstruction and no steering."""

    config = ReconstructionOnlyConfig
    steering = Reconstruction
    control = True

    @classmethod
    def at_most(cls, config: ReconstructionOnlyConfig) -> int:
        """There is one."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The one reconstruction, for all concepts."""
        dictionary = evidence.dictionary
        why = NO_DICTIONARY if dictionary is None else elsewhere(dictionary, evidence.hook_point)
        steering = Reconstruction(evidence.hook_point, self.settings.where(evidence), dictionary)
        yield Candidate(None, 0, None if why else steering, reason=why)
