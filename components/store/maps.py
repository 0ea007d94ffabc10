"""Maps of dictionaries: where each decoder direction lies in two dimensions, kept beside the
artifacts.

A map follows from the dictionary alone, so it is made when somebody first looks and kept as
`maps/<key of train>.parquet` beside the folder of the artifacts; deleting it costs seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from components.store.artifact import Store
from components.store.table import Table

MAP = Table(
    "map",
    "train",
    "Decoder directions of norm 1 in the two dimensions in which they differ most.",
    {
        "latent": (pl.Int32, "latent"),
        "x": (pl.Float32, "first principal component"),
        "y": (pl.Float32, "second principal component"),
        "share_x": (pl.Float32, "share of the directions' variance along the first, the same in every row"),
        "share_y": (pl.Float32, "along the second"),
    },
    ("latent",),
)  # fmt: skip


def place(store: Store, dictionary: str) -> Path:
    """Where the map of a dictionary lies, made or not."""
    return store.root.parent / "maps" / f"{dictionary}.parquet"


def read(store: Store, dictionary: str) -> pl.DataFrame | None:
    """The map; None where nobody has looked yet."""
    path = place(store, dictionary)
    return MAP.frame(pl.read_parquet(path)) if path.exists() else None


def write(store: Store, dictionary: str, frame: pl.DataFrame) -> None:
    """Keeps a map, whole or not at all."""
    path = place(store, dictionary)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.writing")
    MAP.frame(frame).sort("latent").write_parquet(temporary, compression="zstd")
    temporary.replace(path)
