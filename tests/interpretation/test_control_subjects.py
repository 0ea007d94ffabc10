"""Controls that are no dictionary: directions on the activations are drawn, explained and scored
like latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from components.config import override
from components.device import Execution
from components.errors import ConfigError, UnknownNameError
from components.experiment import MADE_ANEW, ExperimentConfig, parents, without
from components.interpretation.config import InterpretConfig
from components.interpretation.controls import CONTROLS, OF_DIRECTIONS
from components.interpretation.interpret import INTERPRET
from components.interpretation.subject import Subject
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.shards import ActivationShards, CodeShards
from tests import toys
from tests.interpretation.planted import Planted
from tests.interpretation.test_interpret import scores_of

WIDTH, N = 6, 18
CONFIG = InterpretConfig(
    explainers=["log_odds", "logistic", "token_lookup"],
    controls=["neurons", "random", "untrained"],
    control_explainers="first",
)


@pytest.fixture(scope="module")
def activations(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The first planted latents as coordinates, in a little noise."""
    codes = CodeShards(planted.inputs["codes"])
    shards = ActivationShards(planted.inputs["activations"])
    x, provenance = {}, {}
    generator = torch.Generator().manual_seed(0)
    for split in shards.splits:
        provenance[split] = shards.provenance(split)
        n = len(provenance[split]["token"])
        noise = torch.randn(n, WIDTH, generator=generator) / 20
        x[split] = {"resid_post.0": codes.codes(split).dense()[:, :WIDTH] + noise}
    store = Store(Path(tmp_path_factory.mktemp("directions")))
    return toys.activations(store, x, provenance, rows_per_shard=5000)


@pytest.fixture(scope="module")
def made(
    planted: Planted, activations: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    inputs = {**planted.inputs, "activations": activations}
    return Store(Path(tmp_path_factory.mktemp("made"))).ensure(INTERPRET, CONFIG, inputs)[0]


def test_every_listed_control_has_its_scores_and_differences(made: Artifact) -> None:
    # of six coordinates there are twelve signs
    assert made.facts["controls"] == {"untrained": 19, "random": N, "neurons": 2 * WIDTH}
    found = scores_of(made)
    theirs = tables.CONTROL_SCORES.read(made).filter(pl.col("role") == "entry")
    for control, n in made.facts["controls"].items():
        for scorer in ("detection", "simulation"):
            row, ours = (
                found[f"interpret.{control}.{scorer}"],
                found[f"interpret.log_odds.{scorer}"],
            )
            of = theirs.filter(pl.col("control") == control, pl.col("scorer") == scorer)
            there = of["value"].drop_nulls()  # detection is null of what is active everywhere
            assert of.height == n and row["n"] == len(there)
            assert row["value"] == pytest.approx(there.mean())
            over = found[f"interpret.log_odds.{scorer}.over_{control}"]
            assert over["value"] == pytest.approx(ours["value"] - row["value"])
            above = found[f"interpret.log_odds.{scorer}.above_{control}"]
            assert 0 <= above["low"] <= above["value"] <= above["high"] <= 1
            assert (above["baseline"], above["n"]) == (0.5, ours["n"] + row["n"])


def test_a_coordinate_that_follows_a_word_is_explained_by_it(made: Artifact) -> None:
    theirs = tables.CONTROL_SCORES.read(made).filter(
        pl.col("control") == "neurons", pl.col("role") == "entry", pl.col("scorer") == "simulation"
    )
    by_latent = dict(theirs.select("latent", "value").iter_rows())
    upwards = [by_latent[coordinate] for coordinate in range(WIDTH)]
    downwards = [by_latent[WIDTH + coordinate] for coordinate in range(WIDTH)]
    assert np.median(upwards) > 0.5
    assert np.median(downwards) < 0.2


def test_the_share_of_pairs_is_that_of_the_latents_in_the_tables(made: Artifact) -> None:
    of = (pl.col("scorer") == "detection", pl.col("role") == "entry")
    ours = tables.EXPLANATION_SCORES.read(made).filter(*of, pl.col("explainer") == "log_odds")
    theirs = tables.CONTROL_SCORES.read(made).filter(*of, pl.col("control") == "random")
    ours, theirs = (each["value"].drop_nulls().to_numpy() for each in (ours, theirs))
    pairs = ours[:, None] - theirs
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    row = scores_of(made)["interpret.log_odds.detection.above_random"]
    assert row["value"] == pytest.approx(expected)


def test_only_the_first_explainer_explains_controls_where_that_is_asked(made: Artifact) -> None:
    assert set(tables.CONTROL_SCORES.read(made)["explainer"]) == {"log_odds"}
    row = scores_of(made)["interpret.logistic.detection.over_random"]
    assert row["value"] is None
    assert row["reason"] == (
        "only the first explainer explains the random directions (interpret.control_explainers)"
    )


def test_directions_are_as_often_active_as_the_latents_they_stand_for(
    planted: Planted, activations: Artifact
) -> None:
    config = InterpretConfig(control_latents=5)
    trained = Subject.of_codes(CodeShards(planted.inputs["codes"]), config)
    directions = [
        Subject.of_directions(
            "random", trained, ActivationShards(activations), "resid_post.0", config, None, CPU
        )
        for _ in range(2)
    ]
    one, again = directions
    assert len(one.sample.latents) == 5 and one.sample.split == trained.sample.split
    # from the rarest to the most frequent
    ours, theirs = np.sort(trained.sample.density), np.sort(one.sample.density)
    assert theirs[0] == pytest.approx(ours[0], abs=2e-4)
    assert theirs[-1] == pytest.approx(ours[-1], abs=2e-4)
    assert torch.equal(one.codes.directions, again.codes.directions)  # type: ignore[union-attr]
    for density, decile in zip(one.sample.density, one.sample.decile, strict=True):
        near = np.abs(trained.sample.density - density) < 2e-4
        assert decile in trained.sample.decile[near]


def test_the_order_of_controls_has_no_meaning_and_a_wrong_name_is_told() -> None:
    assert CONFIG.controls == ["untrained", "random", "neurons"]
    with pytest.raises((ConfigError, UnknownNameError), match="neurons"):
        override(InterpretConfig(), {"controls": ["neuron"]})


def test_every_control_that_is_a_dictionary_is_made_by_the_chain() -> None:
    assert set(MADE_ANEW) == set(CONTROLS) - set(OF_DIRECTIONS)


def test_controls_of_a_drawn_model_are_refused_where_the_model_is_drawn_itself() -> None:
    config = {"interpret.controls": ["randomised"], "model.randomise": "all"}
    with pytest.raises(ConfigError, match=r"take them out of interpret\.controls"):
        override(ExperimentConfig(), config)


def test_without_text_neither_an_encoder_nor_a_drawn_model_is_asked_for() -> None:
    file = override(ExperimentConfig(), {"capture.arrays.path": "x.npy"})
    without_text = parents("interpret", without(file))
    assert set(without_text) == {"activations", "codes", "untrained"}
    assert {"text_encoder", "randomised", "model"} <= set(parents("interpret"))


CPU = Execution(device="cpu")
