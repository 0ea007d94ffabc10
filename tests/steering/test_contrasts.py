"""Methods against controls and against each other, paired by target: what is corrected, what is
interpolated, and how often nothing looks like something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats

from components.statistics import detectable, t_interval
from components.steering.by_concept import by_concept
from components.steering.comparison import CONTROLS, Comparison
from components.steering.contract import Concept
from components.steering.contrasts import PRIMARY, Contrasts, contrasts, corrected
from components.store import tables
from components.store.judgements import PANEL
from tests.steering.world import results

N = 12
CONTROL = "random_direction"
TARGETS = [f"latent.{i}" for i in range(N)]


def rows(method: str, values: Any, budget: float | None = 0.2, replicate: int = 0) -> list[dict]:
    """One test text for each target, with this composite."""
    place = {"method": method, "replicate": replicate, "kl_budget": budget, "split": "test"}
    texts = {"prompt": 0, "sample": 0, "text": "a", "uplift": 0.1, "fluency": 1.0}
    return [
        {"concept": name, "composite": float(value)} | place | texts
        for name, value in zip(TARGETS, values, strict=True)
    ]


def comparison(methods: list[str], **changes: Any) -> Comparison:
    given: dict[str, Any] = {
        "concepts": [Concept(name, "latent", "document") for name in TARGETS],
        "refused": {},
        "methods": methods,
        "controls": [CONTROL],
        "budgets": [0.2],
        "silent": {},
        "unsteered": {},
        "seed": 0,
        "columns": {},
    }
    return Comparison(**given | changes)


def controls(generator: np.random.Generator, n: int = 20, budget: float = 0.2) -> list[dict]:
    return [row for i in range(n) for row in rows(CONTROL, noise(generator), budget, i)]


def noise(generator: np.random.Generator) -> np.ndarray:
    """What a random vector reaches on each target: mostly nothing, sometimes much."""
    return np.clip(generator.normal(0.05, 0.15, N), 0, 1) * np.linspace(0.4, 1, N)


def told(texts: list[dict], about: Comparison, costs: Mapping[str, float] = {}) -> pl.DataFrame:
    """The table, of methods whose steerings cost this on each target."""
    judged = results(texts)
    strengths = [
        {"concept": name, "method": method, "replicate": 0, "kl_budget": None, "kl": cost}
        for method, cost in costs.items()
        for name in TARGETS
    ]
    reached = by_concept(judged, tables.STRENGTHS.frame(strengths), about)
    return contrasts(judged, reached, about)


def test_the_headline_is_paired_by_target_with_students_interval_and_holm() -> None:
    generator = np.random.default_rng(3)
    floor, strong, weak = controls(generator), noise(generator) + 0.3, noise(generator)
    methods = ["strong", "weak"]
    table = told([*rows("strong", strong), *rows("weak", weak), *floor], comparison(methods))
    mean = np.mean([[r["composite"] for r in floor if r["replicate"] == i] for i in range(20)], 0)
    own = table.filter(method="strong", other=CONTROLS).to_dicts()[0]
    wanted = t_interval(strong - mean)
    assert (own["value"], own["low"], own["high"], own["n"]) == pytest.approx(
        (wanted.value, wanted.low, wanted.high, N)
    )
    family = table.filter(family=PRIMARY).sort("p")
    assert family["method"].to_list() == ["strong", "weak"]
    assert family["p_holm"][0] == pytest.approx(2 * family["p"][0])
    assert own["p_holm"] < 0.01 < table.filter(method="weak", other=CONTROLS)["p"][0]
    sees_alone = detectable(wanted, N - 1)
    assert own["visible"] == pytest.approx(detectable(wanted, N - 1, tests=2)) != sees_alone
    assert own["p_controls"] == pytest.approx(1 / 21) and own["n_controls"] == 20
    pair = table.filter(method="strong", other="weak").to_dicts()[0]
    assert pair["value"] == pytest.approx(np.mean(strong - weak)) and pair["family"] == "pairs"
    assert pair["visible"] > 0


def test_where_the_headline_is_of_three_parts_so_is_what_controls_reach() -> None:
    generator = np.random.default_rng(5)
    texts = [
        row | {"panel": row["composite"] / 4, "relevance": 0.5}
        for row in (*rows("m", noise(generator) + 0.2), *controls(generator))
    ]
    about = comparison(["m"], judges=["fluency", "relevance", PANEL])
    of_panel = told(texts, about).filter(method="m", other=CONTROLS)
    of_two = told(texts, comparison(["m"])).filter(method="m", other=CONTROLS)
    assert of_panel["measure"].to_list() == [PANEL]
    for column in ("value", "low", "high"):
        assert of_panel[column][0] == pytest.approx(of_two[column][0] / 4)
    assert of_panel["p"][0] == pytest.approx(of_two["p"][0])


def test_only_the_headline_budget_is_corrected_and_few_controls_are_told() -> None:
    generator = np.random.default_rng(1)
    texts = [
        row
        for budget in (0.1, 0.2)
        for row in (*rows("m", noise(generator), budget), *controls(generator, 4, budget))
    ]
    table = told(texts, comparison(["m"], budgets=[0.1, 0.2]))
    assert table.filter(family=PRIMARY)["kl_budget"].to_list() == [0.2]
    assert table.filter(kl_budget=0.1)["p_holm"].null_count() == 1
    assert "wanted at least 20" in table["reason"][0]


def test_a_target_without_text_counts_as_nothing_reached() -> None:
    generator = np.random.default_rng(2)
    table = told([*rows("m", np.ones(N))[1:], *controls(generator)], comparison(["m"]))
    whole = told(
        [*rows("m", [0, *np.ones(N - 1)]), *controls(np.random.default_rng(2))], comparison(["m"])
    )
    row = table.filter(method="m", other=CONTROLS).to_dicts()[0]
    assert row["n_failed"] == 1 and row["n"] == N
    assert row["value"] == pytest.approx(whole["value"][0])


def test_what_has_no_strength_is_compared_at_its_own_cost() -> None:
    generator, at = np.random.default_rng(4), np.full(N, 0.4)
    about = comparison(["graded", "prompt"], budgets=[0.1, 0.4], ungraded=frozenset({"prompt"}))
    texts = [
        *(*rows("graded", at / 2, 0.1), *rows("graded", at, 0.4), *rows("prompt", at, None)),
        *(*controls(generator, 20, 0.1), *controls(generator, 20, 0.4)),
    ]
    # halfway between the budgets in logs, the graded one reaches the mean of what it reaches there
    table = told(texts, about, {"prompt": 0.2})
    pair = table.filter(method="graded", other="prompt").to_dicts()[0]
    assert pair["value"] == pytest.approx(-0.1) and pair["kl_budget"] is None
    against = table.filter(method="prompt", other=CONTROLS).to_dicts()[0]
    assert against["n"] == N and against["family"] is None
    beyond = (
        told(texts, about, {"prompt": 0.9}).filter(method="graded", other="prompt").to_dicts()[0]
    )
    assert (beyond["value"], beyond["n_left_out"]) == (None, N)
    assert "steer.kl_budgets" in beyond["reason"]


def test_random_vectors_given_out_as_methods_are_significant_as_often_as_said() -> None:
    generator, names = np.random.default_rng(0), [f"vector_{i}" for i in range(200)]
    texts = [row for name in names for row in rows(name, noise(generator))]
    texts += controls(generator)
    about, judged = comparison(names), results(texts)
    reached = by_concept(judged, tables.STRENGTHS.frame([]), about)
    found = list(Contrasts(judged, reached, about).against_controls())
    low, high = scipy.stats.binom.interval(0.99, len(found), 0.05)
    assert low <= sum(row["p"] <= 0.05 for row in found) <= high
    families = [found[start : start + 5] for start in range(0, len(found), 5)]
    wrong = sum(any(row["p_holm"] <= 0.05 for row in corrected(family)) for family in families)
    low, high = scipy.stats.binom.interval(0.99, len(families), 0.05)
    assert low <= wrong <= high
