"""Real servers in front of a small model, and the same model in this process: they say the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from pydantic import BaseModel

from components.client.client import Client
from components.client.clients.endpoint import EndpointConfig
from components.client.clients.local import LocalConfig
from components.client.contract import Message, Request, Response, Usage
from components.client.price import Budget
from components.client.reading import graded
from components.errors import ConfigError, ModelError
from components.model.reference import ModelConfig
from tests import toys
from tests.client.real import saved, serving
from tests.workers import free_port

TEXTS = ["the cat sat on", "a big red dog ran", "he saw the queen .", "she", "one two three"]


def ask(text: str, **changes: Any) -> Request:
    settings = {"max_tokens": 8, "may_be_cut": True, "logprobs": 4} | changes
    return Request([Message("system", "it was"), Message("user", text)], **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(toys.tiny_network()) as address:
        yield address


@pytest.fixture
def local(folder: Path, tmp_path: Path) -> Any:
    def make(budget: Budget | None = None, **changes: Any) -> Client:
        model = changes.pop("model", ModelConfig(path=str(folder)))
        return Client(
            LocalConfig(model=model, replies=str(tmp_path / "replies"), **changes), budget
        )

    return make


def test_a_real_server_and_the_same_model_in_this_process_say_the_same(
    url: str, local: Any, tmp_path: Path
) -> None:
    endpoint = Client(EndpointConfig(url=url, model="toy", replies=str(tmp_path / "replies")))
    requests = [ask(text) for text in TEXTS]
    served, own = endpoint.ask(requests), local(batch=2).ask(requests)
    for there, here in zip(served, own, strict=True):
        assert there.text and there.text == here.text
        assert (
            there.usage.input
            == here.usage.input
            == len(f"it was {TEXTS[served.index(there)]} then".split())
        )
        assert there.logprobs and here.logprobs
        # the server also counts the end
        for ours, theirs in zip(here.logprobs, there.logprobs, strict=False):
            assert ours.token == theirs.token and ours.logprob == pytest.approx(
                theirs.logprob, abs=1e-4
            )
            assert dict(ours.likeliest) == pytest.approx(dict(theirs.likeliest), abs=1e-4)
    assert {reply.served_model for reply in served} == {"toy"}
    reply, first = next(
        (r, r.logprobs[0]) for r in served if r.logprobs and r.logprobs[0].token.isalpha()
    )
    others = [word for word in first.likeliest if word.isalpha() and word != first.token]
    assert (
        0
        < (graded(reply, yes=others, no=[first.token]) or 0)
        < (graded(reply, yes=[first.token], no=others) or 0)
        < 1
    )


def test_a_real_server_that_knows_no_schemas_and_has_a_short_context(
    url: str, tmp_path: Path
) -> None:
    class Verdict(BaseModel):
        verdict: str

    endpoint = Client(EndpointConfig(url=url, model="toy", replies=str(tmp_path / "replies")))
    formatted, long = endpoint.ask([ask("a cat", schema=Verdict), ask("the " * 200)])
    assert formatted.left_out == ("response_format",)
    assert (formatted.reason or "").startswith(
        "not as asked: wanted JSON of Verdict and nothing else"
    )
    assert "longer than the model takes" in (long.reason or "")
    with pytest.raises(ConfigError, match="do not fit the 128 tokens that the model toy takes"):
        endpoint.refuse_too_long([ask("the cat " * 300)], "test")


def test_a_model_in_this_process_is_asked_once_for_each_prompt(local: Any) -> None:
    requests = [
        ask(text, temperature=1.0, replicate=number) for text in TEXTS for number in range(3)
    ]
    first = local(batch=4)
    replies = first.ask(requests)
    assert len({reply.text for reply in replies[:3]}) > 1
    alone = [local(batch=1).ask([request])[0] for request in requests[:4]]
    assert [reply.text for reply in alone] == [reply.text for reply in replies[:4]]
    assert all(reply.cached for reply in alone)
    assert first.account.facts()["asked"] == 15 and first.account.usd == 0
    assert replies[0].fingerprint == first.ask(requests)[0].fingerprint
    assert first.quote(requests).calls == 0


def test_an_answer_that_ended_at_once_comes_back_from_the_cache() -> None:
    empty = Response("", Usage(input=8), "toy", logprobs=())
    assert Response.from_json(empty.to_json()) == empty


def test_a_budget_of_calls_holds_for_a_model_in_this_process_too(local: Any) -> None:
    replies = local(Budget(calls=3), batch=2).ask([ask(text) for text in TEXTS])
    assert [bool(reply.text) for reply in replies] == [True, True, True, False, False]


def test_a_prompt_that_is_too_long_for_a_model_in_this_process(local: Any, folder: Path) -> None:
    asking = local()
    asking.check()
    with pytest.raises(ConfigError) as raised:
        asking.refuse_too_long([ask("the cat"), ask("the " * 140)], "test")
    assert str(raised.value) == (
        "a prompt of 143 tokens and an answer of up to 8 do not fit the 128 tokens that "
        f"client.model ({folder}) takes; show fewer or shorter windows or texts, or choose a model "
        "with a longer context"
    )
    replies = asking.ask([ask("the cat"), ask("the " * 140)])
    assert replies[0].text
    assert (replies[1].reason or "").startswith(
        "not taken: the prompt has 143 tokens and the answer up to 8, longer than"
    )


def test_a_model_that_cannot_answer(local: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        local(model=ModelConfig(path=str(tmp_path / "nowhere"))).ask([ask("a cat")])
    toys.tiny_network().save_pretrained(tmp_path / "mute")
    with pytest.raises(
        ConfigError, match=r"client.model \(.*mute\) has no tokenizer, so it reads no prompt"
    ):
        local(model=ModelConfig(path=str(tmp_path / "mute"))).check()


def test_transformers_serve(folder: Path, local: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("`transformers serve` needs the package accelerate, which is not installed")
    port, log = free_port(), tmp_path / "log"
    serve = "from transformers.cli.transformers import main; main()"
    command = [
        sys.executable,
        "-c",
        serve,
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32"],
            stdout=file,
            stderr=file,
            env=environment,
        )
    try:
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.2)
        asking = Client(
            EndpointConfig(
                url=f"http://127.0.0.1:{port}/v1",
                model=str(folder),
                replies=str(tmp_path / "replies"),
            )
        )
        served = asking.ask([ask(text) for text in TEXTS])
    finally:
        process.terminate()
        process.wait()
    own = local().ask([ask(text) for text in TEXTS])
    assert [reply.text for reply in served] == [reply.text for reply in own]
    assert [reply.usage.input for reply in served] == [reply.usage.input for reply in own]
    assert {reply.logprobs for reply in served} == {None}  # it passes over what it does not know


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False
