"""Bits a token: a code fitted on validate, its lengths on test, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.evaluation.evaluations.description_length import (
    DescriptionLength,
    DescriptionLengthConfig,
    gaussian_bits,
    lengths,
)
from components.store.shards import Codes
from tests.evaluation import bench


def test_the_length_is_that_of_the_code_which_validate_sets():
    known = Codes.from_dense(torch.tensor([[1.0, 0], [2, 0], [0, 0], [1, 3]]))
    sent = Codes.from_dense(torch.tensor([[2.0, 0], [0, 3]]))
    active = [3.5 / 5, 1.5 / 5]
    # bins 1, 2, 3 and the one for what was not seen make five with the empty 0: counts plus a half
    # over n plus 5 halves
    two_of_first, three_of_second = 1.5 / (3 + 2.5), 1.5 / (1 + 2.5)
    by_hand = [
        -np.log2(active[0]) - np.log2(two_of_first) - np.log2(1 - active[1]),
        -np.log2(1 - active[0]) - np.log2(active[1]) - np.log2(three_of_second),
    ]
    assert lengths(known, sent, 1.0).tolist() == pytest.approx(by_hand)


def test_a_value_beyond_what_validate_has_seen_is_an_escape_and_its_distance():
    known, sent = (
        Codes.from_dense(torch.tensor([[1.0], [1.0]])),
        Codes.from_dense(torch.tensor([[50.0]])),
    )
    escape = -np.log2(0.5 / (2 + 0.5 * 3))  # bins 0, 1 and the escape, which is bin 2
    by_gamma = 2 * np.floor(np.log2(49)) + 1
    assert lengths(known, sent, 1.0).tolist() == pytest.approx(
        [escape + by_gamma - np.log2(2.5 / 3)]
    )


@pytest.mark.parametrize("step", [1.0, 0.001])
def test_it_is_a_code_that_can_be_read_again(step):
    """Kraft: over all that could be sent, 2 to the minus bits adds up to 1 and no more, however
    fine the bins."""
    known = Codes.from_dense(torch.tensor([[1.0], [2.0], [0.0], [2.0]]))
    n = 2**18
    sent = Codes(torch.arange(n + 1), torch.zeros(n, dtype=torch.int32), torch.arange(n) * step, 1)
    silent = Codes.from_dense(torch.zeros(1, 1))
    total = (2.0 ** -lengths(known, sent, step)).sum() + (
        2.0 ** -lengths(known, silent, step)
    ).sum()
    assert 0.99 < total <= 1 + 1e-9


def test_no_step_that_is_fine_enough_is_said(store, tmp_path):
    grid = bench.plain(30, 6)
    grids = {
        split: {**grid, "document": grid["document"] + 1000 * n}
        for n, split in enumerate(bench.SPLITS)
    }
    x = {
        split: torch.rand(180, 4, generator=torch.Generator().manual_seed(1))
        for split in bench.SPLITS
    }
    subject = bench.subject(store, tmp_path, bench.linear(torch.ones(4)), grids=grids, x=x)
    scores, _ = bench.measure(
        DescriptionLength(DescriptionLengthConfig(tolerance=1e-30), bench.services()), subject
    )
    score = scores["description_length", None]
    assert (
        score.interval.value is None
        and "4096 steps still raise the squared error on validate" in score.reason
    )


def test_the_gaussian_baseline_is_reverse_water_filling():
    assert gaussian_bits(np.array([4.0, 4.0]), 2.0) == pytest.approx(2.0)  # 1/2 log2(4 / 1) each
    # variances 4 and 1 at error 3: the level 1.5 would lie above the smaller, which is not sent: 1
    # + 2
    assert gaussian_bits(np.array([1.0, 4.0]), 3.0) == pytest.approx(0.5 * np.log2(4 / 2))
    assert gaussian_bits(np.array([1.0, 4.0]), 5.0) == 0.0


def test_fewer_tokens_active_cost_fewer_bits(store, tmp_path):
    grid = bench.plain(30, 6)
    grids = {
        split: {**grid, "document": grid["document"] + 1000 * n}
        for n, split in enumerate(bench.SPLITS)
    }
    generator = torch.Generator().manual_seed(0)
    x = {split: torch.randn(180, 4, generator=generator) for split in bench.SPLITS}
    bits = []
    for seed, keep in enumerate((torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, 0, 0, 0]))):
        folder = tmp_path / str(seed)
        folder.mkdir()
        subject = bench.subject(store, folder, bench.linear(keep), grids=grids, x=x, seed=seed)
        scores, _ = bench.measure(
            DescriptionLength(DescriptionLengthConfig(), bench.services()), subject
        )
        score = scores["description_length", None]
        assert (
            score.interval.low < score.interval.value < score.interval.high
            and score.interval.n == 30
        )
        assert score.baseline_name == "Gaussian of equal error"
        bits.append(score.interval.value)
    assert bits[0] > 3 * bits[1] > 0
