"""Rows and contexts that go to disk as they come, and become one file each at the end, whole or not
at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl

from components.corpus.packing import Packed
from components.store.tables import Table

GRIDS = ("token", "document", "position")


class RowSpool:
    """A table too long to hold: parts of about `part` rows, then one file.

    Args:
        table: what the rows are.
        folder: where the finished table goes; parts lie in a hidden folder inside.
        part: rows in memory before a part is written.
    """

    def __init__(self, table: Table, folder: Path, part: int = 500_000) -> None:
        self.table, self.folder, self.part = table, folder, part
        self._parts = folder / f".{table.name}"
        shutil.rmtree(self._parts, ignore_errors=True)
        self._parts.mkdir()
        self._held: list[pl.DataFrame] = []
        self._n_parts = 0
        self.n_rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Adds rows; keys are unique within and between calls."""
        self._held.append(self.table.frame(rows))
        self.n_rows += rows.height
        if sum(frame.height for frame in self._held) >= self.part:
            self._write()

    def finish(self) -> None:
        """Writes the table."""
        self._write()
        temporary = self.folder / f".{self.table.file}.writing"
        pl.scan_parquet(self._parts / "*.parquet").sink_parquet(temporary, compression="zstd")
        temporary.rename(self.folder / self.table.file)
        shutil.rmtree(self._parts)

    def _write(self) -> None:
        frame = pl.concat(self._held) if self._held else self.table.frame([])
        frame.write_parquet(self._parts / f"{self._n_parts:06d}.parquet")
        self._n_parts, self._held = self._n_parts + 1, []


class ContextSpool:
    """Contexts of one split as they are packed, then `contexts/<split>.safetensors`.

    Args:
        folder: the artifact's folder.
        split: the split.
        context_length: tokens in a context.
        masked: whether to write which tokens are no padding, too: what a causal model never needs.
    """

    def __init__(self, folder: Path, split: str, context_length: int, masked: bool = False) -> None:
        self.folder, self.split, self.context_length = folder, split, context_length
        self.n_contexts = 0
        self._paths = {
            name: folder / f".contexts-{split}-{name}"
            for name in (*GRIDS, *(["mask"] if masked else []))
        }
        for path in self._paths.values():
            path.write_bytes(b"")

    def add(self, packed: Packed) -> None:
        """Appends finished contexts."""
        for name, path in self._paths.items():
            with path.open("ab") as file:
                file.write(getattr(packed, name).astype("<i4").tobytes())
        self.n_contexts += len(packed)

    def finish(self) -> None:
        """Writes the file: a safetensors header, then the arrays one after another."""
        size = 4 * self.n_contexts * self.context_length
        described = {
            name: {
                "dtype": "I32",
                "shape": [self.n_contexts, self.context_length],
                "data_offsets": [place * size, (place + 1) * size],
            }
            for place, name in enumerate(self._paths)
        }
        header = json.dumps(described).encode()
        header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
        temporary = self.folder / f".contexts-{self.split}.writing"
        with temporary.open("wb") as whole:
            whole.write(len(header).to_bytes(8, "little") + header)
            for path in self._paths.values():
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, 2**20)
        (self.folder / "contexts").mkdir(exist_ok=True)
        temporary.rename(self.folder / "contexts" / f"{self.split}.safetensors")
        for path in self._paths.values():
            path.unlink()
