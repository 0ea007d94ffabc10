"""A score's place and range are declared once; the settings that advice names exist."""

from __future__ import annotations

import re

import polars as pl
import pytest

from components.config import flatten
from components.experiment import ExperimentConfig
from components.store import tables
from components.store.scores import SETTING, SETTINGS, UNGATED, known, placed, setting


def row(name: str, value: float | None, low: float | None, high: float | None, **others) -> dict:
    place = {"dictionary": "topk-8-k2", "hook_point": "resid_post.1", "split": "test", "unit_of_replication": "concept"}
    return {"name": name, "value": value, "low": low, "high": high, "n": 4, **place, **others}


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("steer.add_direction.kl_0.1.fluency", (0.99, 0.78, 1.19), (0.99, 0.78, 1.0)),
        ("steer.add_direction.kl_1e-05.fluency", (0.1, -0.4, 0.6), (0.1, 0.0, 0.6)),
        ("steer.add_direction.kl_0.1", (0.3, -1.1, 1.77), (0.3, -1.0, 1.0)),
        ("steer.add_direction.kl_0.1.cost", (0.01, -0.02, 0.04), (0.01, 0.0, 0.04)),
        ("evaluate.concepts_found.latent", (0.5, -0.1, 1.1), (0.5, 0.0, 1.0)),
        ("evaluate.fvu", (1.6, -0.2, 3.0), (1.6, 0.0, 3.0)),
        ("interpret.log_odds.simulation", (0.9, 0.7, 1.1), (0.9, 0.7, 1.0)),
        ("interpret.shuffled.detection", (0.5, 0.4, 0.6), (0.5, 0.4, 0.6)),
        ("evaluate.loss_recovered.mean_ablation", (0.99, 0.9, 1.01), (0.99, 0.9, 1.01)),  # may exceed 1
        ("evaluate.my_own_score", (0.5, -7.0, 9.0), (0.5, -7.0, 9.0)),
        ("evaluate.l0", (16.0, None, None), (16.0, None, None)),
        ("evaluate.dead_share", (None, None, None), (None, None, None)),
    ],
)
def test_no_interval_leaves_the_range_of_its_score(name: str, before: tuple, after: tuple, tmp_path) -> None:
    for table in (tables.SCORES, tables.REPORT):
        (found,) = table.write(tmp_path, [row(name, *before)]).to_dicts()
        assert (found["value"], found["low"], found["high"]) == after
        assert pl.read_parquet(tmp_path / table.file)["high"].to_list() == [after[2]]


def test_a_single_concept_has_the_range_of_uplift_whatever_it_is_called() -> None:
    name = "steer.add_direction.kl_0.1.cost"
    (found,) = tables.SCORES.frame([row(name, -0.2, -1.4, 1.2, unit_of_replication="prompt")]).to_dicts()
    assert (found["low"], found["high"]) == (-1.0, 1.0)


def test_a_value_stays_inside_its_interval_even_where_it_leaves_the_range() -> None:
    (found,) = tables.SCORES.frame([row("evaluate.dead_share", 1.2, 1.1, 1.3)]).to_dicts()
    assert (found["value"], found["low"], found["high"]) == (1.2, 1.1, 1.2)


def test_rows_keep_their_order_when_they_are_cut() -> None:
    names = ["b.x", "evaluate.fvu", "a.y", "steer.gate.passed"]
    assert tables.SCORES.frame([row(name, 0.5, 0.1, 0.9) for name in names])["name"].to_list() == names


def test_measures_stand_together_and_single_concepts_last_in_their_stage() -> None:
    names = [
        "steer.a.kl_0.1.fluency",
        "steer.a.kl_0.1",
        "steer.b.kl_0.1.fluency",
        "steer.b.kl_0.1",
        "steer.gate.passed",
    ]
    rows = [row(name, 0.1, None, None, stage="steer", artifact="0") for name in names]
    single = row("steer.a.kl_0.1.sea", 0.1, None, None, stage="steer", artifact="0", unit_of_replication="prompt")
    other = row("evaluate.something_new", 0.1, None, None, stage="evaluate", artifact="0")
    found = placed(tables.REPORT.frame([single, *rows, other]))["name"].to_list()
    assert found == [
        "evaluate.something_new",
        "steer.gate.passed",
        "steer.a.kl_0.1",
        "steer.b.kl_0.1",
        "steer.a.kl_0.1.fluency",
        "steer.b.kl_0.1.fluency",
        "steer.a.kl_0.1.sea",
    ]


def test_every_setting_that_advice_names_exists() -> None:
    config = ExperimentConfig.model_validate({"read": {"corpus": {"kind": "jsonl", "path": "x"}}})
    names = set(flatten(config))
    sections = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    advice = [what for _, what in SETTINGS] + list(UNGATED.values())
    for sentence in advice:
        for named in re.findall(SETTING + r"(?:\.[a-z_]+)*", sentence):
            assert named in names | sections, sentence


@pytest.mark.parametrize(
    ("stage", "name", "reason", "expected"),
    [
        (
            "evaluate",
            "evaluate.concepts_found.latent",
            "no concept passed the gate",
            "evaluate.settings.concepts_found",
        ),
        ("evaluate", "evaluate.absorption", "no token concept passed the gate", "evaluate.settings.absorption"),
        ("steer", "steer.x.kl_0.1", "no concept passed the gate", "steer.gate.min_lift"),
        ("evaluate", "evaluate.description_length", "the capture has no select split", "capture.splits"),
        ("evaluate", "evaluate.fvu", "the capture holds no token of the test split", "capture.splits"),
        ("steer", "steer.gate.passed", "the model does not generate text", "model.path"),
        ("steer", "steer.x.kl_0.1.cost", "no neutral text is left to measure it on", "steer.neutral_tokens"),
        ("steer", "steer.x.kl_0.1.share_above_random", "no control direction to compare with", "steer.methods"),
        ("interpret", "interpret.x.detection", "no latent is alive", "train.tokens"),
        ("interpret", "interpret.x.detection", "a reason nobody foresaw", "section interpret"),
    ],
)
def test_a_reason_leads_to_a_setting(stage: str, name: str, reason: str, expected: str) -> None:
    assert expected in (setting(stage, name, reason) or "")


def test_a_reason_that_names_a_setting_needs_no_other() -> None:
    assert setting("steer", "steer.x.kl_0.1.fluency", "steer.judges does not list fluency") is None


def test_what_nobody_declared_has_no_range() -> None:
    place, declared = known("claims.something")
    assert (declared.low, declared.high) == (None, None) and place > known("steer.gate.passed")[0]
