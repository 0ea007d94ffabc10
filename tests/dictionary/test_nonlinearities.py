"""Selections find what a full sort finds."""

from __future__ import annotations

import pytest
import torch

from components.dictionary.nonlinearities import largest, largest_of


def values(pre, indices):
    return pre.gather(1, indices).sort(dim=1).values


@pytest.mark.parametrize("d_sae, k", [(40, 3), (2048, 32), (2056, 8), (4096, 1), (2050, 8)])
def test_the_largest_are_those_of_a_full_sort_at_any_width(d_sae, k):
    pre = torch.randn(64, d_sae, generator=torch.Generator().manual_seed(k))
    found = largest(pre, k)
    assert all(len(set(row)) == k for row in found.tolist())
    torch.testing.assert_close(values(pre, found), pre.sort(dim=1).values[:, -k:])


def test_ties_still_give_k_different_latents():
    found = largest(torch.zeros(3, 2048), 16)
    assert all(len(set(row)) == 16 for row in found.tolist())


def test_of_the_chosen_only_and_no_more_than_there_are():
    pre = torch.tensor([[9.0, 1.0, 5.0, 3.0]])
    chosen = torch.tensor([False, True, False, True])
    assert largest_of(pre, chosen, 1).tolist() == [[3]]
    assert sorted(largest_of(pre, chosen, 3)[0].tolist()) == [1, 3]
    assert largest_of(pre, torch.zeros(4).bool(), 3).shape == (1, 0)
