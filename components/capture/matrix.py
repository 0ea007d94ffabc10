"""A file with a matrix [row, d_in] of numbers for each hook point, read front to back a block of
rows at a time.

`.npy` and `.safetensors` are memory-mapped; of `.parquet` a block is decoded at a time. Nothing is
unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.errors import InputError
from components.registry import nearest

BLOCK_ROWS = 8192
FORMATS = (".npy", ".safetensors", ".parquet")
TYPES = {np.dtype(name): getattr(torch, name) for name in ("float16", "float32", "float64")}
DESCRIBING = ("document", "position", "token", "split")
"""Columns that say where a row comes from; a parquet file may have them beside its numbers."""


class Matrix:
    """The matrices of one file: one for each hook point, with equally many rows.

    Args:
        path: the file.
        names: hook points. With a single one, the single matrix of a file is its, whatever it is
            called there.

    Attributes:
        path: the file.
        n_rows: number of rows.
        widths: numbers in a row, by hook point.
        dtype: type of the numbers; float64 is read as float32.

    Raises:
        InputError: no matrix of numbers, or Python objects in it, which are never loaded.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        opened = {".npy": _numpy, ".safetensors": _safetensors, ".parquet": _parquet}[path.suffix](
            path, names
        )
        self._blocks, shapes, self.dtype = opened
        for name, shape in shapes.items():
            if len(shape) != 2 or 0 in shape:
                raise InputError(
                    f"{path}: the activations of {name} have the shape {list(shape)}; wanted "
                    "[rows, d_in], a row for each token"
                )
        counts = {name: shape[0] for name, shape in shapes.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} has {count:,}" for name, count in counts.items())
            raise InputError(f"{path}: every hook point needs equally many rows; {listed}")
        self.n_rows = next(iter(counts.values()))
        self.widths = {name: shape[1] for name, shape in shapes.items()}

    def blocks(self) -> Iterator[tuple[int, dict[str, Float[Tensor, "row _"]]]]:
        """(first row, rows by hook point), front to back.

        Raises:
            InputError: NaN or infinity, or an empty cell; says in which row.
        """
        start = 0
        for block in self._blocks():
            rows = {name: x.to(self.dtype) for name, x in block.items()}
            for name, x in rows.items():
                sound = x.isfinite().all(dim=1)
                if not sound.all():
                    raise InputError(
                        f"{self.path}: row {start + int((~sound).int().argmax()):,} of {name} "
                        "holds NaN or infinity; take such rows out, of the table of provenance too"
                    )
            yield start, rows
            start += len(next(iter(rows.values())))


Opened = tuple[Any, dict[str, tuple[int, ...]], torch.dtype]
"""What gives the blocks of a file, shapes by hook point, and the type of its numbers."""


def _numpy(path: Path, names: Sequence[str]) -> Opened:
    if len(names) > 1:
        raise InputError(
            f"{path} holds one matrix, and capture.hook_points names {len(names)}; use .safetensors"
        )
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(
            f"{path} is no array of numbers ({error}); files with Python objects are never "
            "loaded: save it with np.save(path, x.astype(np.float32))"
        ) from error
    if matrix.dtype not in TYPES:
        raise InputError(f"{path} holds {matrix.dtype} numbers; wanted float16, float32 or float64")

    def blocks() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(matrix), BLOCK_ROWS):
            yield {names[0]: torch.from_numpy(np.array(matrix[start : start + BLOCK_ROWS]))}

    return blocks, {names[0]: matrix.shape}, _stored(TYPES[matrix.dtype])


def _safetensors(path: Path, names: Sequence[str]) -> Opened:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no safetensors file: {error}") from error
    of = _assigned(path, names, list(file.keys()))
    slices = {name: file.get_slice(of[name]) for name in names}
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    dtypes = {name: (part[:1]).dtype for name, part in slices.items() if shapes[name][0]}
    if other := [name for name, dtype in dtypes.items() if not dtype.is_floating_point]:
        raise InputError(
            f"{path}: {of[other[0]]} holds {dtypes[other[0]]} numbers; wanted floating-point ones"
        )

    def blocks() -> Iterator[dict[str, Tensor]]:
        for start in range(0, shapes[names[0]][0], BLOCK_ROWS):
            yield {name: part[start : start + BLOCK_ROWS] for name, part in slices.items()}

    return blocks, shapes, _stored(dtypes.get(names[0], torch.float32))


def _parquet(path: Path, names: Sequence[str]) -> Opened:
    import pyarrow as pa  # here: captures of a model do without it, on machines that lack it
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no parquet file: {error}") from error
    types = {field.name: field.type for field in file.schema_arrow if field.name not in DESCRIBING}
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    lists = [name for name, kind in types.items() if any(test(kind) for test in is_list)]
    n_rows = file.metadata.num_rows
    if lists:
        of = _assigned(path, names, lists)
        first = next(file.iter_batches(1, columns=list(of.values())), None)
        widths = {name: len(first[of[name]][0]) if first is not None else 0 for name in names}
        numbers = types[of[names[0]]].value_type
    else:
        if len(names) > 1:
            raise InputError(f"{path} has no columns of lists, one for each of {', '.join(names)}")
        of, widths, numbers = {}, {names[0]: len(types)}, next(iter(types.values()), pa.null())
        if mixed := [name for name, kind in types.items() if kind != numbers]:
            raise InputError(
                f"{path}: the column {mixed[0]!r} is {types[mixed[0]]}, and others are {numbers}"
            )
    kinds = {pa.float16(): torch.float16, pa.float32(): torch.float32, pa.float64(): torch.float64}
    if numbers not in kinds:
        raise InputError(f"{path} holds {numbers} numbers; wanted float16, float32 or float64")

    def rows_of(batch: Any, name: str, start: int) -> Tensor:
        if not lists:
            columns = [batch[column].to_numpy(zero_copy_only=False) for column in types]
            return torch.from_numpy(np.column_stack(columns))
        column = batch[of[name]]
        length = column.value_lengths().to_numpy(zero_copy_only=False)
        if column.null_count or (length != widths[name]).any():
            row = start + int(np.argmax(length != widths[name]))
            raise InputError(
                f"{path}: row {row:,} of {of[name]} has not the {widths[name]} numbers of the "
                "first row"
            )
        # an empty cell becomes NaN, which is refused
        values = column.flatten().to_numpy(zero_copy_only=False)
        return torch.from_numpy(values.reshape(-1, widths[name]).copy())

    def blocks() -> Iterator[dict[str, Tensor]]:
        start = 0
        for batch in file.iter_batches(BLOCK_ROWS, columns=list(of.values()) or list(types)):
            yield {name: rows_of(batch, name, start) for name in names}
            start += batch.num_rows

    return blocks, {name: (n_rows, widths[name]) for name in names}, _stored(kinds[numbers])


def _assigned(path: Path, names: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """The matrix of each hook point: that of its name, or the only one for the only hook point."""
    if len(names) == len(there) == 1:
        return {names[0]: there[0]}
    if missing := [name for name in names if name not in there]:
        raise InputError(
            f"{path} holds nothing called {missing[0]!r}; {nearest(missing[0], there)}; name it "
            "in capture.hook_points (and train.hook_point)"
        )
    return {name: name for name in names}


def _stored(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.float64 else dtype
