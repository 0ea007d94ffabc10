"""A score's columns say what it is of; its name is made from them, its place, range and label from
what its entry declares."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from components.config import flatten
from components.experiment import ExperimentConfig
from components.report import tables
from components.report.measure import Measure, Measures, label
from components.report.order import placed, shortened
from components.report.reasons import SETTING, SETTINGS, UNGATED, setting
from components.report.scores import bounded, flat, headlines, write
from components.store.artifact import Artifact
from tests.report.rows import MEASURES, explained, found, report_frame, score, steered


def names(*rows: dict) -> list[str]:
    return report_frame(*rows)["name"].to_list()


def short(*rows: dict) -> dict[str, float]:
    return {name: row["value"] for name, _, row in headlines(report_frame(*rows), MEASURES)}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (score("fvu", 0.1), "evaluate.fvu"),
        (score("loss_recovered.mean_ablation", 0.9), "evaluate.loss_recovered.mean_ablation"),
        (found(0.2), "evaluate.concepts_found.latent"),
        (found(0.2, "neuron", "concepts_ap"), "evaluate.concepts_ap.neuron"),
        (score("sparse_probing", 0.2, k=5), "evaluate.sparse_probing.k5"),
        (explained(0.8), "interpret.log_odds.detection"),
        (explained(0.8, part="weakest"), "interpret.log_odds.detection.weakest"),
        (explained(0.1, part="over_untrained"), "interpret.log_odds.detection.over_untrained"),
        (explained(0.5, role="floor"), "interpret.shuffled.detection"),
        (explained(0.9, "simulation", role="ceiling"), "interpret.probe.simulation"),
        (explained(0.6, role="control"), "interpret.untrained.detection"),
        (score("dead_share", 0.1, "interpret"), "interpret.dead_share"),
        (score("gate.passed", 0.5, "steer"), "steer.gate.passed"),
        (steered(0.3), "steer.add_direction.kl_0.1"),
        (steered(0.3, "composite", budget=1e-5), "steer.add_direction.kl_1e-05.composite"),
        (steered(0.3, "composite", budget=1e20), "steer.add_direction.kl_1e20.composite"),
        (steered(0.3, "cost", budget=123456.7), "steer.add_direction.kl_123456.7.cost"),
        (
            steered(0.3, "composite", subject="untrained", role="control"),
            "steer.untrained.kl_0.1.composite",
        ),
        (
            steered(0.3, "composite", concept="word.a"),
            "steer.add_direction.kl_0.1.composite.concept.word.a",
        ),
        (score("stability", 0.9, "compare"), "compare.stability"),
    ],
)
def test_a_name_is_made_from_the_columns(row: dict, name: str) -> None:
    assert names(row) == [name]


def test_one_more_hook_point_predictor_or_explainer_leaves_the_other_names_as_they_are() -> None:
    rows = [
        score("fvu", 0.1, hook_point=hook_point) for hook_point in ("resid_post.1", "resid_post.2")
    ]
    rows += [explained(0.8, predictor=predictor) for predictor in ("lexical", "llm")]
    rows += [
        explained(0.5, role="floor", explainer=explainer) for explainer in ("log_odds", "ngrams")
    ]
    rows += [
        steered(0.1, entry=method, subject="untrained", role="control")
        for method in ("add_direction", "clamp_latent")
    ]
    assert names(*rows) == [
        "evaluate.fvu",
        "evaluate.fvu.resid_post.2",
        "interpret.log_odds.detection",
        "interpret.log_odds.detection.llm",
        "interpret.shuffled.detection",
        "interpret.shuffled.ngrams.detection",
        "steer.untrained.kl_0.1",
        "steer.untrained.clamp_latent.kl_0.1",
    ]
    assert len(flat(report_frame(*rows))) == len(rows)


def test_budgets_that_differ_in_their_last_digit_are_two_scores() -> None:
    rows = [
        steered(value, budget=budget)
        for value, budget in ((0.1, 0.1), (0.2, 0.1000001), (0.3, 1e-5))
    ]
    frame = report_frame(*rows)
    assert names(*rows) == [
        "steer.add_direction.kl_0.1",
        "steer.add_direction.kl_0.1000001",
        "steer.add_direction.kl_1e-05",
    ]
    assert frame.filter(pl.col("budget") == 0.1000001)["value"].to_list() == [0.2]
    assert frame.filter(pl.col("budget") == 0.1)["value"].to_list() == [0.1]
    assert short(*(row | {"measure": "composite"} for row in rows)) == {
        "steering_add_direction": 0.1,
        "steering_add_direction_kl_0.1000001": 0.2,
        "steering_add_direction_kl_1e-05": 0.3,
    }


@pytest.mark.parametrize(
    "concept",
    [
        "fluency",
        "cost",
        "probe",
        "neuron",
        "all",
        "untrained",
        "value",
        "a.b.surface",
        "x.kl_0.1.composite",
        "@",
    ],
)
def test_a_concept_may_bear_any_name(concept: str) -> None:
    """It is a single concept, of the range of its measure, never a rival, a kind, a control or
    another measure."""
    single = steered(0.4, "composite", concept=concept, concept_kind="surface", low=-0.2, high=1.4)
    rows = [
        single,
        steered(0.3, "composite", concept_kind="surface"),
        steered(0.9, "fluency", concept_kind="surface"),
        steered(0.2, "cost", concept_kind="surface"),
        steered(0.1, "composite", method="random_direction", role="floor", concept_kind="surface"),
        found(0.5, "neuron", concept_kind="all"),
        found(1.0, "probe", concept_kind="all"),
    ]
    frame = report_frame(*rows)
    assert len(flat(frame)) == len(rows) and sorted(flat(frame).values()) == sorted(
        row["value"] for row in rows
    )
    assert concept not in shortened(frame, MEASURES)["concept"].to_list()
    assert placed(frame, MEASURES)["concept"].to_list()[-1] == concept
    (kept,) = bounded(frame, MEASURES).filter(pl.col("concept") == concept).to_dicts()
    assert (kept["low"], kept["high"]) == (0.0, 1.0)
    assert short(*rows)["steering_add_direction"] == 0.3


def test_several_hook_points_never_overwrite_one_another() -> None:
    hook_points = ("resid_post.1", "resid_post.2", "resid_post.3")
    rows = [
        score("fvu", 0.1 * n, hook_point=hook_point) for n, hook_point in enumerate(hook_points, 1)
    ]
    assert sorted(flat(report_frame(*rows)).values()) == pytest.approx([0.1, 0.2, 0.3])
    assert short(*rows) == {
        "fvu": 0.1,
        "fvu_resid_post.2": 0.2,
        "fvu_resid_post.3": pytest.approx(0.3),
    }


def test_names_that_meet_all_the_same_lose_no_score() -> None:
    rows = [
        steered(0.1, "composite", concept="sea.surface", concept_kind="all"),
        steered(0.2, "composite", concept="sea", concept_kind="surface"),
    ]
    assert sorted(flat(report_frame(*rows)).values()) == [0.1, 0.2]


def test_headlines_keep_their_short_names_and_are_over_token_concepts_where_those_are_wanted() -> (
    None
):
    rows = [
        score("fvu", 0.1),
        score("l0", 8.0),
        score("loss_recovered.mean_ablation", 0.9),
        score("loss_recovered.zero_ablation", 0.99),
        *(
            found(value, concept_kind=kind)
            for kind, value in (("all", 0.3), ("token", 0.2), ("surface", 0.1))
        ),
        found(0.4, "neuron", concept_kind="all"),
        found(1.0, "probe", concept_kind="all"),
        explained(0.8),
        explained(0.7, "simulation"),
        steered(0.5, "composite", concept_kind="document"),
        steered(None, "composite", method="other"),
    ]
    assert short(*rows) == {
        "fvu": 0.1,
        "loss_recovered": 0.9,
        "l0": 8.0,
        "concepts_found": 0.2,
        "concepts_found_neuron": 0.4,
        "explanation_detection": 0.8,
        "explanation_simulation": 0.7,
        "steering_add_direction": 0.5,
    }
    several = [steered(0.5, "composite", concept_kind=kind) for kind in ("document", "surface")]
    assert short(*several) == {}, "the mean over one of several kinds stands for nothing"


@pytest.mark.parametrize(
    ("row", "before", "after"),
    [
        (steered(0.99, "fluency"), (0.78, 1.19), (0.78, 1.0)),
        (steered(0.1, "fluency", budget=1e-5), (-0.4, 0.6), (0.0, 0.6)),
        (steered(0.3), (-1.1, 1.77), (-1.0, 1.0)),
        (steered(0.01, "cost"), (-0.02, 0.04), (0.0, 0.04)),
        (found(0.5), (-0.1, 1.1), (0.0, 1.0)),
        (score("fvu", 1.6), (-0.2, 3.0), (0.0, 3.0)),
        (explained(0.9, "simulation"), (0.7, 1.1), (0.7, 1.0)),
        (score("loss_recovered.mean_ablation", 0.99), (0.9, 1.01), (0.9, 1.01)),  # may exceed 1
        (score("l0", 16.0), (None, None), (None, None)),
        (score("dead_share", None), (None, None), (None, None)),
        (score("dead_share", 1.2), (1.1, 1.3), (1.1, 1.2)),  # a value stays inside its interval
    ],
)
def test_no_interval_leaves_the_range_of_its_measure(
    row: dict, before: tuple, after: tuple, tmp_path: Path
) -> None:
    (kept,) = write(
        tmp_path, row["stage"], [row | dict(zip(("low", "high"), before, strict=True))], MEASURES
    ).to_dicts()
    assert (kept["value"], kept["low"], kept["high"]) == (row["value"], *after)
    assert pl.read_parquet(tmp_path / tables.SCORES.file)["high"].to_list() == [after[1]]


def test_a_stage_writes_only_what_its_entries_declare(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="evaluate: nobody declares the measure 'sharpness'"):
        write(tmp_path, "evaluate", [score("sharpness", 0.5)], MEASURES)
    with pytest.raises(AssertionError, match="an absent value needs its reason"):
        write(tmp_path, "evaluate", [score("fvu", None, reason=None)], MEASURES)
    with pytest.raises(AssertionError, match="not finite"):
        write(tmp_path, "evaluate", [score("fvu", float("nan"))], MEASURES)
    (row,) = write(tmp_path, "evaluate", [{"measure": "fvu", "value": 0.1}], MEASURES).to_dicts()
    assert (row["stage"], row["role"], row["better"]) == ("evaluate", "entry", "lower")


def test_a_measure_that_nobody_has_heard_of_is_labelled_sorted_bounded_and_a_headline() -> None:
    """All of it by what its entry declares, through the manifest; without, the row is kept and
    stands last."""
    new = Measure(
        "sharpness",
        "Sharpness of latents",
        "share",
        "How sharp.",
        "lower",
        rank=1,
        most=1,
        short="sharpness",
    )
    facts = json.loads(json.dumps(Measures({**MEASURES, ("evaluate", "sharpness"): new}).facts()))
    measures = Measures.read(Artifact(Path(), {"facts": facts}))
    assert measures["evaluate", "sharpness"] == new
    rows = [
        score("cross_entropy_rise", 0.1),
        score("sharpness", 0.5, high=1.5, low=0.1),
        score("fvu", 0.2),
    ]
    frame = bounded(report_frame(*rows), measures)
    assert placed(frame, measures).columns == [*tables.REPORT.columns, "tier"]
    assert placed(frame, measures)["measure"].to_list() == [
        "fvu",
        "sharpness",
        "cross_entropy_rise",
    ]
    (row,) = frame.filter(pl.col("measure") == "sharpness").to_dicts()
    assert row["high"] == 1.0 and label(measures.of(row), row) == "Sharpness of latents"
    assert ("sharpness", 0.5) in [
        (name, row["value"]) for name, _, row in headlines(frame, measures)
    ]
    assert placed(frame, MEASURES)["measure"].to_list() == [
        "fvu",
        "cross_entropy_rise",
        "sharpness",
    ]
    assert label(MEASURES.of(row), row) == "evaluate.sharpness"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (score("fvu", 0.1), "Variance unexplained (FVU)"),
        (found(0.2), "Concepts found: latent"),
        (score("sparse_probing", 0.2, k=5), "Sparse probing, k = 5"),
        (explained(0.8), "Explained, detection: log odds"),
        (explained(0.5, role="floor"), "Explained, detection: shuffled (log odds)"),
        (explained(0.9, role="ceiling"), "Explained, detection: probe"),
        (steered(0.3, "composite"), "Steered, KL 0.1: add direction"),
        (
            steered(0.3, "composite", concept="fluency", budget=1e-5),
            "Steered, KL 1e-05: add direction, on fluency",
        ),
        (
            steered(0.3, "cost", subject="untrained"),
            "Side effect on neutral text, KL 0.1: untrained (add direction)",
        ),
    ],
)
def test_a_row_is_called_by_its_measure_its_settings_and_who_was_measured(
    row: dict, said: str
) -> None:
    (full,) = report_frame(row).to_dicts()
    assert label(MEASURES.of(full), full) == said


def test_every_declared_measure_has_a_label_a_unit_and_a_sentence() -> None:
    assert len(MEASURES) > 40
    for measure in MEASURES.values():
        assert measure.label and measure.unit and measure.about.endswith("."), measure
        assert measure.least is None or measure.most is None or measure.least < measure.most
    assert all(
        ("interpret", m.part_of) in MEASURES
        for (s, _), m in MEASURES.items()
        if s == "interpret" and m.part_of
    )


def test_rows_keep_their_order_when_they_are_cut() -> None:
    rows = [score("l0", 0.5), score("fvu", 0.5), score("new", 0.5), score("dead_share", 0.5)]
    assert bounded(report_frame(*rows), MEASURES)["measure"].to_list() == [
        "l0",
        "fvu",
        "new",
        "dead_share",
    ]


def test_measures_stand_together_and_single_concepts_last_in_their_stage() -> None:
    rows = [
        steered(0.1, measure, method) for method in ("a", "b") for measure in ("fluency", "uplift")
    ]
    single = steered(0.1, "uplift", "a", concept="sea")
    frame = report_frame(
        single, *rows, score("gate.passed", 0.5, "steer"), score("something_new", 0.1)
    )
    assert placed(frame, MEASURES)["name"].to_list() == [
        "evaluate.something_new",
        "steer.gate.passed",
        "steer.a.kl_0.1",
        "steer.b.kl_0.1",
        "steer.a.kl_0.1.fluency",
        "steer.b.kl_0.1.fluency",
        "steer.a.kl_0.1.concept.sea",
    ]


def test_every_setting_that_advice_names_exists() -> None:
    config = ExperimentConfig.model_validate({"read": {"corpus": {"kind": "jsonl", "path": "x"}}})
    settings = set(flatten(config))
    sections = {
        ".".join(name.split(".")[:depth])
        for name in settings
        for depth in range(1, name.count(".") + 1)
    }
    gated = ("concepts_found", "sparse_probing", "absorption")
    advice = [what for _, what in SETTINGS] + [
        what.format(entry=entry) for what in UNGATED.values() for entry in gated
    ]
    for sentence in advice:
        for named in re.findall(SETTING + r"(?:\.[a-z_]+)*", sentence):
            assert named in settings | sections, sentence


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (found(None, reason="no concept passed the gate"), "evaluate.settings.concepts_found"),
        (
            score(
                "absorption", None, entry="absorption", reason="no token concept passed the gate"
            ),
            "evaluate.settings.absorption",
        ),
        (steered(None, reason="no concept passed the gate"), "steer.gate.min_lift"),
        (
            score("description_length", None, reason="the capture has no select split"),
            "capture.splits",
        ),
        (
            score("fvu", None, reason="the capture holds no token of the test split"),
            "capture.splits",
        ),
        (
            score("gate.passed", None, "steer", reason="the model does not generate text"),
            "model.path",
        ),
        (
            steered(None, "cost", reason="no neutral text is left to measure it on"),
            "steer.neutral_tokens",
        ),
        (
            steered(None, "share_above_random", reason="no control direction to compare with"),
            "steer.methods",
        ),
        (explained(None, reason="no latent is alive"), "train.tokens"),
        (explained(None, reason="a reason nobody foresaw"), "section interpret"),
    ],
)
def test_a_reason_leads_to_a_setting(row: dict, expected: str) -> None:
    assert expected in (setting(row) or "")


def test_a_reason_that_names_a_setting_needs_no_other() -> None:
    assert setting(steered(None, "fluency", reason="steer.judges does not list fluency")) is None


def test_a_method_without_strength_has_a_short_name_beside_those_at_a_budget() -> None:
    rows = [steered(0.5, "composite", method="prompt"), steered(0.4, "composite", method="prompt")]
    rows[1]["budget"] = None
    assert set(short(*rows)) == {"steering_prompt", "steering_prompt_own_cost"}
    assert set(short(*rows[::-1])) == {"steering_prompt", "steering_prompt_kl_0.1"}
