"""Tiny real doubles that every test may use: random language models by layout, artifacts of given numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.config import Config
from components.store.artifact import Artifact, Progress, Stage, Store
from components.store.shards import PROVENANCE, write_activations


def artifact(store: Store, stage: str, write: Any, facts: Mapping[str, Any], seed: int = 0) -> Artifact:
    """A real artifact of any stage: `write(folder)` writes its files. `seed` tells apart artifacts of one stage."""

    class Toy(Config):
        seed: int = 0
        """Which of several."""

    def make(folder: Path, config: Any, inputs: Any, settings: Any) -> Iterator[Progress]:
        write(folder)
        yield Progress(1, 1, "files")
        return dict(facts)

    return store.ensure(Stage(stage, 1, make), Toy(seed=seed), {})[0]  # type: ignore[arg-type]


def activations(
    store: Store,
    splits: Mapping[str, Mapping[str, Tensor]],
    provenance: Mapping[str, Mapping[str, Tensor]] | None = None,
    rows_per_shard: int = 7,
    seed: int = 0,
) -> Artifact:
    """A capture artifact of given numbers: split -> hook point -> x[row, d_in].

    Provenance may be given by split; what is left out counts rows (document 0, one context).
    """

    def write(folder: Path) -> None:
        for split, by_hook_point in splits.items():
            n = len(next(iter(by_hook_point.values())))
            columns = {name: torch.arange(n) for name in PROVENANCE}
            columns |= {"document": torch.zeros(n).long(), "context": torch.zeros(n).long()}
            columns |= dict((provenance or {}).get(split, {}))
            for number, start in enumerate(range(0, n, rows_per_shard)):
                part = slice(start, start + rows_per_shard)
                x = {name: value[part] for name, value in by_hook_point.items()}
                write_activations(folder, split, number, x, {name: c[part] for name, c in columns.items()})

    first = splits.get("train") or next(iter(splits.values()))
    facts = {
        "hook_points": {
            name: {"d_in": x.shape[1], "mean_norm": float(x.float().norm(dim=1).mean())} for name, x in first.items()
        },
        "splits": {split: {"rows": len(next(iter(x.values()))), "contexts": 1} for split, x in splits.items()},
        "dtype": str(next(iter(first.values())).dtype).removeprefix("torch."),
        "tokens_per_second": 1.0,
        "model": "toy",
    }
    return artifact(store, "capture", write, facts, seed)
