"""What controls reach that went through a method's choice: the floor under each method.

Directions that belong to no concept are judged for all. Under a method that proposes one steering
the floor is their mean; under one that lets validate prompts choose among several, what chance
reaches that chooses likewise among them (`components.steering.chance`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int

from components.report.names import number
from components.seeds import numpy_generator
from components.steering.by_concept import n_compared
from components.steering.chance import Chance, simulate
from components.steering.comparison import Comparison, at
from components.steering.contract import Concept
from components.store.judgements import COMPOSITE


@dataclasses.dataclass(frozen=True, eq=False)
class Floor:
    """Under one method, at one budget.

    Attributes:
        rivals: among how many candidates the method chose for each concept that passed the gate.
        chance: draws of the same choice among controls; None where there was no choice, or too few
            controls.
        reached: concept -> what controls reach; empty where nothing tells.
        n_others: control steerings that are compared with one by one.
        n: control steerings that the floor is made of.
    """

    rivals: Int[np.ndarray, " concept"]
    chance: Chance | None
    reached: Mapping[str, float]
    n_others: int
    n: int

    @classmethod
    def under(
        cls,
        comparison: Comparison,
        method: str,
        budget: float | None,
        means: pl.DataFrame,
        validated: pl.DataFrame,
        controls_at: float | None = None,
        measure: str = COMPOSITE,
    ) -> Floor:
        """Under a method.

        Args:
            comparison: what the scores are about.
            method: its name in tables.
            budget: where it stands.
            means: over test prompts (`concept_means`).
            validated: over validate prompts.
            controls_at: the budget of the controls, where that is another: under a method without
                strength.
            measure: what is reached; validate prompts choose by the composite of two in any case.
        """
        concepts = comparison.passed()
        place = budget if controls_at is None else controls_at
        of_method = validated.filter(pl.col("method") == method, at(budget))
        rivals = _rivals(of_method, concepts)
        n_others = n_compared(means, comparison, place)
        controls = pl.col("method").is_in(comparison.floor) & at(place)
        tested = means.filter(controls)
        n = tested.select("method", "replicate").n_unique() if tested.height else 0
        if measure in comparison.silent:
            return cls(rivals, None, {}, n_others, n)
        if rivals.max(initial=1) == 1:
            mean = tested.group_by("concept").agg(pl.col(measure).mean())
            return cls(rivals, None, dict(mean.iter_rows()), n_others, n)
        of_budget = "" if place is None else f".kl_{number(place)}"
        draw = numpy_generator(comparison.seed, "chance", f"steer.{method}{of_budget}")
        names = [concept.name for concept in concepts]
        reaching = tested.with_columns(pl.col(measure).alias(COMPOSITE))
        chance = simulate(reaching, validated.filter(controls), names, rivals, n_others, draw)
        reached = [] if chance is None else chance.composite.mean(axis=0).tolist()
        return cls(rivals, chance, dict(zip(names, reached, strict=False)), n_others, n)


def _rivals(validated: pl.DataFrame, concepts: Sequence[Concept]) -> Int[np.ndarray, " concept"]:
    """Among how many candidates validate prompts chose, for each concept; 1 where there was no
    choice."""
    counted = dict(validated.group_by("concept").agg(pl.col("replicate").n_unique()).iter_rows())
    return np.array([counted.get(c.name, 1) for c in concepts], dtype=np.int64)
