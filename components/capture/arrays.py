"""Activations from a file instead of a model: a matrix [row, d_in] becomes the artifact that
`capture` makes.

A `.npy`, `.safetensors` or `.parquet` file is read front to back, a block of rows at a time and
memory-mapped where its format allows, so that memory is bounded whatever its size. A table of
provenance may say which document each row belongs to; splits are then disjoint by document. Without
one, runs of consecutive rows stand for documents and splits are contiguous blocks of them, because
neighbouring rows are often alike.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from pydantic import PositiveInt
from torch import Tensor

from components.capture import written
from components.capture.matrix import DESCRIBING, FORMATS, Matrix
from components.config import Config
from components.corpus.division import SplitsConfig, cut
from components.errors import ConfigError, InputError
from components.paths import expanded
from components.registry import nearest
from components.seeds import numpy_generator
from components.store.shards import PROVENANCE, write_activations
from components.store.stage import Progress, Work
from components.store.tables import NAMES

if TYPE_CHECKING:
    from components.capture.capture import CaptureConfig

log = logging.getLogger(__name__)

VERSION = 2
"""Raised when the same file gives other rows, splits or tables."""
NO_TEXT = (
    "the activations come from a file, without a model and without text; leave capture.arrays.path "
    "empty to run a model over a corpus"
)
"""Why a stage or an evaluation that needs either has nothing to do."""
SHARD_BYTES = 64 * 2**20
TABLES = (".parquet", ".csv")
COLUMNS = 6
"""Whole numbers of 4 bytes that are held for each row: three columns, its split (8 bytes) and its
document's order."""


class ArraysConfig(Config):
    """Activations of your own, from a file: no model and no text is read."""

    path: str = ""
    """A .npy, .safetensors or .parquet file with a matrix of activations, one row for each token.
    With several hook points it holds a tensor (or a column of lists) of each one's name. Empty: the
    model is run over the corpus."""
    provenance: str = ""
    """A .parquet or .csv table with one row for each row of the matrix and a column `document`;
    `position` and `token` (a number) as well if you have them, and `split` where the division into
    splits is your own. Empty: nothing is known."""
    rows_per_document: PositiveInt = 128
    """Consecutive rows that stand for one document where there is no table of provenance."""
    seed: int = 0
    """Of the division of documents into splits."""


@dataclasses.dataclass(frozen=True, eq=False)
class RowPlaces:
    """Where the rows of a file belong.

    Attributes:
        columns: `document`, `position` and `token` of each row, int32.
        split: number of the split of each row; -1 for a row that no split takes.
        note: how the splits were made, in one sentence.
        names: rows of the table NAMES; none where documents have numbers or nothing is known of
            them.
    """

    columns: Mapping[str, Int[np.ndarray, " row"]]
    split: Int[np.ndarray, " row"]
    note: str
    names: pl.DataFrame


def files(config: ArraysConfig) -> list[Path]:
    """The files that the activations are read from.

    Raises:
        InputError: one of them is not there, or of no format that is read here.
    """
    paths = []
    for name, formats in (("path", FORMATS), ("provenance", TABLES)):
        if not (setting := getattr(config, name)):
            continue
        path = expanded(setting)
        if path.suffix not in formats:
            raise InputError(
                f"capture.arrays.{name}={path}: wanted a file of the kinds {', '.join(formats)}"
            )
        if not path.is_file():
            raise InputError(f"no file {path}; set capture.arrays.{name} to where it lies")
        paths.append(path)
    return paths


def make(folder: Path, config: CaptureConfig) -> Work:
    """Writes what `capture` writes, from the user's own activations.

    Where documents have names, also names.parquet.

    Yields how the splits were made, then rows done.

    Raises:
        InputError: a file, a matrix or a table of provenance that cannot be used; says why.
        NoSpaceError: the disk cannot hold what would be written.
    """
    matrix = Matrix(expanded(config.arrays.path), config.hook_points)
    dtype = matrix.dtype if config.dtype == "model" else getattr(torch, config.dtype)
    where = places(config.arrays, matrix.n_rows, config.splits, config.tokens)
    n_rows = int((where.split >= 0).sum())
    n_bytes = n_rows * written.row_bytes(list(matrix.widths.values()), dtype)
    written.refuse_what_does_not_fit(folder, n_bytes, n_rows)
    log.warning("capture: %s", where.note)
    message = f"{n_rows:,} rows: {n_bytes / 2**20:,.0f} MiB on disk; {where.note}"
    yield Progress(0, matrix.n_rows, "rows", message, {"bytes": n_bytes})
    n_shards = yield from _write(folder, matrix, where, config.splits, dtype)
    if where.names.height:
        NAMES.write(folder, where.names)
    facts = written.facts(folder, n_shards, matrix.widths, dtype)
    for name, count in counts(where, config.splits).items():
        facts["splits"][name] |= count | {"dropped": 0}
    return facts | {"arrays": config.arrays.path, "note": where.note, "tokens_per_second": None}


def counts(where: RowPlaces, splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rows and documents of each split; a document counts as one context."""
    found = {}
    for number, name in enumerate(splits):
        inside = where.split == number
        n_documents = len(np.unique(where.columns["document"][inside]))
        found[name] = {"rows": int(inside.sum()), "contexts": n_documents, "documents": n_documents}
    return found


def places(
    config: ArraysConfig, n_rows: int, splits: Sequence[str], limits: Mapping[str, int]
) -> RowPlaces:
    """Where each of `n_rows` rows belongs.

    Args:
        config: the section.
        n_rows: rows of the matrix.
        splits: names of the splits.
        limits: most rows of a split, by name; 0 or none for no limit.

    Raises:
        InputError: a table without `document`, of another length, with empty cells, or too few
            documents.
        ConfigError: a split of no known size.
    """
    columns: dict[str, np.ndarray]
    names = NAMES.frame([])
    if config.provenance:
        table = _table(expanded(config.provenance), n_rows)
        columns = {name: table[name].to_numpy() for name in ("document", "position", "token")}
        if "name" in table.columns:
            names = NAMES.frame(table.select("document", "name").unique().sort("document"))
        if "split" in table.columns:
            split = _own_splits(table["split"], splits, config.provenance)
            note = f"{config.provenance} says which split each row belongs to"
        else:
            split = _by_document(columns["document"], splits, config.seed)
            note = f"splits are disjoint by document, as {config.provenance} names documents"
    else:
        rows = np.arange(n_rows)
        per_document = config.rows_per_document
        columns = {
            "document": rows // per_document,
            "position": rows % per_document,
            "token": np.full(n_rows, -1),
        }
        split = _by_document(columns["document"], splits, None)
        note = (
            "there is no table of provenance, so splits are contiguous blocks of rows, and "
            f"{per_document} consecutive rows count as one document"
        )
    for number, name in enumerate(splits):
        if limits.get(name):
            split[np.flatnonzero(split == number)[limits[name] :]] = -1
    numbers = {name: column.astype(np.int32) for name, column in columns.items()}
    return RowPlaces(numbers, split, note, names)


def _write(
    folder: Path, matrix: Matrix, where: RowPlaces, splits: Sequence[str], dtype: torch.dtype
) -> Generator[Progress, None, dict[str, int]]:
    """Writes the shards of every split; returns how many each has."""
    per_shard = max(1024, SHARD_BYTES // written.row_bytes(list(matrix.widths.values()), dtype))
    waiting: dict[str, list[tuple[dict[str, Tensor], np.ndarray]]] = {name: [] for name in splits}
    n_shards = dict.fromkeys(splits, 0)
    for start, rows in matrix.blocks():
        stop = start + len(next(iter(rows.values())))
        for number, name in enumerate(splits):
            inside = np.flatnonzero(where.split[start:stop] == number)
            index = torch.from_numpy(inside)
            waiting[name].append(
                ({point: x[index].to(dtype) for point, x in rows.items()}, start + inside)
            )
            n_waiting = sum(len(row) for _, row in waiting[name])
            if n_waiting >= per_shard or (n_waiting and stop == matrix.n_rows):
                _write_shard(folder, name, n_shards[name], waiting[name], where)
                n_shards[name] += 1
                waiting[name] = []
        yield Progress(stop, matrix.n_rows, "rows")
    return n_shards


def _write_shard(
    folder: Path,
    split: str,
    number: int,
    parts: Sequence[tuple[dict[str, Tensor], np.ndarray]],
    where: RowPlaces,
) -> None:
    row = np.concatenate([rows for _, rows in parts])
    activations = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
    known = {**where.columns} | {
        "context": where.columns["document"],
        "offset": where.columns["position"],
    }
    provenance = {name: torch.from_numpy(known[name][row]) for name in PROVENANCE}
    write_activations(folder, split, number, activations, provenance)


def _by_document(document: np.ndarray, splits: Sequence[str], seed: int | None) -> np.ndarray:
    """The split of each row: documents in the order of a draw (of their numbers, without a seed),
    cut by shares."""
    usual = SplitsConfig().model_dump()
    if unknown := [name for name in splits if not usual.get(name)]:
        raise ConfigError(
            f"capture.splits: {unknown[0]!r} has no size of its own; {nearest(unknown[0], usual)}"
        )
    names, inverse, n_rows = np.unique(document, return_inverse=True, return_counts=True)
    if len(names) < len(splits):
        raise InputError(
            f"{len(names)} documents are too few for the {len(splits)} splits "
            f"{', '.join(splits)}: a document belongs to one split; bring more rows, lower "
            "capture.arrays.rows_per_document, or list fewer splits"
        )
    order = np.arange(len(names))
    if seed is not None:
        order = numpy_generator(seed, "arrays", "splits").permutation(len(names))
    of_document = np.empty(len(names), np.int64)
    of_document[order] = cut(n_rows[order], [usual[name] for name in splits])
    return of_document[inverse]


def _own_splits(column: pl.Series, splits: Sequence[str], path: str) -> np.ndarray:
    there = column.unique().to_list()
    if missing := [name for name in splits if name not in there]:
        raise InputError(
            f"{path}: no row of the split {missing[0]!r}; {nearest(missing[0], map(str, there))}"
        )
    number = pl.Series(list(splits)).to_list()
    return (
        column.replace_strict({name: place for place, name in enumerate(number)}, default=-1)
        .to_numpy()
        .copy()
    )


def _table(path: Path, n_rows: int) -> pl.DataFrame:
    """The table of provenance, its columns whole numbers.

    Documents that have names are numbered in their order; the names then stand in a column `name`.
    """
    if not path.is_file() or path.suffix not in (".parquet", ".csv"):
        raise InputError(
            f"{path}: wanted a table of provenance, a .parquet or .csv file; set "
            "capture.arrays.provenance"
        )
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{path} could not be read as a table: {str(error).splitlines()[0]}"
        ) from error
    if "document" not in table.columns:
        raise InputError(
            f"{path} has no column 'document' (it has {', '.join(table.columns) or 'none'}); it "
            "says which document each row of the activations belongs to"
        )
    if table.height != n_rows:
        raise InputError(
            f"{path} has {table.height:,} rows, and the activations have {n_rows:,}; wanted one "
            "for each of theirs"
        )
    table = table.select(name for name in DESCRIBING if name in table.columns)
    if empty := [column.name for column in table if column.null_count()]:
        raise InputError(
            f"{path}: the column {empty[0]!r} has empty cells; fill them, or leave the column out"
        )
    if not table["document"].dtype.is_integer():
        table = table.with_columns(pl.col("document").cast(pl.String).alias("name"))
        table = table.with_columns(pl.col("name").rank("dense").alias("document") - 1)
    if "position" not in table.columns:
        table = table.with_columns(pl.int_range(pl.len()).over("document").alias("position"))
    if "token" not in table.columns:
        table = table.with_columns(token=pl.lit(-1))
    for name in ("document", "position", "token"):
        column = table[name]
        if (
            not column.dtype.is_integer()
            or int(column.min() or 0) < -1
            or int(column.max() or 0) > 2**31 - 1
        ):  # type: ignore[arg-type]
            raise InputError(
                f"{path}: the column {name!r} is {column.dtype}; wanted whole numbers from 0 to "
                "2^31 - 1"
            )
    return table
