"""What a capture writes, wherever its activations come from: bytes before, counts and mean norms
afterwards."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError, NoSpaceError
from components.store.shards import PROVENANCE, read_shard, shard_rows

SPARE = 64 * 2**20  # bytes left free on the disk


def row_bytes(widths: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes on disk of one token: its activations at every hook point, and where it stood."""
    return sum(widths) * dtype.itemsize + 4 * len(PROVENANCE)


def refuse_what_does_not_fit(folder: Path, n_bytes: int, n_tokens: int) -> None:
    """Refuses a capture before it starts.

    Raises:
        NoSpaceError: the disk cannot hold what would be written.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes + SPARE > free:
        raise NoSpaceError(
            f"capture would write {n_bytes / 2**20:,.0f} MiB ({n_tokens:,} tokens), and the disk "
            f"of {folder} has {free / 2**20:,.0f} MiB free; lower capture.tokens, take fewer hook "
            "points or capture.dtype=float16, or set execution.store to another disk"
        )


def facts(
    folder: Path, shards: Mapping[str, int], widths: Mapping[str, int], dtype: torch.dtype
) -> dict[str, Any]:
    """Counts and mean norms, read off the shards as they lie there, so that a resumed capture says
    the same.

    Args:
        folder: of the artifact.
        shards: number of shards of each split.
        widths: of the activations, by hook point.
        dtype: of the activations on disk.

    Raises:
        InputError: NaN or infinity in the split whose norms are measured.
    """
    normed = "train" if "train" in shards else next(iter(shards))
    rows, sums = dict.fromkeys(shards, 0), dict.fromkeys(widths, 0.0)
    for split, n_shards in shards.items():
        for number in range(n_shards):
            n_rows = shard_rows(folder, split, number)
            assert n_rows is not None, f"shard {number} of {split} is not there"
            rows[split] += n_rows
            if split != normed:
                continue
            shard = read_shard(folder, split, number)
            for name in widths:
                sums[name] += float(shard[f"x.{name}"].float().norm(dim=1).sum(dtype=torch.float64))
                if not math.isfinite(sums[name]):
                    _refuse_what_is_not_finite(
                        name, shard[f"x.{name}"], f"{split}/{number:05}.safetensors"
                    )
    return {
        "hook_points": {
            name: {"d_in": width, "mean_norm": sums[name] / rows[normed] if rows[normed] else None}
            for name, width in widths.items()
        },
        "splits": {split: {"rows": n_rows} for split, n_rows in rows.items()},
        "dtype": str(dtype).removeprefix("torch."),
    }


def _refuse_what_is_not_finite(name: str, x: Tensor, shard: str) -> None:
    row = int((~x.isfinite().all(dim=1)).int().argmax())
    raise InputError(
        f"activations at {name} hold NaN or infinity: row {row} of shard {shard}, in "
        f"{str(x.dtype).removeprefix('torch.')}; capture in a wider dtype (capture.dtype=float32, "
        "or model.dtype=float32 where the model itself overflows)"
    )
