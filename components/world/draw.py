"""Random choices that know their cost.

Each choice takes exactly one number from the stream and adds its cost in nats. So the derivation
entropy of a story is exact, and a telling that is replayed with one choice forced stays parallel to
the original word by word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
BLOCK = 512


class Draw:
    """Random choices with their cost: each takes one number from the stream and adds to `nats`."""

    __slots__ = ("_at", "_numbers", "_rng", "nats")

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers = rng.random(BLOCK).tolist()
        self._at = 0
        self.nats = 0.0

    def _next(self) -> float:
        if self._at == len(self._numbers):
            self._numbers.extend(self._rng.random(BLOCK).tolist())
        number = self._numbers[self._at]
        self._at += 1
        return number

    def one(self, options: Sequence[T]) -> T:
        """One of several, all equally likely."""
        self.nats += math.log(len(options))
        return options[int(self._next() * len(options))]

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        happens = self._next() < probability
        self.nats -= math.log(probability if happens else 1 - probability)
        return happens

    def weighted(self, options: Weighted[T]) -> T:
        """One of several with given weights."""
        number = self._next()
        at = 0
        while options.cumulative[at] <= number:
            at += 1
        self.nats += options.nats[at]
        return options.values[at]


class Weighted(Sequence[T]):
    """Options with weights, normalised once."""

    def __init__(self, options: Sequence[tuple[float, T]]) -> None:
        total = sum(weight for weight, _ in options)
        self.values = tuple(value for _, value in options)
        self.nats = tuple(-math.log(weight / total) for weight, _ in options)
        self.cumulative = np.cumsum([weight / total for weight, _ in options]).tolist()
        self.cumulative[-1] = 1.0

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)
