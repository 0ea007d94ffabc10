"""Natural density: average precision on the pool, for each latent or for all of them together."""

from __future__ import annotations

import numpy as np
import pytest

from components.interpretation.contract import LatentRecord
from components.interpretation.natural_density import over_pool, pools, together, told
from components.interpretation.trials import Answer, LatentScore, Trials
from components.interpretation.windows import Pool
from components.statistics import average_precision
from tests.interpretation.windows_of import texts_of, windows_of

NAN = float("nan")


def pool_of(active: list[bool]) -> Pool:
    return Pool(texts_of([f"w{number}" for number in range(len(active))]), np.array(active))


def record_of(latent: int, reason: str | None = None) -> LatentRecord:
    shown = windows_of(["a", "b"], [[1.0], []])
    return LatentRecord(latent, 0.1, 0, shown, shown, shown, reason=reason)


def test_precision_counts_every_window_as_often_as_it_comes() -> None:
    active = np.array([True, False, True, *[False] * 17])
    values = np.zeros(20)
    values[:3] = 3.0, 2.0, 1.0
    part = over_pool(values, active)
    assert part is not None
    assert (part.value, part.chance, part.n) == (pytest.approx((1 + 2 / 3) / 2), 0.1, 20)


def test_a_latent_that_is_active_nowhere_in_the_pool_has_none() -> None:
    assert over_pool(np.ones(3), np.zeros(3, bool)) is None
    score = LatentScore(0.7, None, None, 4)
    pool = pool_of([False, False])
    assert told(score, "average_precision", pool, Answer(np.ones(2)), True).strata == {}


def test_windows_without_an_answer_stand_at_chance() -> None:
    active = np.array([True, True, False, False, False, False, False, False, False, False])
    nothing, unread = over_pool(None, active), over_pool(np.full(10, NAN), active)
    assert nothing is not None and unread is not None
    assert nothing.value == unread.value == nothing.chance == 0.2
    half = over_pool(np.array([3.0, NAN, 0.0, NAN, 0, NAN, 0, NAN, 0, NAN]), active)
    assert half is not None and half.value == pytest.approx(0.5 * 1 + 0.5 * 0.2)


def test_who_is_dear_is_asked_about_a_part_and_all_parts_make_up_the_pool() -> None:
    pool = pool_of([True, False] * 50)
    records = [record_of(latent, "few" if latent == 3 else None) for latent in range(6)]
    texts = records[0].test.texts
    trials = [
        Trials(texts, np.array([True, False]), pool=pool, null="common" if latent == 4 else None)
        for latent in range(6)
    ]
    whole = pools(records, trials, True, 0)
    assert [each is pool for each in whole] == [True, True, True, True, False, True]
    parts = pools(records, trials, False, 0)
    assert parts[4] is None
    sizes = [len(part.active) for part in parts if part]
    assert sizes == [25] * 5 and sum(sizes) >= 100  # four of them are asked
    of_two = pools(records, trials, False, 0, at_most=2)
    assert [len(part.active) for part in of_two if part] == [50] * 5
    for part in parts:
        if part:
            shown = zip(pool.texts.tokens.tolist(), pool.active.tolist(), strict=True)
            known = {tuple(row): truth for row, truth in shown}
            assert [known[tuple(row)] for row in part.texts.tokens] == part.active.tolist()
    shown = [part.texts.tokens.tolist() for part in parts if part]
    assert shown[0] != shown[1]


def test_one_value_is_told_of_all_latents_together() -> None:
    random = np.random.default_rng(0)
    scores = []
    for _ in range(40):
        active = random.random(50) < 0.1
        values = active + random.normal(0, 0.5, 50)
        part = told(
            LatentScore(0.7, None, None, 4), "", pool_of(active.tolist()), Answer(values), False
        )
        assert part.strata == {} and part.pooled is not None
        scores.append(part.pooled)
    interval, chance = together(scores)
    values = np.concatenate([part.values for part in scores])
    active = np.concatenate([part.active for part in scores])
    assert interval.value == pytest.approx(average_precision(values, active))
    assert chance == pytest.approx(active.mean())
    assert interval.n == 40 and interval.low < interval.value < interval.high
    assert together(scores) == (interval, chance)
    unread = told(LatentScore(0.5, None, None, 4), "", pool_of([True, False]), Answer(None), False)
    assert unread.pooled is not None and np.isnan(unread.pooled.values).all()
    assert together([unread.pooled])[0].value == 0.5  # nobody drops out
    missing = Answer(None, "not asked: the budget is spent", is_missing=True)
    left = told(LatentScore(0.9, None, None, 4), "", pool_of([True, False]), missing, False)
    assert left.pooled is not None and len(left.pooled.values) == len(left.pooled.active) == 0
    assert left.value == 0.9
    assert told(LatentScore(0.9, None, None, 4), "x", pool_of([True]), missing, True).strata == {}
