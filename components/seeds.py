"""One seed, independent named generators.

Every use of randomness asks for a generator by name, so adding one draw somewhere moves no draw
anywhere else. Seeds are derived by hashing (blake2b), never by Python's salted `hash`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under `seed`: the same on every machine and in
    every process."""
    text = "\x1f".join(str(part) for part in (seed, *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """An independent numpy generator for the stream called `names`."""
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """An independent torch generator for the stream called `names`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))
