"""The inventory of the world's concepts as a table, committed beside the demo model before any
dictionary is trained.

`data/demo/concepts.csv` is what later scores are held against; a test keeps it equal to what the
families declare.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from components.store.tables import CONCEPTS
from components.world.grammar import World

FILE = "concepts.csv"


def inventory(world: World | None = None) -> pl.DataFrame:
    """Every concept with its kind, unit, family and description (schema of the concepts table)."""
    return CONCEPTS.frame(
        [dataclasses.asdict(concept) for concept in (world or World()).concepts()]
    )


def write_inventory(folder: Path, world: World | None = None) -> Path:
    """Writes the inventory as text that a diff can show."""
    path = folder / FILE
    inventory(world).write_csv(path)
    return path
