"""Keys and values of text that grows, written into room that is kept ahead.

The layers of transformers' dynamic cache copy everything that they hold for each token more. Here
the room doubles when it is full, so that every token is copied about twice, however long the text
becomes.
"""

from __future__ import annotations

import functools
from typing import Any

from jaxtyping import Float
from torch import Tensor

SPARE = 32
"""Tokens of room ahead, at least."""


def give_room(cache: Any) -> None:
    """Lets the layers of a dynamic cache grow in place; every other cache stays as it is, and so do
    layers that hold a window or quantised values."""
    from transformers.cache_utils import DynamicCache, DynamicLayer  # it takes seconds to import

    if type(cache) is not DynamicCache:
        return
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = _roomy()


@functools.cache
def _roomy() -> type:
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """Keys and values are the beginning of a larger tensor."""

        _room: tuple[Tensor, Tensor] | None = None

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Float[Tensor, "row head t d"], Float[Tensor, "row head t d"]]:
            if not self.is_initialized or self.keys is None or self.values is None:
                self._room = None
                return super().update(key_states, value_states, *args, **kwargs)
            begin = self.keys.shape[-2]
            end = begin + key_states.shape[-2]
            held = self.keys, self.values
            if self._room is None or not _lies_in(held, self._room, end):
                n = max(2 * end, end + SPARE)
                room = tuple(x.new_empty((*x.shape[:-2], n, x.shape[-1])) for x in held)
                for wide, old in zip(room, held, strict=True):
                    wide[..., :begin, :] = old
                self._room = room[0], room[1]
            for wide, new in zip(self._room, (key_states, value_states), strict=True):
                wide[..., begin:end, :] = new
            self.keys, self.values = (wide[..., :end, :] for wide in self._room)
            return self.keys, self.values

    return RoomyLayer


def _lies_in(held: tuple[Tensor, Tensor], room: tuple[Tensor, Tensor], end: int) -> bool:
    """Whether what is held is the beginning of the room (somebody may have reordered it), and
    `end` tokens fit."""
    return all(
        x.data_ptr() == wide.data_ptr()
        and x.shape[:-2] == wide.shape[:-2]
        and end <= wide.shape[-2]
        for x, wide in zip(held, room, strict=True)
    )
