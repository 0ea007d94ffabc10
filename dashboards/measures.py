"""Numbers as a reader meets them: with the decimals that their interval bears."""

from __future__ import annotations

import math

NOTHING = "–"
"""What stands where there is no value."""


def number(value: float | None, decimals: int | None = None) -> str:
    """A number to read: three significant digits unless decimals are given, a true minus sign, a
    dash when absent."""
    if value is None or math.isnan(value):
        return NOTHING
    if decimals is not None:
        text = f"{value:,.{decimals}f}"
    elif value == 0 or 1e-3 <= abs(value) < 1000:
        text = f"{value:.3g}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.1e}"
    return (text.lstrip("-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def estimate(value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """A value and its interval with as many decimals as the interval's width bears."""
    if value is None or low is None or high is None or not high > low:
        return number(
            value
        ), NOTHING if low is None or high is None else f"{number(low)} to {number(high)}"
    decimals = min(6, max(0, 1 - math.floor(math.log10(high - low))))
    return number(value, decimals), f"{number(low, decimals)} to {number(high, decimals)}"
