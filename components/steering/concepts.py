"""Which labelled concepts are steered towards."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from components.errors import InputError
from components.registry import nearest
from components.seeds import derive
from components.steering.contract import Concept

if TYPE_CHECKING:  # the section names the kinds of target, which read this
    from components.steering.config import SteerConfig


def pick_concepts(inventory: pl.DataFrame, config: SteerConfig) -> list[Concept]:
    """All matching concepts of documents, and of each family a bounded number of others, in the
    inventory's order.

    Which ones is settled by a hash of seed and name: a concept that is added displaces at most one
    of its family.

    Raises:
        InputError: no concept of the corpus matches.
    """
    matching = [
        row
        for row in inventory.to_dicts()
        if any(fnmatch.fnmatchcase(row["concept"], pattern) for pattern in config.concepts)
    ]
    if not matching:
        wanted = ", ".join(config.concepts)
        raise InputError(
            f"steer.concepts wants {wanted}, and of {inventory.height} labelled concepts of the "
            "corpus none matches; "
            f"{nearest(config.concepts[0], inventory['concept'].head(20).to_list())}"
        )
    drawn = sorted(matching, key=lambda row: derive(config.seed, "concept", row["concept"]))
    taken: Counter[str] = Counter()
    picked = set()
    for row in drawn:
        taken[row["family"]] += row["unit"] != "document"
        if row["unit"] == "document" or taken[row["family"]] <= config.max_concepts_per_family:
            picked.add(row["concept"])
    return [
        Concept(row["concept"], row["concept_kind"], row["unit"], text=row.get("description"))
        for row in matching
        if row["concept"] in picked
    ]


def limit(config: SteerConfig, inventory: pl.DataFrame, concepts: Sequence[Concept]) -> str | None:
    """That not every concept was tried, where that is so."""
    if len(concepts) == inventory.height:
        return None
    return (
        f"{len(concepts)} of {inventory.height} concepts were tried: all of documents that match, "
        f"and of each family at most {config.max_concepts_per_family} others, drawn "
        "(steer.max_concepts_per_family)"
    )
