"""Detection: AUROC by hand, by another implementation, and with failures at chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.interpretation.contract import LatentRecord
from components.interpretation.scorers.detection import Detection, DetectionConfig
from components.interpretation.trials import Answer, LatentScore
from components.interpretation.windows import Windows
from components.statistics import auroc, auroc_interval
from tests.interpretation.windows_of import SCORER, trials_of, windows_of

NAN = float("nan")
DETECTION = Detection(DetectionConfig(), SCORER)


def windows(active: list[bool]) -> Windows:
    return windows_of(["w"] * len(active), [[1.0] if a else [] for a in active])


def score(values: list[float], active: list[bool]) -> LatentScore:
    trials = trials_of(DETECTION, windows(active))
    return DETECTION.score(
        Answer(np.array(values, dtype=np.float64)), trials, np.random.default_rng(0)
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 2, 1, 0], 1.0),
        ([0, 1, 2, 3], 0.0),
        ([1, 1, 1, 1], 0.5),
        ([2, 1, 1, 0], (1 + 1 + 0.5 + 1) / 4),
        ([2, NAN, 1, 0], (1 + 1 + 0.5 + 0.5) / 4),
        ([NAN, NAN, NAN, NAN], 0.5),
    ],
)
def test_auroc_is_the_one_worked_out_by_hand(values: list[float], expected: float) -> None:
    found = score(values, [True, True, False, False])
    assert found.value == expected
    assert found.n == 4
    assert found.n_failed == np.isnan(values).sum()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2).filter(
        lambda rows: 0 < sum(b for _, b in rows) < len(rows)
    )
)
def test_auroc_equals_that_of_statistics_and_lies_in_its_interval(
    rows: list[tuple[int, bool]],
) -> None:
    values, active = [float(v) for v, _ in rows], [a for _, a in rows]
    found = score(values, active)
    assert found.value == pytest.approx(auroc(np.array(values), np.array(active)))
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_interval_is_that_of_an_auroc_of_so_many_windows() -> None:
    found = score([3, 2, 0, 0, -1, 1], [True, True, True, False, False, False])
    wanted = auroc_interval(7.5 / 9, 3, 3)  # 3 + 3 + 1.5 of 9 pairs
    assert found.value == pytest.approx(7.5 / 9)
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    active = [True] * 50 + [False] * 50
    truth = 0.7602  # of two normals one standard deviation apart
    found = [score(list(random.normal(0, 1, 100) + np.array(active)), active) for _ in range(400)]
    assert 0.91 < np.mean([f.low <= truth <= f.high for f in found]) < 0.98


def test_a_latent_that_no_text_is_without_has_no_score() -> None:
    shown = windows([True, False])
    for share, null in ((0.33, None), (0.34, "active in over a third of windows")):
        record = LatentRecord(0, 0.1, 0, shown, shown, shown, share=share)
        assert DETECTION.trials(record, np.random.default_rng(0)).null == null
