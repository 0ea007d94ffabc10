"""Adds the decoder direction of the latent that ranks the concept's tokens best on the select
split.

The latent's rank is its average precision over all tokens at natural density (over documents, by
mean code, for document concepts), rows of equal code tied; its direction is taken with sign +,
since codes are positive. The few best become candidates, and the validate prompts choose among
them: the latent that reads a concept best is not always the one that writes it (Arad et al. 2025,
arXiv:2505.20063, input and output scores). Where a latent is the target itself, that latent is the
only candidate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from components.concept.pooling import pooling
from components.concept.ranking import precision_of_codes
from components.config import Config
from components.steering.contract import Candidate, Concept, Evidence, SteeringMethod, methods
from components.steering.vector import AddVector


class AddDirectionConfig(Config):
    """Settings of add_direction."""

    n_candidates: PositiveInt = 8
    """Latents for each concept, best on select first, among which the validate prompts choose."""


@methods
class AddDirection(SteeringMethod):
    """Decoder directions of the dictionary's latents."""

    config = AddDirectionConfig
    steering = AddVector
    reads_dictionary = True

    @classmethod
    def at_most(cls, config: AddDirectionConfig) -> int:
        """Latents a concept."""
        return config.n_candidates

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The best few latents of each concept."""
        if evidence.codes is None or evidence.dictionary is None:
            yield from (
                Candidate(c.name, 0, None, reason="no dictionary at this hook point")
                for c in evidence.concepts
            )
            return
        decoder = evidence.dictionary.decoder_directions(evidence.hook_point).detach().cpu()
        if all(concept.latent is not None for concept in evidence.concepts):
            yield from (_itself(evidence, decoder, concept) for concept in evidence.concepts)
            return
        by_token = _precisions(evidence.codes, evidence.labels)
        pool, _ = pooling(evidence.document)
        by_document = _precisions(pool @ evidence.codes, evidence.document_labels)
        steerings: dict[
            int, AddVector | None
        ] = {}  # one for each latent: what serves several concepts is written once
        for column, concept in enumerate(evidence.concepts):
            precision = (by_document if concept.unit == "document" else by_token)[:, column]
            ranked = np.argsort(-np.nan_to_num(precision, nan=-1.0), kind="stable")[
                : self.settings.n_candidates
            ]
            if np.isnan(precision).all():
                yield Candidate(
                    concept.name,
                    0,
                    None,
                    reason=f"no {concept.unit} of the select split has the concept",
                )
                continue
            for replicate, latent in enumerate(ranked.tolist()):
                if latent not in steerings:
                    steerings[latent] = AddVector.along(
                        evidence.hook_point, decoder[latent], evidence.unit
                    )
                steering = steerings[latent]
                reason = (
                    None if steering else f"the decoder direction of latent {latent} has no length"
                )
                score = float(precision[latent])
                yield Candidate(concept.name, replicate, steering, latent, 1, score, reason)


def _itself(
    evidence: Evidence, decoder: Float[Tensor, "d_sae d_in"], concept: Concept
) -> Candidate:
    """The latent that is the target."""
    assert concept.latent is not None
    steering = AddVector.along(evidence.hook_point, decoder[concept.latent], evidence.unit)
    reason = None if steering else f"the decoder direction of latent {concept.latent} has no length"
    return Candidate(concept.name, 0, steering, concept.latent, 1, reason=reason)


def _precisions(
    codes: scipy.sparse.spmatrix, labels: scipy.sparse.spmatrix
) -> Float[np.ndarray, "d_sae concept"]:
    return np.stack(
        list(precision_of_codes(scipy.sparse.csc_matrix(codes), scipy.sparse.csr_matrix(labels)))
    )
