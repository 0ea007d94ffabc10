"""Documents as `read` takes them in: tokenized, numbered, put into contexts, labelled.

Memory is bounded: contexts, documents and labels go to disk as they come, a batch of documents at a
time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from components.corpus.alignment import align
from components.corpus.annotations import WordLists
from components.corpus.contract import Document, text_digest
from components.corpus.encoding import Encoder
from components.corpus.openings import opening
from components.corpus.packing import Packer, Padder
from components.corpus.spool import ContextSpool, RowSpool
from components.store import tables

UNLABELLED = ("train",)
BATCH = 512


@dataclasses.dataclass
class SplitIntake:
    """One split while its documents come.

    Attributes:
        name: of the split.
        wanted: tokens that it shall get.
        layout: puts documents into contexts.
        contexts: takes finished contexts to disk.
        pending: documents that wait to be tokenized together.
        documents: number of documents taken.
        tokens: number of their tokens.
        nats: what they cost under the process that wrote them; None where that is not known of all
            of them.
    """

    name: str
    wanted: int
    layout: Packer | Padder
    contexts: ContextSpool
    pending: list[Document] = dataclasses.field(default_factory=list)
    documents: int = 0
    tokens: int = 0
    nats: float | None = 0.0

    @property
    def full(self) -> bool:
        """Whether it got the tokens wanted."""
        return self.tokens >= self.wanted

    @property
    def due(self) -> bool:
        """Whether the documents that wait are a batch, or likely fill the split."""
        mean = self.tokens / self.documents if self.documents else 100.0
        return len(self.pending) >= min(BATCH, 8 + (self.wanted - self.tokens) / mean)


class Intake:
    """Takes the documents of all splits in.

    Args:
        folder: of the artifact.
        encoder: makes tokens of texts.
        words: labels of the user's own word lists.
        wanted: tokens of each split.
        context_length: tokens in one context, special tokens included.
        padded: whether each document has contexts of its own.

    Attributes:
        splits: by name.
        documents: rows of the table of documents.
        labels: rows of the table of labels.
        codes: number of each concept that was met.
        n_labels: labels of each concept.
        dropped: documents left out, by reason.
        n_lost: labels whose characters no token covers.
        n_special: special tokens that stood in a text as words.
        openings: first words of each document of the splits that have prompts.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        words: WordLists | None,
        wanted: Mapping[str, int],
        context_length: int,
        padded: bool,
    ) -> None:
        self.encoder, self.words, self.context_length = encoder, words, context_length
        self.splits = {
            name: SplitIntake(
                name,
                n_tokens,
                encoder.layout(context_length, padded),
                ContextSpool(folder, name, context_length, padded),
            )
            for name, n_tokens in wanted.items()
        }
        self.documents = RowSpool(tables.DOCUMENTS, folder)
        self.labels = RowSpool(tables.LABELS, folder)
        self.codes: dict[str, int] = {}
        self.n_labels = Counter[str]()
        self.dropped: Counter[str] = Counter(empty=0, repeated=0, pretraining=0)
        self.n_lost = self.n_special = 0
        self.openings: dict[str, list[str]] = {"validate": [], "test": []}

    def take(self, split: SplitIntake) -> None:
        """Tokenizes, numbers, lays out and labels the documents that wait, until the split is
        full."""
        waiting, split.pending = split.pending, []
        labelled = split.name not in UNLABELLED
        texts = [document.text for document in waiting]
        first, taken, encodings = self.documents.n_rows, [], []
        for document, encoding in zip(
            waiting, self.encoder.encode(texts, offsets=labelled), strict=True
        ):
            if split.full:
                break
            self.n_special += encoding.n_special
            if not encoding.ids:
                self.dropped["empty"] += 1
                continue
            split.layout.add(first + len(taken), encoding.written, encoding.special)
            split.tokens += len(encoding.ids)
            if split.nats is not None:
                split.nats = None if document.nats is None else split.nats + document.nats
            taken.append(document)
            encodings.append(encoding)
        split.documents += len(taken)
        split.contexts.add(split.layout.take())
        self.documents.add(_document_rows(taken, encodings, split.name, first))
        if split.name in self.openings:
            self.openings[split.name] += [
                opening(document.text, encoding, self.context_length)
                for document, encoding in zip(taken, encodings, strict=True)
            ]
        if labelled and taken:
            self._label(taken, encodings, first)

    def finish(self) -> None:
        """Closes every context and writes the tables of documents and labels."""
        for split in self.splits.values():
            split.contexts.add(split.layout.finish())
            split.contexts.finish()
        self.documents.finish()
        self.labels.finish()

    def _label(self, documents: list[Document], encodings: list[Any], first: int) -> None:
        """Adds the labels of a batch; `first` is the number of its first document."""
        if self.words is not None:
            documents = [
                document._replace(labels=[*document.labels, *self.words.labels(document.text)])
                for document in documents
            ]
        rows, n_lost = align(documents, encodings, self.codes)
        self.n_lost += n_lost
        names = pl.Series(list(self.codes), dtype=pl.String)
        rows = rows.with_columns(
            names.gather(rows["concept"]).alias("concept"), pl.col("document") + first
        )
        self.n_labels.update(dict(rows.group_by("concept").len().iter_rows()))
        self.labels.add(rows)


def _document_rows(
    documents: list[Document], encodings: list[Any], split: str, first: int
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "document": np.arange(first, first + len(documents), dtype=np.int32),
            "split": [split] * len(documents),
            "source": [document.source for document in documents],
            "digest": [f"{text_digest(document.text) % 2**64:016x}" for document in documents],
            "n_tokens": [len(encoding.ids) for encoding in encodings],
            "text": [document.text for document in documents],
        },
        schema=tables.DOCUMENTS.schema,
    )
