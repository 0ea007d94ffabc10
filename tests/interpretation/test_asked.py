"""Who is asked is part of the key where an entry asks, and of no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.client.prompt import Prompt
from components.config import load, warn_once
from components.device import Execution
from components.errors import ConfigError, InputError
from components.interpretation.asked import first_reader, forecast
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.interpretation.prompt import FOLDER
from components.steering.config import SteerConfig
from components.store.artifact import Store, key_of
from tests.client.servers import Server
from tests.interpretation.knowing import settings_of
from tests.interpretation.planted import Planted

CLIENT = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "one"}


def key(**settings: Any) -> str:
    return key_of(INTERPRET, load(InterpretConfig, settings), {})


def asking(**changes: Any) -> dict[str, Any]:
    return {"explainers": ["max_activating"], "client": CLIENT | changes}


def test_a_client_that_nobody_asks_changes_no_key() -> None:
    assert key(client=CLIENT) == key(client=CLIENT, judge=CLIENT, budget={"usd": 2}) == key()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"client": CLIENT}, ["interpret.client is set and no listed entry asks it: list max_act"]),
        ({"judge": CLIENT}, ["interpret.judge is set and no listed entry asks it: list client in"]),
        # the judge reads, and nobody writes
        (
            {"client": CLIENT, "judge": CLIENT, "predictors": ["client"]},
            ["interpret.client is set and no listed entry asks it"],
        ),
        ({}, []),
        ({"client": CLIENT, "explainers": ["max_activating"]}, []),
        ({"client": CLIENT, "predictors": ["client"]}, []),
        (
            {
                "client": CLIENT,
                "latent_scorers": ["intruder"],
                "latent_scorer_settings": {"intruder": {"reader": "client"}},
            },
            [],
        ),
    ],
)
def test_a_client_that_nobody_asks_is_said(
    caplog: pytest.LogCaptureFixture, settings: dict[str, Any], told: list[str]
) -> None:
    warn_once.cache_clear()
    for _ in range(2):  # a run validates its settings several times
        load(InterpretConfig, settings)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(told)
    assert all(line.startswith(start) for line, start in zip(said, told, strict=True))


def test_a_client_of_steering_that_nobody_asks_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    load(SteerConfig, {"judges": ["concept", "fluency", "yes_no"], "client": CLIENT})
    asks = {"kind": "sentence", "sentences": ["the sea"], "asks": True}
    load(SteerConfig, {"targets": asks, "judges": ["concept", "fluency"], "client": CLIENT})
    assert not caplog.records
    load(SteerConfig, {"client": CLIENT})
    [record] = caplog.records
    assert record.getMessage() == (
        "steer.client is set and no listed judge asks it: list preference or ratings or yes_no in "
        "steer.judges"
    )


def test_the_model_changes_the_key_and_the_way_to_it_does_not() -> None:
    mine = key(**asking())
    assert key(**asking(model="another")) != mine
    assert key(**asking(extra={"reasoning_effort": "low"})) != mine
    same = {"url": "http://localhost:7/v1", "replay": True, "concurrency": 2, "seconds": 9.0}
    assert key(**asking(**same, replies="elsewhere", key_variable="MINE")) == mine
    assert key(**asking(), judge=CLIENT | {"model": "another"}) == mine
    assert key(**asking(), budget={"usd": 2}) != mine


def test_a_judge_changes_the_key_where_a_predictor_asks() -> None:
    both = asking() | {"predictors": ["client"]}
    # none: the same client as that of explainers
    assert key(**both) == key(**both, judge=CLIENT)
    assert key(**both) != key(**both, judge=CLIENT | {"model": "another"})
    alone = {"predictors": ["client"], "judge": CLIENT}
    assert key(**alone) == key(**alone, client=CLIENT | {"model": "another"})


def test_other_bytes_of_a_prompt_are_another_artifact(tmp_path: Any) -> None:
    path = tmp_path / "mine.txt"
    path.write_text((FOLDER / "max_activating.txt").read_text(encoding="utf-8"), encoding="utf-8")
    mine = asking() | {"explainer_settings": {"max_activating": {"prompt": str(path)}}}
    assert key(**mine) == key(**asking())
    path.write_text("[user]\n$windows\nSo?\n", encoding="utf-8")
    assert key(**mine) != key(**asking())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("$windows", "has no part [user]; wanted [system] and [user]"),
        ("[user]\nwhat?", "lacks $windows; wanted $windows"),
        ("[user]\n$windows $wndows", "has $wndows; known: $longest, $windows (and $$)"),
        ("[user]\n$windows costs 5$", "has a $ that names no value; write $$ for a dollar"),
    ],
)
def test_a_prompt_that_cannot_be_filled_is_refused(tmp_path: Any, text: str, why: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Prompt.read(path, ("windows", "longest"), ("windows",))
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        ({"explainers": ["log_odds", "agent"]}, "explainer agent asks a language model"),
        ({"explainers": ["contrastive", "agent"]}, "explainer contrastive, agent ask a"),
        ({"predictors": ["client"]}, "predictor client asks a language model"),
    ],
)
def test_an_entry_that_asks_nobody_is_refused(lists: dict[str, list[str]], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load(InterpretConfig, lists)
    assert "interpret.client.kind is none: set it to endpoint" in str(caught.value)


SMALL = {"per_tenth": 2, "calibrate_per_tenth": 1, "per_stratum": 8, "top": 5, "pool": 150}


@pytest.mark.parametrize(
    "changes",
    [
        {"scorers": ["detection"]},
        {"scorers": ["detection"], "latents": 7, "contexts": SMALL | {"pool": 601}},
        {"scorers": ["fuzzing"]},
        {"scorers": ["simulation"], "latents": 3},
        {"scorers": ["detection"], "controls": ["untrained"], "latents": 3, "control_latents": 6},
        {
            "explainers": ["agent"],
            "predictors": ["client", "lexical"],
            "scorers": ["fuzzing"],
            "contexts": SMALL | {"top": 40, "weighted": 20},
        },
    ],
    ids=[
        "detection",
        "seven latents",
        "fuzzing",
        "simulation",
        "more latents of a control",
        "agent",
    ],
)
def test_no_more_is_asked_than_was_foretold(
    server: Server, planted: Planted, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = {
        "latents": 5,
        "explainers": ["max_activating"],
        "predictors": ["client"],
        "predictor_settings": {"client": {"batch": 4}},
        "controls": [],
        "contexts": SMALL,
        "client": settings_of(server, tmp_path / "replies"),
    }
    config, execution = load(InterpretConfig, settings | changes), Execution(device="cpu")
    told = forecast(config, execution, len(config.controls))
    assert told is not None
    store = Store(tmp_path / "store")
    artifact = store.ensure(INTERPRET, config, planted.inputs, execution)[0]
    facts = artifact.facts["asked"]["client"]
    assert facts["failures"] == {} and facts["asked"] == len(server.sent)
    assert facts["asked"] <= told.calls <= 3 * facts["asked"]


def test_proposals_are_tested_with_the_first_that_reads_windows() -> None:
    config = load(InterpretConfig, {"predictors": ["lexical", "client"], "client": CLIENT})
    assert first_reader(config) == "lexical"
