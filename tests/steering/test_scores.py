from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from components.statistics import bootstrap_mean, t_interval, wilson
from components.steering.contract import Concept
from components.steering.scores import Comparison, score_rows
from components.store import tables

CONCEPTS = [Concept(f"topic.{i}", "document", "document") for i in range(3)] + [Concept("word.a", "surface", "token")]
UPLIFT = {"topic.0": 0.6, "topic.1": 0.2, "word.a": 0.1}


def rows(
    method: str, concept: str, replicate: int, values: list[float | None], fluency: float = 1.0
) -> list[dict[str, Any]]:
    return [
        {
            "concept": concept,
            "method": method,
            "replicate": replicate,
            "kl_budget": None if method == "unsteered" else 0.1,
            "split": "test",
            "prompt": prompt,
            "sample": 0,
            "uplift": value,
            "fluency": None if value is None else fluency,
        }
        for prompt, value in enumerate(values)
    ]


def comparison(**changes: Any) -> Comparison:
    given: dict[str, Any] = {
        "concepts": CONCEPTS,
        "refused": {"topic.2": "probe: average precision 0.10 on validate, wanted 0.8"},
        "methods": ["m"],
        "controls": ["r"],
        "budgets": [0.1],
        "judges": ["concept", "fluency"],
        "unsteered": {},
        "seed": 0,
        "columns": {"dictionary": "topk-8-k2", "hook_point": "resid_post.0", "n_seeds": 1},
    }
    return Comparison(**given | changes)


@pytest.fixture
def generations() -> pl.DataFrame:
    """Each concept's uplift with a spread of 0.1 over two prompts; two controls, the second larger on all but one."""
    found = []
    for concept, uplift in UPLIFT.items():
        found += rows("m", concept, 0, [uplift - 0.1, uplift + 0.1], 0.8)
        found += rows("r", concept, 0, [0.0, 0.0]) + rows(
            "r", concept, 1, [0.2, 0.1] if concept == "word.a" else [-0.1, 0.1]
        )
        found += rows("unsteered", concept, 0, [0.0, 0.0], 0.9)
    return tables.GENERATIONS.frame(found)


def strengths(costs: dict[str, float | None]) -> pl.DataFrame:
    shared = {"method": "m", "replicate": 0, "kl_budget": 0.1, "coefficient": 0.5, "kl": 0.1}
    return tables.STRENGTHS.frame([{"concept": c, "kl_elsewhere": kl, **shared} for c, kl in costs.items()])


def scores(
    generations: pl.DataFrame, about: Comparison, costs: dict[str, float | None] | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    frame = tables.SCORES.frame(list(score_rows(generations, strengths(costs or {}), about)))
    return {(row["name"], row["concept_kind"]): row for row in frame.to_dicts()}


def test_uplift_is_a_mean_over_concepts_with_students_interval(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1", "all"]
    wanted = t_interval(np.array(list(UPLIFT.values())))
    assert (row["value"], row["low"], row["high"], row["n"]) == pytest.approx(
        (wanted.value, wanted.low, wanted.high, 3)
    )
    assert row["unit_of_replication"] == "concept"
    assert (row["split"], row["better"], row["dictionary"]) == ("test", "higher", "topk-8-k2")


def test_the_baseline_is_the_mean_over_concepts_of_the_largest_control(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1", "all"]
    assert row["baseline"] == pytest.approx((0 + 0 + 0.15) / 3)
    assert row["baseline_name"] == "largest of 2 Gaussian directions"


def test_every_kind_of_concept_has_its_row(generations: pl.DataFrame) -> None:
    found = scores(generations, comparison())
    assert found["steer.m.kl_0.1", "document"]["value"] == pytest.approx(0.4)
    surface = found["steer.m.kl_0.1", "surface"]
    assert (surface["value"], surface["low"], surface["n"]) == (pytest.approx(0.1), None, 1)
    assert surface["reason"] == "one concept gives no interval"
    assert ("steer.m.kl_0.1", "contextual") not in found


def test_the_share_above_random_counts_concepts(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1.share_above_random", "all"]
    wanted = wilson(2, 3)  # word.a: 0.10 against 0.15
    assert (row["value"], row["low"], row["high"], row["n"]) == pytest.approx((2 / 3, wanted.low, wanted.high, 3))
    assert (row["baseline"], row["baseline_name"]) == (pytest.approx(1 / 3), "chance of being the largest of 3 equals")


def test_fluency_stands_beside_that_of_unsteered_text(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1.fluency", "all"]
    assert (row["value"], row["baseline"], row["baseline_name"]) == (
        pytest.approx(0.8),
        pytest.approx(0.9),
        "unsteered text",
    )


def test_what_no_judge_judged_is_absent_and_says_so(generations: pl.DataFrame) -> None:
    unjudged = generations.with_columns(pl.lit(None, pl.Float64).alias("fluency"))
    found = scores(unjudged, comparison(judges=["concept"]))
    for kind in ("all", "document", "surface"):
        row = found["steer.m.kl_0.1.fluency", kind]
        assert [row[name] for name in ("value", "low", "high", "baseline")] == [None] * 4
        assert (row["n"], row["n_failed"], row["reason"]) == (0, 0, "steer.judges does not list fluency")
    assert found["steer.m.kl_0.1", "all"] == scores(generations, comparison())["steer.m.kl_0.1", "all"]


def test_the_control_has_its_own_row(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.r.kl_0.1", "all"]
    assert row["value"] == pytest.approx((0 + 0 + 0.075) / 3)
    assert (row["baseline"], row["baseline_name"]) == (0.0, "unsteered")


def test_a_control_counts_what_failed_on_the_concepts_of_its_row(generations: pl.DataFrame) -> None:
    lost = (pl.col("concept") == "topic.0") & (pl.col("method") == "r")
    failed = generations.with_columns(pl.when(~lost).then(pl.col("uplift")).alias("uplift"))
    found = scores(failed, comparison())
    assert found["steer.r.kl_0.1", "document"]["n_failed"] == 1
    assert "failed and count as 0" in found["steer.r.kl_0.1", "document"]["reason"]
    assert found["steer.r.kl_0.1", "surface"]["n_failed"] == 0
    assert found["steer.r.kl_0.1", "surface"]["reason"] == "one concept gives no interval"


def test_a_concept_that_a_control_lacks_counts_as_no_uplift_of_it(generations: pl.DataFrame) -> None:
    row = scores(generations.filter(~((pl.col("concept") == "word.a") & (pl.col("method") == "r"))), comparison())[
        "steer.r.kl_0.1", "all"
    ]
    assert (row["value"], row["n"], row["n_failed"]) == (pytest.approx(0.0), 3, 1)
    assert row["reason"] == "1 of 3 concepts had no usable direction and count as 0"


def test_plain_text_that_could_not_be_judged_does_not_lower_the_baseline_of_fluency(generations: pl.DataFrame) -> None:
    lost = (pl.col("method") == "unsteered") & (pl.col("prompt") == 1)
    failed = generations.with_columns(pl.when(~lost).then(pl.col("fluency")).alias("fluency"))
    assert scores(failed, comparison())["steer.m.kl_0.1.fluency", "all"]["baseline"] == pytest.approx(0.9)


def test_each_concept_has_a_row_with_an_interval_over_prompts(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1.word.a", "surface"]
    wanted = t_interval(np.array([0.0, 0.2]))
    assert (row["value"], row["low"], row["high"], row["n"]) == pytest.approx(
        (0.1, max(wanted.low, -1.0), min(wanted.high, 1.0), 2)
    )
    assert (row["unit_of_replication"], row["baseline"]) == ("prompt", pytest.approx(0.15))


def test_the_gate_counts_every_candidate_and_says_who_refused(generations: pl.DataFrame) -> None:
    found = scores(generations, comparison())
    assert (found["steer.gate.passed", "all"]["value"], found["steer.gate.passed", "all"]["n"]) == (0.75, 4)
    assert found["steer.gate.passed", "document"]["value"] == pytest.approx(2 / 3)
    assert found["steer.gate.passed", "all"]["reason"] == "1 of 4 concepts did not pass the gate (1 by the probe)"
    assert found["steer.gate.passed", "all"]["split"] == "validate"


def test_failed_generations_count_as_no_uplift_and_are_told(generations: pl.DataFrame) -> None:
    failed = generations.with_columns(
        pl.when((pl.col("concept") == "topic.0") & (pl.col("method") == "m") & (pl.col("prompt") == 1))
        .then(None)
        .otherwise(pl.col(name))
        .alias(name)
        for name in ("uplift", "fluency")
    )
    found = scores(failed, comparison())
    assert found["steer.m.kl_0.1.topic.0", "document"]["value"] == pytest.approx(0.25)
    assert found["steer.m.kl_0.1.topic.0", "document"]["n_failed"] == 1
    assert found["steer.m.kl_0.1", "all"]["reason"] == "1 of 6 generations failed and count as 0"
    assert found["steer.m.kl_0.1.fluency", "document"]["value"] == pytest.approx((0.4 + 0.8) / 2)


def test_a_concept_without_a_direction_counts_as_no_uplift(generations: pl.DataFrame) -> None:
    without = generations.filter(~((pl.col("concept") == "topic.0") & (pl.col("method") == "m")))
    found = scores(without, comparison(unsteered={("topic.0", "m", 0.1): "the two means are equal"}))
    row = found["steer.m.kl_0.1", "all"]
    assert (row["value"], row["n"], row["n_failed"]) == (pytest.approx(0.1), 3, 1)
    assert row["reason"] == "1 of 3 concepts had no usable direction and count as 0"
    own = found["steer.m.kl_0.1.topic.0", "document"]
    assert (own["value"], own["n"], own["reason"]) == (None, 0, "the two means are equal")


def test_what_failed_is_above_nothing_though_every_control_lowers_the_concept(generations: pl.DataFrame) -> None:
    lowering = generations.filter(~((pl.col("concept") == "topic.0") & (pl.col("method") == "m"))).with_columns(
        uplift=pl.when(pl.col("method") == "r")
        .then(-0.05)
        .when((pl.col("method") == "m") & (pl.col("concept") == "topic.1"))
        .then(None)
        .otherwise(pl.col("uplift"))
    )
    row = scores(lowering, comparison())["steer.m.kl_0.1.share_above_random", "all"]
    assert (row["value"], row["n"], row["n_failed"]) == (pytest.approx(1 / 3), 3, 2)


def test_a_control_without_a_strength_is_not_named_among_the_equals(generations: pl.DataFrame) -> None:
    one = generations.filter(~((pl.col("method") == "r") & (pl.col("replicate") == 1)))
    found = scores(one, comparison())
    assert found["steer.m.kl_0.1", "all"]["baseline_name"] == "largest of 1 Gaussian directions"
    assert found["steer.m.kl_0.1.share_above_random", "all"]["baseline"] == pytest.approx(1 / 2)


def test_the_cost_is_measured_where_no_strength_was_set_and_stands_beside_the_budget(generations: pl.DataFrame) -> None:
    found = scores(generations, comparison(), {"topic.0": 0.08, "topic.1": 0.12, "word.a": None})
    row = found["steer.m.kl_0.1.cost", "all"]
    assert (row["value"], row["n"], row["n_failed"]) == (pytest.approx(0.1), 2, 1)
    assert (row["baseline"], row["baseline_name"], row["split"]) == (0.1, "KL budget", "neutral")
    none = scores(generations, comparison())["steer.m.kl_0.1.cost", "all"]
    assert (none["value"], none["reason"]) == (None, "no neutral text is left to measure it on")


def test_the_gate_says_that_not_every_concept_was_tried(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison(limit="4 of 90 concepts were tried"))["steer.gate.passed", "all"]
    assert row["reason"].endswith("(1 by the probe); 4 of 90 concepts were tried")


def test_without_a_control_there_is_no_baseline_and_no_share(generations: pl.DataFrame) -> None:
    alone = generations.filter(pl.col("method") != "r")
    found = scores(alone, comparison(controls=[]))
    assert found["steer.m.kl_0.1", "all"]["baseline"] is None
    share = found["steer.m.kl_0.1.share_above_random", "all"]
    assert (share["value"], share["reason"]) == (None, "no control direction to compare with")


def test_when_no_concept_passes_there_is_no_value_but_a_reason() -> None:
    refused = {concept.name: "concept judge: AUROC 0.50" for concept in CONCEPTS}
    found = scores(tables.GENERATIONS.frame([]), comparison(refused=refused))
    row = found["steer.m.kl_0.1", "all"]
    assert (row["value"], row["n"], row["reason"]) == (None, 0, "no concept passed the gate")
    assert found["steer.gate.passed", "all"]["value"] == 0


def test_thirty_concepts_are_bootstrapped() -> None:
    concepts = [Concept(f"c{i}", "document", "document") for i in range(30)]
    found = [row for i in range(30) for row in rows("m", f"c{i}", 0, [i / 30])]
    row = scores(tables.GENERATIONS.frame(found), comparison(concepts=concepts, refused={}))["steer.m.kl_0.1", "all"]
    wanted = bootstrap_mean(np.arange(30) / 30, np.random.default_rng(0))
    assert row["low"] == pytest.approx(wanted.low, abs=0.02)
    assert row["low"] != t_interval(np.arange(30) / 30).low
