"""A sweep's table: curves read at matched L0, intervals over seeds, seeds matched latent by
latent."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from components.device import Execution
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN
from components.evaluation.compare import (
    COMPARE,
    STABILITY,
    CompareConfig,
    Compared,
    at_l0,
    interpolate,
    matched_cosine,
    over_seeds,
)
from components.evaluation.evaluate import measures_of
from components.report import frontiers
from components.report.measure import Measures
from components.report.scores import write
from components.report.tables import CELLS, COMPARISON
from components.statistics import t_interval
from dashboards import charts
from tests import toys
from tests.planted import HOOK, directions, rows

L0, FVU = "l0", "fvu"
MEASURES = measures_of(["reconstruction"])
PLACE = {"stage": "evaluate", "entry": "reconstruction", "role": "entry"}


def cells(points, baseline=()):
    """CELLS of (label, sparsity, seed, l0, fvu)."""
    found = []
    for label, sparsity, seed, l0, fvu in points:
        for name, value, better in ((L0, l0, "neither"), (FVU, fvu, "lower")):
            found.append(
                {"label": label, "architecture": label, "is_baseline": label in baseline, "d_sae": 8, "sparsity": sparsity,
                 "sparsity_name": "k", "seed": seed, "measure": name, "value": value, "better": better, "hook_point": HOOK, **PLACE,
                 "reason": None if value is not None else "it broke"}
            )  # fmt: skip
    return CELLS.frame(found)


def test_between_two_points_a_curve_is_straight_in_log_l0_and_beyond_them_it_is_nothing():
    l0, values = [8.0, 32.0, 64.0], [0.4, 0.2, 0.1]
    assert interpolate(l0, values, 16) == pytest.approx(0.3)  # half way from 8 to 32 in log
    assert interpolate(l0, values, 48) == pytest.approx(0.2 - 0.1 * math.log(1.5) / math.log(2))
    assert interpolate(l0, values, 32) == 0.2
    assert interpolate(list(reversed(l0)), list(reversed(values)), 16) == pytest.approx(0.3)
    assert interpolate(l0, values, 7.9) is None and interpolate(l0, values, 65) is None
    assert (
        interpolate([16], [0.3], 16) == 0.3
        and interpolate([16], [0.3], 17) is None
        and interpolate([], [], 1) is None
    )


def test_at_a_matched_l0_each_seed_is_read_off_its_own_curve_and_the_interval_is_over_seeds():
    given = cells(
        [("a", 1, 0, 8, 0.4), ("a", 2, 0, 32, 0.2), ("a", 1, 1, 10, 0.5), ("a", 2, 1, 40, 0.3)]
    )
    row = at_l0(given, 16).row(0, named=True)
    second = 0.5 - 0.2 * math.log(1.6) / math.log(4)
    expected = t_interval(np.array([0.3, second]))
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert (row["n"], row["n_failed"], row["at_l0"], row["sparsity"], row["reason"]) == (
        2,
        0,
        16,
        None,
        None,
    )


def test_a_curve_that_does_not_reach_an_l0_has_no_value_there_but_a_reason():
    given = cells(
        [("a", 1, 0, 8, 0.4), ("a", 2, 0, 32, 0.2), ("a", 1, 1, 20, 0.5), ("a", 2, 1, 40, 0.3)]
    )
    half, none = at_l0(given, 16).row(0, named=True), at_l0(given, 100).row(0, named=True)
    assert (
        half["value"] == pytest.approx(0.3)
        and half["low"] is None
        and (half["n"], half["n_failed"]) == (2, 1)
    )
    assert none["value"] is None and none["n_failed"] == 2
    assert none["reason"] == "the curves run from L0 8 to 40; nothing is extrapolated"


def test_a_setting_has_its_mean_over_seeds_and_a_baseline_no_interval_and_no_matched_row():
    points = [("a", 1, seed, 8 + seed, 0.1 * seed) for seed in range(3)] + [("b", 4, 0, 4, 0.9)]
    given = cells(points, baseline=("b",))
    frame = over_seeds(given).filter(pl.col("measure") == FVU)
    a, b = frame.row(0, named=True), frame.row(1, named=True)
    expected = t_interval(np.array([0.0, 0.1, 0.2]))
    assert (a["value"], a["low"], a["high"], a["l0"]) == pytest.approx(
        (0.1, expected.low, expected.high, 9)
    )
    assert b["value"] == 0.9 and b["low"] is None and b["is_baseline"]
    assert at_l0(given, 9)["label"].unique().to_list() == ["a"]


def test_a_score_that_one_seed_lacks_counts_it_as_failed():
    row = (
        over_seeds(cells([("a", 1, 0, 8, 0.4), ("a", 1, 1, 8, None)]))
        .filter(pl.col("measure") == FVU)
        .row(0, named=True)
    )
    assert row["value"] == 0.4 and (row["n"], row["n_failed"], row["reason"]) == (2, 1, "it broke")


def test_latents_are_matched_one_to_one_whatever_their_order_and_length():
    one = torch.tensor([[1.0, 0], [0, 2], [1, 1]])
    assert matched_cosine(one, 3 * one[[2, 0, 1]]) == pytest.approx(1)
    # 1.0 + 0.6 beats 0.8 + 0.0: the second row would rather have the first's partner
    other = torch.tensor([[1.0, 0], [0.6, 0.8]])
    assert matched_cosine(torch.tensor([[1.0, 0], [1, 0]]), other) == pytest.approx((1 + 0.6) / 2)
    assert matched_cosine(torch.zeros(2, 3), torch.eye(3)[:2]) == 0


@pytest.fixture
def swept(store):
    planted = directions()
    splits = {"train": {HOOK: rows(600, planted)}, "validate": {HOOK: rows(200, planted, seed=2)}}
    activations, found, inputs = toys.activations(store, splits, rows_per_shard=300), [], {}
    for k in (2, 4):
        for seed in (0, 1):
            config = TrainConfig(
                dictionary=TopKConfig(d_sae=24, k=k), tokens=400, batch_size=200, seed=seed
            )
            trained, _ = store.ensure(
                TRAIN, config, {"activations": activations}, Execution(device="cpu")
            )
            place = PLACE | {"hook_point": HOOK, "n": 5, "split": "test"}
            values = {L0: float(k), FVU: 1 / k + seed / 10}
            scores = [
                place | {"measure": measure, "value": value} for measure, value in values.items()
            ]
            inputs[f"train.{len(found)}"] = trained
            inputs[f"evaluate.{len(found)}"] = toys.artifact(
                store,
                "evaluate",
                lambda folder, rows=scores: write(folder, "evaluate", rows, MEASURES),
                MEASURES.facts(),
                10 * k + seed,
            )
            found.append(Compared(label="topk", sparsity_name="k", sparsity=k, seed=seed))
    return store.ensure(COMPARE, CompareConfig(cells=tuple(found), at_l0=(3.0, 9.0)), inputs)[0]


def test_the_stage_writes_every_score_of_every_dictionary_and_their_means(swept):
    every, comparison = CELLS.read(swept), COMPARISON.read(swept)
    assert every.schema == CELLS.schema and comparison.schema == COMPARISON.schema
    assert every.height == 4 * 3 and set(every["measure"]) == {L0, FVU, STABILITY.name}
    stable = every.filter(pl.col("measure") == STABILITY.name)
    assert (
        stable["value"].is_between(0, 1).all()
        and stable.group_by("sparsity").n_unique().height == 2
    )
    assert every["train"].n_unique() == 4 and every["evaluate"].n_unique() == 4
    matched = comparison.filter(pl.col("measure") == FVU, pl.col("at_l0") == 3).row(0, named=True)
    halfway = math.log(1.5) / math.log(2)
    assert matched["value"] == pytest.approx(0.5 - 0.25 * halfway + 0.05)
    assert comparison.filter(pl.col("at_l0") == 9)["value"].null_count() == 2  # FVU and stability
    caveat = comparison.filter(pl.col("measure") == STABILITY.name, pl.col("sparsity") == 2)[
        "reason"
    ][0]
    assert caveat == "seeds share pairs: the interval is too narrow"
    assert swept.facts["labels"] == ["topk"] and swept.facts["n_dictionaries"] == 4


def test_the_table_is_told_and_drawn(swept):
    comparison, measures = COMPARISON.read(swept), Measures.read(swept)
    told = frontiers.headline(comparison, measures)
    assert told.columns[:3] == ["label", "d_sae", "L0"] and told["L0"].to_list() == [3, 9]
    assert told["FVU"][0].startswith("0.4") and " ± " in told["FVU"][0] and told["FVU"][1] is None
    assert (
        told.columns[3:]
        == ["FVU", "seed stability"]
        == frontiers.titles(comparison, measures, drawn=True)
    )
    chart = charts.sweep_frontier(comparison, measures, "FVU")
    assert chart is not None and chart.to_dict()["layer"]
    assert charts.sweep_frontier(comparison, measures, "concepts found") is None


def test_who_is_best_is_said_with_whether_the_intervals_are_apart():
    points = [("good", k, s, l0, 0.1 + 0.001 * s) for k, l0 in ((1, 8), (2, 32)) for s in (0, 1, 2)]
    points += [("bad", k, s, l0, 0.5 + 0.001 * s) for k, l0 in ((1, 8), (2, 32)) for s in (0, 1, 2)]
    row = frontiers.best(at_l0(cells(points), 16), MEASURES).row(0, named=True)
    assert (row["measure"], row["best"], row["next"], row["apart"], row["compared"]) == (
        "FVU",
        "good",
        "bad",
        True,
        2,
    )
