"""Whether training had converged: what half of the tokens would have given, and how far the rows
have turned.

The learning rate falls over the last part of a run, and the loss with it, so a falling loss
measures the schedule and a flat one the end of it. What is asked instead: how much worse is a
dictionary of half the tokens under its own whole schedule? Training had converged where its FVU is
at most 10% higher, and the rows have left their random first values: a median cosine with them
below 0.5.

`measured`: that second dictionary is trained, on the same stream. `estimated`: at a constant rate
FVU falls about as a power of the number of updates; the slope of log FVU over log updates, by least
squares over the later half of the part at constant rate, gives the ratio 2^-slope. Both runs lose
alike as their rates fall, so the ratio carries over to their ends.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig

LARGEST_GAIN = 0.10
LARGEST_COSINE = 0.5
FEWEST_POINTS = 5


@dataclasses.dataclass(frozen=True)
class Convergence:
    """What is known of it.

    Attributes:
        ratio: FVU of half the tokens over FVU of all; None where it isn't known.
        how: measured, or estimated; None where neither.
        cosine: median cosine of the decoder's rows with their first values; None where they do not
            learn.
        reason: why the ratio is not known.
    """

    ratio: float | None
    how: str | None
    cosine: float | None
    reason: str | None = None

    @property
    def converged(self) -> bool | None:
        """Whether it had; None where it cannot be said."""
        if self.cosine is not None and self.cosine >= LARGEST_COSINE:
            return False
        return None if self.ratio is None else self.ratio <= 1 + LARGEST_GAIN

    @property
    def sentence(self) -> str:
        """For the report and the pages, with what would help."""
        words = []
        if self.ratio is not None:
            words.append(
                f"half of the tokens give an FVU {100 * (self.ratio - 1):+.1f}% away ({self.how}; "
                f"at most {100 * LARGEST_GAIN:g}% counts as converged)"
            )
        elif self.reason:
            words.append(self.reason)
        if self.cosine is not None:
            words.append(
                f"median cosine of decoder rows with their first values {self.cosine:.2f} (below "
                f"{LARGEST_COSINE:g} wanted)"
            )
        told = "; ".join(words)
        if self.converged:
            return f"training had converged: {told}"
        if self.converged is None:
            return f"whether training had converged is not known: {told}"
        return f"training had not converged: {told}; raise train.tokens, or find a rate with train.lr=search"

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "converged": self.converged,
            "convergence": self.sentence,
            "half_fvu_ratio": self.ratio,
            "rows_turned_cosine": self.cosine,
        }


def nothing_learnt(reason: str) -> Convergence:
    """Of what does not learn by gradients."""
    return Convergence(None, None, None, reason)


def half(config: TrainConfig) -> TrainConfig:
    """The run of half the tokens: the same batches, its own whole schedule, its rate by the same
    rule."""
    tokens = max(config.batch, config.tokens // 2)
    return config.model_copy(
        update={"tokens": tokens, "batch_size": config.batch, "convergence": "off"}
    )


def estimated(learner: Learner) -> tuple[float | None, str | None]:
    """(ratio, None), or (None, why not): from the held-out FVU of the curve at a constant rate."""
    config, steps = learner.config, learner.steps
    end = min((1 - config.decay) * steps, config.spliced_from)
    start = max(end / 2, config.warm_up * steps)
    points = [
        (step, value)
        for step, _, name, value in learner.curve
        if name == "fvu" and start <= step <= end and value > 0
    ]
    if len(points) < FEWEST_POINTS or points[-1][0] < 1.5 * points[0][0]:
        return None, (
            f"the curve has {len(points)} points at a constant rate between update {start:.0f} "
            f"and {end:.0f}, too few to tell; lower train.log_every, or set "
            "train.convergence=measured"
        )
    x, y = (np.log(np.array(column, dtype=np.float64)) for column in zip(*points, strict=True))
    slope = float(np.polyfit(x - x.mean(), y, 1)[0])
    return math.exp(-slope * math.log(2)), None
