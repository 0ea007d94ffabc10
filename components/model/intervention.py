"""Edits: what to change at a hook point, and at which tokens.

Positions are counted over each row's own tokens, padding left out: 0 is the first token of the row whether padding lies
left, right or nowhere, and a token keeps its number when it is generated one step at a time from a cache. Padding is
never edited. An edit of a step sees exactly the tokens of that step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Positions = Literal["all", "prompt", "generated"] | Sequence[int] | Bool[Tensor, "row position"]


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A change of the activations at one hook point.

    Attributes:
        hook_point: canonical or TransformerLens name.
        function: `function(x[b, t, d], mask[b, t, 1])` returns the new activations; what it returns outside the mask
            (true at the tokens to be edited) is not used.
        positions: all; prompt (tokens that were given); generated (tokens that the model made); a list of positions,
            the negative ones counted back from the end of the prompt; or a mask [row, position], false beyond its end.
    """

    hook_point: str
    function: Callable[[Tensor, Tensor], Tensor]
    positions: Positions = "all"


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where the tokens of one forward pass stand.

    Attributes:
        position: number of each token in its row, -1 for padding.
        prompt: number of given tokens in each row.
    """

    position: Int64[Tensor, "b t"]
    prompt: Int64[Tensor, " b"]

    def chosen(self, positions: Positions) -> Bool[Tensor, "b t 1"]:
        """The tokens of this pass that an edit with these positions changes."""
        at, prompt = self.position, self.prompt[:, None]
        real = at >= 0
        if isinstance(positions, Tensor):
            assert len(positions) == len(at), f"a mask of {len(positions)} rows for {len(at)} rows of tokens"
            inside = at.clamp(0, positions.shape[1] - 1)
            mask = positions.to(at.device).gather(1, inside) & (at < positions.shape[1])
        elif positions == "all":
            mask = real
        elif positions == "prompt":
            mask = at < prompt
        elif positions == "generated":
            mask = at >= prompt
        else:
            wanted = torch.tensor([int(p) for p in positions], device=at.device, dtype=torch.long)
            wanted = torch.where(wanted < 0, wanted + prompt, wanted)  # [b, n]
            mask = (at[:, :, None] == wanted[:, None, :]).any(2)
        return (mask & real)[:, :, None]


def add(hook_point: str, vectors: Float[Tensor, "*b d"], positions: Positions = "all") -> Edit:
    """Adds a vector [d], or one vector for each row [b, d]."""
    held = {}

    def function(x: Tensor, mask: Tensor) -> Tensor:
        if (x.device, x.dtype) not in held:  # moved to the device once, not at every step
            held[x.device, x.dtype] = vectors.to(x.device, x.dtype)
        vector = held[x.device, x.dtype]
        return x + (vector[:, None, :] if vector.ndim == 2 else vector)

    return Edit(hook_point, function, positions)


def replace(hook_point: str, function: Callable[[Tensor], Tensor], positions: Positions = "all") -> Edit:
    """Replaces x by function(x): a reconstruction, a mean, zero."""
    return Edit(hook_point, lambda x, mask: function(x), positions)
