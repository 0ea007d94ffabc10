"""What chance gives a method that chooses: Gaussian directions put through the same choice.

A method that proposes one direction exceeds the largest of R Gaussian ones by chance in 1 of R + 1.
One that lets the validate prompts choose among several does so more often, and reaches more on
test. So the Gaussian directions, whose text belongs to no concept and is judged for all, are dealt
anew many times: some stand in for the candidates, validate prompts choose one of them for each
concept, and it is compared on test with R of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

DEALS = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Chance:
    """Draws from what a method would reach if its candidates were Gaussian directions.

    Attributes:
        above: whether the chosen one exceeds every other on test.
        composite: what the chosen one reaches on test.
    """

    above: Bool[np.ndarray, "deal concept"]
    composite: Float[np.ndarray, "deal concept"]


def simulate(
    tested: pl.DataFrame,
    validated: pl.DataFrame,
    concepts: Sequence[str],
    rivals: Int[np.ndarray, " concept"],
    n_others: int,
    generator: np.random.Generator,
) -> Chance | None:
    """Deals the Gaussian directions into candidates and others, the same deal for all concepts.

    Args:
        tested: means over test prompts for each concept and control direction (`concept_means`).
        validated: the same over validate prompts.
        concepts: in this order.
        rivals: among how many candidates the method chose for each.
        n_others: directions that the chosen one is compared with, where so many are left.
        generator: for the deals.

    Returns:
        None where no direction would be left to compare with.
    """
    test, seen = _by_concept(tested), _by_concept(validated)
    directions = sorted(
        {name for of in test.values() for name in of}
        & {name for of in seen.values() for name in of}
    )
    most = int(rivals.max(initial=0))
    if not concepts or n_others < 1 or len(directions) <= most:
        return None
    deal = generator.permuted(np.tile(np.arange(len(directions)), (DEALS, 1)), axis=1)
    above, reached = np.zeros((DEALS, len(concepts)), bool), np.zeros((DEALS, len(concepts)))
    for i, (concept, n) in enumerate(zip(concepts, rivals.tolist(), strict=True)):
        value = np.array([test.get(concept, {}).get(name, (0.0, 0.0))[0] for name in directions])
        merit = [seen.get(concept, {}).get(name, (0.0, 0.0)) for name in directions]
        place = np.empty(len(directions))
        place[sorted(range(len(directions)), key=lambda d, merit=merit: merit[d])] = np.arange(
            len(directions)
        )
        chosen = deal[np.arange(DEALS), place[deal[:, :n]].argmax(axis=1)]
        reached[:, i] = value[chosen]
        above[:, i] = value[chosen] > value[deal[:, most : most + n_others]].max(axis=1)
    return Chance(above, reached)


def _by_concept(means: pl.DataFrame) -> dict[str, dict[tuple[str, int], tuple[float, float]]]:
    """Concept -> direction -> composite and uplift, in the order in which the choice compares
    them."""
    found: dict[str, dict[tuple[str, int], tuple[float, float]]] = {}
    for row in means.select("concept", "method", "replicate", "composite", "uplift").iter_rows():
        found.setdefault(row[0], {})[row[1], row[2]] = (row[3], row[4])
    return found
