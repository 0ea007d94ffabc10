"""Real text for the judges: documents cut into passages as long as a continuation, labelled concept
by concept.

A judge must read what it will be asked about, so passages are as long as continuations, begin where
a continuation begins (behind an opening as long as a prompt) and go through the same tokenizer. A
passage has a concept of tokens when a labelled token lies inside, and a concept of documents when
its document has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Bool
from safetensors.torch import load_file
from torch import Tensor

from components.concept.labels import document_labels, token_labels
from components.errors import InputError
from components.steering.contract import Concept
from components.store.artifact import Artifact


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """Passages of one split.

    Attributes:
        tokens: token ids of each.
        labels: which concept each has.
        openings: passage -> the tokens before it, for the first passage of each document.
        before: as many tokens as an opening has, which stand before each passage.
    """

    tokens: list[list[int]]
    labels: Bool[np.ndarray, "passage concept"]
    openings: dict[int, list[int]]
    before: list[list[int]]


def cut(
    corpus: Artifact,
    split: str,
    labelled: Callable[[Mapping[str, Tensor]], scipy.sparse.spmatrix],
    opening: int,
    length: int,
) -> Cut:
    """Cuts every document of a split; what is shorter than half a continuation is left out.

    Args:
        corpus: the corpus.
        split: of it.
        labelled: (document and position of rows) -> which rows have which target.
        opening: tokens before the first passage of a document.
        length: tokens of a passage.
    """
    parts = contexts(corpus, split)
    kept = (parts["document"] >= 0).flatten()
    document, position, token = (
        parts[name].flatten()[kept].long() for name in ("document", "position", "token")
    )
    order = np.lexsort((position.numpy(), document.numpy()))
    document, position, token = document[order], position[order], token[order]
    _, begins = np.unique(document.numpy(), return_index=True)
    ends = np.append(begins, len(document))[1:].tolist()
    spans, openings = [], {}
    for begin, end in zip(begins.tolist(), ends, strict=True):
        for start in range(begin + opening, end, length):
            stop = min(start + length, end)
            if stop - start < length / 2:
                continue
            if start == begin + opening:
                openings[len(spans)] = token[begin:start].tolist()
            spans.append((start, stop))
    rows = scipy.sparse.csr_matrix(labelled({"document": document, "position": position}))
    inside = [np.arange(*span) for span in spans]
    indices = np.concatenate(inside) if inside else np.zeros(0, np.int64)
    offsets = np.cumsum([0, *map(len, inside)])
    member = scipy.sparse.csr_matrix(
        (np.ones(len(indices)), indices, offsets), shape=(len(spans), len(document))
    )
    labels = scipy.sparse.csr_matrix(member @ rows.astype(np.float64)).toarray() > 0
    before = [token[start - opening : start].tolist() for start, _ in spans]
    return Cut([token[a:b].tolist() for a, b in spans], labels, openings, before)


def row_labels(
    corpus: Artifact, provenance: Mapping[str, Tensor], split: str, concepts: Sequence[Concept]
) -> scipy.sparse.csc_matrix:
    """Which rows of a split have which concept [row, concept]: their own label, or that of their
    document."""
    own, of_document = (
        [c.name for c in concepts if (c.unit == "document") == whole] for whole in (False, True)
    )
    tokens, names = token_labels(corpus, provenance, split, own)
    numbers, documents, whole_names = document_labels(corpus, split, of_document)
    row = np.searchsorted(numbers, provenance["document"].cpu().numpy())
    both = scipy.sparse.hstack([tokens, documents.tocsr()[row]], format="csc")
    column = {name: i for i, name in enumerate([*names, *whole_names])}
    return scipy.sparse.csc_matrix(both.tocsc()[:, [column[c.name] for c in concepts]], dtype=bool)


def contexts(corpus: Artifact, split: str) -> dict[str, Tensor]:
    """Packed contexts of a split: token, document, position.

    Raises:
        InputError: the corpus was read without that split.
    """
    name = f"contexts/{split}.safetensors"
    if name not in corpus.files:
        raise InputError(
            f"steering needs the split {split!r}, and artifact {corpus.stage}/{corpus.key} was "
            f"read without it; set read.splits.{split} above 0"
        )
    return load_file(corpus.path(name))
