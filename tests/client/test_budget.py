"""A budget: nothing leaves before it is set, it is never passed, and where it ends the rest is
missing, with the reason."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import pytest

from components.client.client import Client
from components.client.clients.endpoint import Endpoint, EndpointConfig
from components.client.price import Budget, Purse
from components.errors import ConfigError
from tests.client.conftest import Ask, prompt, prompts
from tests.client.servers import Act, Server, answer, echo, error, prompt_of

AWAY = "http://192.0.2.1/v1"  # of a block of addresses that nobody has


def test_nothing_leaves_this_machine_before_a_budget_is_set(
    server: Server, client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endpoint, "leaves", True)  # as if the server were elsewhere
    sentence = "budget is not set, and before it is, nothing leaves this machine: set budget.usd or budget.calls"
    for asked in (lambda: client().ask(prompts(3)), client().check):
        with pytest.raises(ConfigError) as refused:
            asked()
        assert str(refused.value) == sentence
    assert server.lists == 0 and server.sent == []
    assert client(Budget(calls=3)).ask(prompts(3))[0].text


@pytest.mark.parametrize(
    ("url", "leaves"),
    [
        ("http://127.0.0.1:1/v1", False),
        ("http://127.8.8.8/v1", False),
        ("http://localhost:11434/v1", False),
        ("http://[::1]:8000", False),
        ("http://10.0.0.1/v1", True),
        ("https://localhost.example.org/v1", True),
        ("https://openrouter.ai/api/v1", True),
    ],
)
def test_loopback_is_this_machine(url: str, leaves: bool) -> None:
    assert Client(EndpointConfig(url=url, model="m")).leaves is leaves


def test_a_budget_of_calls_leaves_the_first_ones(server: Server, client: Ask) -> None:
    asking = client(Budget(calls=4), concurrency=3)
    replies = asking.ask(prompts(7))
    assert [bool(reply.text) for reply in replies] == [True] * 4 + [False] * 3
    assert {reply.reason for reply in replies[4:]} == {"not asked: the budget of 4 calls is spent"}
    assert all(reply.again for reply in replies[4:])
    assert asking.ask([prompt("one more")])[0].reason == replies[4].reason
    assert asking.account.facts()["failures"] == {"not asked": 4}
    assert len(server.sent) == 4


def test_what_was_closed_early_leaves_its_room_in_the_purse(server: Server, client: Ask) -> None:
    hang = threading.Event()

    def script(sent: Any, times: int) -> Act:
        if prompt_of(sent) > "question 0" and times == 0:
            hang.wait(20)
            return dataclasses.replace(echo(sent), paid=False)
        return echo(sent)

    server.script = script
    asker = client(Budget(calls=4), concurrency=3)
    asking = asker.asking(prompts(4))
    next(asking)
    while len(server.sent) < 4:
        time.sleep(0.02)
    asking.close()
    hang.set()
    assert [bool(reply.text) for reply in asker.ask(prompts(5))] == [True] * 4 + [False]


def test_two_clients_may_share_a_purse(server: Server, client: Ask) -> None:
    purse = Purse(Budget(calls=5))
    explains, judges = client(purse), client(purse)
    assert all(reply.text for reply in explains.ask(prompts(3)))
    assert [bool(reply.text) for reply in judges.ask(prompts(6)[3:])] == [True, True, False]
    assert purse.calls == 5


def test_a_run_that_starts_again_stops_at_the_same_place(server: Server, client: Ask) -> None:
    first = client(Budget(calls=4)).ask(prompts(7))
    again = client(Budget(calls=4)).ask(prompts(7))
    assert [reply.reason for reply in again] == [reply.reason for reply in first]
    assert len(server.sent) == 4
    assert sum(bool(reply.text) for reply in client(Budget(calls=5)).ask(prompts(7))) == 5
    assert len(server.sent) == 5


@pytest.mark.parametrize("concurrency", [1, 5])
def test_a_budget_of_money_is_never_passed_and_ends_at_one_place(
    server: Server, client: Ask, concurrency: int
) -> None:
    server.script = lambda sent, times: answer(
        "x", (40, 0, 0, 10 + 5 * (int(prompt_of(sent).split()[1]) % 4))
    )
    request = prompts(1)[0]
    most = (request.most_input_tokens * 2 + 50 * 10) / 1e6
    budget = Budget(usd=10 * most)
    asking = client(budget, concurrency=concurrency)
    replies = asking.ask(prompts(40))
    answered = [bool(reply.text) for reply in replies]
    n = answered.index(False)
    assert 15 < n < 40 and not any(answered[n:])  # 10 would fit if each cost the most it can
    assert asking.account.usd == pytest.approx(server.usd)
    assert budget.usd is not None and server.usd <= budget.usd < server.usd + 1.2 * most
    assert (replies[n].reason or "").startswith("not asked: the budget of ")
    assert "and the next call may cost more than is left" in (replies[n].reason or "")
    # the same n whichever answers came first
    costs = [(40 * 2 + 8 * (10 + 5 * (number % 4))) / 1e6 for number in range(40)]
    assert n == next(i for i in range(40) if sum(costs[:i]) + most > budget.usd)


def test_what_came_to_nothing_is_not_charged(server: Server, client: Ask) -> None:
    def script(sent: Any, times: int) -> Act:
        return error(422, "no") if prompt_of(sent) in ("question 1", "question 2") else echo(sent)

    server.script = script
    replies = client(Budget(calls=3), concurrency=1).ask(prompts(6))
    assert [bool(reply.text) for reply in replies] == [True, False, False, True, True, False]
    assert sum(server.paid.values()) == 3


def test_money_needs_a_price(client: Ask) -> None:
    with pytest.raises(ConfigError) as refused:
        client(Budget(usd=1), url=AWAY, prices=[]).check()
    assert str(refused.value) == (
        "budget.usd needs the price of the model 'judge-1', and client.prices does not have it: "
        "add [{model: judge-1, input: <USD for a million tokens>, output: ...}], or set "
        "budget.calls instead"
    )


def test_a_server_on_this_machine_is_free_unless_it_has_a_price(
    server: Server, client: Ask
) -> None:
    free = client(Budget(usd=1e-9), prices=[])
    assert all(reply.text and reply.cost == 0 for reply in free.ask(prompts(3)))


def test_without_a_price_cost_is_not_known_rather_than_nothing(
    server: Server, client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endpoint, "leaves", True)  # as if the server were elsewhere
    asking = client(Budget(calls=9), prices=[])
    assert [reply.cost for reply in asking.ask(prompts(2))] == [None, None]
    assert asking.account.facts()["usd"] is None and asking.quote(prompts(3)).usd is None


@pytest.mark.parametrize("budget", [{"usd": 0}, {"calls": 0}, {"usd": -1}])
def test_a_budget_of_nothing_is_refused(budget: dict[str, Any]) -> None:
    from components.config import load

    name = next(iter(budget))
    with pytest.raises(ConfigError, match=f"{name}: Input should be greater than"):
        load(Budget, budget)
