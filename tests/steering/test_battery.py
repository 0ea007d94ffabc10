"""The gaming battery on the tiny world: on the composite of three no trick comes up to real text."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from components.dictionary.contract import Dictionary
from components.statistics import ABSENT, Interval
from components.steering.battery import (
    EMPTY,
    MOST_CELLS,
    NAMES,
    Cell,
    Outcome,
    bait,
    drawn_cells,
    find_cells,
    most_cells,
    not_run,
    obstacle,
    rows,
    run_battery,
    score,
)
from components.steering.config import SteerConfig
from components.steering.contract import JudgeServices, Material, Passages
from components.steering.material import read_material
from components.steering.panel import Panel
from components.steering.writer import Job, Prompt, Writer
from components.store import tables
from components.store.judgements import COMPOSITE, PANEL, UNSTEERED
from tests.steering.conftest import PLANTED, Bench
from tests.steering.world import CPU, PROMPTS, finish


@pytest.fixture(scope="module")
def writer(bench: Bench) -> Writer:
    return Writer(bench.model, 16, 1.0, 0, 64)


@pytest.fixture(scope="module")
def material(bench: Bench, writer: Writer) -> Material:
    prompts = [Prompt.of(bench.model, i, text) for i, text in enumerate(PROMPTS["validate"])]
    plain = finish(writer.write([Job(p, sample) for sample in range(5) for p in prompts]))[0]
    config = SteerConfig(max_new_tokens=16)
    return read_material(bench.targeted(config), writer, prompts, plain, config)


def fitted(
    bench: Bench, material: Material, *judges: str, **settings: object
) -> tuple[Panel, list[int]]:
    """Judges, and the columns of the targets that they can judge."""
    config = SteerConfig(
        judges=["concept", "fluency", *judges],
        judge_settings=settings,  # type: ignore[arg-type]
        max_new_tokens=16,
    )
    services = JudgeServices(CPU, 0, bench.model, Dictionary.load(bench.dictionary))
    panel = Panel.fitted(config, material, services)
    refused = panel.refusals()
    return panel, [i for i, name in enumerate(material.concepts) if name not in refused]


def tried(
    panel: Panel, material: Material, cells: list[Cell], writer: Writer, **contexts: object
) -> list[Outcome]:
    unsteered = finish(writer.write([Job(cell.prompt) for cell in cells]))[0]
    return run_battery(panel, material, cells, unsteered, writer, **contexts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def outcomes(bench: Bench, writer: Writer, material: Material) -> list[Outcome]:
    panel, columns = fitted(bench, material, "relevance")
    # openings that tell their topic, as a prompt of a real experiment tells what it is about
    told = [i for i, text in enumerate(material.validate.openings) if len(text.split()) > 2]
    of = material.validate
    real = Passages(
        [of.texts[i] for i in told], of.labels[told], of.nll[told], [of.openings[i] for i in told]
    )
    cells = find_cells(real, columns, writer, per_target=6)
    assert len(cells) >= 24
    contexts = {cells[0].column: material.judge.texts[0]}
    return tried(panel, material, cells, writer, top_contexts=contexts)


def of(outcomes: list[Outcome], judge: str) -> dict[str, Outcome]:
    return {each.trick: each for each in outcomes if each.judge == judge}


def test_every_trick_is_tried_on_every_judge_and_counted(outcomes: list[Outcome]) -> None:
    for judge in (PANEL, "concept", "fluency", "relevance"):
        assert tuple(of(outcomes, judge)) == NAMES
    law = of(outcomes, PANEL)
    assert law[EMPTY].n_failed == law[EMPTY].n_cells and law[EMPTY].fake == 0.0
    assert law["top_context"].n_cells < law[EMPTY].n_cells, "of the target that has one alone"
    written = tables.BATTERY.frame(rows(outcomes))
    assert written["judge"][0] == PANEL and written.height == 4 * len(NAMES)
    told = written.row(
        by_predicate=(pl.col("trick") == EMPTY) & (pl.col("judge") == PANEL), named=True
    )
    assert told["holds"] and told["low"] > 0 and told["n_failed"] == told["n_cells"]
    assert told["value"] == pytest.approx(law[EMPTY].difference.value)


def test_text_without_the_target_or_without_language_is_below_real_text_on_the_composite(
    outcomes: list[Outcome],
) -> None:
    law = of(outcomes, PANEL)
    for trick in ("keyword_list", "one_word", "shuffled", EMPTY, UNSTEERED):
        assert not law[trick].falls, trick


def test_single_judges_fall_for_what_the_composite_does_not(outcomes: list[Outcome]) -> None:
    assert of(outcomes, "concept")["keyword_list"].falls
    assert of(outcomes, "fluency")[UNSTEERED].falls


def test_bait_is_made_of_text_that_judges_learnt_from(material: Material) -> None:
    column = material.concepts.index("word.cat")
    made = bait(material, column)
    assert made.keywords[0] == "cat" and "cat" in made.sentence
    assert made.passage in material.judge.texts
    assert material.judge.labels[material.judge.texts.index(made.passage), column]
    none = dataclasses.replace(
        material,
        judge=dataclasses.replace(material.judge, labels=np.zeros_like(material.judge.labels)),
    )
    assert bait(none, column).passage == ""


def test_without_relevance_the_law_is_on_the_composite_of_two(
    bench: Bench, writer: Writer, material: Material
) -> None:
    panel, columns = fitted(bench, material)
    found = tried(panel, material, drawn_cells(material, columns, writer), writer)
    assert {each.judge for each in found} == {COMPOSITE, "concept", "fluency"}
    law = of(found, COMPOSITE)
    assert law[EMPTY].holds and law["keyword_list"].holds
    assert law["top_context"].holds is None
    assert law["top_context"].reason == "no target has a latent that is active in a real passage"
    told = score(found)
    held = sum(bool(each.holds) for each in law.values())
    lows = {trick: each.difference.low for trick, each in law.items() if each.holds is not None}
    nearest = min(lows, key=lambda trick: lows[trick] or 0.0)
    assert (told["value"], told["low"]) == (law[nearest].difference.value, lows[nearest])
    assert told["reason"].startswith(
        f"the law holds against {held} of 8 tricks, smallest lower bound {lows[nearest]:.2g} "
        f"({nearest}); composite, "
    )
    assert "not tried: top_context" in told["reason"]
    assert ("with relevance in steer.judges" in told["reason"]) == (held < 8)


def test_cells_are_bounded_and_few_targets_have_more_each(
    bench: Bench, writer: Writer, material: Material
) -> None:
    assert [most_cells(n) for n in (0, 1, 5, 12, 30, 500)] == [0, 24, 25, 24, 60, MOST_CELLS]
    _, columns = fitted(bench, material)
    cells = drawn_cells(material, columns, writer)
    assert {cell.column for cell in cells} == set(columns)
    assert len(cells) <= most_cells(len(columns))
    assert all(cell.text in material.validate.texts for cell in cells)
    assert drawn_cells(material, columns, writer) == cells


def test_a_target_that_a_judge_refuses_is_left_out_of_its_rows_alone(
    bench: Bench, writer: Writer, material: Material
) -> None:
    latent = dataclasses.replace(material.targets[0], latent=PLANTED.index(material.concepts[0]))
    given = dataclasses.replace(material, targets=[latent, *material.targets[1:]])
    panel, columns = fitted(bench, given, "relevance", "readback", readback={"silent": 0})
    assert set(panel.judges["readback"].refusals()) == set(material.concepts[1:])
    assert 0 in columns and len(columns) > 1
    found = tried(panel, given, drawn_cells(given, columns, writer), writer)
    whole, own = of(found, PANEL), of(found, "readback")
    assert whole[EMPTY].difference.n == len(columns) and own[EMPTY].difference.n == 1
    assert own[EMPTY].holds is None and own[EMPTY].reason == "one target gives no interval"
    # the judge that knows the latent knows its top passage
    assert whole["top_context"].n_cells == own["top_context"].n_cells == own[EMPTY].n_cells > 0


def test_a_battery_that_cannot_be_run_says_why(bench: Bench, material: Material) -> None:
    panel, columns = fitted(bench, material, "relevance")
    assert obstacle(panel, [], 0) == "no target passed the gate"
    assert "raise read.splits.validate" in str(obstacle(panel, [], len(columns)))
    without = dataclasses.replace(
        panel, judges={"concept": panel.judges["concept"]}, has_panel=False
    )
    assert obstacle(without, [], 1) == "steer.judges does not list fluency"
    absent = not_run(True, "no target passed the gate")
    written = tables.BATTERY.frame(rows(absent))
    assert written["trick"].to_list() == list(NAMES) and written["holds"].null_count() == len(NAMES)
    assert score(absent)["value"] is None
    assert score(absent)["reason"] == "no target passed the gate"


def test_the_score_is_the_trick_with_the_smallest_lower_bound() -> None:
    def outcome(trick: str, low: float, value: float) -> Outcome:
        return Outcome(trick, PANEL, 0.7, 0.1, Interval(value, low, value + 0.1, 9), 18, 0)

    told = score(
        [
            outcome("keyword_list", 0.4, 0.5),
            outcome("training_text", -0.01, 0.6),
            Outcome("top_context", PANEL, None, None, ABSENT, 0, 0, reason="no latent"),
        ]
    )
    assert (told["value"], told["low"], told["n"], told["baseline"]) == (0.6, -0.01, 9, 0.0)
    assert told["reason"] == (
        "the law holds against 1 of 2 tricks, smallest lower bound -0.01 (training_text); panel, "
        "18 cells of 9 targets, wanted at least 24 (raise read.splits.validate); not tried: "
        "top_context"
    )
