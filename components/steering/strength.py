"""Strengths at equal cost: the strength at which the text that a steering writes costs a KL budget.

The cost is KL(steered || plain) of the predictions of the tokens written after validate prompts,
summed over all of them and divided once. On neutral text an edit that acts only in some places, on
some tokens or on the prompt would cost nothing. Neutral text is read much faster, so it says where
to begin (`calibrate`); a few rounds of text, written for all steerings at once, say the rest
(`at_costs`). Text differs from strength to strength by luck, however close they lie, although the
random numbers are the same: hence a tolerance of a tenth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.divergence import Ruler, ruler, ruler_of_vectors, strengths_for_budgets
from components.model.intervention import Intervention
from components.model.language_model import LanguageModel
from components.steering.contract import Continuation, Steering
from components.steering.journal import Journal
from components.steering.neutral import Neutral
from components.steering.writer import Job, Prompt, Writer

TOLERANCE = 0.1
"""Relative distance from the budget that is near enough."""
ROUNDS = 9
"""Of text, at most, for a steering and a budget."""
EXPECTED_ROUNDS = 3.5
"""Of text, in the mean, for estimates."""
FARTHEST = math.log(4.0)
"""Longest step of the logarithm of a strength."""
WRITTEN = 0.75
"""First strength, as a share of the one that costs the budget on neutral text: text that a steering
writes leads it further, and costs more (1.9 to 19 times on the embedded world, 3.5 in the middle)."""
SLOPE, SLOPE_SPREAD = 4.5, 1.5
"""Of log cost over log strength near a budget: what is expected, and how far it may be off. KL grows
as the square of a small strength, and text that goes on from steered text adds to that."""
LUCK, CURVED, CERTAIN, MOST = 0.2, 0.15, 0.6, 4.0
"""Of log cost: the deviation by luck; its growth with the distance from the budget, as costs lie on
no line; the distance that is no luck; and what stands for text that cannot be measured."""
BESIDE = 0.012
"""Distance of logarithms of strengths at which luck is another one."""
WIDEST = {"maximum": 2.0**14, "rounds": 24}
"""Of the search where a strength is in units of its own: it may lie far from 1, and KL need not
grow as its square."""


def calibrate(
    model: LanguageModel,
    steerings: Sequence[Steering],
    neutral: Neutral,
    budgets: Sequence[float],
    batch: int = 32,
    journal: Journal | None = None,
) -> Generator[int, None, Float[np.ndarray, "steering budget 2"]]:
    """Strength and KL on neutral text of each steering at each budget; NaN where no strength costs
    it.

    Of one that is not graded no strength is searched: it is measured at 1, and that is its row at
    every budget. Yields the number of steerings done.
    """
    measured = np.full((len(steerings), len(budgets), 2), np.nan)
    if not neutral.mask.any():
        return measured
    journal = journal or Journal()
    for part in _parts(steerings, batch):
        rows = [steerings[i] for i in part]

        def searched(rows: Sequence[Steering] = rows) -> list[Any]:
            measure = _ruler(model, rows, neutral, [1.0] * len(rows))
            if rows[0].graded:
                search = {} if rows[0].added() else WIDEST
                found = strengths_for_budgets(measure, len(rows), budgets, **search)
                return torch.stack(found, dim=-1).tolist()
            cost = measure(torch.arange(len(rows)), torch.ones(len(rows)))
            return torch.stack([torch.ones_like(cost), cost], dim=-1)[:, None].tolist()

        measured[part] = journal.remember(["where strengths lie", list(budgets), rows], searched)
        yield len(part)
    return measured


@dataclasses.dataclass(frozen=True)
class Found:
    """The strength at one budget.

    Attributes:
        strength: None where none was found, with the reason.
        kl: what the text written at it costs, nats a token.
        reason: why there is none.
    """

    strength: float | None
    kl: float | None
    reason: str | None = None


def at_costs(
    writer: Writer,
    prompts: Sequence[Prompt],
    n_samples: int,
    steerings: Sequence[Steering],
    budgets: Sequence[float],
    first: Float[np.ndarray, "steering budget"],
) -> Generator[int, None, list[list[Found]]]:
    """The strength of each steering at each budget; of one that is not graded what it costs as it
    is, at every budget. The writer keeps the text of each strength that was found. Yields the
    number of texts written.

    Args:
        writer: writes text.
        prompts: the validate prompts.
        n_samples: continuations of each.
        steerings: what is steered with.
        budgets: nats a token.
        first: strengths to begin with; NaN where none is known.
    """
    searches = [
        [
            _Search(budget, WRITTEN * float(start) if np.isfinite(start) else 1.0)
            for budget, start in zip(budgets, starts, strict=True)
            if steering.graded
        ]
        for steering, starts in zip(steerings, first, strict=True)
    ]
    ungraded: dict[int, float] = {}
    kept: dict[tuple[int, float], Sequence[tuple[Job, Any]]] = {}
    for number in range(ROUNDS):
        wanted: dict[tuple[int, float], None] = dict.fromkeys(
            (i, strength)
            for i, of_steering in enumerate(searches)
            for search in of_steering
            if (strength := search.proposed()) is not None
        )
        if number == 0:
            wanted |= dict.fromkeys((i, 1.0) for i, s in enumerate(steerings) if not s.graded)
        if not wanted:
            break
        jobs = [
            Job(prompt, sample, steerings[i], strength)
            for i, strength in wanted
            for prompt in prompts
            for sample in range(n_samples)
        ]
        texts = yield from writer.write(jobs, side_effects=True)
        n = len(prompts) * n_samples
        for (i, strength), start in zip(wanted, range(0, len(jobs), n), strict=True):
            written = texts[start : start + n]
            kl = _mean_cost(written)
            kept[i, strength] = list(zip(jobs[start : start + n], written, strict=True))
            for search in searches[i]:
                search.measured[strength] = kl
            if not steerings[i].graded:
                ungraded[i] = kl
        ended = {(i, search.nearest) for i, of in enumerate(searches) for search in of}
        ended |= {(i, 1.0) for i, kl in ungraded.items() if math.isfinite(kl)}
        for place in kept.keys() - ended:  # no search will come to its text
            del kept[place]
    for texts in kept.values():
        writer.keep(texts)
    return [
        [search.found() for search in searches[i]]
        if steering.graded
        else [Found(1.0, ungraded[i] if math.isfinite(ungraded[i]) else None)] * len(budgets)
        for i, steering in enumerate(steerings)
    ]


@dataclasses.dataclass
class _Search:
    """For the smallest strength that costs a budget. In logs of strength and cost: steps until the
    budget lies between two costs, then the line through all of them, near ones weighing most. Cost
    is smooth but for luck, which is new at each strength; a search that halved the bracket would run
    after the luck of its ends (measured on the embedded world: 5.2 rounds, these 3.5).

    Attributes:
        budget: nats a token.
        first: the strength to begin with.
        measured: strength -> what it cost; inf where no text came, or its cost is no number.
    """

    budget: float
    first: float
    measured: dict[float, float] = dataclasses.field(default_factory=dict)

    @property
    def nearest(self) -> float | None:
        """The smallest of the strengths that cost about the budget."""
        near = [s for s, kl in self.measured.items() if abs(kl / self.budget - 1) <= TOLERANCE]
        return min(near, default=None)

    def proposed(self) -> float | None:
        """The strength to try next; None where one is near enough."""
        if not self.measured:
            return self.first
        if self.nearest is not None:
            return None
        points = sorted(
            (math.log(s), math.log(max(kl, 1e-9) / self.budget)) for s, kl in self.measured.items()
        )
        if self._saturated(points):
            return None
        below = [point for point in points if point[1] <= 0]
        if below and len(below) < len(points):
            return math.exp(self._on_line(points))
        x, y = points[-1] if below else points[0]
        slope = SLOPE
        if len(points) > 1:
            other = points[-2] if below else points[1]
            if math.isfinite(y) and math.isfinite(other[1]):
                slope = min(max((y - other[1]) / (x - other[0]), 0.5), 2 * SLOPE)
        step = -y / slope if math.isfinite(y) else -FARTHEST
        return math.exp(x + min(max(step, -FARTHEST), FARTHEST))

    @staticmethod
    def _on_line(points: Sequence[tuple[float, float]]) -> float:
        """Where a line through the points crosses 0, or the next place beside it that was not
        tried: luck is another one there."""
        x = np.array([point[0] for point in points])
        y = np.array([min(point[1], MOST) for point in points])
        weight = 1 / (LUCK**2 + (CURVED * y) ** 2)
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        of_slope = weight * (x - mean_x)
        sure = SLOPE_SPREAD**-2
        slope = (of_slope @ (y - mean_y) + SLOPE * sure) / (of_slope @ (x - mean_x) + sure)
        crossing = mean_x - mean_y / max(slope, 0.5)
        # what costs too much or too little by far bounds it
        least = max((at for at, cost in points if cost < -CERTAIN), default=-math.inf)
        most = min((at for at, cost in points if cost > CERTAIN), default=math.inf)
        if least < most and not least < crossing < most:
            crossing = (least + most) / 2 if math.isfinite(least + most) else crossing
        for n in range(2 * len(points) + 1):
            place = crossing + BESIDE * ((n + 1) // 2) * (1 if n % 2 else -1)
            if np.abs(x - place).min() > BESIDE / 2:
                break
        return float(place)

    @staticmethod
    def _saturated(points: Sequence[tuple[float, float]]) -> bool:
        """Whether a strength more than twice as large costs no more, and that is too little."""
        if len(points) < 2 or points[-1][1] > 0:
            return False
        (x, y), (further, there) = points[-2:]
        return further - x > math.log(2) and there - y < math.log1p(TOLERANCE) / 2

    def found(self) -> Found:
        """What the search came to."""
        if self.nearest is not None:
            return Found(self.nearest, self.measured[self.nearest])
        finite = {s: kl for s, kl in self.measured.items() if math.isfinite(kl)}
        tried = (
            ", ".join(f"{s:.3g} costs {kl:.3g}" for s, kl in sorted(finite.items()))
            or "none left any text"
        )
        return Found(
            None,
            None,
            f"no strength that was tried costs {self.budget:g} nats a token within "
            f"{TOLERANCE:.0%} on the text that it writes ({tried})",
        )


def _mean_cost(texts: Sequence[Continuation]) -> float:
    """KL(steered || plain) over all tokens that were written; inf where there is none, or where it is
    no number."""
    if any(text.text is not None and text.kl_reverse is None for text in texts):
        return math.inf
    measured = [(text.kl_reverse, text.n_tokens) for text in texts if text.kl_reverse is not None]
    n = sum(n_tokens for _, n_tokens in measured)
    return sum(kl * n_tokens for kl, n_tokens in measured) / n if n else math.inf


def costs(
    model: LanguageModel,
    steerings: Sequence[tuple[Steering, float]],
    neutral: Neutral,
    batch: int = 32,
    journal: Journal | None = None,
) -> Generator[int, None, Float[np.ndarray, "steering 2"]]:
    """What each (steering, strength) costs on this text, in nats a token: mean KL(plain || steered),
    and how much the mean loss rises; NaN where the text has no token.

    Yields the number of steerings done.
    """
    measured = np.full((len(steerings), 2), np.nan)
    if not neutral.mask.any():
        return measured
    journal = journal or Journal()
    for part in _parts([steering for steering, _ in steerings], batch):
        rows, strengths = [steerings[i][0] for i in part], [steerings[i][1] for i in part]

        def ruled(rows: Sequence[Steering] = rows, strengths: list[float] = strengths) -> list[Any]:
            measure = _ruler(model, rows, neutral, strengths, loss=True)
            return measure(torch.arange(len(rows)), torch.ones(len(rows))).tolist()

        measured[part] = journal.remember(["cost and loss", neutral.tokens, rows, strengths], ruled)
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
    model: LanguageModel,
    rows: Sequence[Steering],
    neutral: Neutral,
    unit: Sequence[float],
    loss: bool = False,
) -> Ruler:
    """Measures these steerings; strength 1 stands for the `unit` of each."""
    vectors = [row.added(strength) for row, strength in zip(rows, unit, strict=True)]
    if vectors[0]:
        stacked = {name: torch.stack([vector[name] for vector in vectors]) for name in vectors[0]}
        return ruler_of_vectors(model, stacked, neutral.tokens, neutral.mask, loss)
    units = torch.tensor(unit)

    def intervention(numbers: Tensor, strengths: Tensor) -> Intervention:
        of = [rows[i] for i in numbers.tolist()]
        return type(rows[0]).intervention(of, strengths.float() * units[numbers])

    return ruler(model, neutral.tokens, neutral.mask, intervention, loss)
