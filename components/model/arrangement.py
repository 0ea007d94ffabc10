"""How the activations of one place lie in the tensor that goes through it.

Most are [row, token, width]. Some layouts keep heads apart, put tokens before rows, or hold rows
and tokens in one axis (mixtures of experts); all of these are brought to [row, token, width]
exactly, and an edit is brought back. What has no vector for each token (attention patterns, the
tokens that one expert got) is no activation here.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How the activations of a place lie in its tensor; the axes that are left are each token's
    vector, side by side.

    Attributes:
        axes: the axis of rows and the axis of tokens; a single one where it holds both, row behind
            row.
    """

    axes: tuple[int, ...] = (0, 1)

    @classmethod
    def of(cls, x: Tensor, b: int, t: int) -> Arrangement | None:
        """That of a tensor which belongs to b rows of t tokens; None where it has no vector for
        each token."""
        rows = [axis for axis, size in enumerate(x.shape) if size == b]
        tokens = [axis for axis, size in enumerate(x.shape) if size == t]
        if x.ndim > 2 and len(tokens) == 1 and (len(rows) == 1 or (not rows and x.shape[0] == 1)):
            return cls((rows[0] if rows else 0, tokens[0]))
        return cls((0,)) if x.ndim > 1 and x.shape[0] == b * t and not rows and not tokens else None

    def by_token(self, x: Tensor, b: int, t: int) -> Tensor | None:
        """The tensor as [b, t, width], without a copy where that can be; None where it does not
        hold b rows of t tokens.

        An axis of rows of length 1 stands for all rows, as where position embeddings are looked up
        once.
        """
        if self.axes == (0,):
            return x.unflatten(0, (b, t)).flatten(2) if x.ndim > 1 and x.shape[0] == b * t else None
        if x.ndim < 3 or max(self.axes) >= x.ndim:
            return None
        x = x.movedim(self.axes, (0, 1)).flatten(2) if self.axes != (0, 1) or x.ndim > 3 else x
        if x.shape[1] != t or x.shape[0] not in (1, b):
            return None
        return x if x.shape[0] == b else x.expand(b, -1, -1)

    def back(self, new: Tensor, x: Tensor) -> Tensor:
        """What `by_token` made of x, changed since, arranged as x is."""
        if self.axes == (0,):
            return new.reshape(x.shape)
        rest = x.movedim(self.axes, (0, 1)).shape[2:]
        return new.reshape(*new.shape[:2], *rest).movedim((0, 1), self.axes)
