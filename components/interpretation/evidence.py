"""What explainers may know: windows of the explain split, what the decoder direction does to the
logits, labels.

Nothing here comes from another split: tokens that a direction promotes are a property of the
dictionary and the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool

from components.interpretation.contract import LatentEvidence, LatentRecord
from components.interpretation.windows import Windows
from components.store import tables
from components.store.artifact import Artifact


class CorpusLabels:
    """The labels of one split of a corpus, beside windows of it.

    Args:
        corpus: artifact of `read`, with labels.
        split: the split that the windows are of.
    """

    def __init__(self, corpus: Artifact, split: str) -> None:
        self._corpus, self._split = corpus, split

    @classmethod
    def found(cls, corpus: Artifact, split: str) -> CorpusLabels | None:
        """The labels; None where the corpus has none."""
        wanted = (tables.LABELS.file, tables.DOCUMENTS.file)
        return cls(corpus, split) if set(wanted) <= set(corpus.files) else None

    def of(self, windows: Windows) -> Mapping[str, Bool[np.ndarray, "window token"]]:
        """Concept -> the tokens that carry it; only concepts that occur there."""
        length = windows.texts.present.sum(1)
        where = {
            "window": np.arange(len(windows)),
            "document": windows.document,
            "start": windows.start,
        }
        frame = pl.DataFrame(where | {"length": length}).with_columns(
            pl.col("document").cast(pl.Int64)
        )
        # A label without a token is of the whole document.
        at = pl.col("token").cast(pl.Int64) - pl.col("start")
        inside = at.is_null() | ((at >= 0) & (at < pl.col("length")))
        rows = self._labels.join(frame, on="document").with_columns(at=at).filter(inside)
        marked: dict[str, np.ndarray] = {}
        for concept, window, token in (
            rows.sort("concept").select("concept", "window", "at").iter_rows()
        ):
            mask = marked.setdefault(concept, np.zeros(windows.texts.tokens.shape, bool))
            mask[window, slice(None) if token is None else token] = True
        return {concept: mask & windows.texts.present for concept, mask in marked.items()}

    @functools.cached_property
    def described(self) -> Mapping[str, str]:
        """Concept -> one sentence about it, of those that have one."""
        if tables.CONCEPTS.file not in self._corpus.files:
            return {}
        return dict(
            tables.CONCEPTS.read(self._corpus)
            .select("concept", "description")
            .drop_nulls()
            .iter_rows()
        )

    @functools.cached_property
    def _labels(self) -> pl.DataFrame:
        documents = tables.DOCUMENTS.scan(self._corpus).filter(pl.col("split") == self._split)
        labels = tables.LABELS.scan(self._corpus).filter(pl.col("value") > 0)
        here = labels.join(documents.select("document"), on="document", how="semi")
        return here.select("concept", pl.col("document").cast(pl.Int64), "token").collect()


def gather(
    records: Sequence[LatentRecord], statistics: pl.DataFrame, labels: CorpusLabels | None
) -> Iterator[LatentEvidence]:
    """The evidence of every record that was not skipped, in order.

    Args:
        records: latents with their windows.
        statistics: rows of the latents table, which hold the promoted and the suppressed tokens.
        labels: of the explain split.
    """
    columns = ("promoted", "suppressed")
    rows = statistics.unique("latent", keep="first", maintain_order=True).select("latent", *columns)
    tokens = {latent: [texts or () for texts in lists] for latent, *lists in rows.iter_rows()}
    for record in records:
        if record.reason is None:
            promoted, suppressed = tokens.get(record.latent, ((), ()))
            label, described = (labels.of, labels.described) if labels else (None, {})
            yield LatentEvidence(
                record.latent, record.explain, promoted, suppressed, label, described
            )
