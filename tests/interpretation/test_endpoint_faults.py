"""Every fault of an endpoint by its name, through the whole stage: the tables are complete, failures
are counted with their reasons, nothing is paid twice, and the cost is the server's own count."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
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
from tests.client.servers import Act, Server, answer, error
from tests.interpretation.knowing import knows, settings_of
from tests.interpretation.planted import Planted, plant

LATENTS = 5
LATE = 12
"""Answers after which a server begins to fail, where it does so for good."""
LASTING = {"unreadable", "refused", "empty", "cut", "not as asked"}
"""Failures that were paid: another run finds them in the cache and asks no more."""
LONG = "This model's maximum context length is 4096 tokens"
NO_MODEL = "The model `judge-1` does not exist"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The artifacts before the stage, as small as may be; one chain for all."""
    n_documents = {"explain": 120, "calibrate": 60, "test": 120}
    return plant(Store(tmp_path_factory.mktemp("chain")), n_documents=n_documents)


def made(server: Server, chain: Planted, folder: Path, store: str, **client: Any) -> Artifact:
    """The stage with one explainer and one predictor that ask this server."""
    settings = settings_of(server, folder / "replies", concurrency=4, sample=10_000) | client
    config = load(
        InterpretConfig,
        {
            "latents": LATENTS,
            "explainers": ["max_activating"],
            "scorers": ["detection"],
            "predictors": ["client"],
            "predictor_settings": {"client": {"batch": 10, "logprobs": 0}},
            "controls": [],
            "contexts": {
                "per_tenth": 2, "calibrate_per_tenth": 1, "per_stratum": 5, "top": 10, "pool": 20,
            },
            "client": settings,
        },
    )  # fmt: skip
    return Store(folder / store).ensure(INTERPRET, config, chain.inputs, Execution(device="cpu"))[0]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What a server does wrong, and what is to be said of it.

    Attributes:
        act: its answer, made of the right one, how often this prompt came before, and the server.
        kinds: of the failures that are counted.
        detail: what some reason says; empty where nothing fails.
        every: the second prompt for an explanation meets it, and of those for a reading every one of
            so many; 0: all meet it, once some answers have been given.
        settings: of the client.
    """

    act: Callable[[Act, int, Server], Act]
    kinds: frozenset[str]
    detail: str = ""
    every: int = 3
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _always(act: Act) -> Callable[[Act, int, Server], Act]:
    return lambda right, times, server: act


def _leaves(right: Act, times: int, server: Server) -> Act:
    server.leave()
    return Act(dropped=True)


NONE, BROKEN_OFF = frozenset[str](), frozenset({"no answer", "not asked"})
SHORT = {"seconds": 1.5, "attempts": 1}
FAULTS = {
    "garbage": Fault(
        _always(Act(b"\xff\x00 garbage", paid=True)),
        frozenset({"unreadable"}),
        "unreadable: wanted JSON, got ",
    ),
    "half an answer": Fault(
        _always(dataclasses.replace(answer("half", (0, 0, 0, 0)), cut=True)),
        frozenset({"unreadable"}),
        "unreadable: the connection ended within it",
    ),
    "half a list": Fault(
        _always(answer('{"answers": [1, 0')),
        frozenset({"not as asked"}),
        "not as asked: wanted JSON of Answers and nothing else",
    ),
    "a storm of 429 that passes": Fault(
        lambda right, times, server: (
            error(429, "slow down", Retry_After="0.02") if times < 2 else right
        ),
        NONE,
        every=20,  # the client spreads all requests after each
    ),
    "a storm of 429 that does not": Fault(
        _always(error(429, "slow down", Retry_After="30")),
        BROKEN_OFF,
        "no answer: {url} answers HTTP 429 ('slow down'); it wants a pause of 30 s, longer than "
        "interpret.client.longest_wait",
        0,
        {"longest_wait": 5.0},
    ),
    "500 that passes": Fault(
        lambda right, times, server: error(500, "out of memory") if times < 1 else right, NONE
    ),
    "500 that does not": Fault(
        _always(error(500, "out of memory")),
        BROKEN_OFF,
        "no answer: {url} answers HTTP 500 ('out of memory') (sent 2 times)",
        0,
        {"attempts": 2},
    ),
    "a hang": Fault(
        lambda right, times, server: dataclasses.replace(right, silence=4.0, paid=False),
        frozenset({"no answer"}),
        "no answer: {url} gave no whole answer within 1.5 s",
        9,
        SHORT,
    ),
    "a stream that is too slow": Fault(
        lambda right, times, server: dataclasses.replace(right, drip=0.05, paid=False),
        frozenset({"no answer"}),
        "gave no whole answer within 1.5 s; it had begun; raise interpret.client.seconds",
        9,
        SHORT,
    ),
    "a slow stream that ends": Fault(
        lambda right, times, server: dataclasses.replace(right, drip=0.0002), NONE
    ),
    "another model answers": Fault(
        lambda right, times, server: dataclasses.replace(
            right, body=right.body.replace(b"judge-1", b"judge-0")
        ),
        NONE,
    ),
    "the model is no longer served": Fault(
        _always(error(404, NO_MODEL)),
        BROKEN_OFF,
        "no answer: {url} does not serve interpret.client.model='judge-1' (HTTP 404 "
        f"('{NO_MODEL}'))",
        0,
    ),
    "a key that expires": Fault(
        _always(error(401, "the key has expired")),
        BROKEN_OFF,
        "no answer: {url} answers HTTP 401 ('the key has expired')",
        0,
    ),
    "a refusal": Fault(
        _always(answer(None, message={"refusal": "I will not."})),
        frozenset({"refused"}),
        "refused: 'I will not.'",
    ),
    "a refusal in words": Fault(
        _always(answer("I'm sorry, but I can't help with that.")),
        frozenset({"not as asked"}),
        "refused: I'm sorry, but I can't help with that.",
    ),
    "an endpoint that is gone in the middle": Fault(
        _leaves, BROKEN_OFF, "no answer: {url} does not answer (", 0, {"attempts": 1}
    ),
    "a prompt that is too long": Fault(
        _always(error(400, LONG)),
        frozenset({"not taken"}),
        "the prompt and its answer are longer than the model takes; show fewer or shorter windows",
    ),
}


class _Struck:
    """What a server does with each request, and how many prompts have met the fault."""

    def __init__(self, server: Server, fault: Fault) -> None:
        self._server, self._fault, self._lock = server, fault, threading.Lock()
        self._came: dict[str, dict[str, int]] = {"explanation": {}, "reading": {}}
        self.explanations = self.readings = 0

    def __call__(self, sent: Mapping[str, Any], times: int) -> Act:
        right, text = knows(sent), json.dumps(sent["messages"])
        is_reading = sent["messages"][-1]["content"].startswith("Description: ")
        came = self._came["reading" if is_reading else "explanation"]
        with self._lock:
            place = came.setdefault(text, len(came))
        late = sum(self._server.paid.values()) >= LATE
        every = self._fault.every
        if not (late if not every else place % every == 0 if is_reading else place == 1):
            return right
        with self._lock:
            self.readings += is_reading and times == 0
            self.explanations += not is_reading and times == 0
        return self._fault.act(right, times, self._server)


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_an_endpoint_does_the_tables_are_complete_and_nothing_is_paid_twice(
    server: Server, chain: Planted, tmp_path: Path, name: str
) -> None:
    fault = FAULTS[name]
    struck = _Struck(server, fault)
    server.script = struck
    artifact = made(server, chain, tmp_path, "first", **fault.settings)
    said = tables.EXPLANATIONS.read(artifact)
    scores = tables.EXPLANATION_SCORES.read(artifact)
    asked, calls = artifact.facts["asked"]["client"], tables.CALLS.read(artifact)
    assert struck.explanations == (fault.every > 0) and struck.readings > 0
    assert (said.height, scores.height) == (LATENTS, 3 * LATENTS)
    assert (said["explanation"].is_null() == said["reason"].is_not_null()).all()
    failed = scores.filter((pl.col("n_failed") > 0) | pl.col("value").is_null())
    assert failed["reason"].null_count() == 0
    # each failure has its name, where it is counted and where it is told
    assert set(asked["failures"]) == fault.kinds
    told = [*said["reason"].drop_nulls(), *scores["reason"].drop_nulls()]
    detail = fault.detail.replace("{url}", server.url)
    assert not detail or any(detail in reason for reason in told)
    if not fault.kinds - LASTING:
        assert sum(asked["failures"].values()) == calls["reason"].drop_nulls().len()
    _mean_is_of_those_that_were_asked(artifact)
    # the cost is the server's own count, and an estimate of what it has not counted
    assert asked["usd"] == pytest.approx(calls["usd"].sum())
    assert calls["estimated"].any() == (fault.kinds == {"unreadable"})
    assert calls.filter(~pl.col("estimated"))["usd"].sum() == pytest.approx(server.usd)
    if name == "another model answers":
        assert set(asked["served"]) == {"judge-0 (fp_a)", "judge-1 (fp_a)"}

    server.script = knows
    if fault.act is _leaves:
        server.come_back()
    again = made(server, chain, tmp_path, "again", **fault.settings)
    facts = again.facts["asked"]["client"]
    assert max(server.paid.values()) == 1
    assert set(facts["failures"]) == fault.kinds & LASTING
    assert facts["asked"] == len(server.paid) - asked["asked"]
    # with other explanations other floors are asked about: the bill is for both runs together
    both = pl.concat([calls, tables.CALLS.read(again)]).unique("call")
    assert both.filter(~pl.col("estimated"))["usd"].sum() == pytest.approx(server.usd)


def _mean_is_of_those_that_were_asked(artifact: Artifact) -> None:
    entry = tables.EXPLANATION_SCORES.read(artifact).filter(pl.col("role") == "entry")
    missing = entry.filter(pl.col("reason").fill_null("").str.starts_with("not asked"))
    assert missing["value"].null_count() == missing.height and missing["n"].sum() == 0
    rows = {row["name"]: row for row in SCORES.read(artifact).iter_rows(named=True)}
    row, values = rows["interpret.max_activating.detection"], entry["value"].drop_nulls()
    assert (row["n"], row["value"]) == (len(values), pytest.approx(values.mean()))
    if missing.height:
        assert f"{missing.height} of {LATENTS} latents are missing" in row["reason"]


NOT_BEGUN: dict[str, tuple[dict[str, Any], Callable[[Server], None], str]] = {
    "nobody there": (
        {"attempts": 1},
        lambda server: server.leave(),
        "{url} does not answer (",
    ),
    "another model": (
        {"model": "judge-2"},
        lambda server: None,
        "does not serve interpret.client.model='judge-2'; it serves judge-1",
    ),
    "another model, and no list": (
        {},
        lambda server: vars(server).update(
            models=None, script=lambda sent, times: error(404, NO_MODEL)
        ),
        f"does not serve interpret.client.model='judge-1' (HTTP 404 ('{NO_MODEL}')); ask its "
        "keeper what it serves",
    ),
    "a key that is not taken": (
        {},
        lambda server: vars(server).update(key="sk-another"),
        "it wants a key, and the environment variable LATENTFLOW_CLIENT_KEY is empty",
    ),
    "no budget": (
        {"url": "https://models.example/v1", "key_variable": ""},
        lambda server: None,
        "interpret.budget is not set, and before it is, nothing leaves this machine: set "
        "interpret.budget.usd or interpret.budget.calls",
    ),
}


@pytest.mark.parametrize("name", NOT_BEGUN)
def test_what_cannot_be_asked_is_said_before_anything_is_paid(
    server: Server, chain: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("LATENTFLOW_CLIENT_KEY", raising=False)
    settings, happens, sentence = NOT_BEGUN[name]
    happens(server)
    with pytest.raises(ConfigError) as caught:
        made(server, chain, tmp_path, "none", **settings)
    assert sentence.replace("{url}", server.url) in str(caught.value)
    assert not server.paid
