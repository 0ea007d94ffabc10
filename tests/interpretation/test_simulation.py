"""Simulation: Pearson r over all tokens put end to end, by hand; what is not defined is 0 and says
why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats

from components.interpretation.scorers.simulation import Simulation, SimulationConfig
from components.interpretation.trials import Answer, LatentScore
from components.interpretation.windows import Windows
from tests.interpretation.windows_of import SCORER, trials_of, windows_of

NAN = float("nan")
SIMULATION = Simulation(SimulationConfig(), SCORER)
WINDOWS = windows_of(["a b", "c d", "e"], [[1, 0], [0, 2], []])


def score(values: list[list[float]], windows: Windows = WINDOWS) -> LatentScore:
    trials = trials_of(SIMULATION, windows)
    return SIMULATION.score(
        Answer(np.array(values, dtype=np.float64)), trials, np.random.default_rng(0)
    )


def test_r_is_over_all_tokens_and_not_a_mean_over_windows() -> None:
    found = score([[1, 0], [0, 1], [1, 99]])  # 99 stands in padding and counts for nothing
    x, y = np.array([1, 0, 0, 1, 1]), np.array([1, 0, 0, 2, 0])
    # By hand: means 0.6 and 0.6, covariance sum 1.2, squares 1.2 and 3.2.
    assert found.value == pytest.approx(1.2 / np.sqrt(1.2 * 3.2))
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert (found.n, found.n_failed, found.reason) == (3, 0, None)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scale_and_offset_of_the_answer_do_not_matter(scale: float) -> None:
    assert score([[scale + 5, 5], [5, 2 * scale + 5], [5, 5]]).value == pytest.approx(1, abs=1e-6)


def test_spearman_stands_beside_it_and_asks_for_the_order_alone() -> None:
    values = [[1.0, 0], [0, 9], [3, 99]]
    x, y = [1, 0, 0, 9, 3], [1, 0, 0, 2, 0]
    found = score(values).strata["spearman"]
    assert found.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert (found.chance, found.n) == (0.0, 3)
    assert score([[1, 0], [0, 1.01], [0, 0]]).strata["spearman"].value == pytest.approx(1)
    assert score([[1, 1]] * 3).strata["spearman"].value == 0.0
    part = trials_of(SIMULATION, WINDOWS)
    assert part.strata["spearman"].all() and SIMULATION.strata[-1] == "spearman"


def test_a_constant_answer_is_zero_and_says_so() -> None:
    found = score([[1, 1], [1, 1], [1, 0]])
    assert (found.value, found.low, found.high) == (0.0, None, None)
    assert found.n_failed == found.n == 3
    assert found.reason == "the prediction is constant over the test tokens"


def test_a_constant_activation_is_zero_and_says_so() -> None:
    windows = windows_of(["a b", "c d"], [[1, 1], [1, 1]])
    assert (
        score([[1, 0], [0, 1]], windows).reason == "the activation is constant over the test tokens"
    )


def test_a_window_without_an_answer_counts_and_tells_nothing() -> None:
    found = score([[1, 0], [NAN, 1], [0, 0]])
    mean = 1 / 3
    x, y = np.array([1, 0, mean, mean, 0]), np.array([1, 0, 0, 2, 0])
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.n_failed == 1


def test_no_answer_at_all_is_zero() -> None:
    assert score([[NAN, NAN]] * 3).value == 0.0


def test_the_interval_resamples_windows() -> None:
    random = np.random.default_rng(1)
    y = random.random((80, 6))
    windows = windows_of(["a b c d e f"] * 80, y.tolist())
    x = y + random.normal(0, 0.3, y.shape)
    found = score(x.tolist(), windows)
    draws = []
    for _ in range(400):
        chosen = random.integers(0, 80, 80)
        draws.append(np.corrcoef(x[chosen].ravel(), y[chosen].ravel())[0, 1])
    assert found.low == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(draws, 0.975), abs=0.02)


def test_at_natural_density_each_window_counts_as_often_as_it_stands_for() -> None:
    shown = dataclasses.replace(WINDOWS, stands_for=np.array([1.0, 2.0, 5.0]))
    answer = Answer(np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float64))
    found = SIMULATION.score(answer, trials_of(SIMULATION, shown), None).strata["natural_density"]
    x = np.array([1, 0, *[0, 1] * 2, *[1] * 5])  # the windows as often as they come, put end to end
    y = np.array([1, 0, *[0, 2] * 2, *[0] * 5])
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.chance == 0.0
    constant = SIMULATION.score(Answer(np.ones((3, 2))), trials_of(SIMULATION, shown), None)
    assert constant.strata["natural_density"].value == 0.0
