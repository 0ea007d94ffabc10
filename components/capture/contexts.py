"""The contexts of a split on their way through the model: which are run, which of their tokens are
kept, and a batch of them from the model to the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Bool
from safetensors.torch import load_file
from torch import Tensor

from components.device import to_host
from components.errors import CorpusError, InputError
from components.model.language_model import LanguageModel
from components.registry import nearest
from components.store.artifact import Artifact

if TYPE_CHECKING:
    from components.capture.capture import CaptureConfig


@dataclasses.dataclass(frozen=True)
class SplitContexts:
    """The contexts of one split that are captured, [context, column], and which of their tokens are
    kept."""

    name: str
    token: Tensor
    document: Tensor
    position: Tensor
    kept: Bool[Tensor, "context column"]
    mask: Tensor | None = None
    """1 for every token that is no padding; None for packed contexts, whose padding no causal model
    looks at."""

    def provenance(self, part: slice) -> dict[str, Tensor]:
        """Of every kept token of some contexts its token id, document, position in the document,
        context, and offset in the context."""
        context, offset = self.kept[part].nonzero(as_tuple=True)
        context = context + part.start
        columns = {
            name: getattr(self, name)[context, offset] for name in ("token", "document", "position")
        }
        return columns | {"context": context, "offset": offset}


def contexts_of(
    corpus: Artifact, name: str, config: CaptureConfig, model: LanguageModel
) -> SplitContexts:
    """The contexts of one split of a corpus, and which of their tokens this capture keeps.

    Raises:
        CorpusError: a split that the corpus lacks, or one without a token to keep.
        InputError: contexts that do not fit the model.
    """
    file = f"contexts/{name}.safetensors"
    if file not in corpus.files:
        there = [
            name.split("/")[1].removesuffix(".safetensors")
            for name in corpus.files
            if "contexts/" in name
        ]
        raise CorpusError(
            f"the corpus {corpus.stage}/{corpus.key} has no split {name!r}; {nearest(name, there)}"
        )
    tensors = load_file(corpus.path(file))
    token, document, position = (tensors[column] for column in ("token", "document", "position"))
    if model.context_length is not None and token.shape[1] > model.context_length:
        raise InputError(
            f"contexts of {token.shape[1]} tokens do not fit the model's {model.context_length} "
            "positions; set read.context_length to at most that"
        )
    if token.numel() and int(token.max()) >= model.vocab_size:
        raise InputError(
            f"split {name!r} holds token {int(token.max())}, and the model knows ids below "
            f"{model.vocab_size}; read the corpus with this model's tokenizer"
        )
    mask = tensors.get("mask")
    if mask is None and not model.causal:
        raise InputError(
            f"{type(model.network).__name__} looks both ways, and documents that share a context "
            "would change one another's activations there; the contexts of the corpus "
            f"{corpus.key} are packed: set read.contexts=padded"
        )
    kept = document >= 0
    if not config.drop_special:
        kept = _real(token, document, model.eos) if mask is None else mask.bool()
    limit = config.tokens.get(name, 0)
    if limit and len(kept):
        enough = kept.sum(1).cumsum(0) >= limit
        n = int(enough.int().argmax()) + 1 if enough.any() else len(kept)
        token, document, position, kept = token[:n], document[:n], position[:n], kept[:n]
        mask = None if mask is None else mask[:n]
    if not kept.any():
        raise CorpusError(
            f"split {name!r} of the corpus {corpus.stage}/{corpus.key} has no token to capture"
        )
    return SplitContexts(name, token, document, position, kept, mask)


def _real(token: Tensor, document: Tensor, eos: frozenset[int]) -> Tensor:
    """Everything up to the last document's token and the end token behind it: what is not
    padding."""
    columns = torch.arange(token.shape[1])
    last = torch.where(document >= 0, columns, -1).max(dim=1, keepdim=True).values
    ended = torch.isin(token, torch.tensor(sorted(eos), dtype=token.dtype)) & (columns == last + 1)
    return ((columns <= last) | ended) & (last >= 0)


def in_batches(part: slice, n: int, batch_size: int) -> list[slice]:
    """The contexts of one shard in the batches in which they pass the model; n contexts in all."""
    stop = min(part.stop, n)
    return [
        slice(first, min(first + batch_size, stop)) for first in range(part.start, stop, batch_size)
    ]


Queued: TypeAlias = Mapping[str, Callable[[], Tensor]]
"""By hook point what waits until a batch's activations have arrived, and gives them."""


def queued(
    model: LanguageModel,
    split: SplitContexts,
    rows: slice,
    points: Sequence[str],
    dtype: torch.dtype,
) -> Queued:
    """Starts one forward pass and the way of its activations to the host; nothing here waits for a
    GPU.

    Columns that are padding in every row are left out. A causal model gets no mask: padding is on
    the right, where its attention never looks.
    """
    token, mask = split.token[rows], None
    if split.mask is not None:
        longest = int(split.mask[rows].sum(1).max())
        token = token[:, :longest]
        mask = None if model.causal else split.mask[rows, :longest]
    return {name: to_host(x.to(dtype)) for name, x in model.read(token, points, mask).items()}


def arrived(queued: Queued) -> dict[str, Tensor]:
    """A batch's activations by hook point, [context, column, width], on the host."""
    return {name: received() for name, received in queued.items()}
