"""One declared table: its columns with type and unit, its key, and the one way to write, to scan
and to refuse it.

Polars only, no torch: dashboards read through this file. Absent is null with a `reason`, never a
default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from components.errors import StoreError
from components.store.artifact import Artifact, Store

GROUP = 16_384
"""Rows of a parquet row group: a page that asks for one latent of 100,000 decodes one group, not
the file."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A declared table.

    Attributes:
        name: file stem inside an artifact.
        stage: the stage whose artifacts hold it.
        about: one sentence.
        columns: name -> (type, what it says and in which unit).
        key: the columns that identify a row.
        finish: what every frame goes through before it is written.
    """

    name: str
    stage: str
    about: str
    columns: Mapping[str, tuple[Any, str]]
    key: tuple[str, ...]
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame

    @property
    def schema(self) -> Mapping[str, Any]:
        """Column names and types, in order."""
        return pl.Schema({name: kind for name, (kind, _) in self.columns.items()})

    @property
    def file(self) -> str:
        """File name inside an artifact."""
        return f"{self.name}.parquet"

    def frame(self, rows: Iterable[Mapping[str, Any]] | pl.DataFrame) -> pl.DataFrame:
        """Rows as a frame of exactly this schema; columns that rows leave out are null.

        Raises:
            AssertionError: a column that is not declared, or a key that is not unique.
        """
        frame = (
            rows
            if isinstance(rows, pl.DataFrame)
            else pl.DataFrame(list(rows), schema_overrides=self.schema, infer_schema_length=None)
        )
        unknown = set(frame.columns) - set(self.columns)
        assert not unknown, f"table {self.name} has no columns {sorted(unknown)}"
        missing = [
            pl.lit(None, dtype=kind).alias(name)
            for name, kind in self.schema.items()
            if name not in frame.columns
        ]
        frame = frame.with_columns(missing).select(
            pl.col(name).cast(kind) for name, kind in self.schema.items()
        )
        if self.key and frame.height:
            repeated = frame.height - frame.select(self.key).n_unique()
            assert repeated == 0, f"table {self.name}: {repeated} rows repeat the key {self.key}"
        return self.finish(frame)

    def write(self, folder: Path, rows: Iterable[Mapping[str, Any]] | pl.DataFrame) -> pl.DataFrame:
        """Writes `<folder>/<name>.parquet` whole or not at all, and returns the frame."""
        frame = self.frame(rows)
        temporary = folder / f".{self.file}.writing"
        frame.write_parquet(temporary, compression="zstd", row_group_size=GROUP)
        temporary.rename(folder / self.file)
        return frame

    def scan(self, artifact: Artifact) -> pl.LazyFrame:
        """The table of one artifact, lazily, its bytes verified.

        Raises:
            StoreError: an earlier version wrote it, and columns are missing.
        """
        frame = pl.scan_parquet(artifact.path(self.file))
        there = set(frame.collect_schema().names())
        if missing := [column for column in self.columns if column not in there]:
            raise StoreError(
                f"an earlier version of Latentflow wrote the table {self.name} of "
                f"{artifact.stage}/{artifact.key}, without {_listed(missing)}; run the same "
                "command again to make a new one (this one stays as it is), or read it with the "
                "version that wrote it"
            )
        return frame

    def read(self, artifact: Artifact) -> pl.DataFrame:
        """The table of one artifact.

        Raises:
            StoreError: an earlier version wrote it, and columns are missing.
        """
        return self.scan(artifact).collect()

    def scan_all(self, store: Store) -> pl.LazyFrame:
        """The table over every artifact that holds it, with the column `origin` (stage/key) in
        front; columns that an earlier version did not write are null."""
        artifacts = store.artifacts(None if self.stage == "*" else self.stage)
        frames = [pl.LazyFrame(schema={"origin": pl.String, **self.schema})]
        for artifact in artifacts:
            if self.file in artifact.files:
                origin = pl.lit(f"{artifact.stage}/{artifact.key}").alias("origin")
                frames.append(pl.scan_parquet(artifact.path(self.file)).select(origin, pl.all()))
        return pl.concat(frames, how="diagonal_relaxed")


def _listed(columns: list[str]) -> str:
    """The first of them, for a sentence."""
    more = f" and {len(columns) - 3} more" if len(columns) > 3 else ""
    return f"the column{'s' if len(columns) > 1 else ''} {', '.join(columns[:3])}{more}"
