"""Kappa of people and judges: known values, its interval, and where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from components.report.agreement import agreement
from components.store.notes import RATINGS
from components.store.tables import EXPLANATION_SCORES


def scores(values: list[float], floor: list[float]) -> pl.DataFrame:
    shared = {
        "explainer": "log_odds",
        "scorer": "detection",
        "predictor": "lexical",
        "n": 10,
        "n_failed": 0,
    }
    return EXPLANATION_SCORES.frame(
        [{"latent": n, "role": "entry", "value": value} | shared for n, value in enumerate(values)]
        + [{"latent": n, "role": "floor", "value": value} | shared for n, value in enumerate(floor)]
    )


def ratings(fits: list[bool], author: str = "Ann") -> pl.DataFrame:
    return RATINGS.frame(
        [{"interpret": "i", "latent": n, "explainer": "log_odds", "author": author, "explanation": "t",
          "fits": each, "at": "now"} for n, each in enumerate(fits)]
    )  # fmt: skip


def test_the_threshold_is_what_others_explanations_rarely_reach() -> None:
    floor = [0.01 * n for n in range(101)]
    fits = [True] * 15 + [False] * 15
    values = [0.96] * 15 + [0.94] * 15
    row = agreement(ratings(fits), scores(values, floor), "i").row(0, named=True)
    assert row["threshold"] == pytest.approx(0.95)
    assert (row["kappa"], row["agree"], row["n"], row["n_latents"]) == (1.0, 1.0, 30, 30)
    assert row["low"] == row["high"] == 1.0


def test_a_judge_that_knows_nothing_agrees_by_chance_and_the_interval_says_so() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(40):
        fits = (generator.random(60) < 0.5).tolist()
        values = generator.random(60).tolist()
        row = agreement(ratings(fits), scores(values, [0.5] * 30), "i").row(0, named=True)
        covered += row["low"] <= 0 <= row["high"]
    assert covered >= 34


def test_every_person_and_judge_has_a_row_and_other_artifacts_have_none() -> None:
    two = pl.concat([ratings([True] * 12), ratings([False] * 12, "Bob")])
    other = two.with_columns(interpret=pl.lit("another"))
    told = agreement(pl.concat([two, other]), scores([0.9] * 12, [0.5] * 20), "i")
    assert told["author"].to_list() == ["Ann", "Bob"] and told["n"].to_list() == [12, 12]
    assert told["agree"].to_list() == [1.0, 0.0]


def test_a_score_of_which_some_windows_failed_counts_and_one_of_which_all_did_does_not() -> None:
    def failed(row: dict[str, Any]) -> dict[str, Any]:
        n_failed = {"entry": {0: 1, 1: 9, 2: 10}, "floor": {0: 10, 1: 1}}[row["role"]].get(
            row["latent"], 0
        )
        return row | {"n_failed": n_failed, "reason": "cut: ..." if n_failed else None}

    told = scores([0.9] * 12, [0.5] * 21)
    told = EXPLANATION_SCORES.frame([failed(row) for row in told.iter_rows(named=True)])
    row = agreement(ratings([True] * 12), told, "i").row(0, named=True)
    assert row["n"] == row["n_latents"] == 11
    # the floor of latent 0 is no answer of the judge either: 20 of 21 are left
    one_less = told.filter((pl.col("role") == "entry") | (pl.col("latent") < 20))
    assert agreement(ratings([True] * 12), one_less, "i")["reason"][0] == (
        "the floor has 19 values, wanted at least 20"
    )


@pytest.mark.parametrize(
    ("fits", "values", "floor", "reason"),
    [
        ([True] * 12, [0.9] * 12, [0.5] * 20, "everything was rated alike"),
        (
            [True, False] * 3,
            [0.9, 0.1] * 3,
            [0.5] * 20,
            "no interval: 6 latents rated, wanted at least 10",
        ),
        ([True, False] * 6, [0.9, 0.1] * 6, [0.5] * 19, "the floor has 19 values"),
    ],
)
def test_where_there_is_no_value_a_reason_stands(
    fits: list[bool], values: list[float], floor: list[float], reason: str
) -> None:
    row = agreement(ratings(fits), scores(values, floor), "i").row(0, named=True)
    assert reason in row["reason"] and row["low"] is None


def test_without_ratings_there_are_no_rows() -> None:
    assert agreement(ratings([]), scores([0.9], [0.5] * 20), "i").is_empty()
