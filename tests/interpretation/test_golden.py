"""Numbers of the planted corpus. Where one moves on purpose, raise the version of the stage or entry beside it."""

from __future__ import annotations

import pytest

from components.interpretation.contract import explainers, predictors, scorers
from components.interpretation.interpret import INTERPRET
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact
from tests.interpretation.planted import AFTER, BIGRAM, SENSE

VERSIONS = {"interpret": 3, "log_odds": 1, "lexical": 1, "detection": 2, "simulation": 1}
SAID = {
    0: 'the words "bonlo", "bonma" and "bonnic"',
    BIGRAM: 'the word "barter" after "barnic"',
    AFTER: 'after "belket"',
    SENSE: 'the word "barma" in text with "bioda"',
}
VALUES = {
    "interpret.log_odds.detection": 0.913967,
    "interpret.log_odds.simulation": 0.810189,
    "interpret.shuffled.detection": 0.486411,
    "interpret.shuffled.simulation": -0.015703,
    "interpret.probe.detection": 0.914089,
    "interpret.probe.simulation": 0.806871,
    "interpret.untrained.detection": 0.506032,
    "interpret.untrained.simulation": 0.002948,
    "interpret.log_odds.detection.strongest": 0.936902,
    "interpret.log_odds.detection.weakest": 0.964542,
    "interpret.log_odds.detection.random": 0.940588,
    "interpret.log_odds.detection.same_token": 0.782560,
    "interpret.log_odds.detection.macro": 0.938318,
    "interpret.log_odds.detection.average_precision": 0.907259,
    "interpret.log_odds.simulation.natural_density": 0.808219,
}


def test_results_move_only_with_a_version(interpreted: Artifact) -> None:
    versions = {"interpret": INTERPRET.version}
    for registry in (explainers, predictors, scorers):
        versions |= {name: registry.version(name) for name in registry.names() if name in VERSIONS}
    assert versions == VERSIONS
    said = dict(tables.EXPLANATIONS.read(interpreted).select("latent", "explanation").iter_rows())
    assert {latent: said[latent] for latent in SAID} == SAID
    values = dict(SCORES.read(interpreted).select("name", "value").iter_rows())
    assert {name: values[name] for name in VALUES} == pytest.approx(VALUES, abs=1e-3)
