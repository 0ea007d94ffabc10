from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.report import worth
from components.report.tables import REPORT
from components.store import tables
from components.store.tables import CONTRASTS
from dashboards import tokens, views
from tests.dashboards.conftest import swept_rows, tricks
from tests.report.rows import MEASURES, explained, found, score, steered


def report(*rows: dict) -> pl.DataFrame:
    return REPORT.frame([{"artifact": "abc", **row} for row in rows])


def test_headlines_come_in_their_own_order_and_prefer_the_row_of_all_kinds() -> None:
    frame = report(
        found(0.1, concept_kind="surface"),
        found(0.2, concept_kind="all"),
        score("fvu", 0.3),
        score("obscure", 0.4),
        score("dead_share", 0.5, "interpret"),
        explained(0.6, role="floor"),
        explained(0.7),
        steered(0.8, "fluency"),
        steered(0.9, "composite"),
        steered(0.95, "composite", method="mean_difference", role="baseline"),
        steered(0.1, "composite", subject="untrained", role="control"),
    )
    shown = views.scores.headlines(frame, MEASURES)
    assert [row["value"] for row in shown] == [0.3, 0.2, 0.7, 0.9, 0.95]
    assert shown[0]["label"] == "Variance unexplained (FVU)" and shown[0]["unit"] == "share"


def test_the_table_of_scores_keeps_absent_values_with_their_reason() -> None:
    absent = report(score("fvu", None, reason="no tokens"))
    assert views.scores.scores(
        absent, MEASURES
    ).is_empty()  # the short table has values; what is absent is told below it
    row = views.scores.scores(absent, MEASURES, everything=True).row(0, named=True)
    assert row["value"] == "–"
    assert row["note"] == "no tokens"
    assert row["artifact"] == "evaluate/abc"


def test_all_rows_add_what_the_short_table_leaves_out() -> None:
    kinds = ("surface", "document")
    frame = report(
        *(found(0.1, measure="concepts_auroc", concept_kind=kind) for kind in kinds),
        score("fvu", 0.3),
    )
    assert views.scores.scores(frame, MEASURES)["name"].to_list() == ["evaluate.fvu"]
    assert views.scores.scores(frame, MEASURES, everything=True)["name"].to_list() == [
        "evaluate.fvu",
        *["evaluate.concepts_auroc.latent"] * 2,
    ]


def test_curves_are_thinned_but_keep_their_last_point() -> None:
    steps = range(0, 1003)
    curve = tables.CURVE.frame(
        [{"step": s, "tokens": s, "name": "fvu", "value": float(s)} for s in steps]
    )
    panel = views.training.panels(curve, points=100)["fvu"]
    assert panel.height <= 102
    assert panel["step"][-1] == 1002


def test_terms_of_the_loss_share_a_panel() -> None:
    names = ("learning_rate", "loss", "loss.auxk", "fvu")
    curve = tables.CURVE.frame(
        [{"step": 1, "tokens": 1, "name": name, "value": 1.0} for name in names]
    )
    panels = views.training.panels(curve)
    assert list(panels) == ["fvu", "loss", "learning_rate"]
    assert panels["loss"].height == 2


def generation(
    method: str, replicate: int, prompt: int, uplift: float | None, sample: int = 0
) -> dict:
    budget = None if method == "unsteered" else 0.1
    return {"concept": "garden", "method": method, "replicate": replicate, "kl_budget": budget, "split": "test",
            "prompt": prompt, "sample": sample, "uplift": uplift, "composite": uplift, "text": f"{method} {prompt}",
            "reason": None}  # fmt: skip


def on(
    concept: str, value: float | None, method: str = "add_direction", budget: float = 0.1
) -> dict:
    """The composite of one concept."""
    about = {
        "concept_kind": "document",
        "baseline": 0.1,
        "baseline_name": "random",
        "low": 0.0,
        "high": 1.0,
    }
    return steered(value, "composite", method, budget, concept=concept, **about)


def test_steering_is_shown_by_concept_method_and_budget_whatever_a_concept_is_called() -> None:
    frame = report(
        on("topic.sea", 0.2),
        on("topic.sea@verb", 0.3),
        on("topic.sea", 0.4, "mean_difference"),
        on("word.of", None),
        on("fluency", 0.1, budget=1e-5),
        on("fluency", 0.15, budget=0.1000001),
        steered(0.9, "fluency"),
        steered(0.25),
    )
    shown = views.scores.steering(frame).select(
        "concept", "method", "budget", "mean", "largest_random"
    )
    assert shown.rows() == [
        ("topic.sea", "add_direction", 0.1, 0.2, 0.1),
        ("topic.sea", "mean_difference", 0.1, 0.4, 0.1),
        ("topic.sea@verb", "add_direction", 0.1, 0.3, 0.1),
        ("fluency", "add_direction", 0.1000001, 0.15, 0.1),
        ("fluency", "add_direction", 1e-5, 0.1, 0.1),
    ]


def test_the_short_table_leaves_single_concepts_to_the_chart() -> None:
    frame = report(on("topic.sea", 0.2), steered(0.9, "fluency"))
    assert views.scores.scores(frame, MEASURES)["measure"].to_list() == [
        "Fluency, KL 0.1: add direction"
    ]
    every = views.scores.scores(frame, MEASURES, everything=True)["measure"].to_list()
    assert "Steered, KL 0.1: add direction, on topic.sea" in every


def test_texts_are_paired_by_prompt_and_sample_and_failures_come_last() -> None:
    frame = pl.DataFrame(
        [
            generation("unsteered", 0, 0, 0.0),
            generation("unsteered", 0, 1, 0.0),
            generation("add_direction", 0, 0, None),
            generation("add_direction", 0, 1, 0.5),
        ],
        schema_overrides={"kl_budget": pl.Float64},
    )
    pairs = views.scores.side_by_side(frame, "add_direction", 0.1)
    assert pairs["unsteered"].to_list() == ["unsteered 1", "unsteered 0"]
    assert pairs["uplift"].to_list() == [0.5, None]


def latents(n: int = 4) -> pl.DataFrame:
    return tables.LATENTS.frame(
        [
            {
                "latent": i,
                "split": split,
                "density": i / 10,
                "maximum": float(i),
                "promoted": [f" word{i}", " the"],
            }
            for i in range(n)
            for split in ("test", "explain")
        ]
    )


def listed() -> pl.DataFrame:
    said = tables.EXPLANATIONS.frame(
        [
            {"latent": 1, "explainer": "tokens", "explanation": "Gardens in spring"},
            {"latent": 1, "explainer": "other", "explanation": "nothing"},
            {"latent": 2, "explainer": "tokens", "reason": "no contexts"},
        ]
    )
    scores = tables.EXPLANATION_SCORES.frame(
        [of_latent(1, role, value) for role, value in (("entry", 0.9), ("floor", 0.5))]
    )
    found = tables.CONCEPTS_FOUND.frame(
        [
            {"concept": c, "unit_kind": kind, "unit": 3, "gate": True, "ap": 0.9}
            for c in ("harbour", "sea")
            for kind in ("latent", "neuron")
        ]
    )
    return views.latents.latent_list(
        latents(), said, scores, found, split="test", explainer="tokens", scorer="detection"
    )


def test_the_list_has_one_row_for_each_latent_and_nulls_where_nothing_is_known() -> None:
    frame = listed().sort("latent")
    assert frame["latent"].to_list() == [0, 1, 2, 3]
    assert frame["explanation"].to_list() == [None, "Gardens in spring", None, None]
    assert frame["score"].to_list() == [None, 0.9, None, None]
    assert frame["concept"].to_list() == [None, None, None, "harbour, sea"]


def test_a_latent_is_found_by_the_name_that_its_dictionary_gives_it() -> None:
    frame = views.latents.latent_list(latents(), split="test", names=["sea", "Anger", "joy", "x"])
    assert frame.sort("latent")["name"].to_list() == ["sea", "Anger", "joy", "x"]
    assert views.latents.narrowed(frame, text="anger")["latent"].to_list() == [1]


def test_the_list_needs_nothing_but_statistics() -> None:
    assert views.latents.latent_list(latents(), split="test").height == 4


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [" a", "Ġb", "▁", " ", "\n", "Ċ", "", "›‹", "‹<0xE6><0x97>›", "<0xE6><0x97><0x80>"]
            ),
            st.text(max_size=3),
        ),
        max_size=4,
    )
)
def test_a_column_of_tokens_is_made_visible_as_each_token_is(words: list[str]) -> None:
    frame = tables.LATENTS.frame([{"latent": 0, "split": "test", "promoted": words}])
    shown = views.latents.readable(views.latents.latent_list(frame, split="test"))[
        "promoted"
    ].to_list()[0]
    assert shown == [tokens.visible(word) for word in words]


@pytest.mark.parametrize(
    ("text", "kept"),
    [("SPRING garden", [1]), ("harbour", [3]), ("sea", [3]), ("(", []), ("", [3, 2, 1, 0])],
)
def test_search_wants_every_word_and_takes_signs_literally(text: str, kept: list[int]) -> None:
    assert views.latents.narrowed(listed(), text=text)["latent"].to_list() == kept


def test_filters_and_sorting_put_unknown_scores_last() -> None:
    assert views.latents.narrowed(listed(), density=(0.1, 0.25))["latent"].to_list() == [2, 1]
    assert views.latents.narrowed(listed(), minimum=2.5)["latent"].to_list() == [3]
    for descending in (True, False):
        assert views.latents.narrowed(listed(), sort="score", descending=descending)[
            "latent"
        ].to_list() == [1, 0, 2, 3]


PEAKS = pl.DataFrame({"latent": pl.Series([0], dtype=pl.Int32), "tokens": ["\nword3\nof\n"]})


@pytest.mark.parametrize(
    ("token", "peaked", "kept"),
    [
        ("word3", False, [3]),
        (" WORD3 ", True, [3, 0]),
        ("of", True, [0]),
        ("wor", True, []),
        (".", True, []),
        ("", True, [3, 2, 1, 0]),
    ],
)
def test_a_token_is_found_whole_where_it_is_promoted_or_fired_on(
    token: str, peaked: bool, kept: list[int]
) -> None:
    promoted = views.latents.promoted_tokens(latents(), "test")
    index = pl.concat([promoted, PEAKS]) if peaked else promoted
    assert views.latents.narrowed(listed(), token=token, index=index)["latent"].to_list() == kept


def test_peaks_are_the_tokens_under_the_largest_activation_of_the_strongest_windows() -> None:
    rows = [
        {
            "latent": 1,
            "window": n,
            "role": role,
            "tokens": [" The", "Ġsea", "."],
            "activations": values,
        }
        for n, (role, values) in enumerate(
            [("top", [0.0, 2.0, 1.0]), ("top", [3.0, 2.0, 1.0]), ("silent", [0.0, 0.0, 9.0])]
        )
    ]
    found = views.latents.peak_tokens(tables.CONTEXTS.frame(rows))
    assert found["latent"].to_list() == [1]
    assert set(found["tokens"][0].strip("\n").split("\n")) == {"the", "sea"}


def test_pages_of_a_frame_are_counted_from_one_or_from_the_end() -> None:
    frame = pl.DataFrame({"n": range(25)})
    assert views.latents.page_of(frame, 1, 10)["n"].to_list() == list(range(10))
    assert (
        views.latents.page_of(frame, 3, 10)["n"].to_list()
        == views.latents.page_of(frame, -1, 10)["n"].to_list()
        == [20, 21, 22, 23, 24]
    )
    assert views.latents.page_of(frame.head(0), -1, 10).is_empty()


def test_neighbours_keep_their_order_and_bring_what_is_known_of_them() -> None:
    near = tables.NEIGHBOURS.frame(
        [
            {"latent": 0, "rank": rank, "neighbour": n, "cosine": c}
            for rank, n, c in ((1, 1, 0.5), (0, 2, 0.9))
        ]
    )
    assert views.latents.neighbours(near, listed()).select(
        "latent", "cosine", "explanation"
    ).rows() == [
        (2, pytest.approx(0.9), None),
        (1, pytest.approx(0.5), "Gardens in spring"),
    ]


def window(
    number: int, role: str, quantile: int | None, maximum: float, stratum: str | None = None
) -> dict:
    return {
        "latent": 1,
        "window": number,
        "role": role,
        "quantile": quantile,
        "maximum": maximum,
        "stratum": stratum,
    }


def test_windows_come_by_interval_strongest_first_and_silent_last() -> None:
    frame = tables.CONTEXTS.frame(
        [
            window(0, "silent", None, 0.0, "random"),
            window(1, "quantile", 1, 2.0),
            window(2, "quantile", 0, 5.0),
            window(3, "quantile", 0, 6.0),
            window(4, "top", 0, 9.0),
            window(5, "silent", None, 0.0, "same_token"),
        ]
    )
    groups = views.latents.intervals(frame)
    assert [title for title, _ in groups] == [
        "Strongest · largest activation 9 · 1 window",
        "Interval 0 · largest activation 5 to 6 · 2 windows",
        "Interval 1 · largest activation 2 · 1 window",
        "Silent · drawn at random, verified never active inside · 1 window",
        "Silent · holds the token it fires on most, and yet never active inside · 1 window",
    ]
    assert groups[1][1]["window"].to_list() == [3, 2]


def test_a_histogram_spans_zero_to_the_maximum_and_leaves_empty_bins_out() -> None:
    bins = views.latents.histogram({"histogram": [3, 0, 1, 0], "maximum": 8.0})
    assert bins.rows() == [(0.0, 2.0, 3), (4.0, 6.0, 1)]
    assert views.latents.histogram({"histogram": None, "maximum": None}).is_empty()


def test_logits_name_their_side_and_may_be_absent() -> None:
    row = {
        "promoted": [" a"],
        "promoted_logits": [1.0],
        "suppressed": ["b"],
        "suppressed_logits": [-1.0],
    }
    assert views.latents.logits(row).rows() == [
        ("a", 1.0, "promoted", 0),
        ("b", -1.0, "suppressed", 0),
    ]
    assert views.latents.logits(dict.fromkeys(row)).is_empty()


def of_latent(latent: int, role: str, value: float | None, scorer: str = "detection") -> dict:
    """A row of the explanation scores."""
    who = {
        "explainer": None if role == "ceiling" else "tokens",
        "predictor": None if role == "ceiling" else "lexical",
    }
    return {"latent": latent, "role": role, "scorer": scorer, "value": value, **who}


def test_scores_of_a_latent_show_explanation_then_floor_then_ceiling() -> None:
    roles = ("ceiling", "floor", "entry")
    frame = tables.EXPLANATION_SCORES.frame(
        [of_latent(latent, role, 0.5) for latent in (1, 2) for role in roles]
    )
    shown = views.scores.scores_of(frame, 1)
    assert shown["role"].to_list() == ["explanation", "floor", "ceiling"]
    assert shown["row"].to_list() == [
        "detection · tokens",
        "detection · shuffled",
        "detection · probe",
    ]


def test_a_score_that_is_missing_says_why_and_one_that_is_there_how_many_windows_failed() -> None:
    ubiquitous = of_latent(1, "entry", None) | {"n": 150, "n_failed": 0}
    some = of_latent(1, "control", 0.5) | {"explainer": "lookup", "n": 150, "n_failed": 5}
    rows = [
        ubiquitous | {"reason": "active in over a third of windows"},
        some | {"reason": "cut: the answer was not at its end"},
        of_latent(1, "ceiling", 0.5),
    ]
    shown = views.scores.scores_of(tables.EXPLANATION_SCORES.frame(rows), 1)
    assert sorted(views.scores.failures_of(shown)) == [
        ("lookup", "5 of 150 failed (cut: the answer was not at its end)"),
        ("tokens", "no score: active in over a third of windows"),
    ]


def test_several_explainers_and_readers_are_told_apart() -> None:
    rows = [
        of_latent(1, role, 0.5) | {"explainer": name, "predictor": reader}
        for name, role in (
            ("tokens", "entry"),
            ("tokens", "floor"),
            ("lookup", "control"),
            ("lookup", "floor"),
        )
        for reader in ("lexical", "other")
    ]
    rows.append(of_latent(1, "ceiling", 0.5))
    shown = views.scores.scores_of(tables.EXPLANATION_SCORES.frame(rows), 1)
    writers = ["tokens", "shuffled lookup", "shuffled tokens", "probe", "lookup"]
    assert shown["row"].to_list() == [
        f"detection · {writer}" + (f" · {reader}" if reader else "")
        for writer in writers
        for reader in (("lexical", "other") if writer != "probe" else ("",))
    ]
    parts = [
        {name: row[name] for name in row if name != "explanation"} | {"stratum": "silent", "n": 4}
        for row in rows
    ]
    wide = views.scores.strata_of(tables.EXPLANATION_STRATA.frame(parts), 1)
    assert wide.height == 1 and set(wide.columns) == {"windows", "of them", *shown["row"]}


def test_the_distribution_counts_every_scored_latent_once() -> None:
    values = (0.1, 0.5, 0.5, 1.0, None)
    frame = tables.EXPLANATION_SCORES.frame(
        [of_latent(i, "entry", value) for i, value in enumerate(values)]
    )
    bins = views.scores.distribution(frame, "detection", bins=3)
    assert bins["latents"].to_list() == [1, 2, 1]
    assert views.scores.distribution(frame, "simulation").is_empty()


def test_the_distribution_holds_a_controls_latents_apart_and_leaves_out_its_floor() -> None:
    mine = tables.EXPLANATION_SCORES.frame([of_latent(1, "entry", 0.9)])
    theirs = [of_latent(1, "entry", 0.5), of_latent(2, "entry", 0.6), of_latent(1, "floor", 0.1)]
    controls = tables.CONTROL_SCORES.frame([row | {"control": "untrained"} for row in theirs])
    bins = views.scores.distribution(mine, "detection", bins=4, control_scores=controls)
    counts = dict(bins.group_by("role").agg(pl.col("latents").sum()).iter_rows())
    assert counts == {"explanation": 1, "untrained": 2}
    assert bins["from"].min() == 0.5


def test_the_mean_of_a_control_stands_behind_the_scores_of_a_latent() -> None:
    frame = report(
        explained(0.6, role="control", low=0.5, high=0.7, n=9),
        explained(None, "simulation", role="control"),
        explained(0.2, part="average_precision", role="control"),
    )
    mine = tables.EXPLANATION_SCORES.frame(
        [of_latent(1, role, 0.5) for role in ("ceiling", "entry")]
    )
    means = views.scores.control_means(frame)
    shown = views.scores.scores_of(mine, 1, means)
    assert shown["role"].to_list() == ["explanation", "ceiling", "untrained"]
    assert shown["row"].to_list()[-1] == "detection · untrained dictionary, mean"
    assert shown.select("value", "low", "n").row(-1) == (0.6, 0.5, 9)
    assert views.scores.scores_of(mine, 2, means).is_empty()


def test_a_difference_from_a_control_says_whether_it_leaves_out_zero() -> None:
    def differences(value: float | None, part: str = "over_untrained", **others) -> list[tuple]:
        rows = report(explained(0.6, role="control"), explained(value, part=part, **others))
        return views.scores.differences_from_controls(rows, MEASURES)

    apart = differences(0.2, low=0.1, high=0.3)
    assert apart == [
        (
            "Explained, detection, over the untrained dictionary: log odds",
            "0.20 (0.10 to 0.30)",
            True,
        )
    ]
    assert differences(0.2, low=-0.1, high=0.3)[0][2] is False
    assert differences(None, reason="none was given")[0][1:] == ("none was given", None)
    assert not differences(1.0, "over_floor")


def test_the_concepts_of_a_latent_stand_beside_the_other_units() -> None:
    frame = tables.CONCEPTS_FOUND.frame(
        [
            {"concept": "sea", "unit_kind": kind, "unit": 3, "ap": ap, "found": True, "gate": True}
            for kind, ap in (("latent", 0.9), ("neuron", 0.4), ("probe", 1.0))
        ]
    )
    row = views.latents.concepts_of(frame, 3).row(0, named=True)
    assert (row["AP on test"], row["neuron"], row["untrained"], row["probe"]) == (
        0.9,
        0.4,
        None,
        1.0,
    )
    assert views.latents.concepts_of(frame, 4).is_empty()


def test_explanations_keep_those_that_failed_with_their_reason() -> None:
    said = tables.EXPLANATIONS.frame(
        [
            {"latent": 1, "explainer": "tokens", "explanation": "x"},
            {"latent": 2, "explainer": "tokens", "reason": "dead"},
        ]
    )
    scores = tables.EXPLANATION_SCORES.frame(
        [
            of_latent(1, role, value)
            for role, value in (("entry", 0.9), ("floor", 0.5), ("ceiling", 1.0))
        ]
    )
    frame = views.scores.explained(said, scores, "detection")
    assert frame.select("latent", "score", "floor", "ceiling", "reason").rows() == [
        (1, 0.9, 0.5, 1.0, None),
        (2, None, None, None, "dead"),
    ]


def test_parameters_have_dotted_names_and_values_as_json() -> None:
    frame = views.lineage.parameters(
        {"train": {"dictionary": {"kind": "topk", "k": 16}, "empty": {}, "on": True}}
    )
    assert frame.rows() == [
        ("train.dictionary.kind", "topk"),
        ("train.dictionary.k", "16"),
        ("train.empty", "{}"),
        ("train.on", "true"),
    ]


def scored(l0: float, fvu: float | None, dictionary: str = "topk-8-k2") -> pl.DataFrame:
    place = {"n": 9, "dictionary": dictionary}
    return report(
        score("l0", l0, low=l0, high=l0, **place),
        score("fvu", fvu, low=0.1, high=0.3, **place),
        on("topic.sea", 1.0),
    )


def compared(**reports: pl.DataFrame) -> pl.DataFrame:
    return views.runs.compared(reports, MEASURES)


def test_runs_stand_side_by_side_with_intervals_and_a_dash_where_nothing_was_measured() -> None:
    scores = compared(a=scored(2, 0.2), b=scored(4, None))
    assert scores["concept"].null_count() == scores.height
    beside = views.runs.side_by_run(scores, MEASURES)
    assert beside.columns == ["measure", "concepts", "better", "a", "b"]
    fvu = beside.filter(pl.col("measure").str.contains("FVU")).row(0, named=True)
    assert (fvu["a"], fvu["b"]) == ("0.20 (0.10 to 0.30)", "–")


def test_the_list_of_runs_holds_numbers_to_sort_by() -> None:
    listed_runs = views.runs.run_list(compared(a=scored(2, 0.2), b=scored(4, None)), MEASURES)
    assert listed_runs["run"].to_list() == ["a", "b"]
    assert listed_runs["Variance unexplained (FVU)"].to_list() == [0.2, None]


def test_a_frontier_holds_runs_that_measured_both_in_order_of_sparsity() -> None:
    runs = compared(c=scored(8, 0.1), a=scored(2, 0.3, "relu-8"), b=scored(4, None))
    points = views.runs.frontier(runs, MEASURES, MEASURES["evaluate", "fvu"])
    assert points.select("run", "l0", "value", "architecture").rows() == [
        ("a", 2, 0.3, "relu"),
        ("c", 8, 0.1, "topk"),
    ]
    assert views.runs.frontier(runs, MEASURES, MEASURES["evaluate", "absorption"]).is_empty()
    assert compared().is_empty()


def test_only_parameters_that_differ_are_listed() -> None:
    one = {"train": {"dictionary": {"k": 16}, "seed": 0}}
    other = {"train": {"dictionary": {"k": 32}, "seed": 0}, "steer": {"seed": 1}}
    assert views.runs.differences({"a": one, "b": other}).rows() == [
        ("steer.seed", "–", "1"),
        ("train.dictionary.k", "16", "32"),
    ]
    assert views.runs.differences({"a": one, "b": one}).is_empty()


def test_densities_are_binned_by_their_logarithm_and_leave_out_the_dead() -> None:
    frame = tables.LATENTS.frame(
        [
            {"latent": i, "split": "test", "density": d}
            for i, d in enumerate([0.0, 0.011, 0.012, 0.11, 1.0])
        ]
    )
    binned = views.training.densities(frame, "test", per_decade=1)
    assert binned["latents"].to_list() == [2, 1, 1]
    assert binned["from"].to_list() == pytest.approx([0.01, 0.1, 1.0])
    assert binned["to"].to_list() == pytest.approx([0.1, 1.0, 10.0])


def test_dead_latents_are_told_by_split() -> None:
    facts = {
        "d_sae": 8,
        "rows": {"select": 10, "test": 20},
        "dead_latents": {"test": 2},
        "l0": {"test": 3.0},
    }
    assert views.training.dead(facts).rows() == [
        ("select", 10, None, None, None),
        ("test", 20, 2, 0.25, 3.0),
    ]
    assert views.training.dead({}).is_empty()


def test_steering_over_budgets_holds_every_measure_at_every_budget() -> None:
    frame = report(
        steered(0.2, "composite", concept_kind="all"),
        steered(0.1, "composite", budget=0.03, concept_kind="all"),
        steered(0.01, "composite", budget=1e-5, concept_kind="all"),
        steered(0.3, concept_kind="all"),
        steered(0.9, "fluency", concept_kind="all"),
        score("gate.passed", 1.0, "steer"),
        on("topic.sea", 0.5),
    )
    assert views.scores.budgets(frame).select("what", "method", "budget", "value").rows() == [
        ("composite", "add_direction", 1e-5, 0.01),
        ("composite", "add_direction", 0.03, 0.1),
        ("composite", "add_direction", 0.1, 0.2),
        ("fluency", "add_direction", 0.1, 0.9),
        ("uplift", "add_direction", 0.1, 0.3),
    ]


def test_a_control_of_several_methods_has_a_line_for_each() -> None:
    spoilt = {"subject": "shuffled_labels", "role": "control", "concept_kind": "all"}
    bare = {"subject": "untrained", "role": "control", "concept_kind": "all"}
    rows = [steered(0.1, "composite", name, **spoilt) for name in ("add_direction", "probe")]
    frame = report(*rows, steered(0.1, "composite", **bare))
    assert views.scores.budgets(frame)["method"].to_list() == [
        "shuffled_labels_add_direction",
        "shuffled_labels_probe",
        "untrained",
    ]


SPOILT = {
    "untrained": {"add_direction": "untrained"},
    "spoilt": {"shuffled_labels_add_direction": ["add_direction", "shuffled_labels"]},
}


def reached(method: str, budget: float | None, *costs: float, kind: str = "document") -> list[dict]:
    place = {"method": method, "kl_budget": budget, "concept_kind": kind}
    return [
        place | {"concept": f"{kind}.{number}", "kl_written_reverse": cost}
        for number, cost in enumerate(costs)
    ]


def test_success_stands_beside_the_cost_and_fluency_of_the_same_method_and_budget() -> None:
    kind = {"concept_kind": "document"}
    spoilt = {"subject": "shuffled_labels", "role": "control"}
    frame = report(
        steered(0.4, "composite", budget=0.1, low=0.3, high=0.5, n=4, n_failed=1, **kind),
        steered(0.6, "composite", budget=0.3, **kind),
        steered(0.9, "fluency", budget=0.1, low=0.8, high=0.95, **kind),
        steered(0.7, "fluency", budget=0.3, **kind),
        steered(0.5, "composite", "worse", budget=0.3, role="baseline", **kind),
        steered(0.55, "composite", "prompt", None, role="baseline", **kind),
        steered(0.99, "composite", budget=0.1, **spoilt, **kind),
        steered(0.05, "composite", "random_direction", budget=0.1, role="floor", **kind),
        steered(0.1, "composite", "unsteered_again", None, role="floor", **kind),
        steered(0.2, "composite", budget=0.1, concept_kind="surface"),
        steered(0.7, "composite", budget=0.1, concept="topic.sea", **kind),
        score("gate.passed", 1.0, "steer"),
    )
    costs = tables.STEERED.frame(
        [
            *reached("add_direction", 0.1, 0.08, 0.12),
            *reached("add_direction", 0.1, 9.0, kind="surface"),
            *reached("add_direction", 0.3, 0.2),
            *reached("worse", 0.3, 0.25),
            *reached("prompt", None, 0.5, 0.7),
            *reached("shuffled_labels_add_direction", 0.1, 0.01),
        ]
    )
    points = views.steering.tradeoff(frame, costs, SPOILT, "document")
    of = {(row["method"], row["budget"]): row for row in points.to_dicts()}
    assert list(of) == [
        ("add_direction", 0.1), ("add_direction", 0.3), ("prompt", None), ("worse", 0.3),
        ("random_direction", 0.1), ("shuffled_labels_add_direction", 0.1),
        ("unsteered_again", None),
    ]  # fmt: skip
    cheap = of["add_direction", 0.1]
    assert (cheap["success"], cheap["success_low"], cheap["n"], cheap["n_failed"]) == (
        0.4,
        0.3,
        4,
        1,
    )
    assert cheap["cost"] == pytest.approx(0.1) and cheap["cost_high"] > 0.12
    assert (cheap["fluency"], cheap["fluency_low"]) == (0.9, 0.8)
    assert of["add_direction", 0.3]["cost_low"] is None, "one concept gives no interval"
    best = {place for place, row in of.items() if row["best_cost"]}
    assert best == {("add_direction", 0.1), ("add_direction", 0.3)}, (
        "worse and prompt reach less for more, and a control is no method"
    )
    assert {place for place, row in of.items() if row["best_fluency"]} == {
        ("add_direction", 0.1),
        ("add_direction", 0.3),
    }
    written = views.steering.told(points, "Steered").to_dicts()
    assert written[2]["budget"] == "own cost" and written[2]["none better for its"] == "–"
    assert written[0]["none better for its"] == "cost and fluency"
    without = views.steering.tradeoff(frame, None, SPOILT, "document")
    assert cheap["cost_low"] == 0.0, "a KL is never below 0"
    assert without["cost"].null_count() == without.height and not without["best_cost"].any()


def test_the_composite_in_use_is_of_three_where_some_text_has_it() -> None:
    of_two = steered(0.4, "composite", concept_kind="all")
    of_three = steered(0.2, "panel", concept_kind="all")
    assert views.steering.headline(report(of_two)) == "composite"
    assert views.steering.headline(report(of_two, of_three)) == "panel"
    absent = of_three | {"value": None, "reason": "no text"}
    assert views.steering.headline(report(of_two, absent)) == "composite"
    points = views.steering.tradeoff(report(of_two, of_three), None, {}, "all")
    assert points["success"].to_list() == [0.2]


def test_costs_over_all_kinds_weigh_each_kind_the_same() -> None:
    frame = report(steered(0.4, "composite", budget=0.1, concept_kind="all"))
    costs = [
        *reached("add_direction", 0.1, 0.1, 0.2, 0.3),
        *reached("add_direction", 0.1, 1.0, 1.0, kind="surface"),
    ]
    points = views.steering.tradeoff(frame, tables.STEERED.frame(costs), {}, "all")
    assert points["cost"][0] == pytest.approx((0.2 + 1.0) / 2)


def test_every_control_direction_is_a_dot_of_its_mean_with_failures_as_nothing() -> None:
    generations, judgements = [], []
    for number, (replicate, split, value) in enumerate(
        [(0, "test", 0.4), (0, "test", None), (1, "test", 0.1), (1, "validate", 0.9)]
    ):
        generations.append(
            {"generation": number, "method": "random_direction", "replicate": replicate,
             "kl_budget": 0.1, "split": split, "kl_reverse": 0.1 * (1 + replicate)}
        )  # fmt: skip
        judgements += [
            {"generation": number, "concept": concept, "judge": judge, "value": value}
            for concept in ("sea", "one", "two")
            for judge in ("composite", "fluency", "concept")
        ]
    judgements[0]["value"] = 0.8  # of sea, the first text
    dots = views.steering.cloud(
        tables.GENERATIONS.frame(generations).lazy(),
        tables.JUDGEMENTS.frame(judgements).lazy(),
        ["random_direction"],
        {"sea": "document", "one": "surface", "two": "surface"},
        "composite",
        "all",
    )
    assert dots["replicate"].to_list() == [0, 1] and dots["budget"].to_list() == [0.1, 0.1]
    assert dots["success"].to_list() == pytest.approx([(0.4 + 0.2) / 2, 0.1])
    assert dots["fluency"].to_list() == pytest.approx([0.2, 0.1])
    assert dots["cost"].to_list() == pytest.approx([0.1, 0.2])


def test_the_sweep_is_told_with_the_directions_of_a_control_together() -> None:
    swept = views.steering.hook_points(tables.HOOK_POINTS.frame(swept_rows()), ["spoilt_m"])
    of = {(row["method"], row["hook_point"]): row for row in swept.to_dicts()}
    assert list(of) == [(m, h) for m in ("m", "spoilt_m", "r") for h in ("early", "late")]
    own = of["m", "late"]
    assert [own[name] for name in ("value", "low", "high")] == pytest.approx([0.4, 0.3, 0.5])
    assert (own["n"], own["unit"], own["chosen"], own["n_failed"]) == (5, "targets", True, 1)
    assert (own["standing"], of["spoilt_m", "late"]["standing"]) == ("method", "control")
    control = of["r", "early"]
    assert (control["value"], control["n"]) == (pytest.approx(0.1), 3)
    assert control["low"] < 0.1 < control["high"], "over directions"
    assert (control["n_chosen"], of["r", "late"]["n_chosen"], control["chosen"]) == (2, 1, False)
    told = {(row["method"], row["hook point"]): row for row in views.steering.told_of_sweep(swept).to_dicts()}  # fmt: skip
    assert told["m", "late"]["chosen"] == "chosen" and told["m", "early"]["chosen"] == "–"
    assert told["r", "early"]["chosen"] == "by 2 of 3"
    assert told["m", "late"]["note"] == "1 of 5 targets have no text here and count as 0"
    assert told["m", "late"]["95% interval"] == "0.30 to 0.50"


def test_the_battery_marks_what_a_judge_alone_falls_for_and_what_breaks_the_law() -> None:
    shown = views.steering.battery(tables.BATTERY.frame(tricks())).to_dicts()
    assert [row["text"] for row in shown] == [
        "real text",
        "keyword list",
        "training text",
        "one word",
        "empty",
        "top context",
    ]
    assert (shown[0]["composite"], shown[0]["concept"]) == ("0.70", "0.70")
    assert [row["law"] for row in shown] == ["–", "holds", "not shown", "BROKEN", "holds", "–"]
    assert (shown[1]["concept"], shown[3]["concept"]) == ("0.80 (!)", "0.00")
    assert shown[5]["note"] == "no latent" and shown[5]["composite"] == "–"
    assert (shown[1]["real minus it"], shown[1]["95% interval"]) == ("0.60", "0.50 to 0.70")


def manifest(stage: str, key: str, *inputs: tuple[str, str]) -> dict:
    return {
        "stage": stage,
        "key": key,
        "inputs": {f"role{n}": {"stage": s, "key": k} for n, (s, k) in enumerate(inputs)},
        "files": {"a": {"bytes": 2_500_000, "digest": "d"}},
        "made": {"seconds": 75.0, "at": "2026-01-01T00:00:00Z", "git_commit": None},
    }


CHAIN = [
    manifest("read", "r1", ("model", "m1")),
    manifest("capture", "c1", ("read", "r1")),
    manifest("train", "t1", ("capture", "c1")),
    manifest("steer", "s1", ("capture", "c1"), ("read", "gone")),
]


def test_the_graph_has_a_linked_box_for_each_artifact_and_says_what_is_not_here() -> None:
    dot = views.lineage.graph(
        CHAIN,
        ("train", "t1"),
        "lineage?report=x&artifact=",
        dark=False,
        controls={"t1": "untrained"},
    )
    assert 'URL="lineage?report=x&artifact=capture/c1"' in dot
    assert "train (untrained)\\nt1\\n1 min 15 s, 2.5 MB" in dot
    assert "read\\ngone\\nnot in this store" in dot
    assert "model\\nm1\\ngiven, not made here" in dot
    assert dot.count("->") == 5


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (12.4, "12 s"), (125, "2 min 5 s"), (11_520, "3 h 12 min")],
)
def test_durations_have_units(seconds: float, said: str) -> None:
    assert views.lineage.readable_seconds(seconds) == said


@pytest.mark.parametrize(("n", "said"), [(12, "12 B"), (4_100_000, "4.1 MB"), (5e12, "5000.0 GB")])
def test_sizes_have_units(n: float, said: str) -> None:
    assert views.lineage.readable_bytes(n) == said


def test_a_peak_on_a_part_of_a_character_is_found_by_the_character() -> None:
    rows = [
        {"latent": latent, "window": 0, "role": "top", "tokens": words, "activations": values}
        for latent, words, values in (
            (1, ["a", "<0xE6>", "<0x97>", "<0xA5>"], [0.0, 0.0, 2.0, 1.0]), (2, [" <0xE6><0x97>", "b"], [1.0, 0.0]),
        )
    ]  # fmt: skip
    index = views.latents.peak_tokens(tables.CONTEXTS.frame(rows))
    found = {latent: set(said.strip("\n").split("\n")) for latent, said in index.iter_rows()}
    assert found == {1: {"日", "‹97›"}, 2: {"‹e6 97›"}}


def on_map(**columns: Any) -> pl.DataFrame:
    n = len(next(iter(columns.values())))
    known = {"latent": list(range(n)), "x": [0.1] * n, "y": [0.2] * n, "explanation": [None] * n}
    return pl.DataFrame(known | columns, schema_overrides={"explanation": pl.String})


def test_a_map_is_coloured_by_the_logarithm_of_density_and_dead_latents_are_grey_below() -> None:
    densities = [0.0, *(10.0**-power for power in range(5, 0, -1))]
    points, legend = views.plane.coloured(on_map(density=densities), "density")
    assert points["latent"].to_list()[0] == 0, "drawn first, so that it hides nothing"
    rows = {row["latent"]: (row["r"], row["g"], row["b"]) for row in points.to_dicts()}
    assert rows[0] == views.plane.ABSENT
    assert rows[1] == (125, 80, 190) and rows[5] == (225, 165, 0) and rows[3] == (25, 145, 140)
    assert [name for name, _ in legend][-1] == "never active" and len(legend) == 6


def test_a_map_of_scores_without_any_says_so() -> None:
    frame = on_map(score=[None, None]).with_columns(pl.col("score").cast(pl.Float64))
    _, legend = views.plane.coloured(frame, "score")
    assert legend == [("no score", views.plane.ABSENT)]


def test_a_map_of_concepts_names_the_commonest_families() -> None:
    concepts = ["topic.sea, word.x"] * 3 + ["word.a"] * 2 + [f"f{n}.a" for n in range(7)] + [None]
    points, legend = views.plane.coloured(on_map(concept=concepts), "concept")
    assert [name for name, _ in legend][:2] == ["topic (3)", "word (2)"]
    assert [name for name, _ in legend][-2:] == ["other", "best for none"]
    assert points.height == len(concepts)


def test_a_map_is_a_picture_with_each_point_at_its_place() -> None:
    frame = on_map(density=[0.1, 0.001]).with_columns(
        x=pl.Series([0.0, 1.0]), y=pl.Series([0.0, 1.0])
    )
    points, _ = views.plane.coloured(frame, "density")
    png = views.plane.raster(points, (0.0, 1.0, 0.0, 1.0), width=60, height=40)
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (40, 60, 4) and (pixels[..., 3] > 0).sum() == 2 * 36
    assert tuple(pixels[39, 0]) == (225, 165, 0, 255), "the densest, below on the left"
    assert tuple(pixels[0, 59]) == (125, 80, 190, 255)
    nearer = views.plane.raster(points, (0.5, 1.0, 0.5, 1.0), width=60, height=40)
    assert (np.asarray(Image.open(io.BytesIO(nearer)))[..., 3] > 0).sum() == 36


def test_a_map_of_one_point_and_of_a_hundred_thousand_are_drawn() -> None:
    one = on_map(density=[0.1])
    points, _ = views.plane.coloured(one, "density")
    assert views.plane.raster(points, views.plane.whole(one))
    n = 100_000
    many = on_map(density=[0.1] * n).with_columns(
        x=pl.int_range(n) % 997 / 997, y=pl.int_range(n) % 499 / 499
    )
    started = time.perf_counter()
    points, _ = views.plane.coloured(many, "density")
    png = views.plane.raster(points, views.plane.whole(many))
    assert time.perf_counter() - started < 5 and len(png) < 3_000_000


def test_a_legend_is_escaped() -> None:
    assert "<b>" not in views.plane.legend([("<b>", (1, 2, 3))])


def test_explanations_are_narrowed_and_what_has_no_value_is_outside_of_every_range() -> None:
    rows = pl.DataFrame(
        {"latent": [1, 2, 3], "explanation": ["The Sea", "a ship", None], "explainer": ["a", "b", "a"],
         "score": [0.9, None, 0.2], "density": [0.1, 0.01, 0.001]}
    )  # fmt: skip

    def latents(**filters: Any) -> list[int]:
        return views.scores.narrowed(rows, **filters)["latent"].to_list()

    assert latents() == [1, 2, 3]
    assert latents(text="sea THE") == [1] and latents(text=".") == []
    assert latents(explainers=["a"]) == [1, 3]
    assert latents(score=(0.2, 1.0)) == [1, 3] and latents(density=(0.01, 1)) == [1, 2]


def test_a_search_of_latents_also_finds_what_somebody_noted() -> None:
    frame = pl.DataFrame(
        {"latent": [0, 1], "words": ["sea", "ship"], "density": [0.1, 0.2], "score": [0.9, None]}
    )
    noted = pl.DataFrame(
        {"latent": [1], "noted": ["odd one"]}, schema_overrides={"latent": pl.Int64}
    )
    assert views.latents.narrowed(frame, text="ODD ship", noted=noted)["latent"].to_list() == [1]
    assert views.latents.narrowed(frame, text="odd sea", noted=noted).is_empty()
    assert views.latents.narrowed(frame, least=0.5)["latent"].to_list() == [0]


def test_contrasts_of_tested_families_come_first_and_one_without_a_value_says_why():
    rows = [
        {"method": "a", "other": "b", "kl_budget": 0.2, "measure": "composite", "value": 0.3, "low": 0.1, "high": 0.5,
         "n": 8, "n_failed": 0, "p": 0.03, "family": "pairs", "p_holm": 0.06},
        {"method": "prompt", "other": "controls", "measure": "composite", "n": 8, "reason": "outside the budgets"},
        {"method": "a", "other": "controls", "kl_budget": 0.2, "measure": "composite", "value": 0.1, "low": -0.1,
         "high": 0.3, "n": 8, "n_failed": 1, "p": 0.4, "family": "primary", "p_holm": 0.8, "visible": 0.25},
    ]  # fmt: skip
    shown = views.scores.contrasts(CONTRASTS.frame(rows))
    assert shown["method"].to_list() == ["a", "a", "prompt"]
    assert shown["against"].to_list() == ["controls", "b", "controls"]
    assert shown.row(0, named=True)["could be seen"] == "0.25"
    last = shown.row(2, named=True)
    assert (last["difference"], last["budget"], last["note"]) == (
        "–",
        "own cost",
        "outside the budgets",
    )


def test_a_row_that_is_not_worth_ranking_with_is_grey_and_says_why(monkeypatch):
    found = {"detection": {"lexical": "changes with the draw"}}
    monkeypatch.setattr(worth, "lacking", lambda: found)
    of = {"stage": "interpret", "entry": "log_odds", "explainer": "log_odds", "scorer": "detection"}
    readers = ("lexical", "text_encoder")
    rows = [score("detection", 0.7, **of, predictor=name, artifact="k") for name in readers]
    frame = REPORT.frame(rows)
    table = views.scores.scores(frame, MEASURES, everything=True)
    grey = [worth.DOUBT in note for note in table["note"]]
    assert sorted(grey) == [False, True]
    html = views.scores.greyed(table, ["measure", "value"]).to_html()
    assert html.count(f"color: {worth.GREY}") == 1 and "note" not in html
