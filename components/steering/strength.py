"""Strengths at equal cost: the strength at which a steering, applied to every token of neutral
text, costs a KL budget."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.divergence import Ruler, ruler, ruler_of_vectors, strengths_for_budgets
from components.model.intervention import Intervention
from components.model.language_model import LanguageModel
from components.steering.contract import Steering
from components.steering.neutral import Neutral

WIDEST = {"maximum": 2.0**14, "rounds": 24}
"""Of the search where a strength is in units of its own: it may lie far from 1, and KL need not
grow as its square."""


def calibrate(
    model: LanguageModel,
    steerings: Sequence[Steering],
    neutral: Neutral,
    budgets: Sequence[float],
    batch: int = 32,
) -> Generator[int, None, Float[np.ndarray, "steering budget 2"]]:
    """Strength and measured KL of each steering at each budget; NaN where no strength costs it.

    Of one that is not graded no strength is searched: it is measured at 1, and that is its row at
    every budget. Yields the number of steerings done.
    """
    measured = np.full((len(steerings), len(budgets), 2), np.nan)
    if not neutral.mask.any():
        return measured
    for part in _parts(steerings, batch):
        rows = [steerings[i] for i in part]
        measure = _ruler(model, rows, neutral, [1.0] * len(rows))
        if rows[0].graded:
            search = {} if rows[0].added() else WIDEST
            measured[part] = torch.stack(
                strengths_for_budgets(measure, len(rows), budgets, **search), dim=-1
            ).numpy()
        else:
            cost = measure(torch.arange(len(rows)), torch.ones(len(rows)))
            measured[part] = torch.stack([torch.ones_like(cost), cost], dim=-1)[:, None].numpy()
        yield len(part)
    return measured


def costs(
    model: LanguageModel,
    steerings: Sequence[tuple[Steering, float]],
    neutral: Neutral,
    batch: int = 32,
) -> Generator[int, None, Float[np.ndarray, " steering"]]:
    """Mean KL in nats a token of each (steering, strength) on this text; NaN where it has no token.

    Yields the number of steerings done.
    """
    measured = np.full(len(steerings), np.nan)
    if not neutral.mask.any():
        return measured
    for part in _parts([steering for steering, _ in steerings], batch):
        rows, strengths = [steerings[i][0] for i in part], [steerings[i][1] for i in part]
        measure = _ruler(model, rows, neutral, strengths)
        measured[part] = measure(torch.arange(len(part)), torch.ones(len(part))).numpy()
        yield len(part)
    return measured


def _parts(steerings: Sequence[Steering], size: int) -> Iterator[list[int]]:
    """Numbers of steerings that can share a pass, at most so many at a time."""
    groups: dict[tuple, list[int]] = {}
    for i, steering in enumerate(steerings):
        groups.setdefault((type(steering), steering.together, tuple(steering.added())), []).append(
            i
        )
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _ruler(
    model: LanguageModel, rows: Sequence[Steering], neutral: Neutral, unit: Sequence[float]
) -> Ruler:
    """Measures these steerings; strength 1 stands for the `unit` of each."""
    vectors = [row.added(strength) for row, strength in zip(rows, unit, strict=True)]
    if vectors[0]:
        stacked = {name: torch.stack([vector[name] for vector in vectors]) for name in vectors[0]}
        return ruler_of_vectors(model, stacked, neutral.tokens, neutral.mask)
    units = torch.tensor(unit)

    def intervention(numbers: Tensor, strengths: Tensor) -> Intervention:
        of = [rows[i] for i in numbers.tolist()]
        return type(rows[0]).intervention(of, strengths.float() * units[numbers])

    return ruler(model, neutral.tokens, neutral.mask, intervention)
