"""Who is asked, as part of the key of what comes of it: a number for each part that can change an
answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from components.client.price import Budget
from components.config import canonical
from components.model.reference import ModelConfig, ModelReference


def identity(section: Any) -> Mapping[str, Any]:
    """Which model at which kind of server; of one on this machine, the digest of its files."""
    model = getattr(section, "model", None)
    digest = {"model": ModelReference(model).key} if isinstance(model, ModelConfig) else {}
    return canonical(section) | digest


def numbers(asked: Mapping[str, Any], budget: Budget) -> Mapping[str, int]:
    """The parts of a key: of each client that is asked, by its name, and of the budget, since where
    it ends decides what is known; nothing where none is asked."""
    parts: dict[str, Any] = {name: identity(section) for name, section in asked.items()}
    if parts and budget.is_set:
        parts["budget"] = canonical(budget)
    return {name: _number(part) for name, part in parts.items()}


def _number(part: Any) -> int:
    text = json.dumps(part, sort_keys=True, separators=(",", ":"))
    return int(hashlib.blake2b(text.encode(), digest_size=7).hexdigest(), 16)
