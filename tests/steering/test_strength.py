"""The search for the strength at which written text costs a budget."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from components.steering.strength import ROUNDS, TOLERANCE, _Search


def searched(cost: Callable[[float], float], first: float = 1.0, budget: float = 0.2) -> _Search:
    """After as many rounds as it wants."""
    search = _Search(budget, first)
    for _ in range(ROUNDS):
        strength = search.proposed()
        if strength is None:
            break
        search.measured[strength] = cost(strength)
    return search


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("power", [0.7, 2.0, 3.5])
def test_it_finds_a_strength_within_a_tenth_wherever_it_begins(scale: float, power: float) -> None:
    found = searched(lambda s: 0.2 * (s / scale) ** power).found()
    assert found.strength is not None and found.kl is not None
    assert abs(found.kl / 0.2 - 1) <= TOLERANCE


def test_where_luck_is_new_at_each_strength_few_rounds_are_enough() -> None:
    random = np.random.default_rng(0)
    rounds = []
    for _ in range(200):
        scale, power = math.exp(random.normal(0, 0.1)), random.uniform(3.5, 6)
        search = searched(
            lambda s, scale=scale, power=power: (
                0.2 * (s / scale) ** power * math.exp(random.normal(0, 0.18))
            )
        )
        rounds.append(len(search.measured))
    assert np.mean(rounds) < 3.5


def test_costs_that_are_no_numbers_count_as_too_much() -> None:
    found = searched(lambda s: math.inf if s > 2 else 0.1 * s, first=8.0).found()
    assert found.kl == pytest.approx(0.2, rel=TOLERANCE)


def test_what_saturates_below_the_budget_has_no_strength_and_is_not_tried_for_ever() -> None:
    search = searched(lambda s: 0.08 * s / (1 + s))
    assert len(search.measured) < ROUNDS - 2
    found = search.found()
    assert found.strength is None and found.reason is not None
    assert "costs 0.2 nats a token within 10%" in found.reason


def test_of_several_strengths_that_cost_it_the_smallest_is_taken() -> None:
    search = _Search(0.2, 1.0, {3.0: 0.205, 2.0: 0.19, 0.5: 0.1})
    assert search.found().strength == 2.0
