"""Rows of activations of one split, read in order or by number, and refused where they are not
finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.errors import DictionaryError
from components.seeds import torch_generator
from components.store.shards import ActivationShards, is_stored, shard_rows


class Rows:
    """The activations of one split at some hook points.

    Attributes:
        n_rows: rows of the split.
    """

    def __init__(self, shards: ActivationShards, split: str, hook_points: Sequence[str]) -> None:
        self.shards, self.split = shards, split
        self.hook_points = tuple(dict.fromkeys(hook_points))
        self.n_rows = shards.n_rows(split)

    def take(self, index: Int64[Tensor, " row"]) -> dict[str, Float[Tensor, "row _"]]:
        """The rows of these numbers, by hook point, in the stored dtype.

        Raises:
            DictionaryError: NaN or infinity among them; names the shard and the row.
        """
        taken = {name: self.shards.rows(self.split, name, index) for name in self.hook_points}
        for name, rows in taken.items():
            # a sum that is finite says so of all that is in it, at a tenth of the time
            if rows.sum(dtype=torch.float32).isfinite():
                continue
            finite = rows.isfinite().all(dim=1)
            if not finite.all():
                self._refuse(name, int(index[~finite].min()))
        return taken

    def in_order(self, batch_size: int) -> Iterator[dict[str, Float[Tensor, "row _"]]]:
        """One pass over the split; the last batch may be smaller."""
        for index in torch.arange(self.n_rows).split(batch_size):
            yield self.take(index)

    def drawn(self, n: int, seed: int) -> dict[str, Float[Tensor, "row _"]]:
        """n different rows in the order of the split, or all where there are fewer."""
        order = torch.randperm(self.n_rows, generator=torch_generator(seed, "sample"))
        return self.take(order[:n].sort().values)

    def _refuse(self, hook_point: str, row: int) -> None:
        if not is_stored(self.shards.artifact):
            raise DictionaryError(
                f"activations at {hook_point} hold NaN or infinity: row {row} of the split "
                f"{self.split}; run the model in a wider dtype (model.dtype=float32) or leave "
                "that document out"
            )
        number, inside = 0, row
        folder = self.shards.artifact.folder
        while (length := shard_rows(folder, self.split, number)) is not None and inside >= length:
            number, inside = number + 1, inside - length
        shard = f"{self.split}/{number:05}.safetensors"
        raise DictionaryError(
            f"activations at {hook_point} hold NaN or infinity: row {inside} of shard {shard} "
            f"(row {row} of the split); capture again in a wider dtype or leave that document out"
        )
