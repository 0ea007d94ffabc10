"""What a language model is shown: marks around the tokens that count, and windows of every tenth."""

from __future__ import annotations

import dataclasses

import numpy as np

from components.interpretation.showing import chosen, line, lines_of
from tests.interpretation.windows_of import windows_of


def test_marks_enclose_runs_without_the_space_before_them() -> None:
    tokens = [" the", " red", " sea", "\n", "roars"]
    assert line(tokens) == "the red sea\\nroars"
    assert line(tokens, [False, True, True, False, True]) == "the <<red sea>>\\n<<roars>>"


def test_tokens_of_one_character_are_marked_together() -> None:
    assert line(["a", "<0xE6>", "<0xB5>", "<0xB7>"], [False, False, True, False]) == "a<<海>>"


def test_only_tokens_above_the_share_of_their_windows_maximum_are_marked() -> None:
    windows = windows_of(["a b c", "d e f"], [[10, 3, 3.1], []])
    lines = [each.replace(" ", "") for each in lines_of(windows)]
    assert lines == ["<<a>>b<<c>>", "def"]
    assert lines_of(windows, 0.0)[0] == "<<abc>>"


def test_windows_are_the_top_ones_and_equally_many_of_every_tenth() -> None:
    windows = windows_of(["a b"] * 34, [[1, 0]] * 34)
    role = np.array(["top"] * 4 + ["quantile"] * 30)
    quantile = np.array([0] * 4 + [n // 3 for n in range(30)])
    windows = dataclasses.replace(windows, role=role, quantile=quantile)
    picked = chosen(windows, 2, 20)
    assert picked[:4].tolist() == [True, True, False, False]
    assert np.bincount(quantile[4:][picked[4:]]).tolist() == [2] * 10
    assert chosen(windows, 0, 100).sum() == 30
