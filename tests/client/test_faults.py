"""Every fault of a server: the result is complete, each failure has its reason, nothing is paid
twice, nothing raises."""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import itertools
import json
import logging
import time
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from components.client.pace import Pace
from components.client.reading import graded
from components.errors import ConfigError
from tests.client.conftest import KEY, Ask, prompt, prompts
from tests.client.servers import Act, Server, answer, echo, error, prompt_of

LONG = json.dumps(
    {
        "error": {
            "message": "This model's maximum context length is 4096 tokens",
            "code": "context_length_exceeded",
        }
    }
)


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    verdict: Literal["yes", "no"]
    share: float


PAID = {
    "garbage": (Act(b"\xff\x00 garbage", paid=True), "unreadable", "wanted JSON, got "),
    "a page": (
        Act(b"<html>Welcome</html>", paid=True),
        "unreadable",
        "wanted JSON, got '<html>Welcome</html>'",
    ),
    "half an answer": (
        dataclasses.replace(answer("half", (0, 0, 0, 0)), cut=True),
        "unreadable",
        "the connection ended within it (RemoteProtocolError",
    ),
    "no choices": (
        Act(b'{"choices": []}', paid=True),
        "unreadable",
        "wanted choices with a message, got",
    ),
    "a list": (Act(b"[1, 2]", paid=True), "unreadable", "wanted choices with a message"),
    "a message that is text": (
        Act(b'{"choices": [{"message": "x"}]}', paid=True),
        "unreadable",
        "wanted choices",
    ),
    "no text": (answer(None), "empty", "the answer has no text"),
    "blanks": (answer("  \n "), "empty", "the answer has no text"),
    "only thoughts": (answer("<think>hm</think>"), "empty", "the answer has no text"),
    "a refusal": (answer(None, message={"refusal": "I will not."}), "refused", "'I will not.'"),
    "a filter": (
        answer("I", finish_reason="content_filter"),
        "refused",
        "the server's filter withheld the answer",
    ),
    "cut": (
        answer("and then", finish_reason="length"),
        "cut",
        "the answer was not at its end after max_tokens=50",
    ),
    "broken off": (answer("and", finish_reason="error"), "unreadable", "the server broke off"),
}


@pytest.mark.parametrize("name", PAID)
def test_an_answer_that_is_none_is_a_reason_and_is_not_paid_again(
    server: Server, client: Ask, name: str
) -> None:
    act, kind, detail = PAID[name]
    server.script = lambda sent, times: act if prompt_of(sent) == "question 2" else echo(sent)
    asking = client(concurrency=2)
    replies = asking.ask(prompts(5))
    assert [reply.text is None for reply in replies] == [False, False, True, False, False]
    assert replies[2].reason is not None and replies[2].reason.startswith(f"{kind}: {detail}")
    assert not replies[2].again
    assert asking.account.facts()["failures"] == {kind: 1}
    rerun = client()
    assert [reply.reason for reply in rerun.ask(prompts(5))] == [reply.reason for reply in replies]
    assert len(server.sent) == 5 and server.paid["question 2"] == 1
    if any(act.tokens):
        assert asking.account.usd == rerun.account.usd == pytest.approx(server.usd)
    elif kind == "unreadable":
        # the server did not say what it cost, so the length of the prompt says it
        assert replies[2].usage.estimated and replies[2].usage.input > 0


def test_thoughts_before_an_answer_are_not_the_answer(server: Server, client: Ask) -> None:
    server.script = lambda sent, times: answer("<think>Is it?\nIt is.</think>\n\n a cat ")
    assert client().ask(prompts(1))[0].text == "a cat"


def test_a_storm_of_429_is_waited_for_as_long_as_the_server_asks(
    server: Server, client: Ask
) -> None:
    def storm(sent: Any, times: int) -> Act:
        return error(429, "slow down", retry_after="0.2") if times < 2 else echo(sent)

    server.script = storm
    asking = client(concurrency=4)
    replies = asking.ask(prompts(3))
    assert all(reply.text for reply in replies)
    assert len(server.sent) == 9 and set(server.paid.values()) == {1}
    assert asking.account.usd == pytest.approx(server.usd)
    first = [
        time
        for time, text in zip(server.times, server.prompts, strict=True)
        if text == "question 0"
    ]
    assert min(later - earlier for earlier, later in itertools.pairwise(first)) > 0.19


def test_a_limit_that_nobody_has_set_is_found(server: Server, client: Ask) -> None:
    taken: list[float] = []

    def script(sent: Any, times: int) -> Act:
        with server.lock:
            now = time.monotonic()
            if taken and now < taken[-1] + 0.1:
                return error(429, "ten a second", retry_after_ms="50")
            taken.append(now)
        return echo(sent)

    server.script = script
    replies = client(concurrency=8, attempts=1).ask(prompts(24))
    assert [reply.reason for reply in replies] == [None] * 24
    assert set(server.paid.values()) == {1}


def test_a_server_that_never_lets_anybody_in_is_given_up(server: Server, client: Ask) -> None:
    server.script = lambda sent, times: error(429, "no", retry_after="0.2")
    replies = client(longest_wait=0.5).ask(prompts(9))
    assert (
        replies[0].reason
        == f"no answer: {server.url} answers HTTP 429 ('no') (waited 0.6 s in all)"
    )
    assert (replies[2].reason or "").startswith(
        "not asked: asking has stopped (2 requests in a row): no answer: "
    )
    assert len(server.sent) == 6


def test_a_pause_may_be_asked_for_as_a_date(server: Server, client: Ask) -> None:
    at = email.utils.formatdate(time.time() + 2, usegmt=True)
    server.script = lambda sent, times: (
        error(503, "later", retry_after=at) if times == 0 else echo(sent)
    )
    assert client().ask(prompts(1))[0].text
    assert server.times[1] - server.times[0] > 0.9  # dates have whole seconds


def test_a_pause_that_is_too_long_ends_the_asking(server: Server, client: Ask) -> None:
    def script(sent: Any, times: int) -> Act:
        return (
            error(429, "tomorrow", retry_after="86400")
            if prompt_of(sent) == "question 1"
            else echo(sent)
        )

    server.script = script
    replies = client(concurrency=1).ask(prompts(4))
    assert replies[0].text
    assert "it wants a pause of 86,400 s, longer than client.longest_wait" in (
        replies[1].reason or ""
    )
    assert (replies[2].reason or "").startswith("not asked: asking has stopped: no answer: ")
    assert len(server.sent) == 2


def test_errors_of_the_server_are_tried_again(server: Server, client: Ask) -> None:
    def script(sent: Any, times: int) -> Act:
        broken = (
            error(500, "oops")
            if times == 0
            else Act(b'{"error": {"message": "upstream", "code": 502}}')
        )
        return echo(sent) if times == 2 else broken

    server.script = script
    asking = client()
    assert all(reply.text for reply in asking.ask(prompts(4)))
    assert len(server.sent) == 12 and asking.account.usd == pytest.approx(server.usd)


def test_a_server_that_only_fails_is_left_alone_after_a_while(server: Server, client: Ask) -> None:
    server.script = lambda sent, times: (
        echo(sent) if prompt_of(sent) == "question 0" else error(500, "oops")
    )
    asking = client(attempts=2, concurrency=2)
    replies = asking.ask(prompts(30))
    url = server.url
    assert replies[0].text and not any(reply.text for reply in replies[1:])
    assert replies[1].reason == f"no answer: {url} answers HTTP 500 ('oops') (sent 2 times)"
    assert (replies[29].reason or "").startswith(
        "not asked: asking has stopped (8 requests in a row): no answer: "
    )
    assert all(reply.again for reply in replies[1:])
    failures = asking.account.facts()["failures"]
    assert failures["no answer"] + failures["not asked"] == 29 and 8 <= failures["no answer"] <= 10
    server.script = lambda sent, times: echo(sent)
    assert all(reply.text for reply in client().ask(prompts(30)))
    assert set(server.paid.values()) == {1}


FILTERED = json.dumps(
    {
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy. Please modify your prompt and retry.",
            "code": "content_filter",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    }
)


@pytest.mark.parametrize("status", [400, 403])
def test_prompts_that_are_refused_in_a_row_are_reasons_for_themselves_alone(
    server: Server, client: Ask, status: int
) -> None:
    refused = {f"question {number}" for number in range(3, 33)}
    server.script = lambda sent, times: (
        Act(FILTERED.encode(), status) if prompt_of(sent) in refused else echo(sent)
    )
    replies = client(concurrency=2).ask(prompts(40))
    assert [number for number, reply in enumerate(replies) if reply.text is None] == list(
        range(3, 33)
    )
    assert all(
        (reply.reason or "").startswith(
            f'not taken: {server.url} answers HTTP {status} ("The response was filtered'
        )
        for reply in replies[3:33]
    )
    assert len(server.sent) == 40


def test_a_server_that_takes_no_prompt_at_all_is_left_alone(server: Server, client: Ask) -> None:
    server.script = lambda sent, times: error(400, "no prompt is good enough")
    replies = client().ask(prompts(12))
    assert (replies[11].reason or "").startswith(
        "not asked: asking has stopped (8 requests in a row): not taken: "
    )
    assert len(server.sent) == 8


def test_a_server_that_hangs_or_drips_is_given_up_in_time(server: Server, client: Ask) -> None:
    def script(sent: Any, times: int) -> Act:
        slow = {"question 1": {"silence": 99.0}, "question 2": {"drip": 0.3}}.get(
            prompt_of(sent), {}
        )
        return dataclasses.replace(echo(sent), **slow, paid=not slow)

    server.script = script
    started = time.monotonic()
    asking = client(seconds=2, attempts=2)
    replies = asking.ask(prompts(4))
    assert time.monotonic() - started < 60
    assert [reply.text is None for reply in replies] == [False, True, True, False]
    late = f"no answer: {server.url} gave no whole answer within 2 s"
    assert replies[1].reason == f"{late}; start the server there, or set client.url (sent 2 times)"
    assert replies[2].reason == f"{late}; it had begun; raise client.seconds"
    assert server.prompts.count("question 2") == 1  # it may have been paid
    assert replies[1].again and replies[2].again
    assert asking.account.usd == pytest.approx(server.usd)


def test_a_server_that_goes_away_in_the_middle(server: Server, client: Ask) -> None:
    class Gone(Exception): ...

    def script(sent: Any, times: int) -> Act:
        return Act(b"", 200, cut=True) if prompt_of(sent) > "question 1" else echo(sent)

    server.script = script
    replies = client(concurrency=1).ask(prompts(3))
    assert [bool(reply.text) for reply in replies] == [True, True, False]


def test_a_key_that_expires_ends_the_asking_with_a_sentence(
    server: Server, client: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = lambda sent, times: (
        echo(sent) if prompt_of(sent) < "question 3" else error(401, f"expired: {KEY}")
    )
    asking = client(concurrency=1)
    replies = asking.ask(prompts(9))
    sentence = (
        f"no answer: {server.url} answers HTTP 401 ('expired: <key>'); it does not take the key "
        "in the environment variable LATENTFLOW_CLIENT_KEY"
    )
    assert [bool(reply.text) for reply in replies] == [True] * 3 + [False] * 6
    assert replies[3].reason == sentence
    assert {reply.reason for reply in replies[4:]} == {f"not asked: asking has stopped: {sentence}"}
    assert len(server.sent) == 4
    assert asking.ask(prompts(10))[9].reason == replies[4].reason
    assert [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ] == [f"client: asking has stopped: {sentence}"]


def test_credit_that_ends_stops_the_asking(server: Server, client: Ask) -> None:
    spent = error(
        429, "You exceeded your current quota, please check your plan and billing details"
    )
    server.script = lambda sent, times: echo(sent) if prompt_of(sent) == "question 0" else spent
    replies = client(concurrency=1).ask(prompts(3))
    assert (replies[1].reason or "").endswith("there is no credit left with it")
    assert len(server.sent) == 2


OPENAI_LIMIT = json.dumps(
    {
        "error": {
            "message": "Rate limit reached for judge-1 in organization org-x on tokens per min (TPM): "
            "Limit 10000, Used 9990, Requested 54. Please try again in 264ms. You can increase your "
            "rate limit by adding a payment method to your account at "
            "https://platform.openai.com/account/billing.",
            "type": "tokens",
            "code": "rate_limit_exceeded",
        }
    }
)
GEMINI_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more "
    "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)


def gemini(*per: str, delay: str | None = "0.2s") -> bytes:
    """The body with which Gemini says which of its quotas are used up: a list of one error."""
    violations = [{"quotaId": f"GenerateRequests{p}PerProjectPerModel-FreeTier"} for p in per]
    details: list[dict[str, Any]] = [{"violations": violations}] if per else []
    details += [{"retryDelay": delay}] if delay else []
    told = {"code": 429, "message": GEMINI_QUOTA, "details": details}
    return json.dumps([{"error": told}]).encode()


LIMITS = {
    "OpenAI": Act(OPENAI_LIMIT.encode(), 429),
    "OpenAI's message alone": error(429, json.loads(OPENAI_LIMIT)["error"]["message"]),
    "Groq": error(
        429,
        "Rate limit reached for model `judge-1`. Need more tokens? Upgrade to Dev Tier today at "
        "https://console.groq.com/settings/billing",
    ),
    "Gemini": Act(gemini("PerMinute"), 429),
    "Gemini without details": Act(
        json.dumps({"error": {"message": f"{GEMINI_QUOTA}\nPlease retry in 0.2s."}}).encode(), 429
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_so_many_a_minute_is_waited_for_whatever_it_says_of_billing(
    server: Server, client: Ask, name: str
) -> None:
    server.script = lambda sent, times: LIMITS[name] if times == 0 else echo(sent)
    asking = client(concurrency=1)
    assert [reply.reason for reply in asking.ask(prompts(3))] == [None] * 3
    assert len(server.sent) == 6
    if name.startswith("Gemini"):  # it says in the body for how long, and nowhere else
        pairs = [server.times[n + 1] - server.times[n] for n in (0, 2, 4)]
        assert min(pairs) > 0.19


NO_CREDIT = {
    "OpenAI": (
        429,
        '{"error": {"message": "You exceeded your current quota, please check your plan and '
        'billing details.", "code": "insufficient_quota"}}',
    ),
    "OpenAI, hard limit": (400, '{"error": {"code": "billing_hard_limit_reached"}}'),
    "OpenAI, not active": (
        429,
        '{"error": {"message": "Your account is not active, please check your billing details on '
        'our website.", "code": "billing_not_active"}}',
    ),
    "Anthropic": (
        400,
        '{"error": {"message": "Your credit balance is too low to access the Anthropic API. '
        'Please go to Plans & Billing to upgrade or purchase credits."}}',
    ),
    "Moonshot": (429, '{"error": {"type": "exceeded_current_quota_error", "message": "no"}}'),
    "Gemini, a day's": (429, gemini("PerMinute", "PerDay").decode()),
    "Gemini, no free use": (
        429,
        json.dumps(
            {"error": {"message": f"{GEMINI_QUOTA} limit: 0, model: judge-1\nPlease retry in 1s."}}
        ),
    ),
    "any": (402, '{"error": {"message": "Insufficient Balance"}}'),
}


@pytest.mark.parametrize("name", NO_CREDIT)
def test_credit_that_is_not_there_is_said_at_the_first_request(
    server: Server, client: Ask, name: str
) -> None:
    status, body = NO_CREDIT[name]
    server.script = lambda sent, times: Act(body.encode(), status)
    with pytest.raises(ConfigError, match="there is no credit left with it"):
        client(longest_wait=1).ask(prompts(3))
    assert len(server.sent) == 1


def test_a_prompt_that_is_too_long_is_a_reason_for_that_prompt_alone(
    server: Server, client: Ask
) -> None:
    def script(sent: Any, times: int) -> Act:
        return Act(LONG.encode(), 400) if prompt_of(sent) == "question 1" else echo(sent)

    server.script = script
    replies = client().ask(prompts(3))
    assert [bool(reply.text) for reply in replies] == [True, False, True]
    assert replies[1].reason == (
        f'not taken: {server.url} answers HTTP 400 ("This model\'s maximum context length is 4096 tokens"); the prompt and '
        "its answer are longer than the model takes; show fewer or shorter windows"
    )


def test_answers_are_read_by_their_schema(server: Server, client: Ask) -> None:
    bodies = {
        "question 0": '{"verdict": "yes", "share": 0.25}',
        "question 1": '```json\n{"verdict": "no", "share": 1}\n```',
        "question 2": 'Sure! {"verdict": "no", "share": 1}',
        "question 3": '{"verdict": "maybe", "share": 1}',
        "question 4": '{"verdict": "no", "share": 1',
        "question 5": '{"verdict": "no", "share": 1, "more": 2}',
    }
    server.script = lambda sent, times: answer(bodies[prompt_of(sent)])
    replies = client().ask(prompts(6, schema=Verdict))
    assert [reply.value for reply in replies[:2]] == [
        Verdict(verdict="yes", share=0.25),
        Verdict(verdict="no", share=1),
    ]
    assert [reply.text is None and reply.value is None for reply in replies[2:]] == [True] * 4
    assert replies[3].reason == (
        "not as asked: wanted JSON of Verdict and nothing else (verdict: Input should be 'yes' or "
        "'no'), got "
        '\'{"verdict": "maybe", "share": 1}\''
    )
    sent = server.sent[0]["response_format"]
    assert (
        sent["type"] == "json_schema"
        and sent["json_schema"]["schema"] == Verdict.model_json_schema()
    )


REFUSALS = {
    "response_format": (
        {"schema": Verdict},
        error(400, "response_format is not supported by this model"),
    ),
    "logprobs": (
        {"logprobs": 5},
        error(400, "You are not allowed to request logprobs from this model"),
    ),
    "seed": ({"temperature": 0.5}, error(422, "Unexpected fields in the request: {'seed'}")),
    "temperature": (
        {},
        error(400, "Unsupported value: 'temperature' does not support 0 with this model."),
    ),
    "max_tokens": (
        {},
        error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    ),
}


@pytest.mark.parametrize("setting", REFUSALS)
def test_a_setting_that_the_server_does_not_take_is_left_out_and_said(
    server: Server, client: Ask, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, refusal = REFUSALS[setting]
    server.script = lambda sent, times: (
        refusal if setting in sent else answer('{"verdict": "yes", "share": 0}')
    )
    asking = client()
    replies = asking.ask(prompts(4, **change))
    assert all(reply.text for reply in replies)
    left_out = [] if setting == "max_tokens" else [setting]
    assert {reply.left_out for reply in replies} == {tuple(left_out)}
    assert len(server.sent) == 5  # the first request alone has learnt it
    if setting == "response_format":
        assert replies[0].value == Verdict(verdict="yes", share=0)
    if setting == "logprobs":
        assert replies[0].logprobs is None and "top_logprobs" not in server.sent[-1]
    if setting == "max_tokens":
        assert server.sent[-1]["max_completion_tokens"] == 50
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"judge-1 does not take {name} and is asked without" for name in left_out]
    assert asking.account.facts()["left_out"] == left_out


def _logprobs(**likeliest: float) -> dict[str, Any]:
    top = [{"token": token, "logprob": value} for token, value in likeliest.items()]
    return {
        "content": [
            {"token": "\n", "logprob": -0.1, "top_logprobs": []},
            {**top[0], "top_logprobs": top},
        ]
    }


def test_a_yes_is_graded_where_log_probabilities_are_there(server: Server, client: Ask) -> None:
    acts = {
        "question 0": answer(
            "Yes", logprobs=_logprobs(**{"Yes": -0.7, " yes": -2.0, "No": -1.2, "Maybe": -3.0})
        ),
        "question 1": answer("no."),
        "question 2": answer("Yes, it is"),
        "question 3": answer("perhaps"),
        "question 4": answer("Yes", logprobs={"content": [{"token": "Yes", "logprob": "high"}]}),
    }
    server.script = lambda sent, times: acts[prompt_of(sent)]
    replies = client().ask(prompts(5, logprobs=5))
    e = 2.718281828459045
    yes, no = e**-0.7 + e**-2.0, e**-1.2
    assert graded(replies[0]) == pytest.approx(yes / (yes + no))
    assert [graded(reply) for reply in replies[1:]] == [0.0, 1.0, None, 1.0]
    assert replies[4].logprobs is None
    assert (server.sent[0]["logprobs"], server.sent[0]["top_logprobs"]) == (True, 5)
    again = client().ask(prompts(5, logprobs=5))
    assert again[0].logprobs == replies[0].logprobs


def test_a_single_token_is_an_answer_where_it_may_be_cut(server: Server, client: Ask) -> None:
    server.script = lambda sent, times: answer("Yes", finish_reason="length")
    assert client().ask([prompt("is it", max_tokens=1, may_be_cut=True)])[0].text == "Yes"


def test_tokens_are_estimated_where_the_server_does_not_count(server: Server, client: Ask) -> None:
    counts = [None, {"prompt_tokens": -1, "completion_tokens": True}, "many"]
    server.script = lambda sent, times: answer("12345678", usage=counts[int(prompt_of(sent)[-1])])
    asking = client()
    for request, reply in zip(prompts(3), asking.ask(prompts(3)), strict=True):
        assert reply.usage.estimated
        assert (reply.usage.input, reply.usage.output) == (request.input_tokens, 2)
    assert asking.account.facts()["estimated"] == 3


def test_reasoning_that_is_counted_beside_the_completion_is_not_taken_from_it(
    server: Server, client: Ask
) -> None:
    usage = {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "completion_tokens_details": {"reasoning_tokens": 9},
    }
    server.script = lambda sent, times: answer("x", usage=usage)
    used = client().ask(prompts(1))[0].usage
    assert (used.reasoning, used.output) == (9, 2)


def test_an_endless_answer_is_cut(
    server: Server, client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.client.clients import endpoint

    monkeypatch.setattr(endpoint, "LARGEST_BODY", 10_000)
    server.script = lambda sent, times: answer("x" * 20_000)
    assert "an answer of more than 10,000 bytes" in (client().ask(prompts(1))[0].reason or "")


def test_a_redirect_is_not_followed(server: Server, client: Ask) -> None:
    server.script = lambda sent, times: Act(
        b"", 307, {"Location": "http://192.0.2.1/v1/chat/completions"}
    )
    with pytest.raises(ConfigError, match=r"answers HTTP 307; set client.url to its address"):
        client().ask(prompts(1))
    assert len(server.sent) == 1


def test_limits_a_minute_are_kept(server: Server, client: Ask) -> None:
    started = time.monotonic()
    assert all(reply.text for reply in client(requests_per_minute=600).ask(prompts(8)))
    assert time.monotonic() - started > 7 * 0.1
    # a turn is for the most that a request can take, 54 tokens, of which 29 come back with the
    # answer: 25 are used
    started = time.monotonic()
    assert all(
        reply.text for reply in client(tokens_per_minute=6_000, extra={"n": 1}).ask(prompts(6))
    )
    assert time.monotonic() - started > 5 * 0.25


def test_turns_are_given_evenly_and_after_a_pause() -> None:
    async def turns() -> list[float]:
        pace, times = Pace(requests_per_minute=1200), []

        async def one() -> None:
            await pace.turn(1)
            times.append(time.monotonic())
            if len(times) == 3:
                pace.pause(0.4)

        await asyncio.gather(*(one() for _ in range(6)))
        return times

    gaps = [later - earlier for earlier, later in itertools.pairwise(asyncio.run(turns()))]
    assert min(gaps) > 0.0499 and gaps[2] > 0.399
