"""Who may not lend an explanation: neighbours by decoder cosine, and latents that are active on the
same tokens."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from components.interpretation.relatives import close, relatives
from components.store.shards import Codes

N = 1000


def codes_of(*active: np.ndarray) -> list[Codes]:
    """Codes of latents by where each is active, in two shards."""
    dense = torch.from_numpy(np.stack(active, axis=1).astype(np.float32))
    return [Codes.from_dense(part) for part in dense.split(N // 2 + 7)]


def test_latents_that_are_active_on_the_same_tokens_are_relatives() -> None:
    random = np.random.default_rng(0)
    one = random.random(N) < 0.05
    # three of four tokens in common, and one of four
    twin, cousin = (
        np.where(random.random(N) < share, one, False)
        | ((random.random(N) < 0.05 * (1 - share)) & ~one)
        for share in (0.75, 0.25)
    )
    # frequent latents meet often and by chance alone
    frequent, also = (random.random(N) < 0.8 for _ in range(2))
    codes = codes_of(one, twin, cousin, frequent, also, np.zeros(N, bool))
    alike = relatives(np.arange(6), codes, 6, N, None)
    assert alike == [frozenset({1}), frozenset({0}), *[frozenset()] * 4]


def test_only_sampled_latents_and_the_first_tokens_count() -> None:
    half = np.arange(N) < N // 2
    even = np.arange(N) % 2 == 0
    # alike in the first half alone
    codes = codes_of(half & even, np.zeros(N, bool), np.where(half, even, ~even))
    assert relatives(np.array([0, 2]), codes, 3, N // 2, None) == [frozenset({1}), frozenset({0})]
    assert relatives(np.array([0, 1]), codes, 3, N, None) == [frozenset(), frozenset()]


def test_neighbours_by_decoder_cosine_are_relatives_both_ways() -> None:
    near = pl.DataFrame(
        {"latent": [4, 4, 9, 2], "neighbour": [9, 2, 7, 4], "cosine": [0.51, 0.5, 0.9, -0.8]}
    )
    nothing = [Codes.from_dense(torch.zeros(5, 10))]
    alike = relatives(np.array([2, 4, 9]), nothing, 10, 5, near)
    assert alike == [frozenset(), frozenset({2}), frozenset({1})]


def test_close_lists_pairs_of_directions() -> None:
    directions = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]])
    assert close(directions).select("latent", "neighbour").rows() == [(0, 1), (1, 2)]
