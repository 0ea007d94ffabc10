"""Numbers of the planted corpus. Where one moves on purpose, raise the version of the stage or
entry beside it."""

from __future__ import annotations

import polars as pl
import pytest

from components.interpretation.contract import explainers, predictors, scorers
from components.interpretation.interpret import INTERPRET
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact
from tests.interpretation.planted import AFTER, BIGRAM, SENSE

VERSIONS = {"interpret": 4, "log_odds": 1, "lexical": 1, "detection": 3, "simulation": 2}
OFFLINE = {
    **{
        "logistic": 1,
        "logit_lens": 1,
        "concept_match": 1,
        "given": 1,
        "token_lookup": 1,
        "constant": 1,
    },
    **{"fuzzing": 1, "detection": 3, "lexical": 1},
}
SAID = {
    0: 'the words "gelter", "gioda" and "gelnic"',
    BIGRAM: 'the word "barter" after "barnic"',
    AFTER: 'after "darda"',
    SENSE: 'the word "barma" in text with "bioda"',
}
VALUES = {
    "interpret.log_odds.detection": 0.937229,
    "interpret.log_odds.simulation": 0.809054,
    "interpret.shuffled.detection": 0.497120,
    "interpret.shuffled.simulation": -0.007486,
    "interpret.probe.detection": 0.944029,
    "interpret.probe.simulation": 0.804421,
    "interpret.log_odds.detection.normalised": 0.984784,
    "interpret.untrained.detection": 0.498689,
    "interpret.untrained.simulation": 0.003026,
    "interpret.log_odds.detection.strongest": 0.934686,
    "interpret.log_odds.detection.weakest": 0.966271,
    "interpret.log_odds.detection.random": 0.940941,
    "interpret.log_odds.detection.same_token": 0.785120,
    "interpret.log_odds.detection.neighbour": 0.936188,
    "interpret.log_odds.detection.near": 0.934988,
    "interpret.log_odds.detection.decile_1": 0.930647,
    "interpret.log_odds.detection.decile_10": 0.964562,
    "interpret.log_odds.detection.macro": 0.937373,
    "interpret.log_odds.detection.average_precision": 0.887782,
    "interpret.log_odds.simulation.natural_density": 0.809897,
    "interpret.log_odds.simulation.spearman": 0.824349,
}
OFFLINE_SAID = {
    ("logistic", 0): 'the words "gioda", "gelter" and "gelnic"',
    ("logistic", BIGRAM): 'the word "barter" after "barnic"',
    ("logistic", AFTER): 'after "darda"',
    ("logistic", SENSE): 'the word "barma"',
    ("token_lookup", 0): 'the words "gelter", "gioda" and "gelnic"',
    ("token_lookup", BIGRAM): 'the word "barter"',
    (
        "token_lookup",
        AFTER,
    ): 'the words "barlo", "fusnic", "barket", "dusda", "belter", "busma", "pioter", "bonnic", "marnic", "guslo", "rarter" and "lonter"',
    ("token_lookup", SENSE): 'the word "barma"',
    ("given", 0): 'the words "gelnic" and "gelter" and "gioda"',
    ("constant", 0): "ordinary English text",
    ("logit_lens", 0): None,
    ("concept_match", 0): None,
}
OFFLINE_VALUES = {
    "interpret.log_odds.fuzzing": 0.914717,
    "interpret.log_odds.fuzzing.silent": 0.938400,
    "interpret.log_odds.fuzzing.active": 0.939824,
    "interpret.log_odds.detection": 0.937229,
    "interpret.logistic.detection": 0.927529,
    "interpret.logistic.fuzzing": 0.915628,
    "interpret.logit_lens.fuzzing": 0.500000,
    "interpret.concept_match.fuzzing": 0.500000,
    "interpret.given.detection": 0.794118,
    "interpret.given.fuzzing": 0.777778,
    "interpret.token_lookup.detection": 0.881018,
    "interpret.token_lookup.fuzzing": 0.895578,
    "interpret.constant.detection": 0.500000,
    "interpret.constant.fuzzing": 0.500000,
    "interpret.shuffled.fuzzing": 0.496944,
    "interpret.shuffled.token_lookup.fuzzing": 0.489483,
    "interpret.probe.fuzzing": 0.911044,
    "interpret.untrained.fuzzing": 0.500384,
    "interpret.untrained.logistic.fuzzing": 0.499216,
}


def test_results_move_only_with_a_version(interpreted: Artifact) -> None:
    versions = {"interpret": INTERPRET.version}
    for registry in (explainers, predictors, scorers):
        versions |= {name: registry.version(name) for name in registry.names() if name in VERSIONS}
    assert versions == VERSIONS
    ours = tables.EXPLANATIONS.read(interpreted).filter(pl.col("explainer") == "log_odds")
    said = dict(ours.select("latent", "explanation").iter_rows())
    assert {latent: said[latent] for latent in SAID} == SAID
    values = dict(SCORES.read(interpreted).select("name", "value").iter_rows())
    assert {name: values[name] for name in VALUES} == pytest.approx(VALUES, abs=1e-3)


def test_results_of_offline_entries_move_only_with_a_version(offline: Artifact) -> None:
    registries = (explainers, predictors, scorers)
    versions = {
        name: each.version(name) for each in registries for name in each.names() if name in OFFLINE
    }
    assert versions == OFFLINE
    said = {
        (name, latent): text
        for latent, name, text, _ in tables.EXPLANATIONS.read(offline).iter_rows()
    }
    assert {key: said[key] for key in OFFLINE_SAID} == OFFLINE_SAID
    values = dict(SCORES.read(offline).select("name", "value").iter_rows())
    assert {name: values[name] for name in OFFLINE_VALUES} == pytest.approx(
        OFFLINE_VALUES, abs=1e-3
    )
