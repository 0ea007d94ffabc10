"""Keys and values of text that grows, written into room that is kept ahead.

The layers of transformers' dynamic cache copy everything that they hold for each token more. Here
the room doubles when it is full, so that every token is copied about twice, however long the text
becomes.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

SPARE = 32
"""Tokens of room ahead, at least."""
CACHE, LAYER = (f"transformers.cache_utils.{name}" for name in ("DynamicCache", "DynamicLayer"))


def give_room(cache: Any) -> None:
    """Lets the layers of a dynamic cache grow in place; every other cache stays as it is, and so do
    layers that hold a window or quantised values."""
    for layer in cache.layers if _is(cache, CACHE) else ():
        if _is(layer, LAYER):
            layer.__class__ = _roomy(type(layer))


def _is(thing: object, called: str) -> bool:
    """By name: only a model that has such a cache has the library loaded."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}" == called


@functools.cache
def _roomy(layer: Any) -> type:
    """The class of layers whose keys and values are the beginning of a larger tensor."""

    def update(self: Any, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any):
        """The new keys and values [row, head, token, width] behind those that are held."""
        if not self.is_initialized:
            return layer.update(self, key_states, value_states, *args, **kwargs)
        held = self.keys, self.values
        begin = self.keys.shape[-2]
        end = begin + key_states.shape[-2]
        if self.room is None or not _lies_in(held, self.room, end):
            n = max(2 * end, end + SPARE)
            self.room = [x.new_empty((*x.shape[:-2], n, x.shape[-1])) for x in held]
            for wide, old in zip(self.room, held, strict=True):
                wide[..., :begin, :] = old
        for wide, new in zip(self.room, (key_states, value_states), strict=True):
            wide[..., begin:end, :] = new
        self.keys, self.values = (wide[..., :end, :] for wide in self.room)
        return self.keys, self.values

    return type("RoomyLayer", (layer,), {"room": None, "update": update})


def _lies_in(held: tuple[Tensor, Tensor], room: list[Tensor], end: int) -> bool:
    """Whether what is held is the beginning of the room (somebody may have reordered it), and
    `end` tokens fit."""
    return all(
        x.data_ptr() == wide.data_ptr()
        and x.shape[:-2] == wide.shape[:-2]
        and end <= wide.shape[-2]
        for x, wide in zip(held, room, strict=True)
    )
