"""Texts once, judgements beside them: what is written for whom, and what is made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from components.config import Config
from components.report.measure import Measure
from components.steering.choice import Steered
from components.steering.composite import composite
from components.steering.contract import Candidate, Continuation, Judge, JudgeServices, Verdicts
from components.steering.ledger import Ledger
from components.steering.panel import Panel
from components.steering.vector import AddVector
from components.steering.writer import Job, Prompt
from components.store.judgements import UNPAIRED, judged, off_target, with_falls
from tests import toys
from tests.steering.world import CPU, evidence

CONCEPTS = ["refused", "sea", "cat"]


class Said(Judge):
    """Says what a table holds: for each text, a value for each concept."""

    config = Config
    measure = Measure("said", "Said", "0 to 1", "What the table holds.", least=0, most=1)

    def __init__(
        self, values: dict[str, Sequence[float]], reasons: dict[str, str] | None = None
    ) -> None:
        dictionary = evidence().dictionary
        assert dictionary is not None
        super().__init__(Config(), JudgeServices(CPU, 0, toys.tiny_model(), dictionary))
        self.values, self.reasons = values, reasons or {}

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        why = {i: self.reasons[c.text or ""] for i, c in enumerate(texts) if c.text in self.reasons}
        return Verdicts(
            np.array([self.values[c.text or ""] for c in texts]).reshape(len(texts), 3), why
        )


TARGET = {
    "plain": [0, 0.2, 0.1],
    "waves": [0, 0.6, 0.3],
    "noise": [0, 0.1, 0.2],
    "odd": [np.nan] * 3,
}
FLUENT = {text: [1.0, 0.8, 0.5] for text in TARGET}


def text(words: str | None) -> Continuation:
    return (
        Continuation(words, 0, None, "ended at once")
        if words is None
        else Continuation(words, 3, 1.0)
    )


@pytest.fixture
def ledger() -> Ledger:
    """Two test prompts: the plain text of the second failed."""
    judges = {"said": Said(TARGET, {"odd": "cannot be read"}), "fluency": Said(FLUENT)}
    ledger = Ledger(
        Panel(judges, "said", 3), {name: i for i, name in enumerate(CONCEPTS)}, CONCEPTS[1:]
    )
    jobs = [Job(Prompt(0, (1,))), Job(Prompt(1, (1,)))]
    ledger.add_plain("test", jobs, [text("plain"), text(None)])
    vector = AddVector("resid_post.0", torch.ones(1), 1.0)
    towards, control = (
        Steered("m", Candidate(concept, 0, vector), 0.1, 1.0) for concept in ("sea", None)
    )
    control = dataclasses.replace(control, method="r")
    ledger.add_steered("test", [(towards, job) for job in jobs], [text("waves"), text("waves")])
    ledger.add_steered(
        "test",
        [(control, jobs[0]), (towards, dataclasses.replace(jobs[0], sample=0))][:1],
        [text("noise")],
    )
    return ledger


def rows(frame: pl.DataFrame, **where: Any) -> list[dict[str, Any]]:
    return frame.filter(
        pl.col(name).eq_missing(pl.lit(value)) for name, value in where.items()
    ).to_dicts()


def test_a_text_is_kept_once_whoever_it_is_judged_for(ledger: Ledger) -> None:
    texts, said = ledger.generations(), ledger.judgements()
    assert texts["generation"].to_list() == [0, 1, 2, 3, 4]
    assert texts["text"].to_list() == ["plain", None, "waves", "waves", "noise"]
    assert texts["concept"].to_list() == [None, None, "sea", "sea", None]
    judged_for = said.group_by("generation").agg(
        pl.col("concept").unique().sort(), pl.col("judge").unique().sort()
    )
    everyone = ["composite", "fluency", "said"]
    assert {row["generation"]: row["concept"] for row in judged_for.to_dicts()} == {
        0: ["cat", "sea"], 1: ["cat", "sea"], 2: ["sea"], 3: ["sea"], 4: ["cat", "sea"],
    }  # fmt: skip
    assert all(judges == everyone for judges in judged_for["judge"].to_list())


def test_steered_text_has_what_a_judge_says_for_every_other_concept_in_one_list(
    ledger: Ledger,
) -> None:
    said = ledger.judgements()
    (row,) = rows(said, generation=2, judge="said")
    assert (row["value"], row["off_target"]) == (0.6, pytest.approx([0.6, 0.3])), (
        "concepts that passed, in their order"
    )
    assert (
        said.filter(pl.col("generation").is_in([0, 1, 4]))["off_target"].null_count() == 3 * 2 * 3
    )


def test_results_hold_target_uplift_and_composite_of_each_text_and_concept(ledger: Ledger) -> None:
    results = ledger.results()
    (row,) = rows(results, generation=2)
    wanted = composite(np.array([0.6]), np.array([0.2]), np.array([0.8]))[0]
    assert (
        row["target"] == 0.6
        and row["uplift"] == pytest.approx(0.4)
        and row["composite"] == pytest.approx(wanted)
    )
    assert (row["concept"], row["method"], row["fluency"], row["reason"]) == ("sea", "m", 0.8, None)
    control = {row["concept"]: row["uplift"] for row in rows(results, generation=4)}
    assert control == {"sea": pytest.approx(-0.1), "cat": pytest.approx(0.1)}
    assert {row["uplift"] for row in rows(results, generation=0)} == {0.0}


def test_without_plain_text_to_compare_with_there_is_no_uplift_and_the_reason(
    ledger: Ledger,
) -> None:
    (row,) = rows(ledger.results(), generation=3)
    assert (row["target"], row["uplift"], row["composite"], row["reason"]) == (
        0.6,
        None,
        None,
        UNPAIRED,
    )
    (whole,) = rows(ledger.judgements(), generation=3, judge="composite")
    assert (whole["value"], whole["reason"]) == (None, UNPAIRED)


def test_what_is_no_text_and_what_a_judge_cannot_judge_are_null_with_their_reason(
    ledger: Ledger,
) -> None:
    for row in rows(ledger.judgements(), generation=1):
        assert (row["value"], row["reason"]) == (None, "ended at once")
    steered = Steered(
        "m", Candidate("cat", 0, AddVector("resid_post.0", torch.ones(1), 1.0)), 0.1, 1.0
    )
    ledger.add_steered("test", [(steered, Job(Prompt(0, (1,))))], [text("odd")])
    (row,) = rows(ledger.judgements(), generation=5, judge="said")
    assert (row["value"], row["reason"], row["off_target"]) == (
        None,
        "cannot be read",
        [None, None],
    )
    (row,) = rows(ledger.results(), generation=5)
    assert (row["text"], row["uplift"], row["reason"]) == ("odd", None, "cannot be read")


def test_off_target_effects_are_a_matrix_of_mean_uplifts(ledger: Ledger) -> None:
    matrix = off_target(ledger.generations(), ledger.judgements(), "said", list(ledger.judged))
    assert matrix.select("method", "kl_budget", "concept", "other").rows() == [
        ("m", 0.1, "sea", "cat"), ("m", 0.1, "sea", "sea"),
    ]  # fmt: skip
    assert matrix["uplift"].to_list() == pytest.approx([0.2, 0.4]), (
        "the prompt without plain text is left out"
    )


def test_any_judge_may_measure(ledger: Ledger) -> None:
    other = judged(ledger.generations(), ledger.judgements(), "fluency")
    (row,) = rows(other, generation=2)
    assert (row["target"], row["uplift"], row["said"]) == (0.8, 0.0, 0.6)


def test_a_ledger_without_a_row_has_empty_tables_of_the_right_columns() -> None:
    empty = Ledger(Panel({}, "said", 0), {}, [])
    assert empty.results().is_empty() and {"uplift", "composite", "target"} <= set(
        empty.results().columns
    )


def of_three(
    values: dict[str, Sequence[float]], relevance: float, target: Sequence[str] = ("said",)
) -> Ledger:
    """Plain text and steered text of one prompt, judged by a panel with a composite of three."""
    judges = {
        "said": Said(values),
        "fluency": Said(FLUENT),
        "relevance": Said({name: [relevance] * 3 for name in TARGET}),
    }
    panel = Panel(judges, "said", 3, target, has_panel=True)
    ledger = Ledger(panel, {name: i for i, name in enumerate(CONCEPTS)}, CONCEPTS[1:])
    job = Job(Prompt(0, (1,)))
    ledger.add_plain("test", [job], [text("plain")])
    steered = Steered("m", Candidate("sea", 0, AddVector("resid_post.0", torch.ones(1), 1.0)), 0.1)
    ledger.add_steered("test", [(steered, job)], [text("waves")])
    return ledger


def test_the_composite_of_three_stands_beside_that_of_two_under_its_own_name() -> None:
    (row,) = rows(of_three(TARGET, 0.25).results(), method="m")
    gained = (0.6 - 0.2) / (1 - 0.2)
    assert row["composite"] == pytest.approx(2 / (1 / gained + 1 / 0.8))
    assert row["panel"] == pytest.approx(3 / (1 / gained + 1 / 0.8 + 1 / 0.25))
    assert row["relevance"] == 0.25
    (plain,) = rows(of_three(TARGET, 0.25).results(), method="unsteered", concept="sea")
    assert plain["panel"] == 0.0, "it gains nothing over itself"


def test_without_one_of_its_parts_there_is_no_composite_of_three_and_the_row_says_which() -> None:
    said = of_three(TARGET, np.nan).judgements()
    (row,) = rows(said, generation=1, judge="panel")
    assert row["value"] is None and row["reason"] == "no value of the judge relevance"
    (other,) = rows(said, generation=1, judge="composite")
    assert other["value"] is not None, "that of two does not need it"


def test_text_after_validate_prompts_is_read_by_those_who_choose_alone() -> None:
    class Relevant(Said):
        """Counts the texts that it reads."""

        n_read = 0

        def judge(self, texts: Sequence[Continuation]) -> Verdicts:
            self.n_read += len(texts)
            return super().judge(texts)

    relevance = Relevant(FLUENT)
    judges = {"said": Said(TARGET), "fluency": Said(FLUENT), "relevance": relevance}
    panel = Panel(judges, "said", 3, ["said"], has_panel=True)
    ledger = Ledger(panel, {name: i for i, name in enumerate(CONCEPTS)}, CONCEPTS[1:])
    steered = Steered(
        "m", Candidate("sea", 0, AddVector("resid_post.0", torch.ones(1), 1.0)), 0.1, 1.0
    )
    job = Job(Prompt(0, (1,)))
    for split, n_read in (("validate", 1), ("test", 3)):
        ledger.add_plain(split, [job], [text("plain")])
        ledger.add_steered(split, [(steered, job)], [text("waves")])
        assert relevance.n_read == n_read, "plain text is read by all, steered text on test alone"
    said = ledger.judgements().join(ledger.generations(), on="generation", suffix="_of")
    of_steered = said.filter(pl.col("method") == "m").group_by("split").agg(pl.col("judge").sort())
    assert dict(of_steered.iter_rows()) == {
        "validate": ["composite", "fluency", "said"],
        "test": ["composite", "fluency", "panel", "relevance", "said"],
    }
    composites = said.filter(pl.col("method") == "m", pl.col("judge") == "composite")["value"]
    assert composites[0] == composites[1], "what chooses is the same as if all had read it"


@pytest.mark.parametrize("from_plain", [False, True])
def test_what_lowers_its_target_is_judged_by_the_fall_and_so_are_controls_beside_it(
    from_plain: bool,
) -> None:
    class Measured(Said):
        """May say what a text has more than plain text."""

    Measured.from_plain = from_plain
    said = {"plain": [0, 0.8, 0.5], "waves": [0, 0.2, 0.5], "noise": [0, 0.4, 1.0]}
    judges = {
        "said": Measured(said),
        "fluency": Said({name: [0.5] * 3 for name in said}),
        "relevance": Said({name: [0.25] * 3 for name in said}),
    }
    panel = Panel(judges, "said", 3, ["said"], has_panel=True)
    number = {name: i for i, name in enumerate(CONCEPTS)}
    ledger = Ledger(panel, number, CONCEPTS[1:], has_falls=True)
    job = Job(Prompt(0, (1,)))
    vector = AddVector("resid_post.0", torch.ones(1), 1.0)
    less = Steered("m", Candidate("sea", 0, vector, sign=-1), 0.1, 1.0)
    free = Steered("r", Candidate(None, 0, vector, sign=-1), 0.1, 1.0)
    ledger.add_plain("test", [job], [text("plain")])
    ledger.add_steered("test", [(less, job), (free, job)], [text("waves"), text("noise")])
    seen = with_falls(ledger.results())
    (own,), (floor,), (other,) = (
        rows(seen, method=method, concept=concept)
        for method, concept in (("m", "sea"), ("r", "sea"), ("r", "cat"))
    )
    for row, fall in ((own, 0.75), (floor, 0.5)):
        assert row["composite"] == pytest.approx(2 / (1 / fall + 1 / 0.5))
        assert row["panel"] == pytest.approx(3 / (1 / fall + 1 / 0.5 + 1 / 0.25))
    assert (other["composite"], other["panel"]) == (0.0, 0.0), "it rose"
    assert own["uplift"] == pytest.approx(-0.6), "an uplift keeps its sign"
    (plain_view,) = rows(ledger.results(), method="r", concept="cat")
    assert plain_view["composite"] == pytest.approx(2 / (1 + 1 / 0.5)), "it gained all of it"
    without = Ledger(panel, number, CONCEPTS[1:])
    without.add_plain("test", [job], [text("plain")])
    assert set(without.judgements()["judge"]) == {*judges, "composite", "panel"}
