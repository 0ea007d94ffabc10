"""Adds several decoder directions at once: the latents whose mean code differs most between the
concept's tokens and all others, each weighed by that difference. By another `rank_by`, the latents
that it ranks best, weighed by the difference of means too.

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

from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.latents import (
    NO_DICTIONARY,
    Latents,
    LatentsConfig,
    RankBy,
    mean_difference,
)
from components.steering.vector import AddVector, VectorConfig


class SeveralLatentsConfig(VectorConfig, LatentsConfig):
    """Settings of several_latents."""

    n_latents: PositiveInt = 8
    """Latents whose directions are added together, at most."""
    rank_by: RankBy = "mean_difference"
    """What ranks them; mean_difference: its size, whatever its sign."""


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
                yield Candidate(concept.name, 0, None, reason=NO_DICTIONARY)
            return
        decoders = self.settings.decoders(evidence)
        latents = Latents(self.settings, evidence, self.services.model)
        codes = scipy.sparse.csc_matrix(evidence.codes)
        differences = mean_difference(codes, scipy.sparse.csr_matrix(evidence.labels))
        for column, concept in enumerate(evidence.concepts):
            if reason := evidence.one_sided(column):
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            difference = differences[:, column]
            chosen = self._chosen(latents, column, difference)
            if isinstance(chosen, str):
                yield Candidate(concept.name, 0, None, reason=chosen)
                continue
            weights = torch.from_numpy(difference[chosen])
            rows = torch.tensor(chosen)
            steering = self.settings.along(
                evidence,
                lambda name, w=weights, rows=rows: w.to(decoders[name]) @ decoders[name][rows],
            )
            reason = None if steering else "no latent's mean code differs"
            yield Candidate(concept.name, 0, steering, sign=self.settings.sign, reason=reason)

    def _chosen(self, latents: Latents, column: int, difference: np.ndarray) -> list[int] | str:
        n = self.settings.n_latents
        if self.settings.rank_by == "mean_difference" and not self.settings.least_output_score:
            return np.argsort(-np.abs(difference), kind="stable")[:n].tolist()
        best = latents.several(column, n)
        return best if isinstance(best, str) else [latent for latent, _ in best]
