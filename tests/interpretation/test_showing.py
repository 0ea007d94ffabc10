"""What a language model is shown: marks around the tokens that count, and windows of every tenth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.config import Config, load
from components.errors import ConfigError
from components.interpretation.config import InterpretConfig
from components.interpretation.contract import LatentEvidence, explainers
from components.interpretation.showing import chosen, line, lines_of
from components.interpretation.writing import AskingExplainer
from tests.interpretation.windows_of import EXPLAINER, windows_of


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


def _weighted(settings: Config, explainer: str) -> list[bool]:
    """Which of four windows drawn by strength stand in the prompt, behind two top ones."""
    lines = [f"w{number} b" for number in range(8)]
    windows = windows_of(lines, [[4, 0]] * 6 + [[]] * 2)
    role = np.array(["top"] * 2 + ["weighted"] * 4 + ["silent"] * 2)
    windows = dataclasses.replace(windows, role=role)
    made = explainers[explainer](settings, EXPLAINER)
    assert isinstance(made, AskingExplainer)
    shown = made.shown(LatentEvidence(latent=0, windows=windows, promoted=(" x",)))
    assert not isinstance(shown, str)
    assert "<<w1>>" in shown["windows"] and "w7" not in shown["windows"]
    return [f"<<w{number}>>" in shown["windows"] for number in range(2, 6)]


@pytest.mark.parametrize(
    "explainer", ["max_activating", "max_activating_logits", "contrastive", "agent"]
)
def test_windows_drawn_by_strength_are_shown_where_that_is_asked_for(explainer: str) -> None:
    config = explainers[explainer].config
    assert _weighted(load(config, {"weighted": 3}), explainer) == [True] * 3 + [False]
    assert _weighted(load(config, {}), explainer) == [False] * 4


def test_more_windows_by_strength_than_are_drawn_are_refused() -> None:
    asked = {
        "explainers": ["contrastive"],
        "client": {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "one"},
    }
    wanted = {**asked, "explainer_settings": {"contrastive": {"weighted": 5}}}
    with pytest.raises(ConfigError, match="raise interpret.contexts.weighted to 5"):
        load(InterpretConfig, {**wanted, "contexts": {"weighted": 4}})
    load(InterpretConfig, {**wanted, "contexts": {"weighted": 5}})
