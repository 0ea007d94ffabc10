"""The stage with scores of latents themselves and with intervention: rows, tables, nulls, and what
stands there where something is missing."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from components.config import load
from components.errors import ConfigError
from components.interpretation.config import InterpretConfig, embeds
from components.interpretation.contract import scorers
from components.interpretation.dictionary_contract import dictionary_scorers
from components.interpretation.interpret import INTERPRET
from components.interpretation.latent_contract import latent_scorers
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact, Store
from tests.interpretation.planted import D_SAE, RARE, Planted
from tests.interpretation.pushed import SAID, Pushed

CONFIG = {
    "latents": 30,
    "scorers": ["detection", "intervention"],
    "explainers": ["log_odds"],
    "latent_scorers": ["input_score", "intruder", "output_score"],
    "dictionary_scorers": ["round_trip"],
    "dictionary_scorer_settings": {"round_trip": {"dimensions": 8}},
    "contexts": {"fewest": 5},
    "scorer_settings": {"intervention": {"continuations": 4, "tokens": 8, "neutral_tokens": 256}},
}
VERSIONS = {"input_score": 1, "intruder": 1, "output_score": 1, "intervention": 2, "round_trip": 1}
VALUES = {
    "interpret.input_score.share": 0.029167,
    "interpret.intruder.accuracy": 0.211667,
    "interpret.output_score.rank": 0.851200,
    "interpret.output_score.mass": 0.352813,
    "interpret.log_odds.intervention": 0.544444,
    "interpret.log_odds.round_trip": 0.104645,
}
NAMES = ("input_score.share", "intruder.accuracy", "output_score.rank", "output_score.mass")


@pytest.fixture(scope="module")
def made(pushed: Pushed, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    store = Store(Path(tmp_path_factory.mktemp("latents")))
    return store.ensure(INTERPRET, load(InterpretConfig, CONFIG), pushed.inputs)[0]


def scores_of(artifact: Artifact) -> dict[str, dict]:
    return {row["name"]: row for row in SCORES.read(artifact).iter_rows(named=True)}


def test_every_measure_stands_beside_its_null_and_the_untrained_dictionary(made: Artifact) -> None:
    found, single = scores_of(made), tables.LATENT_SCORES.read(made)
    assert set(single["measure"]) == set(NAMES)
    for name in NAMES:
        row, over = found[f"interpret.{name}"], found[f"interpret.{name}.over_null"]
        of = single.filter((pl.col("measure") == name) & pl.col("control").is_null())
        assert (row["n"], of.height, row["scorer"]) == (30, 30, name.partition(".")[0])
        assert row["n_failed"] == of["value"].null_count()
        assert over["value"] == pytest.approx(row["value"] - row["baseline"])
        chance = of["chance"].mean()
        assert row["value"] == pytest.approx(of["value"].fill_null(chance).mean())
        assert row["low"] <= row["value"] <= row["high"]
        theirs = found[f"interpret.untrained.{name}"]
        assert (theirs["role"], theirs["subject"]) == ("control", "untrained")
        assert found[f"interpret.{name}.over_untrained"]["value"] == pytest.approx(
            row["value"] - theirs["value"]
        )
    assert found["interpret.intruder.accuracy"]["predictor"] == "lexical"
    assert found["interpret.intruder.accuracy"]["baseline"] == pytest.approx(0.2)


def test_planted_latents_stand_out_and_the_untrained_dictionary_is_at_its_null(
    made: Artifact,
) -> None:
    single = tables.LATENT_SCORES.read(made).filter(pl.col("measure") == "output_score.mass")
    apart = single.with_columns(apart=pl.col("value") - pl.col("chance"))
    ours = apart.filter(pl.col("control").is_null())
    planted = ours.filter(pl.col("latent") < len(SAID))["apart"]
    assert len(planted) > 4 and planted.min() > 0.1
    null = scores_of(made)["interpret.untrained.output_score.mass"]
    assert null["low"] - 0.05 < null["baseline"] < null["high"] + 0.05


def test_intervention_is_scored_by_who_can_choose(made: Artifact) -> None:
    found = scores_of(made)
    row = found["interpret.log_odds.intervention"]
    assert (row["n"], row["predictor"]) == (30, "lexical")
    assert found["interpret.shuffled.intervention"]["baseline"] == 0.5
    first = found["interpret.log_odds.intervention.first"]
    assert first["value"] is not None and 0 <= first["value"] <= 1
    assert "interpret.probe.intervention" in found


def test_the_round_trip_stands_beside_shuffled_strings_and_the_strengths(made: Artifact) -> None:
    found = scores_of(made)
    row, over = (
        found["interpret.log_odds.round_trip"],
        found["interpret.log_odds.round_trip.over_floor"],
    )
    assert row["unit_of_replication"] == "document" and row["predictor"] == "lexical"
    assert over["value"] == pytest.approx(row["value"] - row["baseline"])
    ceiling = found["interpret.strengths.round_trip"]
    assert ceiling["role"] == "ceiling" and ceiling["value"] > row["value"]
    assert found["interpret.untrained.round_trip"]["value"] is not None


def test_results_move_only_with_a_version(made: Artifact) -> None:
    named = (latent_scorers, dictionary_scorers, scorers)
    versions = {n: each.version(n) for each in named for n in each.names() if n in VERSIONS}
    assert versions == VERSIONS
    values = dict(SCORES.read(made).select("name", "value").iter_rows())
    assert {name: values[name] for name in VALUES} == pytest.approx(VALUES, abs=5e-3)


def test_without_a_model_rows_say_why(planted: Planted, tmp_path: Path) -> None:
    config = load(
        InterpretConfig, {"latents": D_SAE, **{k: CONFIG[k] for k in ("scorers", "latent_scorers")}}
    )
    made = Store(tmp_path).ensure(INTERPRET, config, planted.inputs)[0]
    found = scores_of(made)
    why = "there is no model: the activations came without one"
    for name in ("output_score.rank", "output_score.mass", "input_score.share"):
        for ending in ("", ".over_null", ".over_untrained"):
            row = found[f"interpret.{name}{ending}"]
            assert (row["value"], row["reason"]) == (None, why)
    row = found["interpret.log_odds.intervention"]
    assert (row["value"], row["reason"]) == (None, why)
    single = tables.LATENT_SCORES.read(made)
    assert set(single["scorer"]) == {"intruder"}
    (rare,) = single.filter((pl.col("latent") == RARE) & pl.col("control").is_null()).to_dicts()
    assert rare["value"] is None and "wanted at least 10" in rare["reason"]
    row = found["interpret.intruder.accuracy"]
    assert row["reason"].startswith("2 of 18 latents stand at the null, the first because: ")
    assert row["low"] > 0.2 > found["interpret.untrained.intruder.accuracy"]["low"]


def test_settings_of_a_latent_scorer_that_is_not_listed_are_refused() -> None:
    with pytest.raises(ConfigError, match="latent scorers listed: intruder"):
        load(
            InterpretConfig,
            {
                "latent_scorers": ["intruder"],
                "latent_scorer_settings": {"output_score": {"strength": 3}},
            },
        )
    by_meaning = {"intruder": {"reader": "text_encoder"}}
    config = {"latent_scorers": ["intruder"], "latent_scorer_settings": by_meaning}
    assert embeds(load(InterpretConfig, config))
    assert not embeds(load(InterpretConfig, {"latent_scorers": ["intruder"]}))
