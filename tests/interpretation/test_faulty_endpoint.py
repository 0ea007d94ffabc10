"""Every fault of an endpoint through the whole stage: the result is complete, failures are counted
with their reasons, nothing is paid twice, and the cost is the server's own count; also when the run
is killed three times."""

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
from collections.abc import Iterator, Mapping
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
from components.store.artifact import Artifact, Store
from tests.client.servers import Act, Server, answer, error, serving
from tests.interpretation.knowing import knows, settings_of
from tests.interpretation.planted import Planted

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = Execution(device="cpu")
NOT_ASKED = "not asked"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.script = knows
        yield running


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


def faulty(sent: Mapping[str, Any], times: int) -> Act:
    """One request of two is answered; the others meet a fault each, some of which go by."""
    right = knows(sent)
    kind = number_of(sent) % 22
    faults = {
        0: Act(b"\xff\x00 garbage", paid=True),
        1: dataclasses.replace(answer("half", (0, 0, 0, 0)), cut=True),
        2: error(429, "slow down", Retry_After="0.01") if times < 5 else right,
        3: error(500, "out of memory") if times < 1 else right,
        4: error(503, "gone"),
        5: dataclasses.replace(right, silence=5.0, paid=False),
        6: dataclasses.replace(right, drip=0.0002),
        7: answer(None, message={"refusal": "I will not."}),
        8: answer("I'm sorry, but I can't help with that."),
        9: answer('{"answers": [1, 0'),
        10: answer(json.dumps({"answers": [1] * 3})),
    }
    return faults.get(kind, right)


def failures(frame: pl.DataFrame) -> Counter[str]:
    """Kinds of reasons of explanations that are null."""
    reasons = frame.filter(pl.col("explanation").is_null())["reason"].to_list()
    return Counter(reason.partition(":")[0] for reason in reasons)


def test_whatever_an_endpoint_does_the_result_is_complete(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    server.script = faulty
    config = config_of(server, tmp_path, client={"seconds": 4.0, "attempts": 2, "sample": 10_000})
    artifact = made(config, planted, tmp_path)
    asked = artifact.facts["asked"]["client"]
    said = tables.EXPLANATIONS.read(artifact)
    assert (
        said.height == 12 and (said["explanation"].is_null() == said["reason"].is_not_null()).all()
    )
    calls = tables.CALLS.read(artifact)
    assert asked["usd"] == pytest.approx(calls["usd"].sum())
    # what broke off has no count of the server's: it is estimated, and said to be
    assert 0 < calls["estimated"].sum() == asked["estimated"] < calls.height
    counted = calls.filter(~pl.col("estimated"))["usd"].sum()
    assert counted == pytest.approx(server.usd)
    # whatever was paid for was paid once
    prompts = Counter(json.dumps(sent["messages"]) for sent in server.sent)
    assert asked["asked"] <= len(prompts)
    assert set(asked["failures"]) >= {"unreadable", "refused", "not as asked", "no answer"}
    scores = tables.EXPLANATION_SCORES.read(artifact).filter(pl.col("role") == "entry")
    # one latent is active everywhere, and has no detection whoever answers
    nulls = scores.filter(pl.col("value").is_null())
    assert scores.height == 12 and nulls.height == 1
    assert nulls["reason"].to_list() == ["active in over a third of windows"]
    failed = scores.filter(pl.col("n_failed") > 0)
    assert failed.height > 0 and failed["reason"].null_count() == 0
    [row] = (
        SCORES.read(artifact)
        .filter(pl.col("name") == "interpret.max_activating.detection")
        .to_dicts()
    )
    assert row["n"] == 11 and row["value"] > 0.5
    # the same again, from the cache: what may come to an answer another time is asked, no more
    billed = sum(server.paid.values())
    again = made(config, planted, tmp_path / "again")
    assert again.facts["asked"]["client"]["asked"] == sum(server.paid.values()) - billed


def test_a_key_that_expires_leaves_a_sample_and_the_rest_missing(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    server.script = lambda sent, times: (
        knows(sent) if len(server.sent) <= 40 else error(401, "the key has expired")
    )
    artifact = made(config_of(server, tmp_path), planted, tmp_path)
    scores = tables.EXPLANATION_SCORES.read(artifact).filter(pl.col("role") == "entry")
    nulls = scores.filter(pl.col("value").is_null())
    # one latent is active everywhere, and has no detection whoever answers
    missing = nulls.filter(pl.col("n") == 0)
    assert 0 < missing.height < 11 and nulls.height == missing.height + 1
    assert missing["reason"].str.starts_with(NOT_ASKED).all()
    assert missing["reason"].str.contains("401").all()
    [row] = (
        SCORES.read(artifact)
        .filter(pl.col("name") == "interpret.max_activating.detection")
        .to_dicts()
    )
    assert row["n"] == 12 - nulls.height
    assert row["value"] == pytest.approx(scores["value"].drop_nulls().mean())
    assert f"{missing.height} of 12 latents are missing" in row["reason"]
    assert row["value"] > 0.7


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


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nobody there": (
        {"url": "http://127.0.0.1:9/v1", "attempts": 1},
        "http://127.0.0.1:9/v1 does not answer (",
    ),
    "another model": (
        {"model": "judge-2"},
        "does not serve interpret.client.model='judge-2'; it serves judge-1",
    ),
    "no budget": (
        {"url": "https://models.example/v1", "key_variable": ""},
        "interpret.budget is not set, and before it is, nothing leaves this machine: set "
        "interpret.budget.usd or interpret.budget.calls",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_asked_is_said_before_anything_is_paid(
    server: Server, planted: Planted, tmp_path: Path, name: str
) -> None:
    settings, sentence = BAD[name]
    with pytest.raises(ConfigError) as caught:
        made(config_of(server, tmp_path, client=settings), planted, tmp_path)
    assert sentence in str(caught.value)
    assert not server.sent


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
