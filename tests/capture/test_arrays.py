"""Activations from a file: the rows that were brought, in the splits that were said, and one
sentence for bad files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from components.capture.capture import CAPTURE, CaptureConfig
from components.config import override
from components.device import Execution
from components.errors import ConfigError, InputError
from components.store.artifact import Store, key_of
from components.store.shards import ActivationShards

CPU = Execution(device="cpu")
N, WIDTH = 20_000, 6
SPLITS = ("train", "select", "test")
X = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
DOCUMENT = np.random.default_rng(1).integers(0, 300, N)


def saved(path: Path, x: np.ndarray = X) -> Path:
    """The matrix in the format of the path's suffix."""
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".safetensors":
        save_file({"activations": torch.from_numpy(x)}, path)
    elif path.stem == "lists":
        pl.DataFrame({"x": x}, schema={"x": pl.Array(pl.Float32, x.shape[1])}).write_parquet(path)
    else:
        pl.DataFrame({f"c{n}": x[:, n] for n in range(x.shape[1])}).write_parquet(path)
    return path


def config(path: Path, **changes: object) -> CaptureConfig:
    plain = CaptureConfig(splits=SPLITS, hook_points=("resid_post.1",))
    return override(plain, {"arrays.path": str(path), **changes})


def made(store: Store, path: Path, **changes: object) -> ActivationShards:
    return ActivationShards(store.ensure(CAPTURE, config(path, **changes), {}, CPU)[0])


def everything(shards: ActivationShards, split: str) -> torch.Tensor:
    return shards.rows(split, "resid_post.1", torch.arange(shards.n_rows(split)))


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors", "lists.parquet", "columns.parquet"])
def test_every_row_is_there_once_and_blocks_are_contiguous(
    store: Store, tmp_path: Path, name: str
) -> None:
    shards = made(store, saved(tmp_path / name))
    together = torch.cat([everything(shards, split) for split in SPLITS])
    assert torch.equal(together, torch.from_numpy(X)), (
        "without provenance the splits are blocks in the file's order"
    )
    assert shards.n_rows("train") == pytest.approx(N * 1.2 / 1.6, abs=256)
    document = torch.cat([shards.provenance(split)["document"] for split in SPLITS])
    assert torch.equal(document, torch.arange(N, dtype=torch.int32) // 128)
    assert not set(shards.provenance("train")["document"].tolist()) & set(
        shards.provenance("test")["document"].tolist()
    )
    facts = shards.artifact.facts
    assert facts["note"] == (
        "there is no table of provenance, so splits are contiguous blocks of rows, and 128 "
        "consecutive rows count as one document"
    )
    norm = float(everything(shards, "train").norm(dim=1).double().mean())
    assert (
        shards.mean_norm("resid_post.1") == pytest.approx(norm, rel=1e-6)
        and shards.d_in("resid_post.1") == WIDTH
    )
    assert "model" not in shards.artifact.manifest["inputs"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_with_provenance_splits_are_disjoint_by_document(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    table = pl.DataFrame({"document": [f"text {n}" for n in DOCUMENT], "token": np.arange(N) % 50})
    path = tmp_path / f"rows.{suffix}"
    table.write_csv(path) if suffix == "csv" else table.write_parquet(path)
    shards = made(store, saved(tmp_path / "x.npy"), **{"arrays.provenance": str(path)})
    row_of = {row.tobytes(): number for number, row in enumerate(X)}
    documents: dict[str, set[int]] = {}
    for split in SPLITS:
        rows = [row_of[row.tobytes()] for row in everything(shards, split).numpy()]
        assert rows == sorted(rows), "rows stay in the order of the file"
        provenance = shards.provenance(split)
        assert (provenance["token"].numpy() == np.array(rows) % 50).all()
        names = DOCUMENT[rows]
        documents[split] = set(names.tolist())
        seen: dict[int, int] = {}
        for name, position in zip(names.tolist(), provenance["position"].tolist(), strict=True):
            assert position == seen.get(name, 0), "positions count the rows of a document"
            seen[name] = position + 1
    assert (
        sum(map(len, documents.values()))
        == len(set(DOCUMENT.tolist()))
        == len(set.union(*documents.values()))
    )
    other = made(store, tmp_path / "x.npy", **{"arrays.provenance": str(path), "arrays.seed": 1})
    assert set(other.provenance("test")["document"].tolist()) != set(
        shards.provenance("test")["document"].tolist()
    )


def test_a_division_of_your_own_and_limits_are_kept(store: Store, tmp_path: Path) -> None:
    split = np.array(["train", "test", "select", "elsewhere"])[np.arange(N) % 4]
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"document": DOCUMENT, "split": split}).write_parquet(path)
    changes = {"arrays.provenance": str(path), "tokens": {"train": 100}}
    shards = made(store, saved(tmp_path / "x.npy"), **changes)
    assert torch.equal(everything(shards, "test"), torch.from_numpy(X[1::4]))
    assert torch.equal(everything(shards, "train"), torch.from_numpy(X[0:400:4]))


def test_several_hook_points_are_tensors_of_their_names(store: Store, tmp_path: Path) -> None:
    other = torch.from_numpy(X[:, :4]).double()
    save_file({"resid_post.1": torch.from_numpy(X), "mlp_out.1": other}, tmp_path / "x.safetensors")
    shards = made(store, tmp_path / "x.safetensors", hook_points=["resid_post.1", "mlp_out.1"])
    assert shards.hook_points == ["resid_post.1", "mlp_out.1"] and shards.d_in("mlp_out.1") == 4
    rows = shards.rows("train", "mlp_out.1", torch.arange(5))
    assert torch.equal(rows, other[:5].float())
    with pytest.raises(
        InputError,
        match=r"holds nothing called 'mlp_out.2'; known: mlp_out.1, resid_post.1; did you mea",
    ):
        made(store, tmp_path / "x.safetensors", hook_points=["mlp_out.2"])


def test_the_key_follows_the_bytes_of_the_file(store: Store, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy")
    before = key_of(CAPTURE, config(path), {})
    assert key_of(CAPTURE, config(path), {}) == before
    saved(path, X[::-1].copy())
    assert key_of(CAPTURE, config(path), {}) != before
    assert key_of(CAPTURE, CaptureConfig(), {}) == key_of(
        CAPTURE, override(CaptureConfig(), {"arrays.seed": 0}), {}
    )


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize(
    ("name", "x", "told"),
    [
        ("x.npy", X[0], r"have the shape \[6\]; wanted \[rows, d_in\], a row for each token"),
        ("x.npy", X[None], r"have the shape \[1, 20000, 6\]; wanted"),
        ("x.npy", X[:0], r"have the shape \[0, 6\]; wanted"),
        ("x.npy", X.astype(np.int32), "holds int32 numbers; wanted float16, float32 or float64"),
        ("x.safetensors", X[0], r"have the shape \[6\]"),
        ("x.txt", None, "path=.*x.txt: wanted a file of the kinds .npy, .safetensors, .parq"),
        ("x.npy", None, "no file .*x.npy; set capture.arrays.path to where it lies"),
        (
            "x.npy",
            np.array([Evil()], dtype=object),
            "is no array of numbers .*objects are never loaded",
        ),
        ("x.npy", "pickle", "is no array of numbers .*objects are never loaded"),
        ("x.safetensors", "pickle", "is no safetensors file"),
        ("x.parquet", "pickle", "is no parquet file"),
        ("x.npy", X[:200], "2 documents are too few for the 3 splits train, select, test"),
    ],
)
def test_a_file_that_is_no_matrix_is_refused(
    store: Store, tmp_path: Path, name: str, x: np.ndarray | str | None, told: str
) -> None:
    path = tmp_path / name
    if isinstance(x, str):
        path.write_bytes(pickle.dumps(Evil()))
    elif x is not None:
        np.save(path, x, allow_pickle=True) if path.suffix == ".npy" else saved(path, x)
    with pytest.raises(InputError, match=told) as refused:
        made(store, path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors", "lists.parquet", "columns.parquet"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(
    store: Store, tmp_path: Path, name: str, bad: float
) -> None:
    x = X.copy()
    x[12_345, 2] = bad
    with pytest.raises(
        InputError, match=r"row 12,345 of resid_post.1 holds NaN or infinity; take such rows out"
    ):
        made(store, saved(tmp_path / name, x))


def test_an_empty_cell_and_a_short_row_of_a_table_are_refused(store: Store, tmp_path: Path) -> None:
    rows = X.tolist()
    pl.DataFrame({"x": [*rows[:700], rows[700][:4], *rows[701:]]}).write_parquet(
        tmp_path / "short.parquet"
    )
    with pytest.raises(InputError, match="row 700 of x has not the 6 numbers of the first row"):
        made(store, tmp_path / "short.parquet")
    column = pl.Series("c0", X[:, 0]).to_list()
    frame = pl.DataFrame(
        {"c0": [*column[:9], None, *column[10:]], "c1": X[:, 1].astype(np.float64)}
    )
    frame.write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="row 9 of resid_post.1 holds NaN"):
        made(store, tmp_path / "empty.parquet")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            {"document": DOCUMENT[1:]},
            "has 19,999 rows, and the activations have 20,000; wanted one for each",
        ),
        ({"doc": DOCUMENT}, r"has no column 'document' \(it has doc\)"),
        ({"document": [None, *DOCUMENT[1:].tolist()]}, "the column 'document' has empty cells"),
        (
            {"document": DOCUMENT, "position": X[:, 0]},
            "the column 'position' is Float32; wanted whole numbers",
        ),
        ({"document": DOCUMENT % 2}, "2 documents are too few for the 3 splits"),
        (
            {"document": DOCUMENT, "split": ["train"] * N},
            "no row of the split 'select'; known: train",
        ),
    ],
)
def test_a_table_of_provenance_that_does_not_fit_is_refused(
    store: Store, tmp_path: Path, columns: dict[str, object], told: str
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=told):
        made(
            store,
            saved(tmp_path / "x.npy"),
            **{"arrays.provenance": str(tmp_path / "rows.parquet")},
        )


def test_settings_that_need_a_model_or_a_size_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="capture.drop_outlier_norms looks at the model's first contexts"
    ):
        config(tmp_path / "x.npy", drop_outlier_norms=3)
    with pytest.raises(
        ConfigError, match="capture.splits: 'elsewhere' has no size of its own; known: calibrate"
    ):
        made(store, saved(tmp_path / "x.npy"), splits=["train", "elsewhere"])
