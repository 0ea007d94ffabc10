"""A probe passes on any corpus: by rank and by the lower bound of its lift, not by an absolute
average precision."""

from __future__ import annotations

import numpy as np
import pytest

from components.concept.gate import ProbeGate, least_lift, lift, refusal
from components.concept.ranking import Ranking
from components.statistics import average_precision_interval, clustered_wilson, wilson

GATE = ProbeGate()


def test_a_rare_concept_that_is_ranked_well_passes_without_an_average_precision_of_08():
    assert refusal(Ranking(0.5, 0.98), 60, 100_000, GATE) is None


def test_what_is_refused_says_what_was_wanted_and_what_came():
    assert refusal(Ranking(0.9, 0.85), 60, 1000, GATE) == "AUROC 0.85 on validate, wanted 0.9"
    few = refusal(Ranking(0.6, 0.99), 2, 1000, GATE)
    assert few is not None and "over 2 rows" in few and "wanted 0.2" in few
    assert "no row with the concept" in (refusal(Ranking(None, None), 0, 1000, GATE) or "")


def test_lift_is_0_at_the_base_rate_and_1_at_perfection():
    assert lift(0.3, 0.3) == 0 and lift(1.0, 0.3) == 1 and lift(0.65, 0.3) == pytest.approx(0.5)
    # more rows, a narrower interval
    assert least_lift(0.9, 1000, 10_000) > least_lift(0.9, 10, 100)


def test_an_average_precision_has_width_at_1_and_stays_inside_its_range():
    for ap, n in ((1.0, 3), (0.02, 5), (0.999, 1)):
        found = average_precision_interval(ap, n)
        assert found.low is not None and found.high is not None
        assert 0 < found.low < ap <= found.high <= 1


def test_a_clustered_share_covers_where_wilson_does_not():
    """24 families of 16 concepts that share their luck: the interval over families covers, the one
    over concepts does not."""
    generator, covered, independent = np.random.default_rng(0), 0, 0
    family = np.repeat(np.arange(24), 16)
    for _ in range(400):
        luck = generator.beta(0.6, 2.4, 24)  # mean 0.2
        found = generator.random(len(family)) < luck[family]
        inside = lambda interval: interval.low <= 0.2 <= interval.high  # noqa: E731
        covered += inside(clustered_wilson(found, family))
        independent += inside(wilson(int(found.sum()), len(found)))
    assert covered / 400 >= 0.92 and independent / 400 <= 0.7


def test_a_share_of_nothing_and_of_all_has_width():
    family = np.repeat(np.arange(6), 4)
    none, every = (clustered_wilson(np.full(24, found), family) for found in (False, True))
    assert none.value == none.low == 0 and none.high is not None and none.high > 0.2
    assert every.value == every.high == 1 and every.low is not None and every.low < 0.8
