"""A run that cannot ask to its end: no key, a budget that is spent, answers that are too long, and a
run that is killed three times. Faults of the endpoint itself are in test_endpoint_faults.py."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from components.config import load
from components.device import Execution
from components.errors import ConfigError
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.interpretation.protocol import BLOCK
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact, Store
from tests.client.servers import Act, Server, answer
from tests.interpretation.knowing import knows, settings_of
from tests.interpretation.planted import D_SAE, Planted

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = Execution(device="cpu")


def config_of(server: Server, folder: Path, **changes: Any) -> InterpretConfig:
    client = settings_of(server, folder / "replies", concurrency=4) | changes.pop("client", {})
    return load(
        InterpretConfig,
        {
            "latents": 12,
            "explainers": ["max_activating"],
            "scorers": ["detection"],
            "predictors": ["client"],
            "predictor_settings": {"client": {"batch": 10, "logprobs": 0}},
            "contexts": {"per_tenth": 2, "calibrate_per_tenth": 1, "top": 10},
            "client": client,
        }
        | changes,
    )


def made(config: InterpretConfig, planted: Planted, folder: Path) -> Artifact:
    inputs = planted.inputs | {"untrained": None}
    return Store(folder / "store").ensure(INTERPRET, config, inputs, CPU)[0]


def number_of(sent: Mapping[str, Any]) -> int:
    """A number for each prompt, the same in every run."""
    text = json.dumps(sent["messages"])
    return int(hashlib.blake2b(text.encode(), digest_size=4).hexdigest(), 16)


def test_a_budget_that_is_spent_leaves_a_random_sample(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    config = config_of(server, tmp_path, budget={"calls": 8})
    artifact = made(config, planted, tmp_path)
    said = tables.EXPLANATIONS.read(artifact)
    explained = said.filter(pl.col("explanation").is_not_null())["latent"].to_list()
    assert len(explained) == 8 == len(server.sent)
    assert explained != said["latent"].to_list()[:8]
    reasons = Counter(said["reason"].drop_nulls())
    # of 12 latents one is active everywhere, and is skipped
    assert reasons.pop("not asked: the budget of 8 calls is spent") == 3
    assert list(reasons.values()) == [1]
    [row] = (
        SCORES.read(artifact)
        .filter(pl.col("name") == "interpret.max_activating.detection")
        .to_dicts()
    )
    assert (row["value"], row["n"], row["n_failed"]) == (None, 0, 0)
    assert row["reason"].startswith("11 of 12 latents are missing, the first because: not asked")
    more = made(config_of(server, tmp_path, budget={"calls": 1000}), planted, tmp_path)
    assert more.key != artifact.key
    assert tables.EXPLANATIONS.read(more)["explanation"].null_count() == 1
    sent = Counter(json.dumps(each["messages"]) for each in server.sent)
    assert set(sent.values()) == {1}


def test_a_budget_that_ends_while_scores_are_asked_for_leaves_latents_and_not_scorers(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    scorers = ("detection", "fuzzing")
    settings = {
        "latents": D_SAE,
        "scorers": list(scorers),
        "contexts": {
            "per_tenth": 2, "calibrate_per_tenth": 1, "per_stratum": 5, "top": 10, "pool": 100,
        },
    }  # fmt: skip
    whole = made(config_of(server, tmp_path / "whole", **settings), planted, tmp_path)
    n = round(0.6 * len(server.sent))
    artifact = made(
        config_of(server, tmp_path / "part", budget={"calls": n}, **settings), planted, tmp_path
    )
    assert tables.EXPLANATIONS.read(artifact).equals(tables.EXPLANATIONS.read(whole))
    columns = ["latent", "role", "scorer", "value", "n"]
    known = tables.EXPLANATION_SCORES.read(artifact).filter(
        pl.col("value").is_not_null(), pl.col("predictor") == "client"
    )
    # what is known is what a whole run knows
    of_whole = tables.EXPLANATION_SCORES.read(whole)
    assert known.select(columns).join(of_whole, on=columns, how="anti").is_empty()
    latents = {
        (role, scorer): set(
            known.filter(pl.col("role") == role, pl.col("scorer") == scorer)["latent"]
        )
        for role in ("entry", "floor")
        for scorer in scorers
    }
    for scorer in scorers:
        assert len(latents["entry", scorer] ^ latents["floor", scorer]) <= 1
    fewest, most = min(map(len, latents.values())), max(map(len, latents.values()))
    assert BLOCK <= fewest <= most < D_SAE and most - fewest <= BLOCK
    # what nobody was asked about the pool stands nowhere, and not at chance
    precision = "interpret.max_activating.detection.average_precision"
    rows, of_whole = (
        {row["name"]: row for row in SCORES.read(each).iter_rows(named=True)}
        for each in (artifact, whole)
    )
    asked = known.filter(pl.col("role") == "entry", pl.col("scorer") == "detection")
    assert "nobody was asked about those of" in rows[precision]["reason"]
    assert 0 < rows[precision]["n"] < asked.height
    assert "nobody was asked" not in of_whole[precision]["reason"]


def test_too_long_is_asked_again_once_and_never_cut(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    def script(sent: Mapping[str, Any], times: int) -> Act:
        wishes = [m for m in sent["messages"] if m["content"].startswith("That has ")]
        if "JSON" in sent["messages"][0]["content"]:
            return knows(sent)
        if not wishes:
            return answer("on and " * 40 + "on")
        assert "That has 282 characters, and at most 200 are allowed" in wishes[0]["content"]
        return answer("x" * 201) if number_of(sent) % 2 else knows(sent)

    server.script = script
    said = tables.EXPLANATIONS.read(made(config_of(server, tmp_path), planted, tmp_path))
    reasons = said["reason"].drop_nulls()
    reasons = reasons.filter(~reasons.str.contains("silent windows"))  # a latent that was skipped
    assert 0 < len(reasons) < 11
    assert reasons.str.starts_with("it has 201 characters, wanted at most 200").all()
    assert not said["explanation"].drop_nulls().str.contains("on and").any()


def test_a_missing_key_is_named(
    server: Server, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LATENTFLOW_CLIENT_KEY", raising=False)
    away = {"url": "https://models.example/v1"}
    with pytest.raises(ConfigError, match="environment variable LATENTFLOW_CLIENT_KEY is empty"):
        made(config_of(server, tmp_path, client=away, budget={"calls": 5}), planted, tmp_path)


RUN = """
import json, sys
from components.config import load
from components.device import Execution
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.store.artifact import Store
keys, config = json.loads(sys.argv[2]), load(InterpretConfig, json.loads(sys.argv[3]))
inputs = {role: Store(sys.argv[1]).get(*place) for role, place in keys.items()}
Store(sys.argv[4]).ensure(INTERPRET, config, inputs, Execution(device="cpu"))
"""


def test_after_three_times_kill_9_no_call_is_made_twice_and_the_table_is_the_same(
    server: Server, planted: Planted, planted_store: Store, tmp_path: Path
) -> None:
    limit, killed = [0], [threading.Event()]

    def script(sent: Mapping[str, Any], times: int) -> Act:
        right, mine = knows(sent), killed[0]
        if sum(server.paid.values()) >= limit[0] and not mine.is_set():
            mine.wait(100)  # on its way when the run is killed: never answered, never billed
            return dataclasses.replace(right, paid=False)
        return right

    server.script = script
    config = config_of(server, tmp_path)
    places = {
        role: (each.stage, each.key) for role, each in planted.inputs.items() if role != "untrained"
    }
    command = [
        sys.executable, "-W", "ignore", "-c", RUN, str(planted_store.root), json.dumps(places),
        config.model_dump_json(), str(tmp_path / "store"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for answered in (5, 20, 45):
        limit[0], killed[0] = answered, threading.Event()
        running = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
        try:
            until = time.monotonic() + 250
            while _paid(server) < answered:
                assert time.monotonic() < until and running.poll() is None
                time.sleep(0.05)
            time.sleep(0.5)  # what was answered is in the cache
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
        killed[0].set()
    limit[0] = 10**9
    resumed = made(config, planted, tmp_path)
    assert max(server.paid.values()) == 1
    facts = resumed.facts["asked"]["client"]
    assert facts["usd"] == pytest.approx(server.usd)
    assert facts["asked"] < facts["replies"]
    undisturbed = made(config_of(server, tmp_path / "fresh"), planted, tmp_path / "fresh")
    for table in (tables.EXPLANATIONS, tables.EXPLANATION_SCORES, tables.WRITERS, SCORES):
        assert table.read(resumed).equals(table.read(undisturbed))
    assert resumed.key == undisturbed.key


def _paid(server: Server) -> int:
    return sum(server.paid.values())
