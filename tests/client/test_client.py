"""A client of a server that does as it should: order, cache, counting, forecast, replay, what is
sent."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from components.client.client import Client
from components.client.contract import Request, Usage
from components.client.price import Price, Quotation
from components.errors import ConfigError
from components.store.stage import Progress
from components.store.tables import CALLS
from tests.client.conftest import KEY, Ask, prompt, prompts
from tests.client.servers import Act, Server, answer, echo, prompt_of


def test_replies_come_in_the_order_of_the_requests(server: Server, client: Ask) -> None:
    def later_ones_sooner(sent, times):  # type: ignore[no-untyped-def]
        number = int(prompt_of(sent).split()[1])
        return dataclasses.replace(echo(sent), silence=0.02 * (12 - number))

    server.script = later_ones_sooner
    replies = client(concurrency=4).ask(prompts(12))
    assert [reply.text for reply in replies] == [
        f"answer to question {number}" for number in range(12)
    ]
    assert server.most_at_once == 4


def test_a_request_is_paid_once_and_its_cost_is_the_servers_own_count(
    server: Server, client: Ask
) -> None:
    first, again = client(), client()
    replies = first.ask([*prompts(5), *prompts(3)])
    more = first.ask(prompts(6))
    assert [reply.cached for reply in replies] == [False] * 5 + [True] * 3
    assert [reply.cached for reply in more] == [True] * 5 + [False]
    assert set(server.paid.values()) == {1}
    assert (
        first.account.usd
        == pytest.approx(server.usd)
        == pytest.approx(sum(r.cost or 0 for r in [*replies, *more]))
    )
    assert replies[0].usage == Usage(input=10, cached=5, reasoning=3, output=7)
    assert replies[0].cost == pytest.approx((10 * 2 + 5 * 0.5 + 3 * 10 + 7 * 8) / 1e6)
    assert again.ask(prompts(6)) == [
        dataclasses.replace(r, cached=True) for r in [*replies[:5], more[5]]
    ]
    assert again.account.usd == pytest.approx(server.usd)
    assert again.account.paid == 0 and again.account.asked == 0
    assert len(server.sent) == 6


def test_another_replicate_is_another_request(server: Server, client: Ask) -> None:
    asked = [prompt("why", temperature=1.0, replicate=number) for number in range(3)]
    client().ask(asked)
    assert len(server.sent) == 3
    assert len({sent["seed"] for sent in server.sent}) == 3
    client().ask(asked)
    assert len(server.sent) == 3


@pytest.mark.parametrize("change", [{"max_tokens": 51}, {"temperature": 0.5}, {"logprobs": 2}])
def test_whatever_decides_the_answer_is_in_the_key(
    server: Server, client: Ask, change: dict
) -> None:
    client().ask([prompt("why"), prompt("why", **change)])
    assert len(server.sent) == 2


def test_another_model_address_or_setting_of_the_server_is_another_question(
    server: Server, client: Ask
) -> None:
    server.models = [{"id": "judge-1"}, {"id": "judge-2"}]
    client().ask([prompt("why", label="one")])
    client().ask([prompt("why", label="another label is no other question")])
    assert len(server.sent) == 1
    client(model="judge-2").ask([prompt("why")])
    client(extra={"reasoning_effort": "low"}).ask([prompt("why")])
    client(url=server.url.replace("127.0.0.1", "localhost")).ask([prompt("why")])
    assert len(server.sent) == 4
    assert server.sent[2]["reasoning_effort"] == "low"


def test_what_a_run_would_cost_is_said_before_it(server: Server, client: Ask) -> None:
    client().ask(prompts(2))
    quotation = client().quote(prompts(10))
    tokens = sum(each.input_tokens for each in prompts(10)[2:])
    assert (quotation.calls, quotation.cached, quotation.input_tokens, quotation.output_tokens) == (
        8,
        2,
        tokens,
        400,
    )
    assert quotation.usd == pytest.approx((tokens * 2 + 400 * 10) / 1e6)
    assert quotation.needs_leave is None
    assert len(server.sent) == 2


def test_leave_is_needed_above_five_dollars_and_ten_thousand_calls() -> None:
    dear = Quotation(1, 0, 1, 1, 5.01)
    assert (
        dear.needs_leave
        == "this may cost 5.01 USD, more than 5; say --yes (execution.confirmed=true) to go on"
    )
    many = Quotation(10_001, 0, 1, 1, None)
    assert (
        many.needs_leave
        == "this makes 10,001 calls, more than 10,000; say --yes (execution.confirmed=true) to go on"
    )
    assert Quotation(10_000, 99_999, 1, 1, 5.0).needs_leave is None


def test_absent_prices_of_cached_and_reasoning_tokens_are_those_of_input_and_output() -> None:
    assert Price(input=1, output=2).of(Usage(1, 10, 100, 1000)) == pytest.approx(
        (1 + 10 + 200 + 2000) / 1e6
    )


def test_a_colleague_replays_a_run_without_server_or_key(
    server: Server, client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = client().ask(prompts(3))
    monkeypatch.delenv("LATENTFLOW_CLIENT_KEY")
    server.script = lambda sent, times: pytest.fail("asked")
    lists = server.lists
    colleague = client(replay=True)
    colleague.check()
    replies = colleague.ask(prompts(4))
    assert [reply.text for reply in replies[:3]] == [reply.text for reply in told]
    assert replies[3].reason == "not asked: client.replay is on, and the cache has no answer to it"
    assert replies[3].again
    assert server.lists == lists


def test_a_replay_of_nothing_makes_no_file(client: Ask, tmp_path: Path) -> None:
    assert client(replay=True).ask(prompts(1))[0].text is None
    assert not (tmp_path / "replies").exists()


def test_an_answer_is_in_the_cache_before_it_is_used(
    server: Server, client: Ask, tmp_path: Path
) -> None:
    asking = client(concurrency=1).asking(prompts(5))
    for done in range(1, 6):
        assert next(asking).done == done
        with sqlite3.connect(tmp_path / "replies" / "replies.sqlite") as cache:
            assert cache.execute("SELECT count(*) FROM replies").fetchone()[0] >= done
        cache.close()
    asking.close()


def test_progress_is_told_and_closing_it_ends_what_is_on_its_way(
    server: Server, client: Ask
) -> None:
    hang = threading.Event()

    def script(sent, times):  # type: ignore[no-untyped-def]
        if prompt_of(sent) > "question 2":
            hang.wait(10)
        return echo(sent)

    server.script = script
    asking = client(concurrency=2).asking(prompts(9))
    told = [next(asking) for _ in range(3)]
    assert [progress.done for progress in told] == [1, 2, 3]
    assert isinstance(told[0], Progress) and (told[0].total, told[0].unit) == (9, "answers")
    assert told[2].metrics["usd"] == pytest.approx(3 * client().ask(prompts(1))[0].cost)
    asking.close()
    hang.set()
    assert not [thread for thread in threading.enumerate() if thread.name == "asks a client"]
    assert len(server.sent) <= 5


def test_it_works_inside_a_running_event_loop(client: Ask) -> None:
    async def inside() -> list:
        return client().ask(prompts(2))

    assert [reply.text for reply in asyncio.run(inside())] == [
        "answer to question 0",
        "answer to question 1",
    ]


def test_two_threads_may_share_a_client(server: Server, client: Ask) -> None:
    shared, replies = client(), {}
    threads = [
        threading.Thread(target=lambda n=n: replies.update({n: shared.ask(prompts(8)[n : n + 4])}))
        for n in (0, 2, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.text for reply in replies[2]] == [
        f"answer to question {number}" for number in range(2, 6)
    ]
    assert set(server.paid.values()) == {1}
    assert shared.account.usd == pytest.approx(server.usd)


def test_what_another_run_pays_for_meanwhile_is_not_paid_again(server: Server, client: Ask) -> None:
    def script(sent, times):  # type: ignore[no-untyped-def]
        if prompt_of(sent) == "question 0":
            client().ask(prompts(5)[1:])
        return echo(sent)

    server.script = script
    replies = client(concurrency=2).ask(prompts(5))
    assert [reply.cached for reply in replies] == [False, True, True, True, True]
    assert set(server.paid.values()) == {1}


def test_models_that_mix_are_told_of(
    server: Server, client: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    def script(sent, times):  # type: ignore[no-untyped-def]
        return answer("yes", fingerprint="fp_b" if prompt_of(sent) > "question 2" else "fp_a")

    server.script = script
    asking = client(concurrency=1)
    replies = asking.ask(prompts(5))
    assert [reply.fingerprint for reply in replies] == ["fp_a", "fp_a", "fp_a", "fp_b", "fp_b"]
    assert [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ] == ["answers of different models mix: judge-1 (fp_a), and now judge-1 (fp_b)"]
    assert asking.account.served == {"judge-1 (fp_a)": 3, "judge-1 (fp_b)": 2}


def test_a_sample_of_calls_is_kept_whole_the_same_one_after_an_interruption(
    server: Server, client: Ask
) -> None:
    whole = client(sample=7)
    whole.ask(prompts(30))
    interrupted = client(sample=7)
    for start in (20, 0, 10):
        interrupted.ask(prompts(30)[start : start + 10])
    frame = CALLS.frame(whole.account.rows())
    assert frame.height == 7
    assert frame.equals(CALLS.frame(interrupted.account.rows()))
    row = frame.row(0, named=True)
    assert row["prompt"].startswith("[system]\nAnswer.\n\n[user]\nquestion ")
    assert row["answer"] == "answer to question " + row["prompt"].split()[-1]
    assert (
        row["input_tokens"],
        row["cached_tokens"],
        row["reasoning_tokens"],
        row["output_tokens"],
    ) == (10, 5, 3, 7)
    assert row["usd"] == pytest.approx(server.usd / 30)
    assert client(sample=0).account.rows() == []


def test_half_of_the_sample_is_for_what_is_sampled_first(server: Server, client: Ask) -> None:
    asked = prompts(60)
    asked[::20] = [dataclasses.replace(each, is_sampled_first=True) for each in asked[::20]]
    first = {each.text for each in asked[::20]}

    def kept(sample: int, requests: Sequence[Request]) -> list[str]:
        asking = client(sample=sample)
        asking.ask(requests)
        return [row["prompt"] for row in asking.account.rows()]

    # three of sixty: all of them where they are no more than half
    assert first < {*kept(6, asked)} and len(kept(6, asked)) == 6
    assert len(first & {*kept(4, asked)}) == 2 and len(kept(4, asked)) == 4
    # and more where there are not enough others
    assert first < {*kept(5, asked[:3] + asked[20::20])}
    assert kept(6, asked) == kept(6, asked[::-1])


def test_the_key_is_in_no_file_no_log_and_no_answer(
    server: Server, client: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.key = KEY

    def repeats_the_key(sent, times):  # type: ignore[no-untyped-def]
        key = server.headers[-1]["authorization"]
        bodies = {
            "question 0": echo(sent),
            "question 1": answer(f"you sent {key}"),
            "question 2": Act(f"<html>{key}</html>".encode()),
            "question 3": Act(f'{{"error": {{"message": "no {key}"}}}}'.encode(), 422),
        }
        return bodies[prompt_of(sent)]

    server.script = repeats_the_key
    caplog.set_level(logging.DEBUG)
    asking = client(concurrency=1)
    replies = asking.ask(prompts(4))
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"  # it was sent, and came back
    assert replies[1].text == "you sent Bearer <key>"
    assert [bool(reply.reason) for reply in replies] == [False, False, True, True]
    server.key = "another"
    with pytest.raises(ConfigError) as refused:
        client().ask(prompts(5))
    everything = [
        str(replies),
        str(asking.account.rows()),
        str(asking.account.facts()),
        str(refused.value),
    ]
    everything += [
        record.getMessage() + str(record.args) + str(record.exc_text) for record in caplog.records
    ]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and len(caplog.records) > 4
    assert not [text for text in everything if KEY in text]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_only_what_a_request_needs_is_sent(
    server: Server, client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-elsewhere")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-elsewhere")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "X-Other-Secret: elsewhere\nAuthorization: Bearer elsewhere"
    )
    monkeypatch.setenv("OPENAI_API_KEY", "elsewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    client().ask(prompts(1))
    monkeypatch.delenv("LATENTFLOW_CLIENT_KEY")
    client().ask(prompts(2))
    with_key, without = server.headers
    names = set(with_key)
    assert names <= {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
                     "authorization"}  # fmt: skip
    assert "elsewhere" not in str(server.headers)
    assert with_key["authorization"] == f"Bearer {KEY}" and "authorization" not in without
    assert server.sent[0] == {
        "model": "judge-1",
        "messages": [
            {"role": "system", "content": "Answer."},
            {"role": "user", "content": "question 0"},
        ],
        "max_tokens": 50,
        "temperature": 0.0,
    }


def test_nobody_answers_nothing_and_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nobody = Client()
    nobody.check()
    assert not nobody.is_set and not nobody.leaves
    replies = nobody.ask(prompts(20))
    assert {reply.reason for reply in replies} == {
        "not asked: client.kind is none; set it to endpoint or local"
    }
    assert list(tmp_path.iterdir()) == []
    assert nobody.account.facts()["failures"] == {"not asked": 20}
