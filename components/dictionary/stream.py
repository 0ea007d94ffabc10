"""Shuffled rows of one split without end. What comes at a position is a function of (seed,
position) alone.

So a resumed run needs one number to continue with the very same batches. Blocks of neighbouring
rows are permuted over the whole split, then a window of many blocks is gathered (each page of the
disk is touched once an epoch) and its rows are permuted in memory: indices move, data do not. A
split that fits one window is shuffled completely.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from components.device import to_device
from components.dictionary.contract import Batch
from components.seeds import torch_generator
from components.store.rows import Rows
from components.store.shards import ActivationShards

BLOCK = 256
WINDOW_BYTES = 1 << 27
"""Of the rows that are shuffled together."""


class Stream(Rows):
    """Shuffled batches of one split."""

    def __init__(
        self,
        shards: ActivationShards,
        split: str,
        hook_points: Sequence[str],
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(shards, split, hook_points)
        self.seed, self.device = seed, torch.device(device)
        first = self.take(torch.zeros(1).long())
        row_bytes = sum(rows.element_size() * rows.shape[1] for rows in first.values())
        self._window = max(BLOCK, WINDOW_BYTES // row_bytes // BLOCK * BLOCK)

    def sample(self, n: int) -> Batch:
        """n different rows by the seed, or all where there are fewer."""
        return self.drawn(n, self.seed)

    def batches(self, batch_size: int, position: int = 0) -> Iterator[Batch]:
        """Batches without end, beginning at a row position; a batch may span epochs."""
        waiting: list[Batch] = []
        held = 0
        for window in self._windows(position):
            waiting.append(window)
            held += _length(window)
            if held < batch_size:
                continue
            merged = waiting[0]
            if len(waiting) > 1:
                merged = {
                    name: torch.cat([part[name] for part in waiting]) for name in self.hook_points
                }
            whole = held - held % batch_size
            moved = {name: self.moved(rows[:whole]) for name, rows in merged.items()}
            for start in range(0, whole, batch_size):
                yield {name: rows[start : start + batch_size] for name, rows in moved.items()}
            held -= whole
            waiting = [{name: rows[whole:] for name, rows in merged.items()}] if held else []

    def _windows(self, position: int) -> Iterator[Batch]:
        first, skip = divmod(position, self.n_rows)
        for epoch in itertools.count(first):
            blocks = torch.arange(self.n_rows).split(BLOCK)
            drawn = torch.randperm(
                len(blocks), generator=torch_generator(self.seed, "blocks", epoch)
            )
            order = torch.cat([blocks[number] for number in drawn.tolist()])
            for number, window in enumerate(order.split(self._window)):
                if skip >= len(window):
                    skip -= len(window)
                    continue
                shuffle = torch.randperm(
                    len(window), generator=torch_generator(self.seed, "rows", epoch, number)
                )
                yield self.take(window[shuffle[skip:]])
                skip = 0

    def moved(self, rows: Tensor) -> Tensor:
        """The same rows on the stream's device: a whole window at once, so that no batch waits for
        it."""
        return to_device(rows, self.device)


class Contexts:
    """Whole contexts of a stream's split, tokens in order, for a loss that a model gives: it needs
    what stands around a token.

    Every epoch has an order of contexts of its own; what comes at a position is a function of
    (seed, position) alone. A batch holds, beside the rows by name, `context` and `offset`: where
    each row stood in the corpus.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        provenance = stream.shards.provenance(stream.split)
        self._place = {name: provenance[name] for name in ("context", "offset")}
        counts = self._place["context"].unique_consecutive(return_counts=True)[1]
        self._rows = torch.arange(stream.n_rows).split(counts.tolist())

    def batches(self, batch_size: int, number: int = 0) -> Iterator[Batch]:
        """Batches without end, beginning with the batch of this number: about `batch_size` rows, at
        least one context."""
        n = len(self._rows)
        at_once = max(1, round(batch_size * n / self.stream.n_rows))
        order = itertools.islice(self._order(), number * at_once, None)
        while True:
            index = torch.cat([self._rows[context] for context in itertools.islice(order, at_once)])
            rows = {name: self.stream.moved(x) for name, x in self.stream.take(index).items()}
            yield rows | {name: column[index] for name, column in self._place.items()}

    def _order(self) -> Iterator[int]:
        for epoch in itertools.count():
            generator = torch_generator(self.stream.seed, "contexts", epoch)
            yield from torch.randperm(len(self._rows), generator=generator).tolist()


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))
