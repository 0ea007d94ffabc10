"""What every score stands between: the floor of another latent's explanation, what a learnt probe
reaches, and controls.

The floor keeps everything but the match of explanation and latent: each latent is read with the
explanation of another of its density decile, never of one that is much alike
(components/interpretation/relatives.py) and never with its own words. The probe
(components/interpretation/probe.py) keeps everything but the bottleneck of a short string. A
control dictionary keeps everything but what was learnt: its latents are drawn, explained and scored
alike.

Source: controls after arXiv 2501.17727, where published scores hardly tell trained from random
transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from components.interpretation.contract import LatentRecord
from components.interpretation.explanation import Explanation
from components.interpretation.relatives import Relatives

ControlName = Literal["untrained", "random", "neurons", "randomised", "randomised_blocks"]
CONTROLS: dict[ControlName, str] = {
    "untrained": "untrained dictionary",
    "random": "random directions",
    "neurons": "raw neurons",
    "randomised": "dictionary of the model with random weights",
    "randomised_blocks": "dictionary of the model with random blocks",
}
"""What stands in the place of the dictionary, on the same text: what its latents reach when they
are explained alike is what an explanation reaches without what was learnt."""
OF_DIRECTIONS: tuple[ControlName, ...] = ("random", "neurons")
"""Those that are no dictionary: directions on the same activations, made in this stage. The others
are codes that it is given, by the same name."""
TRIES = 100


def shuffled(
    records: Sequence[LatentRecord],
    explanations: Sequence[Explanation],
    generator: np.random.Generator,
    relatives: Relatives = (),
) -> list[Explanation]:
    """For each latent the explanation of another, of the same density decile where one there may
    lend it.

    Inside a decile the explained latents pass their explanations round in a random circle, in which
    who would get a relative's explanation, or the very words that it has, changes places with
    another. Who finds nobody, or has no explanation, draws one of those that it may have.

    Args:
        records: the sampled latents.
        explanations: theirs, in the same order.
        generator: draws.
        relatives: of each latent those that may not lend it their explanation.
    """
    explained = [n for n, each in enumerate(explanations) if each.text is not None]
    decile = [record.decile for record in records]

    def may_lend(lender: int, number: int) -> bool:
        alike = bool(relatives) and lender in relatives[number]
        same = explanations[lender].text == explanations[number].text
        return lender != number and not alike and not same

    lenders: dict[int, int] = {}
    for tenth in sorted(set(decile)):
        here = [n for n in explained if decile[n] == tenth]
        circle = generator.permutation(np.array(here, dtype=np.int64)).tolist()
        if len(circle) > 1:
            lenders |= dict(zip(circle, [circle[-1], *circle[:-1]], strict=True))
            _mend(lenders, circle, may_lend, generator)
    for number in range(len(records)):
        if number in lenders:
            continue
        others = [other for other in explained if may_lend(other, number)]
        near = [other for other in others if decile[other] == decile[number]]
        if others:
            lenders[number] = int(generator.choice(near or others))
    nobody = Explanation(None, "no other latent that is not much alike has another explanation")
    return [
        explanations[lenders[number]] if number in lenders else nobody
        for number in range(len(records))
    ]


def _mend(
    lenders: dict[int, int],
    circle: Sequence[int],
    may_lend: Callable[[int, int], bool],
    generator: np.random.Generator,
) -> None:
    """Swaps the lenders of two latents wherever one may not have what it would get and both may
    have the other's; who finds nobody among some that are asked has none."""
    for number in circle:
        if may_lend(lenders[number], number):
            continue
        asked = generator.permutation(np.array(circle, dtype=np.int64))[:TRIES].tolist()
        for other in asked:
            if (
                other in lenders
                and may_lend(lenders[other], number)
                and may_lend(lenders[number], other)
            ):
                lenders[number], lenders[other] = lenders[other], lenders[number]
                break
        else:
            del lenders[number]
