"""Labels dealt out anew: as many tokens (documents, for concepts of documents) have the concept as
before, and which they are is chance.

What a method reaches so is what its machinery reaches without any knowledge of the concept, the
choice on validate prompts included.

When to use it: beside methods that learn from labels; by default three of them.

Source: control tasks of probes, Hewitt & Liang (2019), arXiv:1909.03368.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse
from jaxtyping import Bool

from components.seeds import numpy_generator
from components.steering.contract import ControlConfig, Evidence, SteeringControl, controls

NO_MEANINGS = (
    "explanations tell what the shuffled labels no longer do, so under shuffled_labels no latent is "
    "ranked by them"
)


class ShuffledLabelsConfig(ControlConfig):
    """Settings of shuffled_labels."""

    methods: list[str] = ["mean_difference", "add_direction", "linear_probe"]
    """Methods that go through it, of those in steer.methods; none named: all."""


@controls
class ShuffledLabels(SteeringControl):
    """Labels by chance."""

    config = ShuffledLabelsConfig

    def spoilt(self, evidence: Evidence) -> Evidence:
        """The same text with labels dealt out anew, concept by concept."""
        labels = np.zeros(evidence.labels.get_shape(), bool)
        documents = np.zeros(evidence.document_labels.get_shape(), bool)
        for column, concept in enumerate(evidence.concepts):
            generator = numpy_generator(self.services.seed, "shuffled_labels", concept.name)
            if evidence.without is not None:
                labels[:, column] = _windows(evidence, column, generator)
            elif concept.unit == "document":
                own = _dense(evidence.document_labels, column)
                documents[:, column] = generator.permutation(own)
                labels[:, column] = documents[evidence.document, column]
            else:
                labels[:, column] = generator.permutation(_dense(evidence.labels, column))
        return dataclasses.replace(
            evidence,
            # a latent that is the target itself would tell what the labels no longer do
            concepts=[dataclasses.replace(c, latent=None, text=None) for c in evidence.concepts],
            labels=scipy.sparse.csc_matrix(labels),
            without=None if evidence.without is None else _rest(evidence, labels),
            document_labels=scipy.sparse.csc_matrix(documents),
            pairs=evidence.pairs.clear(),
            # explanations would find the concept by its name, whatever the labels say
            meanings=None,
            unexplained=NO_MEANINGS,
        )


def _windows(
    evidence: Evidence, column: int, generator: np.random.Generator
) -> Bool[np.ndarray, " row"]:
    """Rows of as many pieces of text as have the concept, drawn from those with and without it."""
    assert evidence.without is not None
    inside, outside = _dense(evidence.labels, column), _dense(evidence.without, column)
    pieces = np.unique(evidence.document[inside | outside])
    n_with = len(np.unique(evidence.document[inside]))
    taken = generator.permutation(pieces)[:n_with]
    return (inside | outside) & np.isin(evidence.document, taken)


def _rest(evidence: Evidence, labels: Bool[np.ndarray, "row concept"]) -> scipy.sparse.csc_matrix:
    """What was with or without each concept, and now is not with it."""
    assert evidence.without is not None
    known = (evidence.labels + evidence.without).toarray().astype(bool)
    return scipy.sparse.csc_matrix(known & ~labels)


def _dense(labels: scipy.sparse.csc_matrix, column: int) -> Bool[np.ndarray, " row"]:
    return labels[:, [column]].toarray().ravel().astype(bool)
