"""Metrics and parameters under names that MLflow takes."""

from __future__ import annotations

import math
import posixpath
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from mlflow.entities import Metric, Param

Value = TypeVar("Value")


def metrics_of(values: Mapping[str, float]) -> list[Metric]:
    """Numbers as metrics, those that are not finite left out."""
    now = int(time.time() * 1000)
    return [
        Metric(name, value, now, 0)
        for name, value in _named(values).items()
        if math.isfinite(value)
    ]


def parameters_of(values: Mapping[str, Any]) -> list[Param]:
    """Values as parameters, cut to the length that MLflow takes."""
    return [Param(name, str(value)[:6000]) for name, value in _named(values).items()]


def _named(values: Mapping[str, Value]) -> dict[str, Value]:
    """The same under names that MLflow takes; two that become equal (c+, c#) are told apart by a
    number."""
    named: dict[str, Value] = {}
    for name, value in values.items():
        allowed = first = safe(name)
        number = 1
        while allowed in named:
            number += 1
            allowed = f"{first[:240]} {number}"
        named[allowed] = value
    return named


def safe(name: str) -> str:
    """A name in the letters and the length that MLflow takes."""
    allowed = "".join(c if c.isalnum() or c in "_-./ :" else "_" for c in name)[:250]
    # some stores make files of it
    return allowed if posixpath.normpath(allowed) == allowed else allowed.replace("/", "_")


def is_number(value: Any) -> bool:
    """Whether a fact can be a metric."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
