"""The body of an answer of `/chat/completions`, read whatever it holds.

The server took the request, so it may be paid: whatever is wrong with the body is a reason, and it
is not asked again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from components.client.contract import CHARACTERS_PER_TOKEN, Request, Response, TokenLogprob, Usage
from components.errors import quoted


def response_of(body: bytes, request: Request, model: str) -> Response:
    """The response in a body; `model` is the one that was asked for."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return unreadable(
            f"wanted JSON, got {quoted(body.decode('utf-8', 'replace'))}", request, model
        )
    choices = told.get("choices") if isinstance(told, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(told, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        return unreadable(
            f"wanted choices with a message, got {quoted(_short(told))}", request, model
        )
    content, finish = _text(message.get("content")), choice.get("finish_reason")
    reason = None
    if refusal := message.get("refusal"):
        reason = f"refused: {quoted(str(refusal))}"
    elif finish == "content_filter":
        reason = "refused: the server's filter withheld the answer"
    elif finish == "error":
        reason = f"unreadable: the server broke off ({quoted(_short(choice.get('error', '')))})"
    served, fingerprint = told.get("model"), told.get("system_fingerprint")
    return Response(
        content,
        usage=_usage(told.get("usage")) or _estimated(request, content),
        served_model=served if isinstance(served, str) and served else model,
        reason=reason,
        is_cut=finish == "length",
        logprobs=_logprobs(choice.get("logprobs")) if request.logprobs else None,
        fingerprint=fingerprint if isinstance(fingerprint, str) and fingerprint else None,
    )


def unreadable(detail: str, request: Request, model: str) -> Response:
    """A response of which nothing can be read; what it cost is estimated."""
    return Response(None, _estimated(request, None), model, reason=f"unreadable: {detail}")


def error_in(body: bytes) -> Mapping[str, Any] | None:
    """The error that some servers send as a success, where the body is one."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    error = told.get("error") if isinstance(told, dict) and not told.get("choices") else None
    return error if isinstance(error, dict) else None


def _text(content: Any) -> str | None:
    """The text of a message: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [
        part["text"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    return "".join(texts) if texts else None


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    read, written = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens"))
    if read is None or written is None:
        return None
    inside = told.get("prompt_tokens_details"), told.get("completion_tokens_details")
    cached, reasoning = (
        _count(details.get(name)) or 0 if isinstance(details, dict) else 0
        for details, name in zip(inside, ("cached_tokens", "reasoning_tokens"), strict=True)
    )
    # some servers count reasoning among the tokens of the completion, as they should, and some
    # beside them
    output = written - reasoning if reasoning <= written else written
    return Usage(max(0, read - cached), min(cached, read), reasoning, output)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _estimated(request: Request, content: str | None) -> Usage:
    written = -(-len(content) // CHARACTERS_PER_TOKEN) if content else 0
    return Usage(input=request.input_tokens, output=written, estimated=True)


def _logprobs(told: Any) -> tuple[TokenLogprob, ...] | None:
    """Log-probabilities of each token; None where they are not all there."""
    tokens = []
    for entry in told.get("content") or () if isinstance(told, dict) else ():
        one = _token(entry)
        likeliest = [_token(other) for other in entry.get("top_logprobs") or ()] if one else []
        if one is None or None in likeliest:
            return None
        tokens.append(TokenLogprob(*one, {text: value for text, value in filter(None, likeliest)}))
    return tuple(tokens) or None


def _token(entry: Any) -> tuple[str, float] | None:
    if not isinstance(entry, dict):
        return None
    text, value = entry.get("token"), entry.get("logprob")
    is_number = (
        isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    )
    # some say -inf for never
    return (text, max(float(value), -1e4)) if isinstance(text, str) and is_number else None


def _short(told: Any) -> str:
    return json.dumps(told)[:1000]
