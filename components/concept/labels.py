"""Labels of a corpus as sparse matrices beside the rows of a capture or beside its documents.

The labels table speaks of (document, token in document); rows of activations come in the order of
packed contexts. A concept is present where its value is above 0. Names come in the order of the
concepts table, so a column has the same meaning for every split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import scipy.sparse
from jaxtyping import Int64
from torch import Tensor

from components.errors import UnknownNameError
from components.registry import nearest
from components.store import tables
from components.store.artifact import Artifact


def concept_names(corpus: Artifact, unit: str | None = None) -> list[str]:
    """Names of the concepts of a unit (token, document; None for all), in the order of the
    inventory."""
    inventory = tables.CONCEPTS.read(corpus)
    return (inventory if unit is None else inventory.filter(pl.col("unit") == unit))[
        "concept"
    ].to_list()


def token_labels(
    corpus: Artifact,
    provenance: Mapping[str, Tensor],
    split: str,
    concepts: Sequence[str] | None = None,
) -> tuple[scipy.sparse.csc_matrix, list[str]]:
    """Which rows of a captured split carry which concept.

    Args:
        corpus: artifact of `read`.
        provenance: `document` and `position` of each row, as a capture gives them; -1 for rows of
            no document.
        split: the split that was captured.
        concepts: the concepts wanted, in this order; every concept of unit token when None.

    Returns:
        A boolean matrix [row, concept] and the names of its columns.

    Raises:
        UnknownNameError: a concept that the corpus does not label.
    """
    names = _wanted(corpus, concepts, "token")
    document, position = (
        provenance[name].cpu().numpy().astype(np.int64) for name in ("document", "position")
    )
    labels = _labels(corpus, split, names).filter(pl.col("token").is_not_null())
    row = _row_of(document, position, labels["document"].to_numpy(), labels["token"].to_numpy())
    kept = row >= 0
    return _matrix(row[kept], labels["column"].to_numpy()[kept], (len(document), len(names))), names


def document_labels(
    corpus: Artifact, split: str, concepts: Sequence[str] | None = None
) -> tuple[Int64[np.ndarray, " document"], scipy.sparse.csc_matrix, list[str]]:
    """Which documents of a split carry which concept; a concept of tokens is carried when any token
    carries it.

    Args:
        corpus: artifact of `read`.
        split: the split.
        concepts: the concepts wanted, in this order; every concept of unit document when None.

    Returns:
        Document numbers ascending, a boolean matrix [document, concept], and the names of its
            columns.

    Raises:
        UnknownNameError: a concept that the corpus does not label.
    """
    names = _wanted(corpus, concepts, "document")
    documents = documents_of(corpus, split)
    labels = _labels(corpus, split, names)
    row = np.searchsorted(documents, labels["document"].to_numpy())
    return documents, _matrix(row, labels["column"].to_numpy(), (len(documents), len(names))), names


def documents_of(corpus: Artifact, split: str) -> Int64[np.ndarray, " document"]:
    """Numbers of the documents of a split, ascending."""
    found = (
        tables.DOCUMENTS.scan(corpus)
        .filter(pl.col("split") == split)
        .select("document")
        .collect()["document"]
    )
    return np.sort(found.to_numpy().astype(np.int64))


def _wanted(corpus: Artifact, concepts: Sequence[str] | None, unit: str) -> list[str]:
    if concepts is None:
        return concept_names(corpus, unit)
    known = set(names := concept_names(corpus))
    for concept in concepts:
        if concept not in known:
            raise UnknownNameError(
                f"no concept named {concept!r} in {corpus.stage}/{corpus.key}; "
                f"{nearest(concept, names)}"
            )
    return list(concepts)


def _labels(corpus: Artifact, split: str, names: Sequence[str]) -> pl.DataFrame:
    """Labels of one split: column, document, token."""
    documents = tables.DOCUMENTS.scan(corpus).filter(pl.col("split") == split).select("document")
    columns = pl.LazyFrame(
        {"concept": list(names), "column": np.arange(len(names))},
        schema={"concept": pl.String, "column": pl.Int64},
    )
    found = (
        tables.LABELS.scan(corpus)
        .filter(pl.col("value") > 0)
        .join(documents, on="document", how="semi")
    )
    return (
        found.join(columns, on="concept")
        .select("column", pl.col("document").cast(pl.Int64), "token")
        .collect()
    )


def _row_of(
    document: Int64[np.ndarray, " row"],
    position: Int64[np.ndarray, " row"],
    of_document: np.ndarray,
    of_token: np.ndarray,
) -> Int64[np.ndarray, " label"]:
    """The row of each (document, token); -1 where that token was not captured."""
    width = int(max(position.max(initial=0), of_token.max(initial=0))) + 1
    own, wanted = document * width + position, of_document.astype(np.int64) * width + of_token
    own[document < 0] = -1
    order = np.argsort(own, kind="stable")
    if not len(own):
        return np.full(len(wanted), -1, np.int64)
    found = order[np.minimum(np.searchsorted(own, wanted, sorter=order), len(own) - 1)]
    return np.where(own[found] == wanted, found, -1)


def _matrix(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csc_matrix:
    found = scipy.sparse.csc_matrix((np.ones(len(row), bool), (row, column)), shape=shape)
    found.sum_duplicates()  # a cell that was named twice is still one
    return found
