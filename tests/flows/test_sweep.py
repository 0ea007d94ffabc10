"""A small sweep through Prefect on two slots: one table, nothing made twice, one more seed trains that seed alone."""

from __future__ import annotations

import pytest

from components.config import override
from components.device import Execution
from components.errors import ConfigError, DictionaryError
from components.experiment import ExperimentConfig
from components.store.artifact import Store
from components.store.tables import COMPARISON


@pytest.fixture(scope="module")
def swept(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """Two architectures and a baseline, two seeds, on the smallest text."""
    store = tmp_path_factory.mktemp("sweep") / "artifacts"
    changes = {
        "sweep.dictionaries": {"relu": {"kind": "relu"}, "topk": {"kind": "topk"}, "basis": {"kind": "neurons"}},
        "sweep.widths": [64],
        "sweep.sparsities": {"topk": [4, 8], "relu": [5.0]},
        "sweep.seeds": [0, 1],
        "sweep.at_l0": [6.0],
        "sweep.evaluations": ["concepts_found", "reconstruction"],
        "execution": Execution(store=str(store), devices=["cpu:0", "cpu:1"], threads=1).model_dump(),
        "train.tokens": 8000,
    }
    return override(config, changes)


def made(config: ExperimentConfig, stage: str) -> set[str]:
    return {artifact.key for artifact in Store(config.execution.store).artifacts(stage)}


def test_a_sweep_ends_in_one_table_and_one_more_seed_trains_that_seed_alone(swept: ExperimentConfig, servers: None):
    from flows.sweep import sweep

    reference = sweep(swept)
    store = Store(swept.execution.store)
    table = COMPARISON.read(store.get(**reference))
    assert set(table["label"]) == {"relu", "topk", "basis"} and len(made(swept, "train")) == 7
    assert sweep(swept) == reference
    trained = {artifact.facts["trained_together"] for artifact in store.artifacts("train")}
    assert trained <= {1, 3, 4} and max(trained) > 1
    before = {stage: made(swept, stage) for stage in ("train", "evaluate", "gate", "capture")}
    sweep(override(swept, {"sweep.seeds": [0, 1, 2]}))
    new = {stage: made(swept, stage) - keys for stage, keys in before.items()}
    assert {stage: len(keys) for stage, keys in new.items()} == {"train": 3, "evaluate": 3, "gate": 0, "capture": 0}
    assert {store.get("train", key).config["seed"] for key in new["train"]} == {2}


def test_a_dictionary_that_fails_is_left_out_and_the_others_go_on(swept: ExperimentConfig, monkeypatch, caplog):
    from components.dictionary.architectures.relu import Relu
    from flows.steps import Chain
    from flows.sweep import compare

    plain, calls = Relu.outcome, []

    def broken(self, batch, moment):
        calls.append(1)
        raise DictionaryError("it broke on purpose")

    monkeypatch.setattr(Relu, "outcome", broken)
    config = override(swept, {"sweep.seeds": [7], "execution.devices": []})
    with Chain(config, plain=True) as chain:
        table = COMPARISON.read(compare(chain))
    assert set(table["label"]) == {"topk", "basis"} and calls
    assert "left out of the comparison: relu-64-l1=5-seed7 (it broke on purpose)" in caplog.text
    assert Relu.outcome is not plain


def test_lists_that_explode_are_refused_with_how_many_and_how_long(swept: ExperimentConfig) -> None:
    from flows.sweep import unasked

    many = override(swept, {"sweep.limit": 6})
    with pytest.raises(ConfigError, match=r"7 dictionaries, about \d+ minutes of .* more than the 6 .* give --yes"):
        unasked(many, 7)
    unasked(override(many, {"sweep.confirmed": True}), 7)
    unasked(swept, 7)
