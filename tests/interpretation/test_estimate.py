"""An estimate of interpretation runs nothing that may cost: entries that do not declare themselves
free are named instead."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from components.config import Config
from components.device import Execution
from components.interpretation.config import InterpretConfig
from components.interpretation.contract import (
    Explainer,
    Predictor,
    Scorer,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.estimate import formula
from components.interpretation.explainers.log_odds import LogOdds
from components.store.estimate import Planned

CODES = Planned(
    "encode",
    "0" * 24,
    {"d_sae": 512, "d_in": 32, "rows": dict.fromkeys(("explain", "calibrate", "test"), 2000),
     "l0": dict.fromkeys(("explain", "calibrate", "test"), 8.0)},
)  # fmt: skip
INPUTS = {"codes": CODES, "corpus": Planned("read", "0" * 24, {})}


class Costly(Config):
    """Asks somebody who is paid."""


def bill(*_: Any) -> Iterator[Any]:
    raise AssertionError("a plan asked the paid endpoint")
    yield


class Paid:
    """Costs money when it is made, and when it is asked."""

    config: ClassVar[type[Config]] = Costly

    def __init__(self, *_: Any) -> None:
        raise AssertionError("a plan made the paid client")


class PaidExplainer(Paid, Explainer):
    explain = bill


class BuiltOnAFreeOne(LogOdds):
    explain = bill


class PaidPredictor(Paid, Predictor):
    gives = frozenset({"windows", "tokens"})
    predict = bill


class PaidScorer(Paid, Scorer):
    needs = "windows"
    chance = 0.5
    windows = score = bill


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = ((explainers, PaidExplainer, "paid"), (explainers, BuiltOnAFreeOne, "built"),
               (predictors, PaidPredictor, "paid"), (scorers, PaidScorer, "paid"))  # fmt: skip
    for registry, entry, name in entries:
        monkeypatch.setitem(registry._entries, name, entry)


def config(**lists: list[str]) -> InterpretConfig:
    usual = InterpretConfig(latents=20)
    settings = {
        f"{role}_settings": SimpleNamespace(
            **{
                name: registry[name].config()
                for name in (*registry.names(), "paid", "built")
                if name in registry._entries
            }
        )
        for role, registry in (
            ("explainer", explainers),
            ("scorer", scorers),
            ("predictor", predictors),
        )
    }
    return usual.model_copy(update=lists | settings)


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        ({"explainers": ["paid"]}, "explainer paid"),
        ({"explainers": ["log_odds", "paid", "built"]}, "explainer paid, explainer built"),
        ({"predictors": ["paid"]}, "predictor paid"),
        ({"scorers": ["paid"]}, "scorer paid"),
        ({"explainers": ["paid"], "scorers": ["paid"], "predictors": ["paid"]},
         "explainer paid, scorer paid, predictor paid"),
    ],
)  # fmt: skip
def test_what_is_not_declared_free_is_not_run_and_is_named(
    lists: dict[str, list[str]], named: str
) -> None:
    seconds, told = formula(config(**lists), INPUTS, Execution(device="cpu")).probe(2.0)
    assert seconds > 0
    assert f"without {named}, which a plan does not run" in told


def test_of_what_is_free_nothing_is_left_out() -> None:
    few, more = (
        formula(config().model_copy(update={"latents": n}), INPUTS, Execution(device="cpu")).probe(
            2.0
        )
        for n in (10, 1000)
    )
    assert np.isfinite(more[0]) and more[0] > few[0] > 0 and "without" not in more[1]
