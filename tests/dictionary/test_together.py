"""Several dictionaries from one stream: the same keys and the same bits as alone, each batch read
once, resumed exactly."""

from __future__ import annotations

import pytest

from components.config import canonical
from components.device import Execution
from components.dictionary.architectures.neurons import NeuronsConfig
from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.settings import TrainConfig
from components.dictionary.stream import Stream
from components.dictionary.train import TRAIN, make_many, stream_of
from components.store.artifact import Store, key_of
from tests import toys
from tests.planted import HOOK, directions, rows

PLANTED = directions()
SPLITS = {"train": {HOOK: rows(1500, PLANTED)}, "validate": {HOOK: rows(300, PLANTED, seed=2)}}
SHARED = {
    "tokens": 6000,
    "batch_size": 200,
    "lr": 3e-3,
    "dead_after": 600,
    "log_every": 10,
    "checkpoint_every": 7,
}
CONFIGS = {
    "narrow": TrainConfig(dictionary=TopKConfig(d_sae=32, k=2), **SHARED),
    "wide": TrainConfig(dictionary=TopKConfig(d_sae=48, k=4), **SHARED),
    "relu": TrainConfig(dictionary=ReluConfig(d_sae=48), **SHARED),
    "basis": TrainConfig(dictionary=NeuronsConfig(k=3), **SHARED),
}
FILES = ("dictionary.safetensors", "dictionary.json", "curve.parquet")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each dictionary trained by itself, and the activations."""
    store = Store(tmp_path_factory.mktemp("alone") / "artifacts")
    activations = toys.activations(store, SPLITS, rows_per_shard=400)
    given = {"activations": activations}
    made = {
        label: store.ensure(TRAIN, config, given, Execution(device="cpu"))[0]
        for label, config in CONFIGS.items()
    }
    return made, activations


def wanted(activations, labels=tuple(CONFIGS)):
    return {label: (CONFIGS[label], {"activations": activations}) for label in labels}


def reads(monkeypatch):
    """Counts the batches that streams are asked for."""
    counted, plain = [], Stream.batches

    def batches(self, *arguments):
        for batch in plain(self, *arguments):
            counted.append(1)
            yield batch

    monkeypatch.setattr(Stream, "batches", batches)
    return counted


def test_together_gives_the_keys_and_the_bits_of_alone_and_reads_each_batch_once(
    store, alone, monkeypatch
):
    by_itself, activations = alone
    counted = reads(monkeypatch)
    made = store.ensure_many(TRAIN, wanted(activations), Execution(device="cpu"))
    assert len(counted) == 30
    for label, (artifact, hit) in made.items():
        assert not hit and artifact.key == by_itself[label].key
        for file in FILES:
            assert artifact.path(file).read_bytes() == by_itself[label].path(file).read_bytes(), (
                label,
                file,
            )
        timed = {"tokens_per_second", "trained_together"}
        assert {k: v for k, v in artifact.facts.items() if k not in timed} == {
            k: v for k, v in by_itself[label].facts.items() if k not in timed
        }


def test_what_is_there_already_is_not_trained_again_with_the_others(store, alone):
    _, activations = alone
    store.ensure_many(TRAIN, wanted(activations, ("wide",)))
    made = store.ensure_many(TRAIN, wanted(activations))
    assert {label for label, (_, hit) in made.items() if hit} == {"wide"}
    assert made["narrow"][0].facts["trained_together"] == 3


@pytest.mark.parametrize("stopped", [3, 6])
def test_a_killed_group_goes_on_to_the_same_bits_even_where_one_checkpoint_is_ahead(
    tmp_path, alone, stopped
):
    by_itself, activations = alone
    folders = {label: tmp_path / label for label in CONFIGS}
    given = {
        label: (folders[label], config, {"activations": activations})
        for label, config in CONFIGS.items()
    }
    for folder in folders.values():
        folder.mkdir()
    work = make_many(given, Execution(device="cpu"))
    for _ in range(stopped):
        next(work)
    work.close()
    (
        folders["narrow"] / ".checkpoint" / "state.safetensors"
    ).unlink()  # the kill came before this one was written
    work = make_many(given, Execution(device="cpu"))
    for _ in work:
        pass
    for label, folder in folders.items():
        for file in FILES:
            assert (folder / file).read_bytes() == by_itself[label].path(file).read_bytes(), (
                label,
                file,
            )


def test_configs_that_want_other_streams_are_trained_apart(tmp_path, alone, monkeypatch):
    _, activations = alone
    counted = reads(monkeypatch)
    seeds = {f"seed{seed}": CONFIGS["narrow"].model_copy(update={"seed": seed}) for seed in (0, 1)}
    given = {
        label: (tmp_path / label, config, {"activations": activations})
        for label, config in seeds.items()
    }
    for folder, *_ in given.values():
        folder.mkdir()
    for _ in make_many(given, Execution(device="cpu")):
        pass
    assert len(counted) == 60


def test_an_order_of_its_own_lets_seeds_share_a_stream_and_rekeys_nothing(alone):
    _, activations = alone
    plain = CONFIGS["narrow"]
    assert "order" not in canonical(plain)
    ordered = {seed: plain.model_copy(update={"seed": seed, "order": 0}) for seed in (0, 1)}
    assert stream_of(ordered[0]) == stream_of(ordered[1]) == stream_of(plain)
    assert stream_of(plain.model_copy(update={"seed": 1})) != stream_of(plain)
    given = {"activations": activations}
    assert key_of(TRAIN, plain, given) != key_of(TRAIN, ordered[0], given)


def test_an_order_of_its_own_that_equals_the_seed_changes_no_bit(store, alone):
    by_itself, activations = alone
    made, _ = store.ensure(
        TRAIN, CONFIGS["narrow"].model_copy(update={"order": 0}), {"activations": activations}
    )
    assert made.path(FILES[0]).read_bytes() == by_itself["narrow"].path(FILES[0]).read_bytes()
