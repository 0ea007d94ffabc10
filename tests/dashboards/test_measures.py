from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import measures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (0.00871, "0.00871"),
        (-0.5, "−0.5"),
        (1536, "1,536"),
        (0.00004, "4.0e−05"),
        (16.0, "16"),
    ],
)
def test_a_number_reads_well(value: float | None, text: str) -> None:
    assert measures.number(value) == text


def test_a_negative_zero_has_no_sign() -> None:
    assert measures.number(-0.001, 2) == "0.00"


def test_decimals_follow_the_width_of_the_interval() -> None:
    assert measures.estimate(0.87123, 0.861, 0.882) == ("0.871", "0.861 to 0.882")
    assert measures.estimate(0.999213, 0.99904, 0.99941) == ("0.99921", "0.99904 to 0.99941")


def test_a_value_without_an_interval_says_so() -> None:
    assert measures.estimate(0.5, None, None) == ("0.5", "–")
    assert measures.estimate(None, None, None) == ("–", "–")


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e3))
def test_a_written_interval_is_within_a_twentieth_of_its_width(value: float, half: float) -> None:
    _, text = measures.estimate(value, value - half, value + half)
    low, high = (float(part.replace("−", "-").replace(",", "")) for part in text.split(" to "))
    slack = max(0.1 * half, 1e-6)
    assert abs(low - (value - half)) <= slack
    assert abs(high - (value + half)) <= slack
