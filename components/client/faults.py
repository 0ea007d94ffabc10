"""What a server means by an error: whether to ask again, to ask without a setting, to stop, or to
leave that request."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from components.client.pace import asked_for
from components.errors import quoted

Kind = Literal["away", "broken", "busy", "key", "credit", "model", "long", "moved", "other"]
STOPS: frozenset[Kind] = frozenset({"key", "credit", "model", "moved"})
_TOO_LONG = re.compile(
    r"context_length_exceeded|context (length|size|window)|maximum (context|model) length|prompt is too long|"
    r"too many tokens|reduce the length|exceeds? the (available|maximum)|too large",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_not_found|model\W.{0,200}(not found|does not exist|not exist|unknown|not served)|not a valid model|pinned to",
    re.I | re.DOTALL,
)
_FLAGGED = re.compile(
    r"moderation|flagged|content[_ ](policy|filter|management)|safety", re.IGNORECASE
)
_NO_CREDIT = re.compile(
    r"insufficient_quota|insufficient (credits|balance)|exceeded[ _](your[ _])?current[ _]quota|"
    r"credit balance|billing_(hard_limit|not_active)|billing hard limit|check your billing",
    re.IGNORECASE,
)
# OpenAI and Groq name the page where one pays in a limit of so many a minute, too
_RATE_LIMIT = re.compile(r"rate_limit_exceeded|rate limit reached", re.IGNORECASE)
# Gemini says "exceeded your current quota" of every limit, and which one it is further on
_SHORT_QUOTA = re.compile(r"per_?minute|retryDelay|please retry in", re.IGNORECASE)
_LONG_QUOTA = re.compile(r"per_?day|limit: 0\b(?!\.)", re.IGNORECASE)
_PAUSE = re.compile(r"(?:retryDelay\W+|please retry in )(\d+(?:\.\d+)?)s", re.IGNORECASE)
SETTINGS: Mapping[str, re.Pattern[str]] = {
    "response_format": re.compile(
        r"response_format|json_schema|structured output|guided|grammar", re.IGNORECASE
    ),
    "logprobs": re.compile(r"logprob", re.IGNORECASE),
    "seed": re.compile(r"\bseed\b", re.IGNORECASE),
    "max_tokens": re.compile(r"max_completion_tokens", re.IGNORECASE),
    "temperature": re.compile(r"temperature", re.IGNORECASE),
}
"""Settings that a request can do without, each with how an error names it; `max_tokens` has a
younger name."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a request came to nothing.

    Attributes:
        text: what happened, as part of a sentence.
        kind: away (nobody there, or not in time), broken (an answer that was taking too long), busy
            (later, perhaps), key, credit, model, long (the prompt), moved (another address), other.
        status: HTTP's number; None where nothing came back.
        wait: seconds that the server asks to wait, in a header or, as Gemini does, in the body.
    """

    text: str
    kind: Kind
    status: int | None = None
    wait: float | None = None

    @property
    def again(self) -> bool:
        """Whether the same request may be taken a moment later."""
        return self.kind in ("away", "busy")

    @property
    def stops(self) -> bool:
        """Whether no request will be taken."""
        return self.kind in STOPS


def fault_of(status: int, body: str, headers: Mapping[str, str]) -> Fault:
    """The fault that an error of HTTP is."""
    text = f"HTTP {status}" + (f" ({quoted(message)})" if (message := _message(body)) else "")
    wait, pause = asked_for(headers), _PAUSE.search(body)
    if wait is None and pause:
        wait = float(pause[1])
    return Fault(text, _kind(status, body), status, wait)


def refused_setting(fault: Fault, body: str, sent: Mapping[str, Any]) -> str | None:
    """The setting of a request that the server does not take, where the request can do without
    it."""
    if fault.kind not in ("other", "moved") or fault.status not in (400, 404, 415, 422, 501):
        return None
    return next(
        (name for name, named in SETTINGS.items() if name in sent and named.search(body)), None
    )


def _kind(status: int, body: str) -> Kind:
    if 300 <= status < 400:
        return "moved"
    if status == 429 and _is_short(body):
        return "busy"
    if status == 402 or _NO_CREDIT.search(body):
        return "credit"
    if status == 401 or (status == 403 and not _FLAGGED.search(body)):
        return "key"
    if status in (408, 409, 425, 429) or status >= 500:
        return "busy" if status != 501 else "other"
    if status in (400, 413, 422) and _TOO_LONG.search(body):
        return "long"
    if status in (400, 404, 422) and _NO_MODEL.search(body):
        return "model"
    return "moved" if status == 404 else "other"


def _is_short(body: str) -> bool:
    """Whether a limit that is reached is one that ends within minutes."""
    of_minute = _SHORT_QUOTA.search(body) and not _LONG_QUOTA.search(body)
    return bool(_RATE_LIMIT.search(body) or of_minute)


def _message(body: str) -> str:
    """What an error says, of the forms that servers give it."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return body.strip()
    for name in ("error", "message", "detail"):
        if isinstance(told, dict) and told.get(name):
            told = told[name]
    return told if isinstance(told, str) else json.dumps(told)
