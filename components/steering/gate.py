"""Which concepts may be steered towards: those that a probe decodes and the judges can judge.

A concept that the model does not represent, or that no judge recognises, would count against every
method alike. The probe is fitted on select (activations of tokens, or their means over documents)
and read on validate, with the thresholds that evaluation has too (components/concept/gate.py). What
fails is left out and counted.

Evaluation fits probes of its own (components/evaluation/gate.py), because it asks something else:
every concept of the corpus, on a limited number of tokens, where the dictionary reads first. Here
it is the targets alone, on all captured tokens, where the dictionary writes. That is the smaller
part of the work, and no setting of evaluation makes steering write its text again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from torch import Tensor

from components.concept.gate import ProbeGate, refusal
from components.concept.labels import document_labels
from components.concept.probe import fit_probe
from components.concept.ranking import ranking
from components.steering.contract import Concept
from components.steering.passages import row_labels
from components.store.artifact import Artifact
from components.store.rows import Rows
from components.store.shards import ActivationShards

BATCH = 8192


class Split:
    """One captured split at one hook point, with its labels. Nothing here knows of any other split.

    Attributes:
        concepts: columns of the labels.
        labels: rows with the concept.
        token: token id of each row.
        document: for each row, the row of its document in `document_labels`.
        document_labels: documents with the concept; columns of other concepts are empty.
    """

    def __init__(
        self,
        corpus: Artifact,
        activations: ActivationShards,
        split: str,
        hook_point: str,
        concepts: Sequence[Concept],
    ) -> None:
        self.concepts, self._activations, self._split, self._hook_point = (
            concepts,
            activations,
            split,
            hook_point,
        )
        provenance = activations.provenance(split)
        self.labels = row_labels(corpus, provenance, split, concepts)
        self.token = provenance["token"].numpy()
        captured, self.document = np.unique(provenance["document"].numpy(), return_inverse=True)
        numbers, labels, _ = document_labels(corpus, split, [c.name for c in concepts])
        whole = scipy.sparse.diags([float(c.unit == "document") for c in concepts])
        rows = labels.tocsr()[np.searchsorted(numbers, captured)]
        self.document_labels = (rows.astype(np.float64) @ whole).astype(bool).tocsc()
        self.document_labels.eliminate_zeros()

    def batches(
        self, hook_point: str | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "token d_in"]]]:
        """(first row, activations in the stored dtype), in row order; at another hook point where
        one is named."""
        name = hook_point or self._hook_point
        rows = Rows(self._activations, self._split, [name])
        for number, x in enumerate(rows.in_order(BATCH)):
            yield number * BATCH, x[name]

    def tokens(self) -> Float[Tensor, "token d_in"]:
        """All activations."""
        return torch.cat([x for _, x in self.batches()])

    def documents(self) -> Float[Tensor, "document d_in"]:
        """Mean activation of each document."""
        n = int(self.document.max()) + 1
        total = torch.zeros(n, self._activations.d_in(self._hook_point), dtype=torch.float64)
        member = torch.from_numpy(self.document)
        for start, x in self.batches():
            total.index_add_(0, member[start : start + len(x)], x.double())
        return (total / torch.bincount(member, minlength=n)[:, None]).float()


def probe_refusals(select: Split, validate: Split, gate: ProbeGate) -> dict[str, str]:
    """Concept -> why a probe does not decode it, for those that it does not."""
    refused = {}
    for unit in ("token", "document"):
        columns = [i for i, concept in enumerate(select.concepts) if concept.unit == unit]
        if not columns:
            continue
        (x, labels), (x_validate, truth) = (
            _read(split, unit, columns) for split in (select, validate)
        )
        scores = fit_probe(x, labels).scores(x_validate).cpu().numpy()
        for j, column in enumerate(columns):
            positive = np.flatnonzero(truth[:, j].toarray().ravel())
            ranked = ranking(scores[:, j], positive)
            if ranked.ap is None or labels[:, j].nnz == 0:
                where = "validate" if ranked.ap is None else "select"
                refused[select.concepts[column].name] = (
                    f"probe: no {unit} of the {where} split has the concept"
                )
            elif why := refusal(ranked, len(positive), len(scores), gate):
                refused[select.concepts[column].name] = f"probe: {why}"
    return refused


def _read(
    split: Split, unit: str, columns: Sequence[int]
) -> tuple[Float[Tensor, "row d_in"], scipy.sparse.csc_matrix]:
    if unit == "document":
        return split.documents(), split.document_labels[:, columns]
    return split.tokens(), split.labels[:, columns]
