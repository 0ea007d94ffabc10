"""The intruder read by a language model: who knows what was planted finds it, who answers anything
is at chance, and failures, costs and the key are those of every entry that asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from components.config import load
from components.device import Execution
from components.errors import ConfigError, InputError
from components.interpretation.asked import forecast
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact, Store, key_of
from tests.client.servers import Act, Server, answer, error
from tests.interpretation.knowing import knows, settings_of
from tests.interpretation.planted import NOISE, SETS, Planted

CPU = Execution(device="cpu")
NAME = "intruder.accuracy"
TRIALS = 8


def config_of(server: Server, folder: Path, **changes: Any) -> InterpretConfig:
    reads = {"reader": "client", "trials": TRIALS, "around": 1} | changes.pop("intruder", {})
    settings = {
        "latents": 19,
        "explainers": ["constant"],
        "scorers": ["detection"],
        "latent_scorers": ["intruder"],
        "latent_scorer_settings": {"intruder": reads},
        "controls": [],
        "judge": settings_of(server, folder / "replies", sample=10_000),
    }
    return load(InterpretConfig, settings | changes)


def made(config: InterpretConfig, planted: Planted, folder: Path) -> Artifact:
    return Store(folder / "store").ensure(INTERPRET, config, planted.inputs, CPU)[0]


def scores_of(artifact: Artifact) -> Mapping[str, Mapping[str, Any]]:
    return {row["name"]: row for row in SCORES.read(artifact).iter_rows(named=True)}


def test_who_knows_what_was_planted_finds_the_intruder(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    config = config_of(server, tmp_path, controls=["untrained"])
    artifact = made(config, planted, tmp_path)
    single = tables.LATENT_SCORES.read(artifact)
    assert set(single["reader"]) == {"client"}
    ours = single.filter(pl.col("control").is_null())
    sets = ours.filter(pl.col("latent") < SETS)
    assert sets.height == SETS and sets["n"].unique().to_list() == [TRIALS]
    assert sets["value"].mean() > 0.95 and set(sets["chance"]) == {0.2}
    assert ours.filter(pl.col("latent") == NOISE)["value"].item() < 0.7
    found = scores_of(artifact)
    row, over = found[f"interpret.{NAME}"], found[f"interpret.{NAME}.over_null"]
    assert (row["predictor"], row["baseline"]) == ("client", pytest.approx(0.2))
    assert over["predictor"] == "client" and over["low"] > 0
    theirs = found[f"interpret.untrained.{NAME}"]
    assert theirs["low"] < 0.35 and found[f"interpret.{NAME}.over_untrained"]["low"] > 0
    asked = artifact.facts["asked"]
    assert asked["is_one_model"] is False and set(asked) == {"judge", "is_one_model"}
    assert asked["judge"]["usd"] == pytest.approx(server.usd) and server.usd > 0
    assert asked["judge"]["failures"] == {}
    told = forecast(config, CPU, 1)
    assert told and told.calls == 2 * 19 * TRIALS >= asked["judge"]["asked"]


def test_the_place_of_the_intruder_tells_nothing(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    """Who always names the last piece, where the trial has it before it is shown, is at chance."""
    server.script = lambda sent, times: answer('{"answer": 5}')
    artifact = made(config_of(server, tmp_path, intruder={"trials": 30}), planted, tmp_path)
    row = scores_of(artifact)[f"interpret.{NAME}"]
    assert row["n"] > 16 and row["low"] < 0.2 < row["high"] and row["high"] - row["low"] < 0.1


def test_answers_that_are_none_are_guesses_and_are_counted(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    replies = ['{"answer": 6}', "the last one", None, '{"answer": 2}']

    def script(sent: Mapping[str, Any], times: int) -> Act:
        return answer(replies[len(sent["messages"][-1]["content"]) % len(replies)])

    server.script = script
    artifact = made(config_of(server, tmp_path), planted, tmp_path)
    single = tables.LATENT_SCORES.read(artifact).filter(pl.col("latent") < SETS)
    assert (single["n"] == TRIALS).all() and 0 < single["n_failed"].sum() < single["n"].sum()
    some = single.filter(pl.col("n_failed") > 0)
    assert some["reason"].null_count() == 0
    assert some["reason"].str.contains("not as asked|empty").all()
    assert set(artifact.facts["asked"]["judge"]["failures"]) == {"empty", "not as asked"}
    mean = scores_of(artifact)[f"interpret.{NAME}"]["value"]
    assert mean == pytest.approx(0.2, abs=0.1)


def test_latents_of_which_nobody_was_asked_are_missing(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    server.script = lambda sent, times: (
        knows(sent) if len(server.sent) <= 8 * TRIALS else error(401, "the key has expired")
    )
    artifact = made(config_of(server, tmp_path), planted, tmp_path)
    single = tables.LATENT_SCORES.read(artifact)
    missing = single.filter(pl.col("reason").str.starts_with("not asked"))
    assert missing.height > 5 and missing["value"].null_count() == missing.height
    assert missing["n"].sum() == 0
    row = scores_of(artifact)[f"interpret.{NAME}"]
    assert row["n"] == single.height - missing.height > 5
    assert row["value"] > 0.5
    assert row["reason"].startswith(f"{missing.height} of {single.height} latents are missing")

    server.script = knows
    config = config_of(server, tmp_path / "poor", budget={"calls": 1})
    poor = made(config, planted, tmp_path / "poor")
    for ending in ("", ".over_null"):
        row = scores_of(poor)[f"interpret.{NAME}{ending}"]
        assert row["value"] is None and "the budget of 1 calls is spent" in row["reason"]


def test_the_bytes_of_the_prompt_and_the_model_are_in_the_key(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    own = tmp_path / "own.txt"
    own.write_text("[user]\n$windows\nWhich of the $n does not belong?")

    def key(**changes: Any) -> str:
        config = config_of(server, tmp_path, **changes)
        return key_of(INTERPRET, config, planted.inputs)

    ours, other = key(), key(intruder={"prompt": str(own)})
    elsewhere = key(judge=settings_of(server, tmp_path, model="judge-2"))
    own.write_text("[user]\n$windows\nWhich one?")
    changed = key(intruder={"prompt": str(own)})
    assert len({ours, other, changed, elsewhere}) == 4
    words = {"reader": "lexical"}
    assert key(intruder=words) == key(intruder=words | {"prompt": str(own)})
    own.write_text("[user]\nWhich one?")
    with pytest.raises(InputError, match=r"lacks \$windows"):
        made(config_of(server, tmp_path, intruder={"prompt": str(own)}), planted, tmp_path)
    with pytest.raises(ConfigError, match="latent scorer intruder asks a language model"):
        config_of(server, tmp_path, judge={"kind": "none"})
    assert not server.sent
