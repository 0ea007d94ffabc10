"""Selections find what a full sort finds."""

from __future__ import annotations

import pytest
import torch

from components.dictionary import nonlinearities
from components.dictionary.nonlinearities import largest, largest_of, largest_of_batch


def values(pre, indices):
    return pre.gather(1, indices).sort(dim=1).values


WIDTHS = [(7, 7), (40, 3), (40, 40), (1024, 16), (2048, 32), (2056, 8), (4096, 1), (2050, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("d_sae, k", [*WIDTHS, (16384, 32), (16384, 3)])
def test_the_largest_are_those_of_a_full_sort_at_any_width(d_sae, k, dtype):
    pre = torch.randn(64, d_sae, generator=torch.Generator().manual_seed(k)).to(dtype)
    found = largest(pre, k)
    assert all(len(set(row)) == k for row in found.tolist())
    torch.testing.assert_close(values(pre, found), pre.sort(dim=1).values[:, -k:])


def test_many_rows_are_searched_some_at_a_time(monkeypatch):
    pre = torch.randn(50, 1024, generator=torch.Generator().manual_seed(0))
    whole = largest(pre, 16)
    monkeypatch.setattr(nonlinearities, "NUMBERED", 7 * 128)
    assert torch.equal(values(pre, largest(pre, 16)), values(pre, whole))


def test_ties_still_give_k_different_latents():
    found = largest(torch.zeros(3, 2048), 16)
    assert all(len(set(row)) == 16 for row in found.tolist())


def test_of_the_chosen_only_and_no_more_than_there_are():
    pre = torch.tensor([[9.0, 1.0, 5.0, 3.0]])
    chosen = torch.tensor([False, True, False, True])
    assert largest_of(pre, chosen, 1).tolist() == [[3]]
    assert sorted(largest_of(pre, chosen, 3)[0].tolist()) == [1, 3]
    assert largest_of(pre, torch.zeros(4).bool(), 3).shape == (1, 0)


@pytest.mark.parametrize(
    "n_tokens, d_sae, n",
    [
        (64, 2048, 64 * 8),
        (64, 2048, 1),
        (7, 40, 20),
        (64, 64, 64 * 3),
        (5, 64, 300),
        (3, 128, 9999),
    ],
)
@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_the_largest_of_a_batch_are_those_of_a_full_sort_above_zero(n_tokens, d_sae, n, shift):
    pre = torch.randn(n_tokens, d_sae, generator=torch.Generator().manual_seed(n)) + shift
    latents, offsets = largest_of_batch(pre, n)
    found = torch.zeros_like(pre)
    tokens = torch.repeat_interleave(offsets.diff())
    found[tokens, latents] = pre[tokens, latents]
    flat = pre.flatten()
    wanted = torch.zeros_like(flat)
    kept = flat.argsort(descending=True)[:n]
    wanted[kept] = flat[kept].relu()
    assert torch.equal(found.flatten(), wanted)


def test_a_batch_of_ties_gives_as_many_as_asked_and_one_below_zero_none():
    latents, offsets = largest_of_batch(torch.ones(16, 128), 20)
    assert len(latents) == 20 and offsets.tolist()[-1] == 20
    latents, offsets = largest_of_batch(-torch.ones(4, 128), 8)
    assert len(latents) == 0 and offsets.tolist() == [0] * 5
