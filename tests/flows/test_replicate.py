"""Several training seeds: each is an ordinary experiment, what they share is made once, and one
table is over them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from components.config import override
from components.errors import ConfigError
from components.experiment import ExperimentConfig
from components.report.tables import REPLICATES
from components.store.artifact import Store
from flows.replicate import replicate, seeded, show


def test_seeds_are_at_least_two_and_each_once(config: ExperimentConfig) -> None:
    for seeds in ([0], [1, 1]):
        with pytest.raises(ConfigError, match="at least two training seeds, each once"):
            seeded(config, seeds)
    with pytest.raises(ConfigError, match="trains a dictionary for each seed"):
        seeded(override(config, {"dictionary": "topk@champion"}), [0, 1])
    assert [each.train.seed for each in seeded(config, [3, 5])] == [3, 5]
    assert seeded(config, [0, 1])[0] == config  # the demo's own experiment is the first of them


def test_a_seed_more_trains_that_seed_alone_and_the_first_is_found(
    config: ExperimentConfig, first: dict[str, str]
) -> None:
    store = Store(config.execution.store)
    before = {
        stage: {artifact.key for artifact in store.artifacts(stage)}
        for stage in ("read", "capture", "train")
    }
    made = store.get(**replicate(config, [0, 1]))
    after = {stage: {artifact.key for artifact in store.artifacts(stage)} for stage in before}
    assert after["read"] == before["read"] and after["capture"] == before["capture"]
    new = {store.get("train", key).config["seed"] for key in after["train"] - before["train"]}
    assert new == {1}
    assert made.facts["reports"][0] == first["key"]
    assert replicate(config, [0, 1]) == made.reference()
    rows = {row["name"]: row for row in REPLICATES.read(made).to_dicts()}
    assert len(set(rows["evaluate.fvu"]["values"])) == 2 and rows["evaluate.fvu"]["n"] == 2
    out = io.StringIO()
    show(made, Console(file=out, width=150))
    assert "seed 1" in out.getvalue() and "evaluate.fvu" in out.getvalue()
