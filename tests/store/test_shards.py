"""Shards: what is written is what is read, in any order, and damage is told."""

from __future__ import annotations

import re

import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import DamagedArtifactError, InputError
from components.store.rows import Rows
from components.store.shards import ActivationShards, Codes, CodeShards, shard_rows, write_codes
from tests import toys


def sparse_matrices():
    shapes = st.tuples(st.integers(0, 9), st.integers(1, 7), st.integers(0, 2**20))

    def build(shape):
        rows, d_sae, seed = shape
        generator = torch.Generator().manual_seed(seed)
        dense = torch.randn(rows, d_sae, generator=generator)
        return dense * (torch.rand(rows, d_sae, generator=generator) < 0.4)

    return shapes.map(build)


@given(sparse_matrices())
@settings(max_examples=40, deadline=None)
def test_codes_keep_every_number_of_the_dense_matrix(dense):
    codes = Codes.from_dense(dense)
    assert torch.equal(codes.dense(), dense)
    assert codes.nnz == int((dense != 0).sum()) and codes.n_rows == len(dense)
    assert (codes.matrix() != scipy.sparse.csr_matrix(dense.numpy())).nnz == 0


@given(sparse_matrices(), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_rows_take_and_cat_act_as_on_the_dense_matrix(dense, seed):
    codes = Codes.from_dense(dense)
    start, stop = len(dense) // 3, len(dense) - len(dense) // 4
    index = torch.randint(
        0, max(1, len(dense)), (min(5, len(dense)),), generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(codes.rows(start, stop).dense(), dense[start:stop])
    assert torch.equal(codes.take(index).dense(), dense[index])
    assert torch.equal(
        Codes.cat([codes, codes.rows(start, stop)]).dense(), torch.cat([dense, dense[start:stop]])
    )


@given(sparse_matrices())
@settings(max_examples=40, deadline=None)
def test_columns_list_each_latents_rows_in_order(dense):
    columns = Codes.from_dense(dense).columns()
    for latent in range(dense.shape[1]):
        rows, values = columns.latent(latent)
        assert rows.tolist() == dense[:, latent].nonzero().flatten().tolist()
        assert torch.equal(values, dense[rows, latent])


def test_codes_from_topk_leave_out_zeros_and_sort_latents():
    dense = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 5.0, 0.0]])
    codes = Codes.from_topk(*dense.topk(2, dim=1), 4)
    assert codes.indices.tolist() == [1, 3, 2] and codes.values.tolist() == [3.0, 2.0, 5.0]
    assert codes.l0() == 1.5 and codes.row_index().tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_activations_come_back_in_their_dtype_in_any_order(store, dtype):
    x = torch.randn(23, 4).to(dtype)
    y = torch.randn(23, 6).to(dtype)
    shards = ActivationShards(
        toys.activations(store, {"train": {"resid_post.0": x, "mlp_out.1": y}})
    )
    index = torch.tensor([22, 0, 7, 7, 13, 6])
    assert torch.equal(shards.rows("train", "resid_post.0", index), x[index])
    assert shards.rows("train", "mlp_out.1", index[:0]).shape == (0, 6)
    assert (shards.n_rows("train"), shards.d_in("mlp_out.1"), shards.hook_points) == (
        23,
        6,
        ["resid_post.0", "mlp_out.1"],
    )
    assert shards.provenance("train")["token"].tolist() == list(range(23))
    taken = Rows(shards, "train", ["resid_post.0", "mlp_out.1"]).take(index)
    assert torch.equal(taken["resid_post.0"], x[index]) and torch.equal(
        taken["mlp_out.1"], y[index]
    )


def test_rows_in_order_are_all_rows_in_order(store):
    x = torch.randn(50, 3)
    shards = ActivationShards(toys.activations(store, {"train": {"resid_post.0": x}}))
    parts = [
        batch["resid_post.0"] for batch in Rows(shards, "train", ["resid_post.0"]).in_order(20)
    ]
    assert [len(part) for part in parts] == [20, 20, 10]
    assert torch.equal(torch.cat(parts), x)


def test_codes_come_back_shard_by_shard_and_whole(store):
    dense = torch.randn(12, 5).relu()

    def write(folder):
        for number, start in enumerate((0, 5, 10)):
            write_codes(folder, "test", number, Codes.from_dense(dense[start : start + 5]))
            assert shard_rows(folder, "test", number) == len(dense[start : start + 5])

    shards = CodeShards(toys.artifact(store, "encode", write, {"d_sae": 5}))
    assert torch.equal(shards.codes("test").dense(), dense)
    assert [codes.n_rows for codes in shards.iterate("test")] == [5, 5, 2]
    assert (shards.n_rows("test"), shards.d_sae, shards.splits) == (12, 5, ["test"])


def test_unknown_split_and_hook_point_name_the_nearest(store):
    shards = ActivationShards(
        toys.activations(store, {"train": {"resid_post.0": torch.randn(3, 4)}})
    )
    with pytest.raises(
        InputError, match="holds no split 'trian'; known: train; did you mean 'train'"
    ):
        shards.n_rows("trian")
    with pytest.raises(
        InputError, match="holds no hook point 'resid_pst.0'; known: resid_post.0; did you mean"
    ):
        shards.rows("train", "resid_pst.0", torch.tensor([0]))


@pytest.mark.parametrize("damage", ["one byte changed", "truncated"])
def test_a_damaged_shard_is_refused_with_what_to_do(store, damage):
    artifact = toys.activations(store, {"train": {"resid_post.0": torch.randn(20, 4)}})
    path = artifact.folder / "train/00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] if damage == "truncated" else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        DamagedArtifactError,
        match=f"{re.escape(str(path))} is damaged: wanted digest .* and it is remade",
    ):
        ActivationShards(artifact).rows("train", "resid_post.0", torch.tensor([0]))


def test_what_an_interrupted_run_left_is_recognised(tmp_path):
    write_codes(tmp_path, "test", 0, Codes.from_dense(torch.ones(3, 2)))
    path = tmp_path / "test/00000.safetensors"
    assert shard_rows(tmp_path, "test", 0) == 3 and shard_rows(tmp_path, "test", 1) is None
    path.write_bytes(path.read_bytes()[:-3])
    assert shard_rows(tmp_path, "test", 0) is None
