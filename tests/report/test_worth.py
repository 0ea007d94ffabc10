"""Scores that are not worth ranking with are said to be so, and no others."""

from __future__ import annotations

import json

import polars as pl
import pytest

from benchmarks.which_score_page import Measured, lacking
from components.interpretation.worth import Discrimination
from components.report import worth
from components.statistics import Interval


@pytest.fixture
def doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"fuzzing": {"lexical": "changes with the draw"}}
    monkeypatch.setattr(worth, "lacking", lambda: found)


def test_a_doubt_is_of_one_scorer_with_one_predictor(doubted: None):
    assert "changes with the draw" in (
        worth.doubt({"scorer": "fuzzing", "predictor": "lexical"}) or ""
    )
    for row in (("fuzzing", "client"), ("detection", "lexical"), (None, None)):
        assert worth.doubt(dict(zip(("scorer", "predictor"), row, strict=True))) is None


def test_each_doubt_is_told_once(doubted: None):
    scores = pl.DataFrame(
        {"scorer": ["fuzzing", "fuzzing", None], "predictor": ["lexical", "lexical", None]}
    )
    assert worth.sentences(scores) == [
        "fuzzing by lexical is not worth ranking with: changes with the draw (docs/which-score.md)"
    ]


def test_the_file_that_the_command_wrote_can_be_read():
    text = (worth.files("components.report") / worth.FILE).read_text(encoding="utf-8")
    assert worth.lacking() == json.loads(text)


def measured(shares: dict[str, Interval], agreement: float) -> Measured:
    told = [
        {"subjects": name, "scorer": "detection", "predictor": "lexical", "concept_kind": "all",
         "told": Discrimination(share, {}, 20, 0)}
        for name, share in shares.items()
    ]  # fmt: skip
    drawn = Interval(agreement, agreement - 0.1, agreement + 0.1, 50)
    reliability = [{"scorer": "detection", "predictor": "lexical", "agreement": drawn}]
    return Measured("", None, told, reliability, [], 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "agreement", "wanted"),
    [
        (0.6, 0.7, {}),
        (0.45, 0.7, {"detection": {"lexical": "not shown to tell right from wrong"}}),
        (0.6, 0.4, {"detection": {"lexical": "changes with the draw"}}),
    ],
)
def test_a_score_lacks_what_the_measurement_shows(low: float, agreement: float, wanted: dict):
    world = measured(
        {"planted": Interval(0.8, 0.7, 0.9, 20), "matched": Interval(0.7, low, 0.9, 20)}, agreement
    )
    assert lacking(world, measured({}, 0.9)) == wanted
