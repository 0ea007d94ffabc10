"""Activations of a corpus that was only read: the model runs over the contexts whose rows are
asked for.

Read like the shards that `capture` writes, and with the same numbers: contexts go through the model
in the batches of the capture that they stand for, in the type that it would have written, and the
same tokens are kept. What came last is held, so that one pass in order runs every context once.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from components.capture.capture import CaptureConfig
from components.capture.contexts import (
    SplitContexts,
    arrived,
    contexts_of,
    in_batches,
    queued,
)
from components.config import load
from components.device import Execution
from components.errors import InputError
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference, locate
from components.registry import nearest
from components.store.artifact import Artifact
from components.store.lineage import source
from components.store.shards import ActivationShards, is_stored

HELD_ROWS = 1 << 14
"""Rows that are held after they were asked for; the last batch always is."""


class RunningActivations(ActivationShards):
    """The activations that a capture would have written, from the running model.

    Attributes:
        artifact: the artifact of `capture`, which holds no shards.
        splits: the splits that it names.
        hook_points: canonical names, in their order.
        tokens_run: tokens that passed the model so far, those that are not kept among them.
    """

    def __init__(
        self, artifact: Artifact, corpus: Artifact, reference: ModelReference, settings: Execution
    ) -> None:
        self.artifact, self.corpus = artifact, corpus
        self._reference, self._settings = reference, settings
        self._model: LanguageModel | None = None
        self.config = load(CaptureConfig, artifact.config)
        self.splits = sorted(self.config.splits)
        self.hook_points = list(artifact.facts["hook_points"])
        self.tokens_run = 0
        self._dtype: torch.dtype = getattr(torch, artifact.facts["dtype"])
        self._contexts: dict[str, SplitContexts] = {}
        self._batches: dict[str, tuple[list[slice], Tensor]] = {}
        self._held: OrderedDict[tuple[str, int], dict[str, Tensor]] = OrderedDict()

    @property
    def model(self) -> LanguageModel:
        """The model, loaded when it is first asked for."""
        if self._model is None:
            self._model = self._reference.load(self._settings)
        return self._model

    def release(self) -> None:
        """Lets go of the model and of the rows that are held; both come again when they are asked
        for."""
        self._model = None
        self._held.clear()

    def n_rows(self, split: str) -> int:
        """Rows (tokens) of one split."""
        return int(self._in_batches(split)[1][-1])

    def provenance(self, split: str) -> dict[str, Int32[Tensor, " row"]]:
        """For every row its token id, document, position in the document, context, and offset in
        the context. The model does not run."""
        contexts = self._of(split)
        columns = contexts.provenance(slice(0, len(contexts.token)))
        return {name: column.int() for name, column in columns.items()}

    def rows(
        self, split: str, hook_point: str, index: Int64[Tensor, " taken"]
    ) -> Float[Tensor, "taken d_in"]:
        """The activations of these rows, in this order and in the type of the capture; only the
        batches that hold them pass the model."""
        width = self.d_in(hook_point)
        starts = self._in_batches(split)[1]
        inside, order = index.sort()
        assert not len(index) or (inside[0] >= 0 and inside[-1] < starts[-1]), (
            f"row numbers outside {split}"
        )
        bounds = torch.searchsorted(inside, starts).tolist()
        taken = torch.empty(len(index), width, dtype=self._dtype)
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            if first < last:
                x = self._batch(split, number)[hook_point]
                taken[order[first:last]] = x[inside[first:last] - starts[number]]
        return taken

    def _batch(self, split: str, number: int) -> dict[str, Tensor]:
        """The kept rows of one batch of contexts, by hook point."""
        if (split, number) in self._held:
            self._held.move_to_end((split, number))
            return self._held[split, number]
        contexts, rows = self._of(split), self._in_batches(split)[0][number]
        kept = contexts.kept[rows]
        found, n_tokens = {}, 0
        for name, x in arrived(
            queued(self.model, contexts, rows, self.hook_points, self._dtype)
        ).items():
            n_tokens = x.shape[0] * x.shape[1]
            inside = kept[:, : x.shape[1]].flatten().nonzero()[:, 0]
            found[name] = x.flatten(0, 1).index_select(0, inside)
        self.tokens_run += n_tokens
        self._held[split, number] = found
        while len(self._held) > 1 and sum(map(_length, self._held.values())) > HELD_ROWS:
            self._held.popitem(last=False)
        return found

    def _of(self, split: str) -> SplitContexts:
        if split not in self._contexts:
            if split not in self.splits:
                what = f"{self.artifact.stage}/{self.artifact.key}"
                raise InputError(
                    f"artifact {what} names no split {split!r}; {nearest(split, self.splits)}"
                )
            self._contexts[split] = contexts_of(self.corpus, split, self.config, self.model)
        return self._contexts[split]

    def _in_batches(self, split: str) -> tuple[list[slice], Int64[Tensor, " batches_and_one"]]:
        """The batches of a split, and the first row of each and the end."""
        if split not in self._batches:
            contexts, step = self._of(split), self.config.contexts_per_shard
            n = len(contexts.token)
            batches = [
                rows
                for start in range(0, n, step)
                for rows in in_batches(slice(start, start + step), n, self.config.batch_size)
            ]
            counts = torch.tensor([0, *(int(contexts.kept[rows].sum()) for rows in batches)])
            self._batches[split] = batches, counts.cumsum(0)
        return self._batches[split]


def opened(
    artifact: Artifact, settings: Execution, model: ModelReference | None = None
) -> ActivationShards:
    """The activations of a capture: its shards, or the running model where it wrote none.

    Args:
        artifact: of `capture`.
        settings: where the model runs.
        model: where the model lies now, if it has moved since.

    Raises:
        InputError: the corpus whose contexts the model is to run over is gone.
        ModelError: the model is found nowhere.
    """
    if is_stored(artifact):
        return ActivationShards(artifact)
    corpus = source(artifact, "corpus")
    if corpus is None:
        raise InputError(
            f"{artifact.stage}/{artifact.key} is read by running the model over its corpus, and "
            "that is no longer in the store; run read again"
        )
    recorded = load(ModelConfig, artifact.facts["model_config"])
    places = [recorded]
    if model is not None:
        place = model.config.model_dump(include={"path", "revision", "online"})
        places.append(recorded.model_copy(update=place))
    reference = locate(artifact.facts["model"], places)
    return RunningActivations(artifact, corpus, reference, settings)


def _length(batch: dict[str, Tensor]) -> int:
    return len(next(iter(batch.values())))
