"""People and the judges of steered text: each judge beside its question, known values, and a reason
where there are too few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest

from components.report.text_agreement import OF_TARGET, STANDARDS, between_people, text_agreement
from components.steering.contract import judges
from components.store.judgements import COMPOSITE, NOT_ASKED, PANEL
from components.store.notes import TEXT_RATINGS
from components.store.tables import JUDGEMENTS

YES = {"has_target": True, "fluent": True, "goes_on": True}


def ratings(answers: Sequence[Mapping[str, Any]], author: str = "Ann", n_targets: int = 10):
    """Texts 0, 1, ..., of so many targets in turn; what is not said is a yes."""
    return TEXT_RATINGS.frame(
        [{"steer": "s", "generation": n, "concept": f"t{n % n_targets}", "author": author, "text": "t",
          "at": "now"} | YES | dict(said) for n, said in enumerate(answers)]
    )  # fmt: skip


def judgements(
    values: Sequence[float | None], judge: str = "concept", n_targets: int = 10, why: str = "failed"
) -> pl.DataFrame:
    return JUDGEMENTS.frame(
        [{"generation": n, "concept": f"t{n % n_targets}", "judge": judge, "value": value,
          "reason": why if value is None else None} for n, value in enumerate(values)]
    )  # fmt: skip


def targets(*answers: bool | None) -> list[dict[str, Any]]:
    return [{"has_target": answer} for answer in answers]


PERSON = [True] * 25 + [False] * 25
JUDGE = [0.9] * 20 + [0.1] * 5 + [0.9] * 10 + [0.1] * 15


def test_kappa_and_auroc_are_what_is_computed_by_hand() -> None:
    (row,) = text_agreement(ratings(targets(*PERSON)), judgements(JUDGE), "s").to_dicts()
    assert (row["judge"], row["questions"], row["author"]) == ("concept", ["has_target"], "Ann")
    assert (row["threshold"], row["yes"], row["n"], row["n_targets"]) == (0.5, 0.5, 50, 10)
    # alike in 20 + 15 of 50, by chance in half
    assert row["agree"] == pytest.approx(0.7) and row["kappa"] == pytest.approx(0.4)
    # 20 of 25 above 15 of 25, and ties among 20 with 10 and 5 with 15
    assert row["auroc"] == pytest.approx((20 * 15 + (20 * 10 + 5 * 15) / 2) / 625)
    assert row["kappa_low"] < 0.4 < row["kappa_high"] and row["auroc_low"] < 0.7 < row["auroc_high"]
    assert row["reason"] is None and row["n_failed"] == row["n_left_out"] == 0


def test_a_value_at_the_threshold_is_a_no_and_the_grammar_has_a_threshold_of_its_own() -> None:
    values = [0.5] * 25 + [0.0] * 25
    told = pl.concat(
        [judgements([each + 0.01 for each in values]), judgements(values, "grammar"), judgements(values, "yes_no")]
    )  # fmt: skip
    rows = text_agreement(ratings(targets(*PERSON)), told, "s")
    assert dict(rows.select("judge", "kappa").iter_rows()) == {
        "concept": 1.0,
        "grammar": 1.0,
        "yes_no": None,
    }
    assert dict(rows.select("judge", "threshold").iter_rows())["grammar"] == 0.0
    assert rows.filter(judge="yes_no")["reason"].to_list() == [
        "no kappa: the judge says no of every text"
    ]
    assert rows["auroc"].to_list() == [1.0, 1.0, 1.0]


def test_each_judge_stands_beside_the_question_that_it_answers() -> None:
    """Every judge says yes to half of the texts; the person says the same to one question alone."""
    half = [True] * 20 + [False] * 20
    values = [0.8 if yes else 0.2 for yes in half]
    for question, own in (
        ("has_target", {"concept", "readback", "ratings_concept", "of my own"}),
        ("fluent", {"fluency", "ratings_fluency"}),
        ("goes_on", {"relevance", "ratings_relevance"}),
    ):
        said = [{question: yes} for yes in half]
        names = {"concept", "readback", "ratings_concept", "of my own", *STANDARDS} - {"grammar"}
        told = text_agreement(
            ratings(said), pl.concat([judgements(values, name) for name in names]), "s"
        )
        whole = {PANEL, "ratings", "preference"}  # a no to one question is a no to all
        whole |= {COMPOSITE} if question != "goes_on" else set()
        assert set(told.filter(pl.col("kappa") == 1.0)["judge"]) == own | whole, question


def test_judges_of_one_question_stand_together_and_those_of_several_last() -> None:
    names = [PANEL, "relevance", "concept", COMPOSITE, "fluency", "yes_no"]
    told = text_agreement(
        ratings(targets(*PERSON)), pl.concat([judgements(JUDGE, name) for name in names]), "s"
    )
    assert told["judge"].to_list() == [
        "concept", "yes_no", "fluency", "relevance", COMPOSITE, PANEL,
    ]  # fmt: skip


def test_a_no_is_a_no_whatever_cannot_be_said_of_another_question() -> None:
    said = [{}] * 15 + [{"has_target": None, "fluent": False}] * 10 + [{"has_target": None}] * 5
    (row,) = text_agreement(
        ratings(said), judgements([0.9] * 15 + [0.1] * 15, PANEL), "s"
    ).to_dicts()
    assert (row["n"], row["n_left_out"], row["kappa"]) == (25, 5, 1.0)


def test_what_was_not_asked_is_left_out_and_what_failed_is_counted() -> None:
    told = judgements([*JUDGE, None, None, None], "yes_no", why="not as asked: wanted yes or no")
    unasked = pl.when(pl.col("generation") == 52).then(pl.lit(f"{NOT_ASKED}: the budget ended"))
    told = told.with_columns(reason=unasked.otherwise("reason"))
    (row,) = text_agreement(ratings(targets(*PERSON, True, True, False)), told, "s").to_dicts()
    assert (row["n"], row["n_failed"], row["n_left_out"]) == (50, 2, 1)
    assert row["kappa"] == pytest.approx(0.4)


def test_every_person_has_a_row_and_other_artifacts_and_texts_have_none() -> None:
    bob = ratings(targets(*[not yes for yes in PERSON]), "Bob")
    other = bob.with_columns(steer=pl.lit("another"), author=pl.lit("Cy"))
    told = judgements([*JUDGE, 0.9])
    rows = text_agreement(pl.concat([ratings(targets(*PERSON)), bob, other]), told, "s")
    assert rows["author"].to_list() == ["Ann", "Bob"]
    assert rows["kappa"].to_list() == pytest.approx([0.4, -0.4])
    assert text_agreement(other, told, "s").is_empty()


@pytest.mark.parametrize(
    ("person", "judge", "n_targets", "reason"),
    [
        (PERSON[:10] * 2, JUDGE[:20], 10, "the person said yes of every text"),
        ([True, False] * 9, [0.9, 0.1] * 9, 10, "18 texts have an answer and a value, wanted at least 20"),
        ([True, False] * 9 + [None] * 9, [0.9, 0.1, 0.1] * 9, 10, "18 texts have an answer and a value"),
        ([True, False] * 15, [0.9, 0.1] * 15, 9, "no interval: 9 targets rated, wanted at least 10"),
        ([False] * 30, [0.9, 0.1] * 15, 10, "the person said no of every text"),
    ],
)  # fmt: skip
def test_where_there_are_too_few_a_reason_stands(
    person: list[bool | None], judge: list[float], n_targets: int, reason: str
) -> None:
    (row,) = text_agreement(
        ratings(targets(*person), n_targets=n_targets), judgements(judge, n_targets=n_targets), "s"
    ).to_dicts()
    assert reason in row["reason"] and row["kappa_low"] is None and row["auroc_low"] is None
    assert (row["kappa"] is None) == ("no interval" not in reason)


def test_standards_are_of_judges_that_there_are() -> None:
    names = {
        measure.name
        for _, judge in judges.items()
        for measure in (judge.measure, *judge.parts)
    }  # fmt: skip
    assert set(STANDARDS) <= names | {COMPOSITE, PANEL}
    assert OF_TARGET.questions == ("has_target",)


def test_two_people_are_compared_on_the_texts_that_both_rated() -> None:
    ann = ratings(targets(*PERSON, True))
    bob = ratings(targets(*[value > 0.5 for value in JUDGE], None, True), "Bob")
    rows = between_people(pl.concat([bob, ann, bob.with_columns(steer=pl.lit("another"))]), "s")
    of = {row["question"]: row for row in rows.to_dicts()}
    row = of["has_target"]
    assert (row["author"], row["other"], row["n"], row["n_left_out"]) == ("Ann", "Bob", 50, 1)
    assert row["agree"] == pytest.approx(0.7) and row["kappa"] == pytest.approx(0.4)
    assert row["kappa_low"] < 0.4 < row["kappa_high"] and row["reason"] is None
    assert of["fluent"]["kappa"] is None and "both say yes of every text" in of["fluent"]["reason"]
    assert between_people(ann, "s").is_empty(), "one person agrees with nobody"


def test_people_who_share_few_texts_or_targets_have_a_reason() -> None:
    few = [ratings(targets(*PERSON[:19]), name) for name in ("Ann", "Bob")]
    assert "19 texts answered by both" in between_people(pl.concat(few), "s")["reason"][0]
    narrow = [ratings(targets(*PERSON), name, n_targets=9) for name in ("Ann", "Bob")]
    (row, *_) = between_people(pl.concat(narrow), "s").to_dicts()
    assert row["kappa"] == 1 and row["kappa_low"] is None and "9 targets rated" in row["reason"]
