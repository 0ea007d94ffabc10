"""Adds the weights of a linear probe: the direction along which a logistic regression tells the
concept's tokens from all others.

When to use it: as the counterpart of mean_difference. A probe finds what reads the concept, which
need not be what writes it.

Source: Li et al. (2023), Inference-Time Intervention, arXiv:2306.03341, with the probe's weights;
AxBench's Probe, arXiv:2501.17148. The probe is that of the gate (components/concept/probe.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from components.concept.probe import fit_probe
from components.steering.contract import Candidate, Evidence, SteeringMethod, methods
from components.steering.vector import AddVector, VectorConfig


class LinearProbeConfig(VectorConfig):
    """Settings of linear_probe."""


@methods
class LinearProbe(SteeringMethod):
    """Weights of a logistic regression on tokens."""

    config = LinearProbeConfig
    steering = AddVector
    any_hook_point = True

    @classmethod
    def at_most(cls, config: LinearProbeConfig) -> int:
        """One direction a concept."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """One direction for each concept."""
        probes = {}
        for name in self.settings.places(evidence):
            x = torch.cat([block.float() for _, block in evidence.batches(name)])
            probes[name] = fit_probe(x, evidence.labels)
        for column, concept in enumerate(evidence.concepts):
            if reason := evidence.one_sided(column):
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            steering = self.settings.along(
                evidence, lambda name, column=column: probes[name].weight[column]
            )
            reason = None if steering else "the probe has no weights"
            yield Candidate(concept.name, 0, steering, sign=self.settings.sign, reason=reason)
