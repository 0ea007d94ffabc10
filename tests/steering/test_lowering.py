"""Steering that is meant to lower its target, through the whole stage."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from components.steering.composite import composite
from components.steering.config import SteerConfig
from components.steering.steer import STEER
from components.store import tables
from components.store.artifact import Artifact
from components.store.judgements import judged, with_falls
from tests.steering.conftest import Bench
from tests.steering.test_steer import CONFIG, CPU, score

METHOD = "scale_latent"


def config(suppress: bool = True) -> SteerConfig:
    return SteerConfig.model_validate(
        CONFIG.model_dump()
        | {
            "methods": [METHOD, "mean_difference", "random_direction"],
            "method_settings": {
                METHOD: {"suppress": suppress, "n_candidates": 2},
                "random_direction": {"n_directions": 4},
            },
            "concepts": ["topic.*"],
            "kl_budgets": [0.1],
            "validate_prompts": 6,
            "test_prompts": 6,
            "battery": False,
        }
    )


@pytest.fixture(scope="module")
def ran(bench: Bench) -> Artifact:
    return bench.store.ensure(STEER, config(), bench.inputs, CPU)[0]


def falls(made: Artifact, method: str, split: str) -> pl.DataFrame:
    """Mean composite of the fall of each steering on each concept, made anew of what judges say."""
    texts = judged(
        tables.GENERATIONS.read(made), tables.JUDGEMENTS.read(made), made.facts["measure"]
    ).filter(pl.col("method") == method, pl.col("split") == split)
    after, up, fluent = (texts[name].to_numpy() for name in ("target", "uplift", "fluency"))
    whole = composite(after, after - up, fluent, np.ones(len(texts), bool))
    found = texts.with_columns(fall=pl.Series(np.nan_to_num(whole)))
    return found.group_by("concept", "replicate").agg(pl.col("fall", "uplift").mean())


def test_the_candidate_that_lowers_most_is_chosen(ran: Artifact) -> None:
    assert ran.facts["lowering"] == [METHOD]
    reached = tables.STEERED.read(ran).filter(method=METHOD)
    seen, tested = (falls(ran, METHOD, split) for split in ("validate", "test"))
    strong = tables.STRENGTHS.read(ran).filter(
        pl.col("method") == METHOD, pl.col("coefficient").is_not_null()
    )
    contested = 0
    for row in reached.to_dicts():
        rivals = seen.filter(concept=row["concept"]).sort("fall", descending=True)
        contested += rivals.height > 1
        if rivals.is_empty():  # nobody to choose among: no other reaches the budget
            alone = strong.filter(concept=row["concept"])
            assert alone["replicate"].to_list() == [row["replicate"]]
        else:
            best = rivals.filter(pl.col("fall") >= rivals["fall"][0] - 1e-9)
            assert row["replicate"] in best["replicate"], rivals
        own = tested.filter(concept=row["concept"], replicate=row["replicate"])
        assert row["composite"] == pytest.approx(own["fall"][0], abs=1e-9)
        assert row["uplift"] == pytest.approx(own["uplift"][0], abs=1e-9)
    assert contested


def test_it_stands_beside_the_fall_of_controls(ran: Artifact) -> None:
    floor = falls(ran, "random_direction", "test").filter(pl.col("replicate") < 4)
    largest = dict(floor.group_by("concept").agg(pl.col("fall").max()).iter_rows())
    lowest = dict(floor.group_by("concept").agg(pl.col("uplift").min()).iter_rows())
    for row in tables.STEERED.read(ran).filter(method=METHOD).to_dicts():
        assert row["composite_largest"] == pytest.approx(largest[row["concept"]], abs=1e-9)
        assert row["uplift_largest"] == pytest.approx(lowest[row["concept"]], abs=1e-9)
    assert score(ran, f"steer.{METHOD}.kl_0.1")["better"] == "lower"
    assert score(ran, "steer.mean_difference.kl_0.1")["better"] == "higher"
    texts = judged(tables.GENERATIONS.read(ran), tables.JUDGEMENTS.read(ran), "concept")
    free = with_falls(texts).filter(method="random_direction")
    assert (free["composite"] != texts.filter(method="random_direction")["composite"]).any()
