"""A random latent that is as often active, in the place of each latent: what any latent of that
density writes.

Inside each tenth of density the latents that are ever active change places: a method ranks and
chooses as always, and steers with another one's direction.

When to use it: beside methods that steer with latents; it tells 'this latent writes the concept'
from 'a latent of this density does'.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse
from jaxtyping import Int

from components.seeds import numpy_generator
from components.steering.contract import ControlConfig, Evidence, SteeringControl, controls

TENTHS = 10
NO_MEANINGS = (
    "under density_matched each latent stands for another one, whose explanation says nothing of "
    "what it writes, so none is ranked by explanations"
)


class DensityMatchedConfig(ControlConfig):
    """Settings of density_matched."""


@controls
class DensityMatched(SteeringControl):
    """Another latent of the same density."""

    config = DensityMatchedConfig
    needs_dictionary = True

    def spoilt(self, evidence: Evidence) -> Evidence | str:
        """The same dictionary; each latent is told another's codes."""
        if evidence.codes is None:
            return "no dictionary at this hook point"
        codes = scipy.sparse.csc_matrix(evidence.codes)
        given = _circles(
            np.diff(np.asarray(codes.indptr)),
            numpy_generator(self.services.seed, "density_matched"),
        )
        # which latent is told the codes of latent i
        taker = np.argsort(given)
        concepts = [
            c
            if c.latent is None
            else dataclasses.replace(c, latent=int(taker[c.latent]), text=None)
            for c in evidence.concepts
        ]
        return dataclasses.replace(
            evidence,
            concepts=concepts,
            codes=scipy.sparse.csr_matrix(codes[:, given]),
            meanings=None,
            unexplained=NO_MEANINGS,
        )


def _circles(
    n_active: Int[np.ndarray, " latent"], generator: np.random.Generator
) -> Int[np.ndarray, " latent"]:
    """Whose codes each latent is told: of another of its tenth; its own where it is alone there, or
    never active."""
    given = np.arange(len(n_active))
    alive = np.flatnonzero(n_active)
    by_density = alive[np.argsort(n_active[alive], kind="stable")]
    for tenth in np.array_split(by_density, min(TENTHS, max(1, len(alive) // 2))):
        circle = generator.permutation(tenth)
        given[circle] = np.roll(circle, 1)
    return given
