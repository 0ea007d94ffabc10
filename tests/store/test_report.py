"""The report holds every score it is given, says the same in every form, and hides nothing that came out against us."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from components.config import Config
from components.errors import InputError
from components.store import tables
from components.store.artifact import Artifact, Progress, Stage, Store
from components.store.report import REPORT, ReportConfig, against_us, headline, markdown


class Made(Config):
    rows: list[dict] = []
    """The scores to write."""


def score(name: str, value: float | None, **others) -> dict:
    place = {"dictionary": "topk-8-k2", "hook_point": "resid_post.1", "split": "test", "better": "higher"}
    return {"name": name, "value": value, "n": 10, "unit_of_replication": "document", **place, **others}


def scored(store: Store, stage: str, *rows: dict) -> Artifact:
    def make(folder: Path, config: Made, inputs, settings):
        tables.SCORES.write(folder, config.rows)
        yield Progress(1, 1, "scores")
        return {}

    return store.ensure(Stage(stage, 1, make), Made(rows=list(rows)), {})[0]


def frame(*rows: dict) -> pl.DataFrame:
    return tables.REPORT.frame([{"stage": "evaluate", "artifact": "0" * 24, **row} for row in rows])


def test_the_report_holds_every_score_with_the_artifact_it_came_from(store: Store) -> None:
    evaluate = scored(store, "evaluate", score("evaluate.fvu", 0.02, better="lower"), score("evaluate.l0", None))
    steer = scored(store, "steer", score("steer.add_direction.kl_0.1", 0.4))
    report, _ = store.ensure(REPORT, ReportConfig(), {"steer": steer, "evaluate": evaluate})
    found = tables.REPORT.read(report)
    assert found["name"].to_list() == ["evaluate.fvu", "evaluate.l0", "steer.add_direction.kl_0.1"]
    assert found["artifact"].to_list() == [evaluate.key, evaluate.key, steer.key]
    assert json.loads(report.path("report.json").read_text()) == found.to_dicts()
    assert report.path("report.md").read_text() == markdown(found)
    assert report.facts["n_scores"] == 3


def test_inputs_without_scores_are_links_only(store: Store) -> None:
    train, _ = store.ensure(Stage("train", 1, _nothing), Made(), {})
    evaluate = scored(store, "evaluate", score("evaluate.fvu", 0.02))
    report, _ = store.ensure(REPORT, ReportConfig(), {"train": train, "evaluate": evaluate, "steer": None})
    assert tables.REPORT.read(report).height == 1
    with pytest.raises(InputError, match="a report wants artifacts with scores.parquet .*; got train"):
        store.ensure(REPORT, ReportConfig(), {"train": train})


def test_two_measurements_of_one_score_are_refused(store: Store) -> None:
    first = scored(store, "evaluate", score("evaluate.fvu", 0.02))
    second = scored(store, "evaluate", score("evaluate.fvu", 0.03))
    with pytest.raises(InputError, match=f"'evaluate.fvu' for the same dictionary .* came from .*{first.key}"):
        store.ensure(REPORT, ReportConfig(), {"evaluate": first, "again": second})


def test_headline_reads_in_order_and_leaves_out_detail_only() -> None:
    found = frame(
        score("steer.add_direction.kl_0.1", 0.4, stage="steer"),
        score("evaluate.concepts_found.latent", 0.1, concept_kind="document"),
        score("evaluate.concepts_found.latent", 0.2, concept_kind="all"),
        score("evaluate.concepts_ap.latent", 0.3, concept_kind="document"),
        score("evaluate.concepts_ap.latent", 0.3, concept_kind="all"),
        score("evaluate.l0", 16.0),
        score("evaluate.fvu", 0.1),
        score("interpret.offline.detection", None, stage="interpret", reason="no latents"),
    )
    rows = [(row["name"], row["concept_kind"]) for row in headline(found).to_dicts()]
    assert rows == [
        ("evaluate.fvu", None),
        ("evaluate.l0", None),
        ("evaluate.concepts_found.latent", "all"),
        ("evaluate.concepts_found.latent", "document"),
        ("evaluate.concepts_ap.latent", "all"),
        ("interpret.offline.detection", None),
        ("steer.add_direction.kl_0.1", None),
    ]


def test_markdown_shows_values_intervals_baselines_and_why_values_are_absent() -> None:
    text = markdown(
        frame(
            score("evaluate.fvu", 0.02, low=0.01, high=0.03, baseline=0.5, baseline_name="untrained", better="lower"),
            score("evaluate.l0", None, n=0, reason="no rows | none"),
        )
    )
    assert "| evaluate.fvu |  | 0.02 | 0.01 to 0.03 | 10 documents | 0 | 0.5 (untrained) | lower |" in text
    assert "- `evaluate.l0`: no rows | none" in text
    assert "Nothing: no rival does better." in text


def test_a_baseline_beyond_the_interval_is_said() -> None:
    ours = {"low": 0.1, "high": 0.3, "baseline_name": "raw neurons"}
    row = score("evaluate.concepts_found.latent", 0.2, baseline=0.4, concept_kind="contextual", **ours)
    assert against_us(frame(row)) == [
        "evaluate.concepts_found.latent (contextual): raw neurons 0.4, ours 0.2 "
        "(higher is better, over 10 documents; outside our interval 0.1 to 0.3)"
    ]
    assert against_us(frame({**row, "baseline": 0.25})) == []
    assert against_us(frame({**row, "better": "lower"})) == []
    assert against_us(frame({**row, "better": "lower", "baseline": 0.05})) != []


def test_a_rival_row_that_wins_is_said_even_within_the_interval_and_only_once() -> None:
    ours = score("evaluate.concepts_found.latent", 0.2, low=0.1, high=0.3, concept_kind="all")
    theirs = score("evaluate.concepts_found.untrained", 0.25, concept_kind="all")
    (sentence,) = against_us(frame(ours, theirs))
    assert "the untrained dictionary 0.25, ours 0.2" in sentence and "within our interval" in sentence
    assert against_us(frame(ours, {**theirs, "concept_kind": "document"})) == []
    neurons = score("evaluate.concepts_found.neuron", 0.4, concept_kind="all")
    (sentence,) = against_us(frame({**ours, "baseline": 0.4, "baseline_name": "raw neurons"}, neurons))
    assert "outside our interval" in sentence


def test_a_ceiling_and_a_losing_rival_are_not_against_us() -> None:
    rows = [score(f"evaluate.concepts_found.{unit}", value) for unit, value in (("latent", 0.5), ("neuron", 0.4))]
    rows.append(score("evaluate.concepts_found.probe", 1.0))
    rows[1] |= {"baseline": 1.0, "baseline_name": "linear probe", "low": 0.3, "high": 0.5}
    assert against_us(frame(*rows)) == []


def test_single_concepts_are_left_to_the_full_table_and_counted_in_one_sentence() -> None:
    whole = score("steer.add_direction.kl_0.1", 0.4, stage="steer", unit_of_replication="concept")
    place = {"stage": "steer", "unit_of_replication": "prompt", "baseline_name": "largest of 5 Gaussian directions"}
    single = {name: score(f"{whole['name']}.{name}", 0.2, low=0.1, high=0.3, **place) for name in ("sea", "war", "tea")}
    single["sea"]["baseline"], single["war"]["baseline"], single["tea"]["baseline"] = 0.5, 0.25, 0.0
    found = frame(whole, *single.values())
    assert headline(found)["name"].to_list() == [whole["name"]]
    assert against_us(found) == [
        "steer.add_direction.kl_0.1: on 1 of 3 single concepts the largest of 5 Gaussian directions does better, outside our interval: sea"
    ]


def test_an_empty_table_has_an_empty_headline_and_nothing_against_us() -> None:
    empty = tables.REPORT.frame([])
    assert headline(empty).height == 0
    assert against_us(empty) == []


def _nothing(folder: Path, config: Made, inputs, settings):
    (folder / "note.json").write_text("{}")
    yield Progress(1, 1, "files")
    return {}
