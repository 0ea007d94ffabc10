"""The composite of three, and the setting that says of what."""

from __future__ import annotations

import numpy as np
import pytest

from components.config import load
from components.errors import ConfigError
from components.steering.composite import composite, gain, harmonic, panel
from components.steering.config import SteerConfig
from components.steering.measures import declared
from components.store.judgements import PANEL


def of(*values: float) -> np.ndarray:
    return np.array(values)


def test_the_harmonic_mean_is_nothing_where_a_part_is_nothing_and_unknown_where_one_is() -> None:
    parts = [of(1.0, 0.5, 0.0, np.nan, 0.0), of(1.0, 1.0, 1.0, 1.0, np.nan)]
    assert harmonic(parts)[:3].tolist() == pytest.approx([1.0, 2 / 3, 0.0])
    assert np.isnan(harmonic(parts)[3:]).all()


def test_the_gain_is_the_share_of_what_was_left() -> None:
    assert gain(of(0.6, 0.1, 1.0), of(0.2, 0.2, 1.0)).tolist() == pytest.approx([0.5, 0.0, 0.0])


def test_the_fall_is_the_share_that_is_gone_of_what_was_there() -> None:
    assert gain(of(0.2, 0.9, 0.0), of(0.8, 0.2, 0.0), True).tolist() == pytest.approx(
        [0.75, 0.0, 0.0]
    )
    mixed = gain(of(0.2, 0.6), of(0.8, 0.2), np.array([True, False]))
    assert mixed.tolist() == pytest.approx([0.75, 0.5])
    assert composite(of(0.2), of(0.8), of(0.5), True)[0] == pytest.approx(2 / (1 / 0.75 + 1 / 0.5))


def test_the_target_is_a_third_however_many_judges_it_has() -> None:
    one = panel([of(0.5)], of(1.0), of(0.25))
    assert one[0] == pytest.approx(3 / (1 / 0.5 + 1 + 1 / 0.25))
    assert panel([of(0.5), of(0.5)], of(1.0), of(0.25))[0] == pytest.approx(one[0])
    assert panel([of(0.5), of(0.0)], of(1.0), of(1.0))[0] == 0.0


def test_it_is_made_where_relevance_and_fluency_are_listed() -> None:
    two = SteerConfig()
    assert not two.has_panel and PANEL not in two.beside
    three = SteerConfig(judges=["concept", "fluency", "relevance"])
    assert three.has_panel and three.of_target == ["concept"]
    assert three.beside == ["fluency", "relevance", PANEL]
    assert PANEL in [told["name"] for told in declared(three.beside).facts()["measures"]]


@pytest.mark.parametrize(
    ("judges", "listed", "told"),
    [
        (["concept", "fluency"], ["concept"], "does not list relevance"),
        (["concept", "fluency", "relevance"], ["meaning"], "does not list meaning"),
        (["concept", "fluency", "relevance"], ["fluency"], "judges of the target alone"),
    ],
)
def test_a_panel_without_its_parts_is_refused(
    judges: list[str], listed: list[str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        load(SteerConfig, {"judges": judges, "panel": listed})
