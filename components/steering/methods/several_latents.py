"""Adds several decoder directions at once: the latents whose mean code differs most between the
concept's tokens and all others, each weighed by that difference.

When to use it: where no single latent is the concept, as after splitting and absorption.

Source: the difference of means in the dictionary's space (SAE-DiffMean in Wu et al., AxBench, 2025,
arXiv:2501.17148), kept to the strongest latents. With all latents it would be mean_difference
through the dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from pydantic import PositiveInt

from components.config import Config
from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.vector import AddVector


class SeveralLatentsConfig(Config):
    """Settings of several_latents."""

    n_latents: PositiveInt = 8
    """Latents whose directions are added together, at most."""


@methods
class SeveralLatents(SteeringMethod):
    """The latents that differ most, together."""

    config = SeveralLatentsConfig
    steering = AddVector
    reads_dictionary = True

    @classmethod
    def at_most(cls, config: SeveralLatentsConfig) -> int:
        """One direction a concept."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """One direction for each concept."""
        if evidence.codes is None or evidence.dictionary is None:
            for concept in evidence.concepts:
                yield Candidate(concept.name, 0, None, reason="no dictionary at this hook point")
            return
        decoder = evidence.dictionary.decoder_directions(evidence.hook_point).detach().cpu()
        codes = scipy.sparse.csr_matrix(evidence.codes).astype(np.float64)
        n_rows = codes.get_shape()[0]
        total = np.asarray(codes.sum(0)).ravel()
        labels = evidence.labels.astype(np.float64)
        n_inside = np.asarray(labels.sum(0)).ravel()
        inside = np.asarray((labels.T @ codes).todense())
        for column, concept in enumerate(evidence.concepts):
            if reason := evidence.one_sided(column):
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            n = n_inside[column]
            difference = inside[column] / n - (total - inside[column]) / (n_rows - n)
            strongest = np.argsort(-np.abs(difference), kind="stable")[: self.settings.n_latents]
            weights = torch.from_numpy(difference[strongest]).to(decoder)
            direction = weights @ decoder[torch.from_numpy(strongest)]
            steering = AddVector.along(evidence.hook_point, direction, evidence.unit)
            reason = None if steering else "no latent's mean code differs"
            yield Candidate(concept.name, 0, steering, reason=reason)
