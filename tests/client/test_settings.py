"""Settings that cannot work: one sentence each, before anything is paid."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from components.client.client import NOBODY, Client, ClientConfig
from components.client.clients.endpoint import EndpointConfig
from components.client.contract import clients
from components.client.price import Budget
from components.config import Config, flatten, override
from components.errors import ConfigError, UnknownNameError
from tests.client.conftest import Ask, prompt, prompts
from tests.client.servers import Act, Server, answer, error, prompt_of


class Section(Config):
    client: ClientConfig = NOBODY
    """Who answers."""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def refused(client: Client) -> str:
    """The sentence with which both a check and the first question end."""
    with pytest.raises(ConfigError) as at_once:
        client.check()
    with pytest.raises(ConfigError) as asked:
        client.ask(prompts(3))
    assert str(at_once.value) == str(asked.value)
    return str(at_once.value)


def test_clients_are_a_table_and_nobody_is_the_default() -> None:
    assert clients.names() == ["endpoint", "local", "none"]
    assert Section().client.kind == "none"
    chosen = override(
        Section(), {"client.kind": "endpoint", "client.model": "m", "client.concurrency": 2}
    )
    assert (chosen.client.model, chosen.client.concurrency) == ("m", 2)
    with pytest.raises(UnknownNameError, match=r"client\.key"):
        override(Section(), {"client.kind": "endpoint", "client.key": "sk-secret"})
    prices = override(
        Section(), {"client.kind": "endpoint", "client.prices": [{"model": "a/b:c", "input": 1.0}]}
    )
    assert flatten(prices)["client.prices"] == [
        {"model": "a/b:c", "input": 1.0, "cached": None, "output": 0.0, "reasoning": None}
    ]


def test_an_endpoint_that_is_not_there(client: Ask) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    sentence = refused(client(url=url))
    assert re.fullmatch(
        rf"{re.escape(url)} does not answer \(ConnectError: .*\); start the server there, or set client\.url",
        sentence,
    )


def test_an_endpoint_that_is_not_set(
    client: Ask, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LATENTFLOW_CLIENT_URL", raising=False)
    assert refused(client(url="")) == (
        "client.url is empty, and so is the environment variable LATENTFLOW_CLIENT_URL; wanted "
        "the address of a server up to /chat/completions, for example http://127.0.0.1:8000/v1"
    )
    monkeypatch.setenv("LATENTFLOW_CLIENT_URL", f"{server.url}/")
    assert client(url="").ask(prompts(1))[0].text


@pytest.mark.parametrize(
    "url",
    ["https://me:sk-secret@host/v1", "https://host/v1?key=sk-secret", "https://h/v1#sk-secret"],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(client: Ask, url: str) -> None:
    sentence = refused(client(url=url))
    assert "holds a user, a query or a fragment" in sentence and "sk-secret" not in sentence


@pytest.mark.parametrize("url", ["ftp://host/v1", "host/v1", "http://", "http://host:port/v1"])
def test_an_address_that_is_none(client: Ask, url: str) -> None:
    assert refused(client(url=url)) == f"client.url: wanted http(s)://host[:port]/path, got {url!r}"


def test_the_whole_address_of_completions_is_taken_too(server: Server, client: Ask) -> None:
    assert client(url=f"{server.url}/chat/completions").ask(prompts(1))[0].text


def test_a_key_that_is_missing_is_named(client: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    asking = client(Budget(calls=1), url="http://192.0.2.1/v1", key_variable="OPENROUTER_API_KEY")
    assert refused(asking) == (
        "no key for http://192.0.2.1/v1: the environment variable OPENROUTER_API_KEY is empty, "
        "and a key is read nowhere else; set it, or name another in client.key_variable (empty "
        "for a server that wants no key)"
    )


def test_a_key_with_a_line_break_inside_is_refused_and_not_repeated(
    server: Server, client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_CLIENT_KEY", "sk-secret-one\nsk-secret-two")
    sentence = refused(client())
    assert sentence == (
        "the key in the environment variable LATENTFLOW_CLIENT_KEY holds blanks or signs that no "
        "key has"
    )
    monkeypatch.setenv("LATENTFLOW_CLIENT_KEY", "sk-secret-one\n")
    client().ask(prompts(1))
    assert server.headers[0]["authorization"] == "Bearer sk-secret-one"


def test_a_key_that_the_server_does_not_take(
    server: Server, client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "another"
    assert refused(client()).endswith(
        "it does not take the key in the environment variable LATENTFLOW_CLIENT_KEY"
    )
    monkeypatch.delenv("LATENTFLOW_CLIENT_KEY")
    assert refused(client()).endswith(
        "it wants a key, and the environment variable LATENTFLOW_CLIENT_KEY is empty"
    )
    assert refused(client(key_variable="")).endswith(
        "it wants a key, and client.key_variable is empty"
    )
    server.key = None  # as some servers do, which show their list to everybody
    server.script = lambda sent, times: error(401, "no")
    with pytest.raises(ConfigError, match="it wants a key"):
        client().ask(prompts(9))
    assert len(server.sent) == 1


def test_a_model_that_is_not_served_is_told_what_is(server: Server, client: Ask) -> None:
    server.models = [{"id": "judge-1"}, {"id": "llama3:latest"}]
    url = server.url
    assert (
        refused(client(model="judge"))
        == f"{url} does not serve client.model='judge'; it serves judge-1, llama3:latest"
    )
    client(model="llama3").check()
    server.models = [{"id": f"vendor/model-{number}"} for number in range(300)]
    assert refused(client(model="model-29")).startswith(
        f"{url} does not serve client.model='model-29'; it serves 300 models, near to it: "
        "vendor/model-29, vendor/model-290"
    )
    assert server.sent == []


def test_a_model_that_only_the_first_question_finds_missing(server: Server, client: Ask) -> None:
    server.models = None
    server.script = lambda sent, times: error(404, "The model `judge-1` does not exist")
    with pytest.raises(ConfigError) as raised:
        client().ask(prompts(9))
    assert str(raised.value) == (
        f"{server.url} does not serve client.model='judge-1' (HTTP 404 ('The model `judge-1` does "
        "not exist')); ask its keeper what it serves"
    )
    assert len(server.sent) == 1


def test_an_address_at_which_nothing_lies(server: Server, client: Ask) -> None:
    server.models = None
    server.script = lambda sent, times: error(404, "Not Found")
    with pytest.raises(ConfigError) as raised:
        client().ask(prompts(3))
    assert str(raised.value) == (
        f"{server.url} answers HTTP 404 ('Not Found'); set client.url to its address up to "
        "/chat/completions, which ends in /v1 with most servers"
    )


def test_a_model_without_a_name(client: Ask, server: Server) -> None:
    assert (
        refused(client(model=""))
        == f"client.model is empty; wanted the name of a model that {server.url} serves"
    )


def test_a_prompt_that_is_longer_than_the_model_takes(server: Server, client: Ask) -> None:
    fits, long = prompt("word " * 3_000), prompt("word " * 8_000, label="explain a latent")
    asking = client()
    asking.check()
    with pytest.raises(ConfigError) as raised:
        asking.refuse_too_long([fits, long, prompt("word")], "explain")
    assert str(raised.value) == (
        "explain a latent: a prompt of at least 5,000 tokens and an answer of up to 50 do not fit "
        "the 4,096 tokens that the model judge-1 takes; show fewer or shorter windows or texts, or "
        "choose a model with a longer context"
    )
    asking.refuse_too_long([fits], "predict")
    # later on it is one request among many that are paid
    asking.refuse_too_long([long], "predict")
    assert (server.lists, server.sent) == (1, [])


def test_two_prices_for_one_model(client: Ask) -> None:
    assert refused(client(prices=[{"model": "judge-1"}, {"model": "judge-1"}])) == (
        "client.prices has 2 rows for 'judge-1'; wanted one"
    )


def test_a_cache_that_cannot_be_used(client: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(
        ConfigError,
        match=r"the cache of answers .*replies.sqlite cannot be used: .*set client.replies",
    ):
        client(replies=str(tmp_path / "file")).ask(prompts(1))
    (tmp_path / "replies").mkdir()
    (tmp_path / "replies" / "replies.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="cannot be used: file is not a database"):
        client().ask(prompts(1))
    with pytest.raises(ConfigError, match="cannot be used: file is not a database"):
        client(replay=True).ask(prompts(1))


def test_a_server_that_is_busy_at_first_is_waited_for(server: Server, client: Ask) -> None:
    asked: list[str] = []

    def script(sent: Any, times: int) -> Act:
        asked.append(prompt_of(sent))
        return answer("x") if len(asked) > 2 else error(503, "loading model")

    server.script = script
    assert client().ask(prompts(1))[0].text == "x"


def test_a_list_of_models_that_cannot_be_had_is_done_without(server: Server, client: Ask) -> None:
    for models in (None, [], [{"id": 3}], ["judge-1"], {"none": 1}):
        server.models = models
        client().check()
    server.list_status = 500
    client().check()
    assert server.lists == 6


def test_a_key_is_no_setting() -> None:
    assert not [name for name in EndpointConfig.model_fields if name in ("key", "api_key", "token")]
