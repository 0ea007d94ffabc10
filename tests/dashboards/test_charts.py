"""Charts are pure: what they encode is read back from the Vega-Lite specification, which altair
validates."""

from __future__ import annotations

import json

import polars as pl
import pytest

from components.store import tables
from dashboards import charts, views
from tests.dashboards.conftest import swept_rows


def curve(name: str, values: list[float]) -> pl.DataFrame:
    rows = [
        {"step": i, "tokens": i * 1_000_000, "name": name, "value": v} for i, v in enumerate(values)
    ]
    return tables.CURVE.frame(rows)


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("fvu", [1.0, 0.01], "log"),
        ("fvu", [0.02, 0.01], "linear"),
        ("loss", [1.0, 0.0], "linear"),
        ("learning_rate", [1e-5, 1e-3], "linear"),
    ],
)
def test_a_curve_is_logarithmic_only_where_it_spans_decades_above_zero(
    name: str, values: list[float], scale: str
) -> None:
    spec = charts.curve(curve(name, values), name).to_dict()
    assert spec["encoding"]["y"]["scale"]["type"] == scale


def test_a_curve_is_drawn_against_millions_of_tokens() -> None:
    spec = charts.curve(curve("fvu", [1.0, 0.5, 0.4]), "fvu").to_dict()
    assert [row["tokens"] for row in next(iter(spec["datasets"].values()))] == [0.0, 1.0, 2.0]
    assert spec["encoding"]["x"]["title"] == "million tokens seen"


def found(scale: float = 1.0) -> pl.DataFrame:
    rows = [
        {
            "concept_kind": kind,
            "unit_kind": unit,
            "value": 0.5 * scale,
            "low": 0.4 * scale,
            "high": 0.6 * scale,
            "n": 9,
        }
        for kind in ("all", "document")
        for unit in views.scores.UNITS
    ]
    return pl.DataFrame(rows)


def test_concepts_found_have_a_bar_and_an_interval_for_each_unit() -> None:
    bars, rules = charts.concepts(found()).to_dict()["layer"]
    assert bars["encoding"]["y"]["title"] == "share of concepts found"
    assert bars["encoding"]["xOffset"]["sort"] == ["latent", "neuron", "untrained", "probe"]
    assert (rules["encoding"]["y"]["field"], rules["encoding"]["y2"]["field"]) == ("low", "high")


def test_counts_of_concepts_are_not_shown_as_shares() -> None:
    assert (
        charts.concepts(found(scale=40)).to_dict()["layer"][0]["encoding"]["y"]["title"]
        == "concepts found"
    )


def test_steering_shows_the_largest_random_direction_once_for_each_concept() -> None:
    rows = [
        {"concept": c, "concept_kind": "document", "method": m, "mean": 0.4, "low": 0.3, "high": 0.5, "n": 9, "control": "largest of 5",
         "n_failed": 0, "largest_random": 0.1}
        for c in ("sea", "garden") for m in ("add_direction", "mean_difference")
    ]  # fmt: skip
    spec = charts.steering(pl.DataFrame(rows)).to_dict()
    floor, rules, points = spec["layer"]
    assert len(spec["datasets"][floor["data"]["name"]]) == 2
    assert rules["encoding"]["x"]["field"] == "low"
    assert points["encoding"]["y"]["sort"] == ["sea", "garden"]
    assert points["encoding"]["shape"]["field"] == "method"  # colour never speaks alone


def test_the_sweep_has_a_point_with_interval_for_each_method_and_a_ring_around_what_was_chosen() -> (
    None
):
    swept = views.steering.hook_points(tables.HOOK_POINTS.frame(swept_rows()), ["spoilt_m"])
    spec = charts.hook_points(swept, "composite", "KL budget 0.1").to_dict()
    lines, rules, drawn, rings = spec["layer"]
    assert (rules["encoding"]["y"]["field"], rules["encoding"]["y2"]["field"]) == ("low", "high")
    assert drawn["encoding"]["x"]["sort"] == ["early", "late"], "the order of the sweep"
    assert drawn["encoding"]["y"]["title"] == "composite on validate text"
    assert rings["transform"] == [{"filter": "datum.chosen"}] and lines["mark"]["type"] == "line"
    scale = drawn["encoding"]["color"]["scale"]
    assert scale["domain"] == ["m", "r", "spoilt_m"]
    assert scale["range"][0] != charts.GREY and scale["range"][1:] == [charts.GREY] * 2


def test_the_map_of_other_concepts_says_gain_and_loss_in_two_colours_around_nothing() -> None:
    matrix = pl.DataFrame(
        [
            {"method": "m", "kl_budget": 0.1, "concept": a, "other": b, "uplift": uplift}
            for a, b, uplift in [
                ("a", "a", 0.4),
                ("a", "b", -0.1),
                ("b", "a", 0.0),
                ("b", "b", 0.2),
            ]
        ]
    )
    drawn = charts.off_target(matrix).to_dict()["encoding"]
    assert drawn["color"]["scale"]["domain"] == [-0.4, 0, 0.4]
    assert drawn["x"]["sort"] == drawn["y"]["sort"] == ["a", "b"]


def points(*rows: tuple[str, str, float | None, float, float | None]) -> pl.DataFrame:
    """Of (method, standing, budget, success, cost)."""
    return pl.DataFrame(
        [
            {"method": method, "standing": standing, "budget": budget, "success": success,
             "success_low": success - 0.1, "success_high": success + 0.1, "cost": cost,
             "cost_low": 0.0, "cost_high": 2 * (cost or 0), "fluency": 0.9, "fluency_low": 0.8,
             "fluency_high": 0.95, "n": 9, "n_failed": 0, "best_cost": standing == "method",
             "best_fluency": False}
            for method, standing, budget, success, cost in rows
        ]
    )  # fmt: skip


DOTS = pl.DataFrame(
    [
        {
            "method": "random",
            "replicate": 0,
            "budget": 0.1,
            "success": 0.02,
            "cost": 0.1,
            "fluency": 0.9,
        }
    ]
)


def test_success_against_cost_has_intervals_a_frontier_and_controls_in_grey() -> None:
    frame = points(
        ("b", "method", 0.1, 0.4, 0.1),
        ("b", "method", 1.0, 0.6, 1.0),
        ("a", "method", None, 0.5, 0.4),
        ("random", "control", 0.1, 0.1, 0.1),
        ("again", "control", None, 0.1, None),
    )
    spec = charts.tradeoff(frame, DOTS, "cost", ("cost", "success")).to_dict()
    cloud, frontier, over_budgets, across, up, marks = spec["layer"]

    def rows(layer: dict) -> list[dict]:
        return spec["datasets"][layer["data"]["name"]]

    assert len(rows(cloud)) == 1 and cloud["mark"]["color"] == charts.GREY
    assert [row["cost"] for row in rows(frontier)] == [0.1, 0.4, 1.0]
    assert {row["method"] for row in rows(over_budgets)} == {"b", "random"}
    assert {row["method"] for row in rows(marks)} == {"a", "b", "random"}, "without a cost no mark"
    assert (up["encoding"]["y"]["field"], up["encoding"]["y2"]["field"]) == (
        "success_low",
        "success_high",
    )
    assert (across["encoding"]["x"]["field"], across["encoding"]["x2"]["field"]) == (
        "from",
        "cost_high",
    )
    assert rows(across)[0]["from"] == 0.05, "no interval leaves a logarithmic axis"
    scale = marks["encoding"]["color"]["scale"]
    assert scale["domain"] == ["a", "b", "random"] and scale["range"][2] == charts.GREY
    assert marks["encoding"]["x"]["scale"]["type"] == "log"
    beside = charts.tradeoff(frame, DOTS, "fluency", ("fluency", "success")).to_dict()
    assert "type" not in beside["layer"][5]["encoding"]["x"]["scale"]
    assert {row["method"] for row in beside["datasets"][beside["layer"][5]["data"]["name"]]} == {
        "a",
        "b",
        "random",
        "again",
    }


def test_no_two_of_many_methods_look_alike() -> None:
    rows = [(f"method {number:02}", "method", 0.1, 0.4, 0.1) for number in range(20)]
    spec = charts.tradeoff(points(*rows), DOTS.clear(), "cost", ("cost", "success")).to_dict()
    encoding = spec["layer"][5]["encoding"]
    looks = list(
        zip(encoding["color"]["scale"]["range"], encoding["shape"]["scale"]["range"], strict=True)
    )
    assert len(set(looks)) == len(looks) == 20 and charts.GREY not in dict(looks)


def test_a_method_looks_alike_on_a_chart_that_lacks_another() -> None:
    everyone = ["a", "b", "c"]
    frame = points(("a", "method", 0.1, 0.4, None), ("c", "method", 0.1, 0.4, 0.1))

    def look(spec: dict, layer: int) -> tuple[str, str]:
        scales = [spec["layer"][layer]["encoding"][name]["scale"] for name in ("color", "shape")]
        return tuple(dict(zip(each["domain"], each["range"], strict=True))["c"] for each in scales)

    titles = ("cost", "success")
    by_cost = charts.tradeoff(frame, DOTS.clear(), "cost", titles, everyone).to_dict()
    by_fluency = charts.tradeoff(frame, DOTS.clear(), "fluency", titles, everyone).to_dict()
    row = {"method": "c", "role": "entry", "budget": 0.1, "value": 0.5, "low": 0.4, "high": 0.6}
    row |= {"n": 12, "n_failed": 0, "baseline": 0.1, "baseline_name": "plain"}
    over_budgets = charts.budgets(pl.DataFrame([row]), "Steered", everyone).to_dict()
    third = (charts.METHOD_COLOURS[2], charts.METHOD_SHAPES[2])
    assert look(by_cost, 5) == look(by_fluency, 5) == look(over_budgets, 1) == third


def test_scores_of_a_latent_differ_by_colour_and_shape() -> None:
    rows = [
        {
            "latent": 1,
            "explainer": who,
            "scorer": "detection",
            "predictor": "lexical",
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
        }
        for who in ("tokens", "shuffled", "probe")
    ]
    spec = charts.scores(views.scores.scores_of(tables.EXPLANATION_SCORES.frame(rows), 1)).to_dict()
    points = spec["layer"][1]["encoding"]
    assert points["color"]["field"] == points["shape"]["field"] == "role"


def test_a_histogram_reaches_to_the_maximum() -> None:
    bins = views.latents.histogram({"histogram": [5, 1, 0, 0], "maximum": 8.0})
    spec = charts.histogram(bins, 8.0).to_dict()
    assert spec["encoding"]["x"]["scale"]["domain"] == [0, 8.0]


def test_logits_of_equal_tokens_keep_a_row_each() -> None:
    row = {
        "promoted": [" a", "a"],
        "promoted_logits": [2.0, 1.0],
        "suppressed": [],
        "suppressed_logits": [],
    }
    spec = charts.logits(views.latents.logits(row), "promoted").to_dict()
    assert [bar["row"] for bar in next(iter(spec["datasets"].values()))] == ["1 a", "2 a"]


def test_a_distribution_names_only_the_roles_it_has() -> None:
    frame = pl.DataFrame(
        {"role": ["floor", "explanation"], "from": [0.0, 0.0], "to": [1.0, 1.0], "latents": [3, 4]}
    )
    spec = charts.distribution(frame).to_dict()
    assert spec["encoding"]["color"]["scale"]["domain"] == ["explanation", "floor"]


def test_a_map_fills_its_box_and_a_box_can_be_drawn_on_it() -> None:
    told = charts.raster(b"png", (-1.0, 2.0, 0.0, 5.0)).to_dict()
    assert told["mark"] == {"type": "image", "aspect": False}
    assert told["encoding"]["x"]["scale"]["domain"] == [-1.0, 2.0]
    assert told["encoding"]["y"]["scale"]["domain"] == [0.0, 5.0]
    assert [(each["name"], each["select"]["type"]) for each in told["params"]] == [
        ("box", "interval")
    ]
    (rows,) = told["datasets"].values()
    assert rows[0]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("n", [charts.METHODS_NAMED, charts.METHODS_NAMED + 1])
def test_a_legend_is_not_longer_than_its_chart(n: int) -> None:
    frame = pl.DataFrame(
        [
            {"method": f"m{i:02}", "role": "entry", "budget": budget, "value": 0.5, "low": 0.4}
            | {"high": 0.6, "n": 12, "n_failed": 0, "baseline": 0.1, "baseline_name": "plain"}
            for i in range(n)
            for budget in (0.1, 0.2)
        ]
    )
    drawn = json.dumps(charts.budgets(frame, "Steered").to_dict())
    assert ('"legend": null' in drawn) == (n > charts.METHODS_NAMED)
