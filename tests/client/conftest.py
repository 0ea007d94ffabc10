"""A scripted server, and clients of it that wait as little as may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.client.client import Client
from components.client.clients.endpoint import EndpointConfig
from components.client.contract import Message, Request
from components.client.price import Budget, Price, Purse
from tests.client.servers import PRICE, Server, serving

KEY = "sk-a-secret-that-nobody-may-read"
Ask = Callable[..., Client]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def client(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Makes clients of the server, each as a new run would: `client(budget=..., attempts=...)`."""
    monkeypatch.setenv("LATENTFLOW_CLIENT_KEY", KEY)

    def make(budget: Budget | Purse | None = None, **changes: Any) -> Client:
        settings = {
            "url": server.url,
            "model": "judge-1",
            "replies": str(tmp_path / "replies"),
            "wait": 0.01,
            "seconds": 20.0,
            "prices": [Price(model="judge-1", **PRICE)],
        }
        return Client(EndpointConfig(**settings | changes), budget)

    return make


def prompt(text: str, **changes: Any) -> Request:
    return Request(
        [Message("system", "Answer."), Message("user", text)],
        changes.pop("max_tokens", 50),
        **changes,
    )


def prompts(n: int, **changes: Any) -> list[Request]:
    return [prompt(f"question {number}", **changes) for number in range(n)]
