"""Chance of a choice: what Gaussian directions reach that are chosen as a method chooses."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from components.report.scores import table as score_table
from components.steering.by_concept import by_concept
from components.steering.chance import simulate
from components.steering.comparison import Comparison
from components.steering.contract import Concept
from components.steering.measures import declared
from components.steering.scores import score_rows
from components.store import tables
from tests.steering.world import results

CONCEPTS = [f"c{i}" for i in range(40)]


def means(values: np.ndarray) -> pl.DataFrame:
    """Means of directions [concept, direction], as `concept_means` has them."""
    return pl.DataFrame(
        [
            {"concept": CONCEPTS[c], "method": "r", "replicate": r, "composite": v, "uplift": v}
            for (c, r), v in np.ndenumerate(values)
        ]
    )


def drawn(share: float, n_rivals: int, n: int = 28) -> float:
    """Chance that the chosen one exceeds 20 others where this share of the variance is the
    direction's own."""
    rng = np.random.default_rng(3)
    own = rng.normal(size=(40, n)) * np.sqrt(share)
    test, seen = (own + rng.normal(size=(40, n)) * np.sqrt(1 - share) for _ in range(2))
    found = simulate(
        means(test), means(seen), CONCEPTS, np.full(40, n_rivals), 20, np.random.default_rng(0)
    )
    assert found is not None
    return float(found.above.mean())


def test_a_choice_that_tells_nothing_has_the_chance_of_one_direction() -> None:
    assert drawn(0.0, 8) == pytest.approx(1 / 21, abs=0.012)
    assert drawn(1.0, 1) == pytest.approx(1 / 21, abs=0.012)


def test_a_choice_that_tells_all_has_the_chance_of_the_best_of_all_candidates() -> None:
    assert drawn(1.0, 8) == pytest.approx(8 / 28, abs=0.015)


def test_between_them_chance_grows_with_what_validate_prompts_tell() -> None:
    assert 1 / 21 + 0.02 < drawn(0.5, 8) < 8 / 28 - 0.02


def test_the_chosen_one_is_the_best_on_validate_and_is_measured_on_test() -> None:
    test, seen = np.tile(np.arange(9.0), (40, 1)), np.tile(-np.arange(9.0), (40, 1))
    found = simulate(
        means(test), means(seen), CONCEPTS, np.full(40, 8), 1, np.random.default_rng(0)
    )
    assert found is not None
    assert set(np.unique(found.composite)) == {0.0, 1.0}, (
        "the worst on test, unless it was left out"
    )
    assert not found.above.all()


def test_without_a_direction_left_to_compare_with_there_is_no_chance() -> None:
    few = means(np.zeros((40, 8)))
    assert simulate(few, few, CONCEPTS, np.full(40, 8), 20, np.random.default_rng(0)) is None
    assert simulate(few, few, [], np.zeros(0, int), 20, np.random.default_rng(0)) is None


def chosen_by_chance(n: int, seed: int) -> list[dict]:
    """Scores of a method whose eight candidates are Gaussian directions like those that it is
    compared with."""
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(n)]
    own = rng.uniform(0, 0.5, size=(n, 36))
    rows, chosen = [], None
    for split in ("validate", "test"):
        reached = own + rng.uniform(0, 0.5, size=own.shape)
        best = None if split == "validate" else chosen
        chosen = reached[:, :8].argmax(axis=1)
        for c, concept in enumerate(names):
            for d in range(36):
                if d < 8 and best is not None and best[c] != d:
                    continue
                place = (
                    {"method": "m", "replicate": d}
                    if d < 8
                    else {"method": "r", "replicate": d - 8}
                )
                about = {
                    "concept": concept,
                    "kl_budget": 0.1,
                    "split": split,
                    "prompt": int(split == "test"),
                    "sample": 0,
                }
                rows.append(
                    place
                    | about
                    | {"composite": reached[c, d], "uplift": reached[c, d], "fluency": 1.0}
                )
    about = Comparison(
        concepts=[Concept(name, "document", "document") for name in names],
        refused={}, methods=["m"], controls=["r"], budgets=[0.1], silent={}, unsteered={}, seed=0,
        columns={"dictionary": "d", "hook_point": "h", "n_seeds": 1},
        stand_ins=frozenset(("r", 20 + i) for i in range(8)),
    )  # fmt: skip
    generations = results(rows)
    table = by_concept(generations, tables.STRENGTHS.frame([]), about)
    return score_table(
        "steer", score_rows(generations, table, about), declared(about.judges)
    ).to_dicts()


def named(rows: list[dict], end: str) -> dict:
    (found,) = [row for row in rows if row["name"] == f"steer.m.kl_0.1{end}"]
    return found


def test_a_method_no_better_than_gaussian_directions_has_the_share_and_the_composite_of_chance() -> (
    None
):
    shares, chances, reached, floors = [], [], [], []
    for seed in range(12):
        rows = chosen_by_chance(30, seed)
        share, whole = named(rows, ".share_above_random"), named(rows, ".composite")
        assert share["baseline_name"] == "chance of the best of 8 Gaussian directions against 20"
        assert "against chance" in share["reason"]
        shares.append(share["value"])
        chances.append(share["baseline"])
        reached.append(whole["value"])
        floors.append(whole["baseline"])
    assert np.mean(chances) > 0.1, "far above 1 in 21, which a method of one direction would have"
    assert np.mean(shares) == pytest.approx(np.mean(chances), abs=0.03)
    assert np.mean(reached) == pytest.approx(np.mean(floors), abs=0.02)


def test_where_even_all_concepts_would_be_no_surprise_there_is_no_interval_but_the_reason() -> None:
    share = named(chosen_by_chance(1, 0), ".share_above_random")
    assert (share["low"], share["high"]) == (None, None)
    assert share["reason"].startswith("n too small: even 1 of 1 would come by chance")
    assert named(chosen_by_chance(4, 0), ".share_above_random")["low"] is not None
