"""A small real model in this process writes explanations and reads them: the road runs, and its
failures are counted and said. What it writes is no measure of anything: it never learnt to follow
an instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from components.config import load
from components.device import Execution
from components.errors import ConfigError
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Store
from tests.client.real import saved
from tests.interpretation.planted import Planted

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that reads 128 tokens, prompt and answer together."""
    return saved(tmp_path_factory.mktemp("short"))


@pytest.mark.parametrize(
    ("listed", "who"),
    [
        ({"explainers": ["max_activating"]}, "explain max_activating, latent "),
        ({"explainers": ["log_odds"], "predictors": ["client"]}, "predict windows"),
        (
            {
                "latent_scorers": ["intruder"],
                "latent_scorer_settings": {"intruder": {"reader": "client"}},
            },
            "intruder, latent ",
        ),
    ],
)
def test_prompts_longer_than_the_model_takes_are_refused_in_a_sentence(
    folder: Path, planted: Planted, tmp_path: Path, listed: dict[str, Any], who: str
) -> None:
    client = {"kind": "local", "model": {"path": str(folder)}, "replies": str(tmp_path / "replies")}
    config = load(InterpretConfig, {"latents": 12, "client": client} | listed)
    with pytest.raises(ConfigError) as raised:
        Store(tmp_path / "store").ensure(
            INTERPRET, config, planted.inputs | {"untrained": None}, CPU
        )
    said = str(raised.value)
    assert said.startswith(who)
    assert f"do not fit the 128 tokens that interpret.client.model ({folder}) takes; show" in said


def test_the_road_runs_with_stories260k_and_says_how_bad_its_answers_are(
    shared: Path, planted: Planted, tmp_path: Path
) -> None:
    prompt = tmp_path / "short.txt"
    prompt.write_text("[user]\n$windows\nThese are about", encoding="utf-8")
    config = load(
        InterpretConfig,
        {
            "latents": 4,
            "explainers": ["max_activating"],
            "explainer_settings": {
                "max_activating": {
                    "prompt": str(prompt), "top": 2, "by_decile": 0, "max_tokens": 24,
                }
            },
            "scorers": ["detection"],
            "predictors": ["client", "language_model"],
            "predictor_settings": {
                "client": {"batch": 1, "logprobs": 0},
                "language_model": {"path": str(shared / "models/stories260k")},
            },
            "contexts": {"width": 12, "shortest": 8, "per_tenth": 1, "calibrate_per_tenth": 1, "top": 4},
            "client": {
                "kind": "local", "model": {"path": str(shared / "models/stories260k")},
                "replies": str(tmp_path / "replies"),
            },
        },
    )  # fmt: skip
    inputs = planted.inputs | {"untrained": None}
    artifact = Store(tmp_path / "store").ensure(INTERPRET, config, inputs, CPU)[0]
    asked = artifact.facts["asked"]["client"]
    assert asked["asked"] > 0 and asked["usd"] == 0.0
    said = tables.EXPLANATIONS.read(artifact)
    assert said.height == 4
    assert (said["explanation"].is_null() == said["reason"].is_not_null()).all()
    assert tables.CALLS.read(artifact).height > 0
    # every failure has its kind, in the facts and in the rows
    rows = SCORES.read(artifact).filter(pl.col("measure") == "detection", pl.col("role") == "entry")
    assert set(rows["predictor"]) == {"client", "language_model"}
    [judged] = rows.filter(pl.col("predictor") == "client").to_dicts()
    assert judged["n"] == 4 and judged["n_failed"] == 4 and judged["value"] == 0.5
    assert "stand at chance, the first because" in judged["reason"]
    assert sum(asked["failures"].values()) > 0
