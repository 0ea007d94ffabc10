"""The gaming battery on the tiny world: on the composite of three no trick comes up to real text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.dictionary.contract import Dictionary
from components.steering.battery import (
    EMPTY,
    TRICKS,
    UNSTEERED,
    Outcome,
    bait,
    find_cells,
    run_battery,
    table,
)
from components.steering.config import SteerConfig
from components.steering.contract import JudgeServices, Material, Passages
from components.steering.material import read_material
from components.steering.panel import Panel
from components.steering.writer import Job, Prompt, Writer
from components.store.judgements import PANEL
from tests.steering.conftest import Bench
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


@pytest.fixture(scope="module")
def outcomes(bench: Bench, writer: Writer, material: Material) -> list[Outcome]:
    config = SteerConfig(judges=["concept", "fluency", "relevance"], max_new_tokens=16)
    services = JudgeServices(CPU, 0, bench.model, Dictionary.load(bench.dictionary))
    panel = Panel.fitted(config, material, services)
    refused = panel.refusals()
    columns = [i for i, name in enumerate(material.concepts) if name not in refused]
    # openings that tell their topic, as a prompt of a real experiment tells what it is about
    told = [i for i, text in enumerate(material.validate.openings) if len(text.split()) > 2]
    of = material.validate
    real = Passages(
        [of.texts[i] for i in told], of.labels[told], of.nll[told], [of.openings[i] for i in told]
    )
    cells = find_cells(real, columns, writer, per_target=6)
    assert len(cells) >= 24
    contexts = {cells[0].column: material.judge.texts[0]}
    return run_battery(panel, material, cells, writer, contexts)


def of(outcomes: list[Outcome], judge: str) -> dict[str, Outcome]:
    return {each.trick: each for each in outcomes if each.judge == judge}


def test_every_trick_is_tried_on_every_judge_and_counted(outcomes: list[Outcome]) -> None:
    for judge in (PANEL, "concept", "fluency", "relevance"):
        assert set(of(outcomes, judge)) == {*TRICKS, UNSTEERED}
    law = of(outcomes, PANEL)
    assert law[EMPTY].n_failed == law[EMPTY].n_cells and law[EMPTY].fake == 0.0
    assert law["top_context"].n_cells < law[EMPTY].n_cells, "of the target that has one alone"
    assert table(outcomes)[0]["judge"] == PANEL


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
