"""The stream: every row once an epoch, the same at the same position, and bad rows named."""

from __future__ import annotations

import itertools

import pytest
import torch

from components.dictionary import stream as module
from components.dictionary.stream import Stream
from components.errors import DictionaryError
from components.store.shards import ActivationShards
from tests import toys
from tests.planted import HOOK


def numbered(store, n=50, **kwargs):
    x = torch.arange(n, dtype=torch.float32)[:, None].expand(n, 3).contiguous()
    return ActivationShards(toys.activations(store, {"train": {HOOK: x}}, **kwargs))


def first_rows(stream, batch_size, n_batches, position=0):
    batches = itertools.islice(stream.batches(batch_size, position), n_batches)
    return torch.cat([batch[HOOK][:, 0] for batch in batches]).long().tolist()


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(module, "WINDOW_BYTES", 12 * 12)  # 12 rows of 3 floats


@pytest.mark.parametrize("batch_size", [5, 10, 50])
def test_an_epoch_holds_every_row_once_and_the_next_another_order(store, small_windows, batch_size):
    found = first_rows(
        Stream(numbered(store), "train", [HOOK], seed=0), batch_size, 100 // batch_size
    )
    assert sorted(found[:50]) == list(range(50)) == sorted(found[50:])
    assert found[:50] != found[50:]
    assert found[:50] != list(range(50))


@pytest.mark.parametrize("position", [0, 7, 12, 49, 50, 133])
def test_a_stream_begun_at_a_position_continues_the_same_rows(store, small_windows, position):
    stream = Stream(numbered(store), "train", [HOOK], seed=3)
    assert first_rows(stream, 1, 200)[position : position + 60] == first_rows(
        stream, 20, 3, position
    )


def test_batches_larger_than_the_split_span_epochs(store):
    found = first_rows(Stream(numbered(store, n=6), "train", [HOOK], seed=0), 15, 2)
    assert len(found) == 30 and all(found.count(row) == 5 for row in range(6))


def test_a_split_that_fits_one_window_is_shuffled_completely(store):
    found = torch.tensor(
        first_rows(Stream(numbered(store, n=600), "train", [HOOK], seed=0), 600, 1)
    )
    jumps = (found.diff().abs() > module.BLOCK).float().mean()
    assert jumps > 0.2  # neighbours come from different blocks


def test_seeds_give_different_orders_and_a_sample_holds_different_rows(store):
    shards = numbered(store)
    assert first_rows(Stream(shards, "train", [HOOK], 0), 50, 1) != first_rows(
        Stream(shards, "train", [HOOK], 1), 50, 1
    )
    sample = Stream(shards, "train", [HOOK], 0).sample(20)[HOOK][:, 0].long().tolist()
    assert len(set(sample)) == 20
    assert len(Stream(shards, "train", [HOOK], 0).sample(999)[HOOK]) == 50


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_refused_with_its_shard_and_row(store, bad):
    x = torch.ones(20, 3)
    x[16, 1] = bad
    shards = ActivationShards(
        toys.activations(store, {"train": {HOOK: torch.ones(2, 3)}, "test": {HOOK: x}})
    )
    with pytest.raises(
        DictionaryError, match=r"resid_post\.1 .* row 2 of shard test/00002\.safetensors \(row 16 "
    ):
        next(Stream(shards, "test", [HOOK], 0).batches(20))
