from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest

from components.report.scores import table as score_table
from components.statistics import binomial_tail, t_interval, t_interval_of_groups, wilson
from components.steering.by_concept import by_concept, by_judge, concept_means
from components.steering.comparison import CONTROLS, Comparison
from components.steering.contract import Concept
from components.steering.contrasts import contrasts
from components.steering.measures import declared
from components.steering.scores import _Scores, score_rows
from components.store import tables
from tests.steering.world import results

CONCEPTS = [Concept(f"topic.{i}", "document", "document") for i in range(3)] + [
    Concept("word.a", "surface", "token")
]
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
            "composite": None if value is None else max(0.0, value),
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
        "silent": {},
        "unsteered": {},
        "seed": 0,
        "columns": {"dictionary": "topk-8-k2", "hook_point": "resid_post.0", "n_seeds": 1},
    }
    return Comparison(**given | changes)


@pytest.fixture
def generations() -> pl.DataFrame:
    """Each concept's uplift with a spread of 0.1 over two prompts; two controls, the second larger
    on all but one."""
    found = []
    for concept, uplift in UPLIFT.items():
        found += rows("m", concept, 0, [uplift - 0.1, uplift + 0.1], 0.8)
        found += rows("r", concept, 0, [0.0, 0.0]) + rows(
            "r", concept, 1, [0.2, 0.1] if concept == "word.a" else [-0.1, 0.1]
        )
        found += rows("unsteered", concept, 0, [0.0, 0.0], 0.9)
    return results(found)


def strengths(costs: dict[str, float | None]) -> pl.DataFrame:
    shared = {"method": "m", "replicate": 0, "kl_budget": 0.1, "coefficient": 0.5, "kl": 0.1}
    return tables.STRENGTHS.frame(
        [
            {
                **{"concept": c, "kl_elsewhere": kl, "kl_whole": kl and 2 * kl, **shared},
                "loss_whole": kl and kl / 2,
            }
            for c, kl in costs.items()
        ]
    )


def scores(
    generations: pl.DataFrame, about: Comparison, costs: dict[str, float | None] | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    table = by_concept(generations, strengths(costs or {}), about)
    frame = score_table("steer", score_rows(generations, table, about), declared(about.judges))
    return {(row["name"], row["concept_kind"]): row for row in frame.to_dicts()}


def test_each_measure_is_a_mean_over_the_concepts_of_a_kind_with_students_interval(
    generations: pl.DataFrame,
) -> None:
    found = scores(generations, comparison())
    wanted = t_interval(np.array([0.6, 0.2]))
    for name in ("steer.m.kl_0.1.composite", "steer.m.kl_0.1"):
        row = found[name, "document"]
        assert (row["value"], row["n"]) == pytest.approx((wanted.value, 2))
    assert row["unit_of_replication"] == "concept"
    assert (wanted.low, wanted.high) < (-1.0, 1.0), (
        "Student's interval of two would leave the range of the score"
    )
    assert (row["low"], row["high"]) == (-1.0, 1.0)
    row = found["steer.m.kl_0.1.composite", "document"]
    assert (row["low"], row["high"]) == (0.0, 1.0)
    assert (row["split"], row["better"], row["dictionary"]) == ("test", "higher", "topk-8-k2")


def test_all_concepts_together_weigh_their_kinds_alike_and_say_so(
    generations: pl.DataFrame,
) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1.composite", "all"]
    assert (row["value"], row["n"]) == (pytest.approx((0.4 + 0.1) / 2), 3)
    assert (row["low"], row["high"]) == (None, None), (
        "one surface concept tells nothing of their spread"
    )
    assert (
        row["reason"]
        == "the mean over kinds, each weighing the same: 2 document, 1 surface concepts"
    )
    several = [*CONCEPTS, Concept("word.b", "surface", "token")]
    more = pl.concat([generations, results(rows("m", "word.b", 0, [0.3]))])
    row = scores(more, comparison(concepts=several))["steer.m.kl_0.1", "all"]
    wanted = t_interval_of_groups([np.array([0.6, 0.2]), np.array([0.1, 0.3])])
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        (wanted.value, wanted.low, wanted.high)
    )


def test_a_kind_that_is_the_only_one_is_not_repeated(generations: pl.DataFrame) -> None:
    found = scores(generations, comparison(concepts=CONCEPTS[:3]))
    kinds = {
        kind for name, kind in found if name.startswith("steer.m") or name.startswith("steer.r")
    }
    assert kinds == {"document"}


def test_the_baseline_of_uplift_is_the_mean_of_the_largest_control(
    generations: pl.DataFrame,
) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1", "surface"]
    assert row["baseline"] == pytest.approx(0.15)
    assert row["baseline_name"] == "largest of 2 Gaussian directions"


def test_the_floor_of_the_composite_is_what_gaussian_directions_reach_in_the_mean(
    generations: pl.DataFrame,
) -> None:
    found = scores(generations, comparison())
    assert found["steer.m.kl_0.1.composite", "document"]["baseline"] == pytest.approx(
        (0.05 / 2 + 0.05 / 2) / 2
    ), "the clip"
    assert found["steer.m.kl_0.1.composite", "surface"]["baseline"] == pytest.approx(0.15 / 2)
    assert (
        found["steer.m.kl_0.1.composite", "surface"]["baseline_name"] == "Gaussian directions, mean"
    )


def test_every_kind_of_concept_has_its_row(generations: pl.DataFrame) -> None:
    found = scores(generations, comparison())
    assert found["steer.m.kl_0.1.composite", "document"]["value"] == pytest.approx(0.4)
    surface = found["steer.m.kl_0.1.composite", "surface"]
    assert (surface["value"], surface["low"], surface["n"]) == (pytest.approx(0.1), None, 1)
    assert surface["reason"] == "one concept gives no interval"
    assert ("steer.m.kl_0.1.composite", "contextual") not in found


def test_the_share_above_random_counts_concepts_beside_the_chance_of_one_direction() -> None:
    concepts = [Concept(f"c{i}", "document", "document") for i in range(4)]
    found = [row for c in concepts for row in rows("m", c.name, 0, [0.3])]
    found += [row for c in concepts for r in range(20) for row in rows("r", c.name, r, [0.2])]
    found += rows("r", "c3", 20, [0.4])
    row = scores(results(found), comparison(concepts=concepts, refused={}))[
        "steer.m.kl_0.1.share_above_random", "document"
    ]
    wanted = wilson(3, 4)
    assert (row["value"], row["low"], row["high"], row["n"]) == pytest.approx(
        (3 / 4, wanted.low, wanted.high, 4)
    )
    assert (row["baseline"], row["baseline_name"]) == (
        pytest.approx(1 / 22),
        "chance of being the largest of 22 equals",
    )
    assert row["reason"] == f"p {binomial_tail(3, 4, 1 / 22):.2g} against chance"


def test_where_no_share_could_be_significant_there_is_no_interval_but_the_reason(
    generations: pl.DataFrame,
) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1.share_above_random", "document"]
    assert (row["value"], row["low"], row["high"], row["n"]) == (1.0, None, None, 2)
    assert row["reason"] == "n too small: even 2 of 2 would come by chance (p 0.11)"


def test_directions_that_stand_in_for_candidates_are_compared_with_nobody(
    generations: pl.DataFrame,
) -> None:
    row = scores(generations, comparison(stand_ins=frozenset({("r", 1)})))[
        "steer.m.kl_0.1", "surface"
    ]
    assert (row["baseline"], row["baseline_name"]) == (0.0, "largest of 1 Gaussian directions")


def test_fluency_stands_beside_that_of_unsteered_text(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1.fluency", "document"]
    assert (row["value"], row["baseline"], row["baseline_name"]) == (
        pytest.approx(0.8),
        pytest.approx(0.9),
        "unsteered text",
    )


def test_what_no_judge_judged_is_absent_and_says_so(generations: pl.DataFrame) -> None:
    unjudged = generations.with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in ("fluency", "composite")
    )
    why = "steer.judges does not list fluency"
    found = scores(unjudged, comparison(silent={"fluency": why, "composite": why}))
    for name in ("steer.m.kl_0.1.composite", "steer.m.kl_0.1.fluency", "steer.r.kl_0.1.composite"):
        for kind in ("all", "document", "surface"):
            row = found[name, kind]
            assert [row[column] for column in ("value", "low", "high")] == [None] * 3
            assert (row["n"], row["n_failed"], row["reason"]) == (0, 0, why)
    assert found["steer.m.kl_0.1.share_above_random", "document"]["reason"] == why
    assert found["steer.m.kl_0.1.composite.concept.word.a", "surface"]["reason"] == why
    judged = scores(generations, comparison())
    assert found["steer.m.kl_0.1", "document"] == judged["steer.m.kl_0.1", "document"]


def test_the_control_has_its_own_row(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.r.kl_0.1", "surface"]
    assert row["value"] == pytest.approx(0.075)
    assert (row["baseline"], row["baseline_name"], row["better"]) == (0.0, "unsteered", "neither")


def test_a_control_counts_what_failed_on_the_concepts_of_its_row(generations: pl.DataFrame) -> None:
    lost = (pl.col("concept") == "topic.0") & (pl.col("method") == "r")
    failed = generations.with_columns(pl.when(~lost).then(pl.col("uplift")).alias("uplift"))
    found = scores(failed, comparison())
    assert found["steer.r.kl_0.1.composite", "document"]["n_failed"] == 1
    assert "failed and count as 0" in found["steer.r.kl_0.1.composite", "document"]["reason"]
    assert found["steer.r.kl_0.1.composite", "surface"]["n_failed"] == 0
    assert found["steer.r.kl_0.1.composite", "surface"]["reason"] == "one concept gives no interval"


def test_a_concept_that_a_control_lacks_counts_as_no_uplift_of_it(
    generations: pl.DataFrame,
) -> None:
    row = scores(
        generations.filter(~((pl.col("concept") == "word.a") & (pl.col("method") == "r"))),
        comparison(),
    )["steer.r.kl_0.1", "all"]
    assert (row["value"], row["n"], row["n_failed"]) == (pytest.approx(0.0), 3, 1)
    assert row["reason"].endswith(
        "concepts; 1 of 3 concepts had no usable direction and count as 0"
    )


def test_plain_text_that_could_not_be_judged_does_not_lower_the_baseline_of_fluency(
    generations: pl.DataFrame,
) -> None:
    lost = (pl.col("method") == "unsteered") & (pl.col("prompt") == 1)
    failed = generations.with_columns(pl.when(~lost).then(pl.col("fluency")).alias("fluency"))
    assert scores(failed, comparison())["steer.m.kl_0.1.fluency", "document"][
        "baseline"
    ] == pytest.approx(0.9)


def test_each_concept_has_a_row_with_an_interval_over_prompts(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison())["steer.m.kl_0.1.composite.concept.word.a", "surface"]
    assert (row["value"], row["low"], row["high"], row["n"]) == pytest.approx((0.1, 0.0, 1.0, 2))
    assert (row["unit_of_replication"], row["baseline"]) == ("prompt", pytest.approx(0.15))


def test_the_gate_counts_every_candidate_and_says_who_refused(generations: pl.DataFrame) -> None:
    found = scores(generations, comparison())
    assert (found["steer.gate.passed", "all"]["value"], found["steer.gate.passed", "all"]["n"]) == (
        0.75,
        4,
    )
    assert found["steer.gate.passed", "document"]["value"] == pytest.approx(2 / 3)
    assert (
        found["steer.gate.passed", "all"]["reason"]
        == "1 of 4 concepts did not pass the gate (1 by the probe)"
    )
    assert found["steer.gate.passed", "all"]["split"] == "validate"


def test_failed_generations_count_as_no_uplift_and_are_told(generations: pl.DataFrame) -> None:
    failed = generations.with_columns(
        pl.when(
            (pl.col("concept") == "topic.0") & (pl.col("method") == "m") & (pl.col("prompt") == 1)
        )
        .then(None)
        .otherwise(pl.col(name))
        .alias(name)
        for name in ("composite", "uplift", "fluency")
    )
    found = scores(failed, comparison())
    assert found["steer.m.kl_0.1.composite.concept.topic.0", "document"]["value"] == pytest.approx(
        0.25
    )
    assert found["steer.m.kl_0.1.composite.concept.topic.0", "document"]["n_failed"] == 1
    assert (
        found["steer.m.kl_0.1.composite", "document"]["reason"]
        == "1 of 4 generations failed and count as 0"
    )
    assert found["steer.m.kl_0.1.fluency", "document"]["value"] == pytest.approx((0.4 + 0.8) / 2)


def test_a_concept_without_a_direction_counts_as_no_uplift(generations: pl.DataFrame) -> None:
    without = generations.filter(~((pl.col("concept") == "topic.0") & (pl.col("method") == "m")))
    found = scores(
        without, comparison(unsteered={("topic.0", "m", 0.1): "the two means are equal"})
    )
    row = found["steer.m.kl_0.1.composite", "document"]
    assert (row["value"], row["n"], row["n_failed"]) == (pytest.approx(0.1), 2, 1)
    assert row["reason"] == "1 of 2 concepts had no usable direction and count as 0"
    own = found["steer.m.kl_0.1.composite.concept.topic.0", "document"]
    assert (own["value"], own["n"], own["reason"]) == (None, 0, "the two means are equal")


def test_what_failed_is_above_nothing(generations: pl.DataFrame) -> None:
    lowering = generations.filter(
        ~((pl.col("concept") == "topic.0") & (pl.col("method") == "m"))
    ).with_columns(
        pl.when(pl.col("method") == "r")
        .then(0.0)
        .when((pl.col("method") == "m") & (pl.col("concept") == "topic.1"))
        .then(None)
        .otherwise(pl.col(name))
        .alias(name)
        for name in ("composite", "uplift")
    )
    about = comparison(unsteered={("topic.0", "m", 0.1): "the two means are equal"})
    row = scores(lowering, about)["steer.m.kl_0.1.share_above_random", "document"]
    assert (row["value"], row["n"], row["n_failed"]) == (0.0, 2, 2)


def test_a_control_without_a_strength_is_not_named_among_the_equals(
    generations: pl.DataFrame,
) -> None:
    one = generations.filter(~((pl.col("method") == "r") & (pl.col("replicate") == 1)))
    found = scores(one, comparison())
    assert found["steer.m.kl_0.1", "all"]["baseline_name"] == "largest of 1 Gaussian directions"
    assert found["steer.m.kl_0.1.share_above_random", "document"]["baseline"] == pytest.approx(
        1 / 2
    )


def test_the_cost_is_measured_where_no_strength_was_set_and_stands_beside_the_budget(
    generations: pl.DataFrame,
) -> None:
    found = scores(generations, comparison(), {"topic.0": 0.08, "topic.1": None})
    row = found["steer.m.kl_0.1.cost", "document"]
    assert (row["value"], row["n"], row["n_failed"]) == (pytest.approx(0.08), 1, 1)
    assert (row["baseline"], row["baseline_name"], row["split"]) == (0.1, "KL budget", "neutral")
    assert found["steer.m.kl_0.1.cost_whole", "document"]["value"] == pytest.approx(0.16)
    loss = found["steer.m.kl_0.1.loss_whole", "document"]
    assert (loss["value"], loss["better"]) == (pytest.approx(0.04), "neither")
    assert (loss["baseline"], loss["baseline_name"]) == (0.0, "unsteered")
    none = found["steer.m.kl_0.1.cost", "surface"]
    assert none["value"] is None and none["reason"].startswith(
        "no neutral text is left to measure it on"
    )


def test_what_steered_nothing_costs_nothing_for_that_reason_alone(
    generations: pl.DataFrame,
) -> None:
    without = generations.filter(pl.col("method") != "m")
    why = {(c, "m", 0.1): "its texts are no pairs" for c in UPLIFT}
    for name in ("cost", "cost_whole", "loss_whole", "cost_written"):
        row = scores(without, comparison(unsteered=why))[f"steer.m.kl_0.1.{name}", "document"]
        assert (row["value"], row["reason"]) == (
            None,
            "no usable direction, so nothing was steered",
        )


def test_the_win_rate_is_over_prompts_rated_under_both_with_ties_told() -> None:
    def rated(method: str, concept: str, ratings: list[float | None]) -> list[dict[str, Any]]:
        place = None if method == "prompt" else 0.1
        return [
            row | {"ratings": rating, "kl_budget": place}
            for row, rating in zip(
                rows(method, concept, 0, [0.1] * len(ratings)), ratings, strict=True
            )
        ]

    nobody = float("nan")  # nobody was asked about this text
    texts = [
        *rated("m", "topic.0", [1.0, 0.5, 0.2, 1.0]),
        *rated("prompt", "topic.0", [0.5, 0.5, 0.9, nobody]),
        *rated("m", "topic.1", [1.0, None]),
        *rated("prompt", "topic.1", [0.2, 0.1]),
        *[row for c in UPLIFT for row in rows("unsteered", c, 0, [0.0] * 4)],
    ]
    about = comparison(
        methods=["m", "prompt"],
        ungraded=frozenset({"prompt"}),
        judges=["fluency", "ratings"],
        concepts=CONCEPTS[:2],
        refused={},
        controls=[],
    )
    found = scores(results(texts), about)
    row = found["steer.m.kl_0.1.win_rate", "document"]
    assert row["value"] == pytest.approx(((1 + 0.5) / 3 + 1 / 2) / 2)
    assert (row["n"], row["baseline"]) == (2, 0.5)
    assert row["reason"].endswith("of 5 prompts above prompting on 2, alike on 1, below on 2")
    assert not any("prompt.win_rate" in name for name, _ in found)
    lowering = dataclasses.replace(about, lowering=frozenset({"m"}))
    found = scores(results(texts), lowering)
    assert not any("win_rate" in name for name, _ in found), "prompting is no rival of a fall"


def test_specificity_is_the_own_rise_over_that_of_the_other_concepts(
    generations: pl.DataFrame,
) -> None:
    rises = {"topic.0": [0.6, 0.2, 0.0], "topic.1": [0.1, 0.2, 0.3], "word.a": [0.3, 0.1, 0.1]}
    matrix = pl.DataFrame(
        [
            {"method": "m", "kl_budget": 0.1, "concept": c, "other": other, "uplift": rise}
            for c, row in rises.items()
            for other, rise in zip(rises, row, strict=True)
        ]
    )
    about, table = comparison(), by_concept(generations, strengths({}), comparison())
    rows = [*score_rows(generations, table, about, None, matrix)]
    found = {row["concept_kind"]: row for row in rows if row["measure"] == "specificity"}
    assert found["document"]["value"] == pytest.approx(((0.6 - 0.1) + (0.2 - 0.2)) / 2)
    assert found["surface"]["value"] == pytest.approx(0.1 - 0.2)
    assert found["all"]["value"] == pytest.approx((0.25 - 0.1) / 2)
    assert (found["document"]["n"], found["document"]["n_failed"]) == (2, 0)
    # of one concept alone nothing can be said
    alone = comparison(refused=dict.fromkeys(["topic.1", "topic.2", "word.a"], "probe: no"))
    table = by_concept(generations, strengths({}), alone)
    rows = [*score_rows(generations, table, alone, None, matrix.filter(pl.col("concept") == ""))]
    (row,) = [r for r in rows if (r["measure"], r["concept_kind"]) == ("specificity", "document")]
    assert (row["value"], row["n_failed"]) == (None, 0) and "one concept" in row["reason"]


def test_the_headline_says_whose_p_it_is_who_chose_and_what_does_not_stand_beside(
    generations: pl.DataFrame,
) -> None:
    def told(methods: list[str], candidates: int) -> dict[str, Any]:
        others = [row for name in methods[1:] for c in UPLIFT for row in rows(name, c, 0, [0.1])]
        tried = [
            results(rows("m", c, i, [0.1])).with_columns(split=pl.lit("validate"))
            for c in UPLIFT
            for i in range(candidates)
        ]
        about = comparison(methods=methods, headline_budget=0.1)
        texts = pl.concat([generations, results(others), *tried])
        found = scores(texts, about)
        document, surface, whole = (
            found["steer.m.kl_0.1.over_controls", kind] for kind in ("document", "surface", "all")
        )
        assert whole["value"] == pytest.approx((2 * document["value"] + surface["value"]) / 3)
        return whole

    row = told(["m", "prompt"], candidates=1)
    assert "the mean over targets, each weighing the same" in row["reason"]
    assert "without logit_bias beside it" in row["reason"]
    assert "chosen among" not in row["reason"]
    assert row["baseline_name"].endswith("composite of two")
    assert "beside it" not in told(["m", "prompt", "logit_bias"], candidates=1)["reason"]
    of_several = _Scores(
        *(comparison(), "m", 0.1, {}, concept_means(generations)),
        pl.concat(concept_means(results(rows("m", "topic.0", i, [0.1]))) for i in range(2)),
    )
    assert of_several._chosen() == (
        "chosen among up to 2 on validate prompts by the judges that score here"
    )


def test_the_cost_on_the_steered_text_is_a_mean_over_concepts_both_ways(
    generations: pl.DataFrame,
) -> None:
    written = generations.with_columns(
        kl=pl.when(pl.col("method") == "m").then(0.2), kl_reverse=pl.lit(0.4)
    )
    found = scores(written, comparison())
    for name, value in (("cost_written", 0.2), ("cost_written_reverse", 0.4)):
        row = found[f"steer.m.kl_0.1.{name}", "document"]
        assert (row["value"], row["n"], row["split"], row["baseline"]) == (
            pytest.approx(value),
            2,
            "test",
            0.1,
        )
    assert scores(generations, comparison())["steer.m.kl_0.1.cost_written", "document"]["reason"]


def test_the_untrained_dictionary_is_compared_concept_for_concept() -> None:
    concepts = [Concept(f"c{i}", "document", "document") for i in range(8)]
    found = [row for i, c in enumerate(concepts) for row in rows("m", c.name, 0, [0.3 + i / 20])]
    found += [
        row
        for i, c in enumerate(concepts)
        for row in rows("untrained", c.name, 0, [0.2 + i / 20 - 0.01 * i])
    ]
    about = comparison(
        concepts=concepts,
        refused={},
        methods=["m", "untrained"],
        controls=[],
        untrained={"m": "untrained"},
    )
    row = scores(results(found), about)["steer.m.kl_0.1.over_untrained", "document"]
    wanted = t_interval(0.1 + 0.01 * np.arange(8))
    assert (row["value"], row["low"], row["high"], row["n"]) == pytest.approx(
        (wanted.value, wanted.low, wanted.high, 8)
    )
    assert (row["baseline"], row["better"]) == (0.0, "higher")
    few = comparison(
        concepts=concepts, refused={c.name: "probe: no" for c in concepts[5:]}, methods=["m", "untrained"],
        controls=[], untrained={"m": "untrained"},
    )  # fmt: skip
    row = scores(results(found), few)["steer.m.kl_0.1.over_untrained", "document"]
    assert (row["low"], row["n"]) == (None, 5)
    assert row["reason"].startswith("n too small: not even 5 differences of one sign")


def test_an_untrained_dictionary_that_was_not_given_is_absent_with_the_reason(
    generations: pl.DataFrame,
) -> None:
    about = comparison(
        methods=["m", "untrained"],
        untrained={"m": "untrained"},
        absent={"untrained": "none was given"},
    )
    found = scores(generations, about)
    row = found["steer.untrained.kl_0.1.composite", "document"]
    assert (row["value"], row["n"], row["reason"]) == (None, 0, "none was given")
    assert not [
        name for name, _ in found if "over_untrained" in name or name == "steer.untrained.kl_0.1"
    ]


@pytest.mark.parametrize("name", ["fluency", "cost", "probe", "neuron", "all", "random", "uplift", "share_above_random",
                                  "cost_written", "over_untrained", "concept", "concept.fluency", "untrained", "a.b/c d"])  # fmt: skip
def test_a_concept_may_be_called_anything(name: str) -> None:
    concepts = [Concept(name, "document", "document"), Concept("other", "document", "document")]
    found = [
        row
        for c in concepts
        for row in rows("m", c.name, 0, [0.2, 0.4]) + rows("r", c.name, 0, [0.1])
    ]
    found = scores(results(found), comparison(concepts=concepts, refused={}))
    assert found[f"steer.m.kl_0.1.composite.concept.{name}", "document"]["value"] == pytest.approx(
        0.3
    )
    assert found["steer.m.kl_0.1.fluency", "document"]["unit_of_replication"] == "concept"


@pytest.mark.parametrize(
    "budgets",
    [[0.1, 0.1000000001], [1e-5, 2e-5], [1e-12], [123456.7, 123456.8], [1.0, 20.0], [1e20]],
)
def test_budgets_however_near_small_or_large_have_rows_of_their_own(budgets: list[float]) -> None:
    concepts = [Concept("c", "document", "document")]
    found = [row | {"kl_budget": budget} for budget in budgets for row in rows("m", "c", 0, [0.2])]
    found = scores(results(found), comparison(concepts=concepts, refused={}, budgets=budgets))
    composites = [
        row for row in found.values() if (row["measure"], row["entry"]) == ("composite", "m")
    ]
    values = {row["budget"]: row["value"] for row in composites if row["concept"] is None}
    assert values == {budget: pytest.approx(0.2) for budget in budgets}


def test_the_gate_says_that_not_every_concept_was_tried(generations: pl.DataFrame) -> None:
    row = scores(generations, comparison(limit="4 of 90 concepts were tried"))[
        "steer.gate.passed", "all"
    ]
    assert row["reason"].endswith("(1 by the probe); 4 of 90 concepts were tried")


def test_without_a_control_there_is_no_baseline_and_no_share(generations: pl.DataFrame) -> None:
    alone = generations.filter(pl.col("method") != "r")
    found = scores(alone, comparison(controls=[]))
    assert found["steer.m.kl_0.1.composite", "document"]["baseline"] is None
    share = found["steer.m.kl_0.1.share_above_random", "document"]
    assert (share["value"], share["reason"]) == (None, "no control direction to compare with")


def test_when_no_concept_passes_there_is_no_value_but_a_reason() -> None:
    refused = {concept.name: "concept judge: AUROC 0.50" for concept in CONCEPTS}
    found = scores(results([]), comparison(refused=refused))
    row = found["steer.m.kl_0.1.composite", "all"]
    assert (row["value"], row["n"], row["reason"]) == (None, 0, "no concept passed the gate")
    assert found["steer.gate.passed", "all"]["value"] == 0


@pytest.mark.parametrize("n", [5, 30, 80])
def test_the_interval_is_students_whatever_the_number_of_concepts(n: int) -> None:
    concepts = [Concept(f"c{i}", "document", "document") for i in range(n)]
    found = [row for i in range(n) for row in rows("m", f"c{i}", 0, [i / n])]
    row = scores(results(found), comparison(concepts=concepts, refused={}))[
        "steer.m.kl_0.1.composite", "document"
    ]
    wanted = t_interval(np.arange(n) / n)
    assert (row["low"], row["high"]) == pytest.approx((wanted.low, wanted.high))


def test_values_that_are_all_alike_tell_no_interval(generations: pl.DataFrame) -> None:
    nothing = generations.with_columns(composite=pl.lit(0.0))
    row = scores(nothing, comparison())["steer.m.kl_0.1.composite", "document"]
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.0, None, None, 2)
    assert row["reason"] == "all 2 are alike, which tells no interval"


def test_no_interval_leaves_the_range_of_its_score(generations: pl.DataFrame) -> None:
    near_one = generations.with_columns(
        fluency=pl.when(pl.col("concept") == "topic.0").then(1.0).otherwise(0.9)
    )
    for (name, _), row in scores(near_one, comparison(), {"topic.0": 0.3, "topic.1": 0.01}).items():
        lowest = -1.0 if name.endswith(("kl_0.1", "over_untrained", "over_controls")) else 0.0
        lowest = -np.inf if name.endswith("loss_whole") else lowest
        highest = np.inf if "cost" in name or name.endswith("loss_whole") else 1.0
        if row["low"] is not None:
            assert lowest <= row["low"] <= row["value"] <= row["high"] <= highest, name


def test_a_judge_beside_the_one_that_measures_has_a_score_of_its_own_beside_unsteered_text() -> (
    None
):
    judged = [
        row | {"variety": 0.5}
        for row in rows("m", "topic.0", 0, [0.2, 0.4]) + rows("r", "topic.0", 0, [0.1])
    ]
    judged[0]["variety"] = None  # the judge failed on this text
    judged += [row | {"variety": 0.7} for row in rows("unsteered", "topic.0", 0, [0.0, 0.0])]
    about = comparison(concepts=CONCEPTS[:1], refused={}, judges=["fluency", "variety"])
    table = by_concept(results(judged), strengths({}), about)
    told = (
        by_judge(table, about)
        .select("method", "judge", "value", "unsteered", "n", "n_failed")
        .rows()
    )
    assert set(told) == {("m", "variety", 0.25, 0.7, 2, 1), ("r", "variety", 0.5, 0.7, 1, 0)}
    scored = {(row["entry"], row["concept_kind"]): row for row in score_rows(results(judged), table, about)
              if row["measure"] == "variety"}  # fmt: skip
    row, floor = scored["m", "document"], scored["r", "document"]
    assert (row["value"], row["baseline"], row["baseline_name"], row["n"]) == (
        0.25,
        0.7,
        "unsteered text",
        1,
    )
    assert row["reason"].startswith("1 of 2 generations failed and count as 0")
    assert (floor["value"], floor["baseline"], floor["better"]) == (0.5, None, "neither")
    plain = comparison(concepts=CONCEPTS[:1], refused={})
    assert by_judge(by_concept(results(judged), strengths({}), plain), plain).is_empty()


def test_the_judge_of_concepts_has_a_score_too_where_another_measures() -> None:
    judged = [
        row | {"concept_judge": 0.5}
        for row in rows("m", "topic.0", 0, [0.2]) + rows("r", "topic.0", 0, [0.1])
    ]
    about = comparison(concepts=CONCEPTS[:1], refused={}, judges=["fluency", "concept"])
    table = by_concept(results(judged), strengths({}), about)
    assert set(by_judge(table, about).select("method", "judge", "value").rows()) == {
        ("m", "concept", 0.5),
        ("r", "concept", 0.5),
    }
    (row,) = [row for row in score_rows(results(judged), table, about)
              if (row["measure"], row.get("entry"), row["concept_kind"]) == ("concept", "m", "document")]  # fmt: skip
    assert row["value"] == 0.5


def test_a_method_without_strength_stands_at_no_budget_and_is_compared_with_no_control() -> None:
    graded = rows("m", "topic.0", 0, [0.2]) + rows("r", "topic.0", 0, [0.1])
    found = graded + [row | {"kl_budget": None} for row in rows("said", "topic.0", 0, [0.3])]
    about = comparison(
        concepts=CONCEPTS[:1], refused={}, methods=["m", "said"], ungraded=frozenset(["said"])
    )
    table = by_concept(results(found), strengths({}), about)
    assert dict(table.group_by("method").agg(pl.col("kl_budget").unique()).iter_rows()) == {
        "m": [0.1], "r": [0.1], "said": [None],
    }  # fmt: skip
    said = [row for row in score_rows(results(found), table, about) if row.get("entry") == "said"]
    assert {row["budget"] for row in said} == {None}
    (whole,) = [row for row in said if row["measure"] == "composite" and "concept" not in row]
    assert (whole["value"], whole["baseline"]) == (pytest.approx(0.3), None)
    (share,) = [row for row in said if row["measure"] == "share_above_random"]
    assert (share["value"], share["reason"]) == (None, "no control direction to compare with")


def test_the_composite_of_three_stands_beside_gaussian_directions_and_counts_its_failures() -> None:
    found = rows("m", "topic.0", 0, [0.5, 0.7]) + rows("r", "topic.0", 0, [0.1, 0.1])
    found += rows("unsteered", "topic.0", 0, [0.0, 0.0])
    for row, value in zip(found, (0.4, None, 0.1, 0.2, 0.0, 0.0), strict=True):
        row["panel"] = value
    texts = results(found)
    about = comparison(concepts=CONCEPTS[:1], refused={}, judges=["fluency", "panel"])
    reached = by_concept(texts, strengths({"topic.0": 0.1}), about)
    of_panel = by_judge(reached, about).filter(pl.col("method") == "m").to_dicts()
    assert [(row["judge"], row["value"], row["n_failed"]) for row in of_panel] == [
        ("panel", 0.2, 1)
    ]
    told = [row for row in score_rows(texts, reached, about) if row["measure"] == "panel"]
    (own,) = [row for row in told if row["entry"] == "m"]
    assert own["value"] == pytest.approx(0.2) and own["n"] == 1
    assert own["baseline"] == pytest.approx(0.15) and "Gaussian" in own["baseline_name"]
    (control,) = [row for row in told if row["entry"] == "r"]
    assert (control["value"], control["baseline"]) == (pytest.approx(0.15), 0.0)


def test_a_gain_that_is_gone_without_the_concepts_words_is_called_lexical() -> None:
    found = []
    for concept, masked in (("topic.0", 0.1), ("topic.1", 0.6)):
        found += rows("m", concept, 0, [0.5, 0.5]) + rows("unsteered", concept, 0, [0.0, 0.0])
        for row in found[-4:]:
            row["concept_masked"] = masked if row["method"] == "m" else 0.0
    texts = results(found)
    about = comparison(
        concepts=CONCEPTS[:2], refused={}, controls=[], judges=["fluency", "concept_masked"]
    )
    reached = by_concept(texts, strengths({"topic.0": 0.1, "topic.1": 0.1}), about)
    told = [row for row in score_rows(texts, reached, about) if row["measure"] == "concept_masked"]
    assert "lexical on 1 of 2 concepts that gained" in told[0]["reason"]


def test_what_lowers_its_targets_stands_beside_the_fall_of_controls() -> None:
    found = []
    for concept, less in (("topic.0", 0.6), ("topic.1", 0.4)):
        own = rows("less", concept, 0, [-less, -less])
        free = [*rows("r", concept, 0, [-0.1, -0.1]), *rows("r", concept, 1, [0.3, 0.3])]
        for row in own:
            row["composite"] = less
        for row in free:
            row["composite_of_fall"] = max(0.0, -row["uplift"])
        found += [*own, *rows("more", concept, 0, [0.5, 0.5]), *free]
        found += rows("unsteered", concept, 0, [0.0, 0.0])
    texts = results([{"composite_of_fall": None} | row for row in found])
    about = comparison(
        concepts=CONCEPTS[:2],
        refused={},
        methods=["less", "more"],
        lowering=frozenset(["less"]),
        headline_budget=0.1,
    )
    reached = by_concept(texts, strengths({}), about)
    largest = {
        (row["method"], row["concept"]): (row["composite_largest"], row["uplift_largest"])
        for row in reached.to_dicts()
    }
    assert largest["less", "topic.0"] == pytest.approx((0.1, -0.1))
    assert largest["more", "topic.0"] == pytest.approx((0.3, 0.3))
    told = scores(texts, about)
    over, uplift, whole, share = (
        told[f"steer.less.kl_0.1{measure}", "document"]
        for measure in (".over_controls", "", ".composite", ".share_above_random")
    )
    assert over["value"] == pytest.approx(0.5 - 0.05)
    assert "beside it" not in over["reason"], "prompting and logit_bias raise their targets"
    assert (uplift["value"], uplift["better"]) == (pytest.approx(-0.5), "lower")
    assert uplift["baseline"] == pytest.approx(-0.1)
    assert uplift["baseline_name"] == "lowest of 2 Gaussian directions"
    assert (whole["better"], whole["baseline"]) == ("higher", pytest.approx(0.05))
    assert share["value"] == 1.0
    raised = told["steer.more.kl_0.1", "document"]
    assert (raised["better"], raised["baseline"]) == ("higher", pytest.approx(0.3))
    against = contrasts(texts, reached, about)
    assert set(against["other"]) == {CONTROLS}, "what lowers is not compared with what raises"
    of_less = against.filter(method="less")
    assert of_less["value"].to_list() == pytest.approx([0.45])
    assert of_less["p_controls"].to_list() == pytest.approx([1 / 3])
