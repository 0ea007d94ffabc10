"""What every score stands between: the floor of another latent's explanation, what a learnt probe
reaches, and controls.

The floor keeps everything but the match of explanation and latent: each latent is read with the
explanation of another of its density decile. The probe (components/interpretation/probe.py) keeps
everything but the bottleneck of a short string. A control dictionary keeps everything but what was
learnt: its latents are drawn, explained and scored alike.

Source: controls after arXiv 2501.17727, where published scores hardly tell trained from random
transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.interpretation.contract import Explanation, LatentRecord

CONTROLS = {"untrained": "untrained dictionary"}
"""Codes of another dictionary on the same activations and text, by the role that they have among
the stage's inputs: what its latents reach when they are explained alike is what an explanation of
any direction reaches."""


def shuffled(
    records: Sequence[LatentRecord],
    explanations: Sequence[Explanation],
    generator: np.random.Generator,
) -> list[Explanation]:
    """For each latent the explanation of another, of the same density decile where one there has
    any.

    Inside a decile the explained latents pass their explanations round in a random circle; a latent
    without an explanation draws one of them.
    """
    explained = np.array([explanation.text is not None for explanation in explanations], dtype=bool)
    decile = np.array([record.decile for record in records], dtype=np.int64)
    donor = np.full(len(records), -1)
    for tenth in np.unique(decile):
        inside = generator.permutation(np.flatnonzero(explained & (decile == tenth)))
        if len(inside) > 1:
            donor[inside] = np.roll(inside, 1)
    for number in np.flatnonzero(donor < 0):
        others = np.flatnonzero(explained & (np.arange(len(records)) != number))
        near = others[decile[others] == decile[number]]
        if len(others):
            donor[number] = generator.choice(near if len(near) else others)
    nobody = Explanation(None, "no other latent has an explanation")
    return [explanations[number] if number >= 0 else nobody for number in donor]
