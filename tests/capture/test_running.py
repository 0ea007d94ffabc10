"""Activations from the running model: the bytes of the capture that they stand for, however they
are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from components.capture import running
from components.capture.capture import CAPTURE, CaptureConfig
from components.capture.running import RunningActivations, opened
from components.device import Execution
from components.errors import DictionaryError, InputError
from components.model.reference import ModelReference
from components.store.artifact import Artifact, Store, key_of
from components.store.rows import Rows
from components.store.shards import ActivationShards
from tests import toys
from tests.capture.test_capture import N, config, contexts, corpus

CPU = Execution(device="cpu")
POINTS = ("resid_post.1", "mlp_hidden.0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelReference:
    return toys.tiny_reference(tmp_path_factory.mktemp("models") / "tiny")


def both(
    store: Store, model: ModelReference, read: Artifact | None = None, **changes: object
) -> tuple[ActivationShards, RunningActivations]:
    """The same capture from disk and from the running model."""
    inputs = {"model": model, "corpus": read or corpus(store)}
    stored, to_be_run = (
        store.ensure(CAPTURE, config(from_model=from_model, **changes), inputs, CPU)[0]
        for from_model in (False, True)
    )
    found = opened(to_be_run, CPU)
    assert isinstance(found, RunningActivations)
    return ActivationShards(stored), found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drop_special": False},
        {"dtype": "bfloat16"},
        {"tokens": {"test": 20}},
        {"batch_size": 3, "contexts_per_shard": 4},
    ],
    ids=lambda changes: next(iter(changes), "defaults"),
)
def test_rows_are_those_from_disk_in_whatever_order(
    store: Store, model: ModelReference, changes: dict
) -> None:
    stored, found = both(store, model, **changes)
    assert found.splits == stored.splits and found.hook_points == stored.hook_points
    for split in stored.splits:
        n = stored.n_rows(split)
        assert found.n_rows(split) == n
        ours, theirs = found.provenance(split), stored.provenance(split)
        assert ours.keys() == theirs.keys()
        for name, column in ours.items():
            assert column.dtype == theirs[name].dtype and torch.equal(column, theirs[name])
        shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        for index in (torch.arange(n), shuffled, shuffled[:3], torch.zeros(2).long()):
            for name in POINTS:
                x = found.rows(split, name, index)
                assert x.dtype == stored.rows(split, name, index).dtype
                assert torch.equal(x, stored.rows(split, name, index))
    for name in POINTS:
        assert found.d_in(name) == stored.d_in(name)


def test_padding_of_a_whole_batch_does_not_pass_the_model(store: Store, tmp_path: Path) -> None:
    model = toys.tiny_reference(tmp_path / "model")

    def write(folder: Path) -> None:
        (folder / "contexts").mkdir()
        for number, split in enumerate(("train", "test")):
            columns = contexts(seed=number)
            columns["mask"] = (columns["token"] > 0).to(torch.uint8)
            save_file(columns, folder / f"contexts/{split}.safetensors")

    read = toys.artifact(store, "read", write, {"splits": ["train", "test"]}, 9)
    stored, found = both(store, model, read)
    everything = torch.arange(stored.n_rows("test"))
    for name in POINTS:
        ours, theirs = (each.rows("test", name, everything) for each in (found, stored))
        assert torch.equal(ours, theirs)
    assert 0 < found.tokens_run < contexts(seed=1)["token"].numel()


def test_a_pass_in_order_runs_every_context_once(
    store: Store, model: ModelReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = both(store, model)
    monkeypatch.setattr(running, "HELD_ROWS", 20)
    rows = Rows(found, "test", POINTS)
    for _ in rows.in_order(5):
        pass
    n_columns = contexts()["token"].shape[1]
    assert found.tokens_run == N * n_columns
    found.rows("test", POINTS[0], torch.tensor([0]))  # long gone
    assert found.tokens_run == N * n_columns + 2 * n_columns


def test_a_capture_that_is_to_be_run_writes_nothing(store: Store, model: ModelReference) -> None:
    stored, found = both(store, model)
    assert found.artifact.files == [] and found.artifact.key != stored.artifact.key
    assert found.artifact.facts["splits"] == stored.artifact.facts["splits"]
    with pytest.raises(
        InputError, match=r"has no shards: neither activations nor codes are stored"
    ):
        ActivationShards(found.artifact)


def test_another_batch_size_is_another_capture_where_the_model_runs_again() -> None:
    """Whoever reads takes it from the artifact, so a smaller one has to be found there."""

    def key(**changes: object) -> str:
        return key_of(CAPTURE, config(**changes), {})

    assert key(batch_size=1) == key(batch_size=2)
    assert key(batch_size=1, from_model=True) != key(batch_size=2, from_model=True)


def test_what_is_not_there_is_named(store: Store, model: ModelReference) -> None:
    _, found = both(store, model)
    with pytest.raises(InputError, match=r"names no split 'tset'; .*test"):
        found.n_rows("tset")
    with pytest.raises(InputError, match=r"no hook point 'resid_post.2'; .*resid_post.1"):
        found.rows("test", "resid_post.2", torch.tensor([0]))
    read = store.get(**found.artifact.manifest["inputs"]["corpus"])
    store.delete(read.stage, read.key)
    with pytest.raises(
        InputError, match=r"its corpus, and that is no longer in the store; run read"
    ):
        opened(found.artifact, CPU)


def test_what_is_not_finite_is_refused_by_its_row(
    store: Store, model: ModelReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = both(store, model)
    read = found.model.read

    def broken(*args: object, **keywords: object) -> dict[str, torch.Tensor]:
        x = read(*args, **keywords)
        x[POINTS[0]][0, 1] = torch.nan
        return x

    monkeypatch.setattr(found.model, "read", broken)
    with pytest.raises(DictionaryError, match=r"NaN or infinity: row 0 of the split test; run the"):
        Rows(found, "test", POINTS).take(torch.arange(4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop_outlier_norms": 3.0}, "set capture.drop_outlier_norms=null, or"),
        ({"arrays": {"path": "x.npy"}}, "with capture.arrays.path there is none; set one"),
    ],
)
def test_settings_that_need_what_was_captured_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CaptureConfig(from_model=True, **changes)
