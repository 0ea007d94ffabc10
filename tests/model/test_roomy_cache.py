"""A cache that grows in place holds what transformers' own would hold."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from components.model.roomy_cache import SPARE, give_room


def drawn(n, seed):
    keys_and_values = torch.randn(2, 2, 3, n, 4, generator=torch.Generator().manual_seed(seed))
    return keys_and_values[0], keys_and_values[1]


def grown(steps, between=lambda cache: None):
    """Every step's keys and values by a cache with room and by one without."""
    roomy, plain = DynamicCache(), DynamicCache()
    pairs = []
    for seed, n in enumerate(steps):
        for layer in range(2):
            states = [cache.update(*drawn(n, seed), layer) for cache in (roomy, plain)]
            pairs.append([[x.clone() for x in of_one] for of_one in states])
        give_room(roomy)
        for cache in (roomy, plain):
            between(cache)
    return roomy, plain, pairs


def test_it_holds_the_same_at_every_length():
    roomy, plain, pairs = grown([5, *[1] * (2 * SPARE), 40, 1])
    for ours, theirs in pairs:
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert type(roomy.layers[0]) is not DynamicLayer
    assert roomy.get_seq_length() == plain.get_seq_length() == 5 + 2 * SPARE + 41


def test_a_token_more_does_not_move_those_before():
    roomy, _, _ = grown([5, 1])
    before = roomy.layers[0].keys.data_ptr()
    roomy.update(*drawn(1, 9), 0)
    assert roomy.layers[0].keys.data_ptr() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.crop(-1),
        lambda cache: cache.batch_select_indices(torch.tensor([1, 0])),
        lambda cache: cache.reorder_cache(torch.tensor([1, 1])),
    ],
    ids=["cropped", "selected", "reordered"],
)
def test_whoever_changes_the_cache_changes_what_comes_next(change):
    _, _, pairs = grown([5, 1, 1, 2, 1], change)
    for ours, theirs in pairs:
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_emptied_it_begins_anew():
    roomy, _, _ = grown([5, 1])
    roomy.layers[0].reset()
    keys, values = drawn(3, 7)
    found = roomy.update(keys, values, 0)
    assert torch.equal(found[0], keys) and torch.equal(found[1], values)


def test_caches_and_layers_of_other_kinds_stay_as_they_are():
    cache = DynamicCache()
    cache.update(*drawn(2, 0), 0)
    static = StaticLayer(max_cache_len=4)
    cache.layers.append(static)
    give_room(cache)
    assert cache.layers[1] is static and type(static) is StaticLayer
    give_room((torch.zeros(1),))
    give_room(None)
