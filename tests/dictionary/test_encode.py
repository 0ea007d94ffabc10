"""The encode stage: sparse codes row for row, statistics equal to dense ones, documents pooled."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from components.device import Execution
from components.dictionary import encode as module
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary, untrained
from components.dictionary.encode import ENCODE, EncodeConfig, make
from components.errors import DictionaryError, InputError
from components.store.shards import CodeShards
from components.store.tables import LATENTS, NEIGHBOURS, POOLED
from tests import toys
from tests.planted import HOOK, directions, rows

PLANTED = directions(d=16)
SPLITS = {
    "train": {HOOK: rows(50, PLANTED)},
    "select": {HOOK: rows(45, PLANTED, seed=3)},
    "test": {HOOK: rows(30, PLANTED, seed=4)},
}
# in test they are interleaved
DOCUMENTS = {"select": torch.arange(45) // 6, "test": 100 + torch.arange(30) % 4}
GOLDEN = [90, 8.607996, 78.791687]
CONFIG = EncodeConfig(splits=("select", "test"), batch=8)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD_ROWS", 20)


@pytest.fixture
def activations(store):
    return toys.activations(
        store, SPLITS, {split: {"document": d} for split, d in DOCUMENTS.items()}
    )


def trained(store, hook_point=HOOK, d_in=16):
    x = {hook_point: torch.randn(60, d_in, generator=torch.Generator().manual_seed(5))}
    dictionary = untrained(
        TopKConfig(d_sae=24, k=3),
        hook_point,
        {hook_point: d_in},
        x,
        torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        dictionary.b_enc[5] = -100.0  # a latent that never fires
    return toys.artifact(store, "train", dictionary.save, {"name": dictionary.name}, seed=d_in)


@pytest.fixture
def encoded(store, activations):
    inputs = {"activations": activations, "dictionary": trained(store)}
    return store.ensure(ENCODE, CONFIG, inputs, Execution(device="cpu"))[0]


@pytest.fixture
def dense(store):
    dictionary = Dictionary.load(trained(store))
    return {split: dictionary.encode(SPLITS[split][HOOK]).dense() for split in CONFIG.splits}


def test_row_i_of_the_codes_is_row_i_of_the_activations_across_shards(encoded, dense):
    codes = CodeShards(encoded)
    assert codes.splits == ["select", "test"] and codes.n_rows("select") == 45
    assert [part.n_rows for part in codes.iterate("select")] == [20, 20, 5]
    for split, wanted in dense.items():
        torch.testing.assert_close(codes.codes(split).dense(), wanted)


def test_the_table_of_latents_equals_statistics_of_the_dense_codes(encoded, dense):
    table = LATENTS.read(encoded)
    assert table.height == 48
    for split, codes in dense.items():
        z = codes.numpy()
        found = table.filter(pl.col("split") == split).sort("latent")
        assert found["n_active"].to_list() == (z > 0).sum(0).tolist()
        np.testing.assert_allclose(found["density"], (z > 0).mean(0))
        active = (z > 0).any(0)
        np.testing.assert_allclose(found["maximum"].to_numpy()[active], z.max(0)[active], rtol=1e-6)
        means = np.array([z[z[:, j] > 0, j].mean() for j in np.flatnonzero(active)])
        np.testing.assert_allclose(found["mean_active"].to_numpy()[active], means, rtol=1e-5)
        for latent in np.flatnonzero(active):
            values = z[z[:, latent] > 0, latent]
            bins = np.bincount(
                np.minimum(19, (values / (values.max() / 20)).astype(int)), minlength=20
            )
            assert found["histogram"][int(latent)].to_list() == bins.tolist()
    assert np.allclose(table["decoder_norm"], 1, atol=1e-5)


def test_a_latent_that_never_fires_has_null_statistics_and_is_counted(encoded):
    silent = LATENTS.read(encoded).filter(pl.col("latent") == 5)
    assert silent["n_active"].to_list() == [0, 0] and silent["density"].to_list() == [0.0, 0.0]
    assert silent["maximum"].null_count() == silent["mean_active"].null_count() == 2
    assert silent["histogram"].to_list() == [[0] * 20] * 2
    assert encoded.facts["dead_latents_everywhere"] >= 1


def test_pooled_codes_are_means_over_all_tokens_of_a_document_even_when_documents_interleave(
    encoded, dense
):
    table = POOLED.read(encoded)
    for split, z in dense.items():
        for document in DOCUMENTS[split].unique():
            wanted = z[DOCUMENTS[split] == document].mean(0)
            found = torch.zeros(24)
            for latent, mean in (
                table.filter(pl.col("document") == int(document))
                .select("latent", "mean")
                .iter_rows()
            ):
                found[latent] = mean
            torch.testing.assert_close(found, wanted)
    assert (table["mean"] > 0).all()
    assert set(table["split"]) == {"select", "test"}


def test_facts_repeat_the_dictionary_and_say_the_sparsity_of_each_split(encoded, dense):
    facts = encoded.facts
    assert (facts["name"], facts["hook_point"], facts["d_in"], facts["d_sae"]) == (
        "topk-24-k3",
        HOOK,
        16,
        24,
    )
    assert facts["rows"] == {"select": 45, "test": 30}
    for split, z in dense.items():
        assert facts["l0"][split] == pytest.approx((z > 0).sum(1).float().mean().item())
        assert facts["dead_latents"][split] == int((~(z > 0).any(0)).sum())


def test_without_a_model_nothing_is_promoted(encoded):
    table = LATENTS.read(encoded)
    assert all(
        table[name].null_count() == 48 for name in ("promoted", "promoted_logits", "suppressed")
    )


def test_with_a_model_each_direction_names_the_tokens_it_raises_and_lowers(
    store, activations, tmp_path
):
    reference = toys.tiny_reference(tmp_path / "model")
    dictionary = trained(store)
    inputs = {"activations": activations, "dictionary": dictionary, "model": reference}
    made, _ = store.ensure(ENCODE, CONFIG, inputs, Execution(device="cpu"))
    row = LATENTS.read(made).row(7, named=True)
    model = reference.load(Execution(device="cpu"))
    logits = model.direction_logits(Dictionary.load(dictionary).decoder_directions()[7:8])[0]
    order = logits.argsort(descending=True).tolist()
    assert row["promoted"] == [model.tokenizer.decode([token]) for token in order[:10]]
    assert row["suppressed"] == [model.tokenizer.decode([token]) for token in order[::-1][:10]]
    torch.testing.assert_close(
        torch.tensor(row["promoted_logits"]), logits.sort(descending=True).values[:10]
    )


def test_a_hook_point_that_does_not_write_to_the_residual_stream_promotes_nothing(store, tmp_path):
    hidden = "mlp_hidden.1"
    activations = toys.activations(store, {"test": {hidden: SPLITS["test"][HOOK]}}, seed=1)
    reference = toys.tiny_reference(tmp_path / "model")
    inputs = {"activations": activations, "dictionary": trained(store, hidden), "model": reference}
    made, _ = store.ensure(ENCODE, EncodeConfig(splits=("test",)), inputs)
    assert LATENTS.read(made)["promoted"].null_count() == 24


@pytest.mark.parametrize("at_a_time", [1 << 24, 50])
def test_neighbours_are_the_largest_cosines_of_decoder_directions_whatever_the_block(
    store, activations, monkeypatch, at_a_time
):
    monkeypatch.setattr(module, "COSINES", at_a_time)  # 50 over 24 latents: blocks of two rows
    dictionary = trained(store)
    made, _ = store.ensure(ENCODE, CONFIG, {"activations": activations, "dictionary": dictionary})
    table = NEIGHBOURS.read(made)
    unit = torch.nn.functional.normalize(Dictionary.load(dictionary).decoder_directions(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    assert table.height == 240
    for latent in range(24):
        found = table.filter(pl.col("latent") == latent).sort("rank")
        wanted = cosines[latent].sort(descending=True)
        assert latent not in found["neighbour"]
        assert found["neighbour"].to_list() == wanted.indices[:10].tolist()
        torch.testing.assert_close(torch.tensor(found["cosine"]), wanted.values[:10])


def test_a_dictionary_of_one_latent_has_no_neighbours(store):
    (part,) = [part for _, part in module._neighbours(torch.ones(1, 4))]
    assert part.height == 0 and part.columns == list(NEIGHBOURS.columns)


def test_an_interrupted_run_continues_at_the_shard(
    tmp_path, store, activations, monkeypatch, encoded
):
    inputs = {"activations": activations, "dictionary": trained(store)}
    work = make(tmp_path, CONFIG, inputs, Execution(device="cpu"))
    next(work), next(work), work.close()
    first = tmp_path / "select" / "00000.safetensors"
    stamp = first.stat().st_mtime_ns
    for _ in make(tmp_path, CONFIG, inputs, Execution(device="cpu")):
        pass
    assert first.stat().st_mtime_ns == stamp
    for name in encoded.files:
        assert (tmp_path / name).read_bytes() == (encoded.folder / name).read_bytes(), name


# Errors.


def test_a_dictionary_of_another_width_is_refused_in_words(store, activations):
    inputs = {"activations": activations, "dictionary": trained(store, d_in=12)}
    with pytest.raises(
        DictionaryError, match=r"trained at resid_post\.1 with d_in 12, got activations of width 16"
    ):
        store.ensure(ENCODE, CONFIG, inputs)


def test_a_dictionary_of_a_hook_point_that_was_not_captured_is_refused_in_words(store, activations):
    inputs = {"activations": activations, "dictionary": trained(store, "mlp_out.2")}
    with pytest.raises(
        DictionaryError,
        match=r"reads mlp_out\.2, but these activations were captured at resid_post\.1",
    ):
        store.ensure(ENCODE, CONFIG, inputs)


def test_a_split_that_was_not_captured_lists_those_that_were(store, activations):
    inputs = {"activations": activations, "dictionary": trained(store)}
    with pytest.raises(InputError, match="no split 'judge'; known: select, test, train"):
        store.ensure(ENCODE, EncodeConfig(splits=("judge",)), inputs)


def test_results_move_only_with_a_version(encoded):
    """Raise the version of ENCODE when what it writes of the same activations and dictionary
    changes."""
    latents = LATENTS.read(encoded).filter(pl.col("split") == "test")
    found = [
        latents["n_active"].sum(),
        latents["maximum"].max(),
        POOLED.read(encoded)["mean"].sum(),
    ]
    assert (ENCODE.version, found) == (2, pytest.approx(GOLDEN, rel=1e-4))
