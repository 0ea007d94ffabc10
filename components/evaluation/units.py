"""Units that may stand for a concept (latents, raw coordinates): what they are read on, how one is
chosen, how it scores.

A unit is chosen on one split and scored on others, never on the same one. Concepts of tokens are
read off each token, concepts of documents off the mean over a document's tokens, for codes and raw
coordinates alike. Latents are read with sign +, as codes are positive; raw coordinates with either
sign.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float32, Int

from components.concept.labels import document_labels, token_labels
from components.concept.pooling import pooling
from components.concept.ranking import (
    Ranking,
    precision_of_codes,
    precision_of_coordinates,
    ranking,
)
from components.dictionary.encode import Encoded
from components.evaluation.contract import Subject
from components.statistics import auroc_sparse, average_precision_sparse
from components.store.artifact import Artifact
from components.store.shards import ActivationShards
from components.store.stage import Progress

LATENT, NEURON, UNTRAINED = "latent", "neuron", "untrained"


@dataclasses.dataclass(frozen=True, eq=False)
class Readings:
    """One split as the concepts of one unit (tokens or documents) see it.

    Attributes:
        x: raw activations, or their mean over each document; None where nobody reads them.
        codes: latent -> [row, d_sae], and untrained -> the same of the control.
        labels: [row, concept], every stored entry a positive.
    """

    x: Float32[np.ndarray, "row d_in"] | None
    codes: dict[str, sp.csc_matrix]
    labels: sp.csc_matrix

    @property
    def n(self) -> int:
        """Number of tokens or documents."""
        return self.labels.get_shape()[0]

    @property
    def n_positive(self) -> Int[np.ndarray, " concept"]:
        """Rows with each concept."""
        return np.diff(np.asarray(self.labels.indptr))

    def positive(self, concept: int) -> Int[np.ndarray, " positive"]:
        """The rows with one concept, ascending."""
        start = np.asarray(self.labels.indptr)
        return np.asarray(self.labels.indices)[start[concept] : start[concept + 1]]


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """The best unit for each concept, and how good it is where it was chosen.

    Attributes:
        unit: its index; -1 where the concept has no positive there.
        sign: +1 or -1.
        ap: its average precision; NaN where there is none.
    """

    unit: Int[np.ndarray, " concept"]
    sign: Int[np.ndarray, " concept"]
    ap: Float[np.ndarray, " concept"]


def readings(
    subject: Subject, split: str, unit: str, concepts: Sequence[str], limit: int
) -> Readings:
    """The first `limit` tokens of a split, or the documents that they belong to, through the
    subject's dictionary.

    Read once, because several evaluations read the same.
    """
    wanted = "readings", split, unit, tuple(concepts), limit
    if wanted not in subject.memory:
        shards = {LATENT: subject.codes} | (
            {UNTRAINED: subject.untrained.codes} if subject.untrained else {}
        )
        subject.memory[wanted] = read(
            subject.activations,
            subject.corpus,
            subject.hook_point,
            split,
            unit,
            concepts,
            limit,
            shards,
        )
    return subject.memory[wanted]


def read(
    activations: ActivationShards,
    corpus: Artifact,
    hook_point: str,
    split: str,
    unit: str,
    concepts: Sequence[str],
    limit: int,
    shards: Mapping[str, Encoded] | None = None,
) -> Readings:
    """The first `limit` tokens of a split, or the documents that they belong to: codes of each
    kind, or raw where none are given."""
    n = min(limit, activations.n_rows(split))
    provenance = {name: column[:n] for name, column in activations.provenance(split).items()}
    x = None if shards else activations.rows(split, hook_point, torch.arange(n)).float().numpy()
    codes = {kind: found.codes(split).rows(0, n).matrix() for kind, found in (shards or {}).items()}
    if unit == "token":
        labels, _ = token_labels(corpus, provenance, split, concepts)
    else:
        numbers, labels, _ = document_labels(corpus, split, concepts)
        pool, present = pooling(provenance["document"].numpy())
        labels = sp.csc_matrix(labels[np.searchsorted(numbers, present)])
        x = None if x is None else (pool @ x).astype(np.float32)
        codes = {kind: pool @ found for kind, found in codes.items()}
    return Readings(x, {kind: sp.csc_matrix(found) for kind, found in codes.items()}, labels)


def choose(given: Readings) -> Generator[Progress, None, dict[str, Choice]]:
    """The unit of each kind that ranks each concept best, by exact average precision over all
    rows."""
    by_row = sp.csr_matrix(given.labels)
    n_concepts, found = len(given.n_positive), {}
    for kind, codes in given.codes.items():
        precisions = (ap[None] for ap in precision_of_codes(codes, by_row))
        found[kind] = yield from _best(kind, precisions, codes.get_shape()[1], n_concepts)
    if given.x is not None:
        precisions = precision_of_coordinates(given.x, by_row)
        found[NEURON] = yield from _best(NEURON, precisions, given.x.shape[1], n_concepts)
    return found


def score(given: Readings, kind: str, choice: Choice) -> list[Ranking]:
    """How the chosen units rank their concepts on these readings."""
    return [
        _one(given, kind, unit, sign, concept) if unit >= 0 else Ranking(None, None)
        for concept, (unit, sign) in enumerate(
            zip(choice.unit.tolist(), choice.sign.tolist(), strict=True)
        )
    ]


def _one(given: Readings, kind: str, unit: int, sign: int, concept: int) -> Ranking:
    positive = given.positive(concept)
    if kind == NEURON:
        assert given.x is not None, "raw coordinates are read off activations"
        return ranking(sign * given.x[:, unit], positive)
    start = np.asarray(given.codes[kind].indptr)
    here = slice(start[unit], start[unit + 1])
    values, rows = (
        np.asarray(given.codes[kind].data)[here],
        np.asarray(given.codes[kind].indices)[here],
    )
    has = np.zeros(given.n, bool)
    has[positive] = True
    active = values, has[rows], len(positive), given.n
    return Ranking(average_precision_sparse(*active), auroc_sparse(*active))


def _best(
    kind: str,
    precisions: Iterator[Float[np.ndarray, "sign concept"]],
    n_units: int,
    n_concepts: int,
) -> Generator[Progress, None, Choice]:
    """Of equal units the first, of equal signs +: nothing is drawn."""
    unit, sign = np.full(n_concepts, -1), np.ones(n_concepts, np.int8)
    best = np.full(n_concepts, np.nan)
    for number, by_sign in enumerate(precisions):
        for index, ap in enumerate(by_sign):
            better = ~np.isnan(ap) & ~(ap <= best)  # NaN, the start, is beaten by everything
            best[better], unit[better], sign[better] = ap[better], number, 1 - 2 * index
        if number % 16 == 15 or number + 1 == n_units:
            yield Progress(number + 1, n_units, "units", f"choosing among {kind} units on select")
    return Choice(unit, sign, best)
