"""First values: the geometric median minimises distances and stays with the many."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.dictionary.initial import geometric_median, random_directions


def test_a_few_huge_rows_move_the_mean_but_not_the_median():
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    rows[:10] = 1e4
    assert rows.mean(0).norm() > 100
    assert geometric_median(rows).norm() < 0.3


@given(st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_no_nearby_point_has_a_smaller_sum_of_distances(seed):
    rows = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    median = geometric_median(rows, iterations=1000, tolerance=1e-9)
    cost = (rows - median).norm(dim=1).sum()
    for step in torch.eye(2, dtype=torch.float64):
        for sign in (-0.05, 0.05):
            assert (rows - median - sign * step).norm(dim=1).sum() >= cost - 1e-9


def test_it_stands_on_a_row_that_holds_the_majority():
    rows = torch.tensor([[1.0, 1.0]] * 3 + [[5.0, 0.0]])
    torch.testing.assert_close(
        geometric_median(rows), torch.tensor([1.0, 1.0]).double(), atol=1e-3, rtol=0
    )


def test_directions_have_norm_one_and_come_from_the_generator():
    first = random_directions(5, 3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    assert torch.equal(first, random_directions(5, 3, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, random_directions(5, 3, torch.Generator().manual_seed(2)))
