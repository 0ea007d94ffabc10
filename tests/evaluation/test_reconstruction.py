"""Reconstruction measures are ratios of sums over all test tokens, and say when there is nothing to
measure."""

from __future__ import annotations

import pytest
import torch

from components.evaluation.evaluations.reconstruction import Reconstruction, ReconstructionConfig
from tests.evaluation import bench

EVALUATION = Reconstruction(ReconstructionConfig(), bench.services())
GRID = bench.plain(2, 3)
# Two documents, worked out by hand: the mean is (1, 1); deviations (1, 0), (-1, 0), (0, 0) and (0,
# 2), (0, -2), (0, 0).
X = torch.tensor([[2.0, 1], [0, 1], [1, 1], [1, 3], [1, -1], [1, 1]])


def measured(store, tmp_path, dictionary, x=X, grid=GRID, **kwargs):
    given = bench.subject(
        store, tmp_path, dictionary, grids={"test": grid}, x={"test": x}, **kwargs
    )
    scores, _ = bench.measure(EVALUATION, given)
    return {name: score for (name, _), score in scores.items()}


def test_fvu_is_the_ratio_of_sums_about_the_mean(store, tmp_path):
    first_only = bench.linear(torch.tensor([1.0, 0]), bias=torch.tensor([0.0, 1]))
    fvu = measured(store, tmp_path, first_only)["fvu"]
    # the mean of the documents' own ratios would be 1 / 2
    assert fvu.interval.value == pytest.approx(8 / 10)
    assert fvu.interval.n == 2 and fvu.unit_of_replication == "document"
    assert (fvu.interval.low, fvu.interval.high) == (0.0, 1.0)  # either document alone


def test_an_exact_dictionary_leaves_nothing_unexplained_and_the_mean_alone_everything(
    store, tmp_path
):
    exact = measured(store, tmp_path, bench.linear(torch.ones(2)))["fvu"]
    assert exact.interval.value == pytest.approx(0, abs=1e-12)
    nothing = bench.linear(torch.zeros(2), bias=torch.ones(2))
    constant = measured(store, tmp_path, nothing, seed=1)["fvu"]
    assert constant.interval.value == pytest.approx(1)


def test_l0_and_dead_latents_are_counted_over_test_tokens(store, tmp_path):
    scores = measured(store, tmp_path, bench.linear(torch.ones(2)))
    # positive and negative parts that are not zero
    assert scores["l0"].interval.value == pytest.approx(11 / 6)
    # no first coordinate is negative
    assert scores["dead_share"].interval.value == pytest.approx(1 / 4)
    assert (
        scores["dead_share"].interval.n == 4
        and scores["dead_share"].unit_of_replication == "latent"
    )
    assert scores["dead_share"].reason == "dead: active on none of 6 test tokens"


def test_the_untrained_dictionary_is_the_baseline(store, tmp_path):
    other = bench.linear(torch.tensor([0.0, 1]), bias=torch.tensor([1.0, 0]))
    untrained = (other, {"test": other.encode(X)})
    scores = measured(store, tmp_path, bench.linear(torch.ones(2)), untrained=untrained)
    assert scores["fvu"].baseline == pytest.approx(2 / 10)
    assert scores["l0"].baseline == pytest.approx(1.0)
    assert scores["dead_share"].baseline == pytest.approx(2 / 4)
    assert scores["fvu"].baseline_name == "untrained dictionary"
    only_codes = measured(
        store, tmp_path, bench.linear(torch.ones(2)), untrained=(None, untrained[1]), seed=1
    )
    assert only_codes["fvu"].baseline is None and only_codes["l0"].baseline == pytest.approx(1.0)


def test_without_tokens_there_are_reasons_and_no_values(store, tmp_path):
    given = bench.subject(
        store, tmp_path, bench.linear(torch.ones(2)), grids={"select": GRID}, x={"select": X}
    )
    scores, _ = bench.measure(EVALUATION, given)
    assert {name for name, _ in scores} == {"fvu", "l0", "dead_share"}
    for score in scores.values():
        assert (
            score.interval.value is None
            and score.reason == "the capture holds no token of the test split"
        )


def test_activations_that_do_not_vary_have_no_fvu(store, tmp_path):
    fvu = measured(store, tmp_path, bench.linear(torch.ones(2)), x=torch.ones(6, 2))["fvu"]
    assert (
        fvu.interval.value is None and fvu.reason == "all activations of the test split are equal"
    )


def test_codes_of_other_rows_are_refused(store, tmp_path):
    dictionary = bench.linear(torch.ones(2))
    with pytest.raises(AssertionError, match="5 rows of codes for 6 rows of activations"):
        measured(store, tmp_path, dictionary, found={"test": dictionary.encode(X[:5])})
