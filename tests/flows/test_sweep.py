"""A small sweep through Prefect on two slots: one table, nothing made twice, one more seed trains
that seed alone."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from components.config import override
from components.device import Execution
from components.errors import ConfigError, DictionaryError, NoMemoryError
from components.experiment import STAGES, ExperimentConfig
from components.report.tables import COMPARISON
from components.store.artifact import Store
from flows import steps
from flows.chain import Chain
from flows.plan import Plan
from flows.sweep import compare, sweep, unasked


@pytest.fixture(scope="module")
def swept(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """Two architectures and a baseline, two seeds, on the smallest text."""
    store = tmp_path_factory.mktemp("sweep") / "artifacts"
    changes = {
        "sweep.dictionaries": {
            "relu": {"kind": "relu"},
            "topk": {"kind": "topk"},
            "basis": {"kind": "neurons"},
        },
        "sweep.widths": [64],
        "sweep.sparsities": {"topk": [4, 8], "relu": [5.0]},
        "sweep.seeds": [0, 1],
        "sweep.at_l0": [6.0],
        "sweep.evaluations": ["concepts_found", "reconstruction"],
        "execution": Execution(
            store=str(store), devices=["cpu:0", "cpu:1"], threads=1
        ).model_dump(),
        "train.tokens": 8000,
    }
    return override(config, changes)


def made(config: ExperimentConfig, stage: str) -> set[str]:
    return {artifact.key for artifact in Store(config.execution.store).artifacts(stage)}


def test_a_sweep_ends_in_one_table_and_one_more_seed_trains_that_seed_alone(
    swept: ExperimentConfig, servers: None
):
    reference = sweep(swept)
    store = Store(swept.execution.store)
    table = COMPARISON.read(store.get(**reference))
    assert set(table["label"]) == {"relu", "topk", "basis"} and len(made(swept, "train")) == 7
    assert sweep(swept) == reference
    trained = {artifact.facts["trained_together"] for artifact in store.artifacts("train")}
    assert trained <= {1, 3, 4} and max(trained) > 1
    with Plan(swept) as planned:
        assert planned.sweep().cached
    with Plan(override(swept, {"sweep.evaluations": ["concepts_found"]})) as planned:
        assert planned.sweep().estimate.facts["to_make"] == 7, "measured otherwise is not measured"
    before = {stage: made(swept, stage) for stage in ("train", "evaluate", "gate", "capture")}
    sweep(override(swept, {"sweep.seeds": [0, 1, 2]}))
    new = {stage: made(swept, stage) - keys for stage, keys in before.items()}
    assert {stage: len(keys) for stage, keys in new.items()} == {
        "train": 3,
        "evaluate": 3,
        "gate": 0,
        "capture": 0,
    }
    assert {store.get("train", key).config["seed"] for key in new["train"]} == {2}


def test_a_dictionary_that_fails_is_left_out_and_the_others_go_on(
    swept: ExperimentConfig, servers, monkeypatch, caplog
):
    from components.dictionary.architectures.relu import Relu

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
    assert Relu.outcome is not plain and "Traceback" not in caplog.text


def test_a_failure_that_nobody_raised_on_purpose_is_left_out_too(
    swept: ExperimentConfig, servers, monkeypatch, caplog
):
    """Through Prefect, whose task fails; the reason names the error and the log holds its
    traceback."""
    from components.dictionary.architectures.relu import Relu

    def broken(self, batch, moment):
        raise ArithmeticError("seven is not eight")

    monkeypatch.setattr(Relu, "outcome", broken)
    reference = sweep(override(swept, {"sweep.seeds": [8]}))
    table = COMPARISON.read(Store(swept.execution.store).get(**reference))
    assert set(table["label"]) == {"topk", "basis"}
    assert (
        "left out of the comparison: relu-64-l1=5-seed8 (ArithmeticError: seven is not eight)"
        in caplog.text
    )
    assert "in broken" in caplog.text


def test_of_a_group_that_memory_cannot_hold_each_is_trained_alone(
    swept: ExperimentConfig, servers, monkeypatch, caplog
):
    """What the group held is let go of first."""
    held: list[weakref.ref[torch.Tensor]] = []
    together = STAGES["train"].make_many
    assert together

    def too_large(wanted, settings):
        if len(wanted) == 1:
            return (yield from together(wanted, settings))
        large = torch.zeros(100)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    plain = steps.Store.ensure_many

    def ensure_many(self, stage, given, *arguments):
        assert not any(reference() is not None for reference in held), (
            "tensors of the group that failed are still there"
        )
        return plain(self, stage, given, *arguments)

    monkeypatch.setitem(STAGES, "train", replace(STAGES["train"], make_many=too_large))
    monkeypatch.setattr(steps.Store, "ensure_many", ensure_many)
    config = override(swept, {"sweep.seeds": [9], "execution.devices": []})
    with Chain(config, plain=True) as chain:
        table = COMPARISON.read(compare(chain))
    assert set(table["label"]) == {"relu", "topk", "basis"} and held
    assert "CUDA out of memory" in caplog.text and "left out" not in caplog.text


def test_an_interruption_is_no_failure_of_one_dictionary(swept: ExperimentConfig, monkeypatch):
    from components.dictionary.architectures.relu import Relu

    def interrupted(self, batch, moment):
        raise KeyboardInterrupt

    monkeypatch.setattr(Relu, "outcome", interrupted)
    with (
        Chain(override(swept, {"sweep.seeds": [10], "execution.devices": []}), plain=True) as chain,
        pytest.raises(KeyboardInterrupt),
    ):
        compare(chain)


def test_groups_that_memory_cannot_hold_are_refused_before_training(
    swept: ExperimentConfig, monkeypatch
):
    config = override(swept, {"sweep.seeds": [11], "execution.devices": []})
    with Chain(config, plain=True) as chain:
        chain.artifact("capture")
        before = made(config, "train")
        monkeypatch.setattr(
            "components.device.memory_free", lambda name="auto": ("this machine", 10)
        )
        with pytest.raises(NoMemoryError, match=r"^sweep wants .* of memory on this machine \("):
            compare(chain)
    assert made(config, "train") == before


def test_lists_that_explode_are_refused_with_how_many_and_how_long(
    swept: ExperimentConfig, monkeypatch
) -> None:
    """Also where they would not fit, which is said when they are wanted none the less."""
    many = override(swept, {"sweep.limit": 6})
    with pytest.raises(
        ConfigError,
        match=r"7 dictionaries.*, about \d+ minutes of .* more than the 6 .* give --yes",
    ):
        unasked(many, 7)
    with monkeypatch.context() as patch:
        patch.setattr("components.device.memory_free", lambda name="auto": ("this machine", 10))
        with pytest.raises(
            ConfigError,
            match=r"7 dictionaries.*, about \d+ minutes of .* more than the 6 .* give --yes",
        ):
            unasked(many, 7)
    unasked(override(many, {"sweep.confirmed": True}), 7)
    unasked(swept, 7)
