"""The list of models that a server says it serves, and how long a prompt each takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from components.client.contract import Request
from components.errors import ConfigError

MOST_LISTED = 20
FEWEST_PER_CHARACTER = 1 / 8
"""Tokens that a character is at least, for what is refused unasked: no tokenizer of prose is that
terse."""
LENGTHS = ("max_model_len", "context_length", "context_window", "max_context_length")
"""Under which names servers tell the longest context of a model."""


def models(body: bytes) -> dict[str, Mapping[str, Any]]:
    """What a server tells of each of its models, by name; empty where it tells nothing that can be
    read."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    rows = told.get("data") if isinstance(told, dict) else told
    return {
        row["id"]: row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("id"), str)
    }


def is_among(model: str, listed: Mapping[str, Any]) -> bool:
    """Whether a model is listed, by its name or with a tag behind it (`llama3` is
    `llama3:latest`)."""
    return model in listed or model.partition(":")[0] in {name.partition(":")[0] for name in listed}


def told(model: str, listed: Mapping[str, Any]) -> str:
    """What is served, for a sentence: all of it, or of a long list what is nearest."""
    if len(listed) <= MOST_LISTED:
        return f"it serves {', '.join(sorted(listed))}"
    near = sorted(name for name in listed if model.lower() in name.lower()) or get_close_matches(
        model, listed, 5
    )
    return f"it serves {len(listed)} models, near to it: {', '.join(near[:MOST_LISTED]) or 'none'}"


def context_length(model: str, listed: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Tokens of prompt and answer together that a model takes, where the server tells."""
    row = listed.get(model, {})
    inside = row.get("meta")
    values = [row.get(name) for name in LENGTHS] + [
        inside.get("n_ctx_train") if isinstance(inside, dict) else None
    ]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def fewest_tokens(request: Request) -> int:
    """Tokens that a prompt has at least, whatever the tokenizer."""
    return int(sum(len(message.text) for message in request.messages) * FEWEST_PER_CHARACTER)


def refuse_too_long(tokens: Mapping[Request, int], length: int, what: str, about: str = "") -> None:
    """Refuses requests of which the longest cannot fit.

    Args:
        tokens: of the prompt of each request.
        length: tokens of prompt and answer together that fit.
        what: whose length that is, as in "the model m takes".
        about: what stands before the number of tokens, as in "at least ".

    Raises:
        ConfigError: it does not fit.
    """
    longest = max(tokens, key=lambda request: tokens[request] + request.max_tokens, default=None)
    if longest is not None and tokens[longest] + longest.max_tokens > length:
        asker = f"{longest.label}: " if longest.label else ""
        raise ConfigError(
            f"{asker}a prompt of {about}{tokens[longest]:,} tokens and an answer of up to "
            f"{longest.max_tokens:,} do not fit the {length:,} tokens that {what}; show fewer or "
            "shorter windows or texts, or choose a model with a longer context"
        )
