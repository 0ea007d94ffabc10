"""The commonest steering: a vector added at every position of one hook point."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.intervention import Intervention, add
from components.steering.contract import Steering


@dataclasses.dataclass(frozen=True, eq=False)
class AddVector(Steering):
    """Adds strength x unit x vector at every position.

    Attributes:
        hook_point: where it is added.
        vector: direction of norm 1.
        unit: the mean activation norm at the hook point, in which strengths are stated.
    """

    scale = "mean activation norms"
    hook_point: str
    vector: Float[Tensor, " d_in"]
    unit: float

    @property
    def together(self) -> Hashable:
        """One hook point, and one unit there."""
        return self.hook_point, self.unit

    @classmethod
    def intervention(
        cls, rows: Sequence[AddVector], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """One addition with a vector for each row."""
        vectors = torch.stack([row.vector for row in rows])
        return Intervention(
            (add(rows[0].hook_point, strengths[:, None].to(vectors) * rows[0].unit * vectors),)
        )

    def added(self, strength: float = 1.0) -> Mapping[str, Float[Tensor, " d_in"]]:
        """The vector at its hook point."""
        return {self.hook_point: strength * self.unit * self.vector}

    def tensors(self) -> Mapping[str, Tensor]:
        """The direction."""
        return {"": self.vector}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> AddVector:
        """The direction at the first hook point."""
        hook_point, unit = next(iter(units.items()))
        return cls(hook_point, tensors[""], unit)

    @classmethod
    def along(
        cls, hook_point: str, vector: Float[Tensor, " d_in"], unit: float
    ) -> AddVector | None:
        """Along a vector of any length; None where it has no direction (zero or not finite)."""
        vector = vector.detach().float().cpu()
        norm = float(vector.norm())
        if not np.isfinite(norm) or norm < 1e-12:
            return None
        return cls(hook_point, vector / norm, unit)
