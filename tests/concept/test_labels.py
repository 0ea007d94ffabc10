"""Labels land on the rows of a capture, whatever order the rows come in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from components.concept.labels import concept_names, document_labels, documents_of, token_labels
from components.config import Config
from components.errors import UnknownNameError
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.stage import Stage

LABELS = [
    ("fox", 0, 1, 1.0),
    ("fox", 2, 0, 0.5),
    ("dog", 0, 0, 1.0),
    ("dog", 2, 1, 0.0),
    ("sad", 2, None, 1.0),
]
TEST = [("fox", 1, 0, 1.0), ("sad", 1, None, 2.0)]


@pytest.fixture
def corpus(store: Store) -> Artifact:
    def make(folder: Path, config: Config, inputs: Mapping, settings: object):
        documents = [
            {"document": n, "split": split}
            for n, split in enumerate(["select", "test", "select", "select"])
        ]
        tables.DOCUMENTS.write(folder, documents)
        rows = [
            dict(zip(("concept", "document", "token", "value"), row, strict=True))
            for row in LABELS + TEST
        ]
        tables.LABELS.write(folder, rows)
        units = {"fox": "token", "sad": "document", "dog": "token"}
        tables.CONCEPTS.write(
            folder, [{"concept": name, "unit": unit} for name, unit in units.items()]
        )
        yield from ()
        return {}

    return store.ensure(Stage("read", 1, make), Config(), {})[0]


def provenance(*rows: tuple[int, int]) -> dict[str, torch.Tensor]:
    table = torch.tensor(rows, dtype=torch.int32).reshape(-1, 2)
    return {"document": table[:, 0], "position": table[:, 1]}


def test_rows_carry_the_labels_of_their_token_in_any_order(corpus: Artifact) -> None:
    rows = provenance((2, 1), (2, 0), (-1, -1), (0, 1), (3, 0), (0, 0))
    labels, names = token_labels(corpus, rows, "select")
    assert names == ["fox", "dog"]
    assert labels.dtype == bool
    assert labels.toarray().astype(int).tolist() == [[0, 0], [1, 0], [0, 0], [1, 0], [0, 0], [0, 1]]


def test_a_token_that_was_not_captured_is_left_out(corpus: Artifact) -> None:
    labels, _ = token_labels(corpus, provenance((0, 0)), "select")
    assert labels.toarray().astype(int).tolist() == [[0, 1]]
    empty, names = token_labels(corpus, provenance(), "select")
    assert empty.get_shape() == (0, len(names))


def test_labels_of_another_split_do_not_come_in(corpus: Artifact) -> None:
    labels, _ = token_labels(corpus, provenance((1, 0)), "select")
    assert labels.nnz == 0
    assert token_labels(corpus, provenance((1, 0)), "test")[0].nnz == 1


def test_concepts_come_in_the_order_asked_for(corpus: Artifact) -> None:
    labels, names = token_labels(corpus, provenance((0, 0), (0, 1)), "select", ["dog", "fox"])
    assert names == ["dog", "fox"]
    assert labels.toarray().astype(int).tolist() == [[1, 0], [0, 1]]


def test_documents_carry_their_own_labels(corpus: Artifact) -> None:
    documents, labels, names = document_labels(corpus, "select")
    assert (documents.tolist(), names) == ([0, 2, 3], ["sad"])
    assert labels.toarray().astype(int).tolist() == [[0], [1], [0]]
    np.testing.assert_array_equal(documents_of(corpus, "select"), documents)


def test_a_concept_of_tokens_is_carried_by_a_document_with_any_such_token(corpus: Artifact) -> None:
    _, labels, names = document_labels(corpus, "select", ["fox", "dog", "sad"])
    assert names == ["fox", "dog", "sad"]
    assert labels.toarray().astype(int).tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]


def test_names_are_those_of_the_inventory_in_its_order(corpus: Artifact) -> None:
    assert concept_names(corpus) == ["fox", "sad", "dog"]
    assert concept_names(corpus, "document") == ["sad"]
    with pytest.raises(
        UnknownNameError,
        match=r"no concept named 'foxes' in read/.*known: dog, fox, sad; did you mean",
    ):
        document_labels(corpus, "select", ["foxes"])
