"""The search for a learning rate: a few short runs around the architecture's own, judged on
held-out activations.

Each candidate learns a share of the tokens under its own whole schedule, at 1/3, 1 and 3 times the
rate that the rule gives for so few updates (`learner.raised`); where the best is at an end, at one
rate more beyond it. Together they cost at most `train.search_share` of the training. Between three
rates the objective is read as a parabola over the logarithm of the rate, and its lowest point is
taken.

The best rate of a short run is not that of a long one: it falls as the fourth root of the number of
updates (CARRY).

The criterion is the architecture's own objective on the held-out split, with the penalties at their
full weight: a fraction of variance alone would prefer, among dictionaries with a penalty, the rate
that ends least sparse.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path

import torch

from components.dictionary.contract import Batch, Moment
from components.dictionary.learner import Learner
from components.dictionary.settings import SpliceConfig, TrainConfig, raised
from components.errors import DictionaryError
from components.seeds import torch_generator

log = logging.getLogger(__name__)

FACTORS = (1 / 3, 1.0, 3.0)
STEP = 3.0
AT_MOST = len(FACTORS) + 1
VERSION = 2
"""Of what the search finds; part of the key of what was trained at a searched rate."""
CARRY = 0.25
"""How the best rate falls with the number of updates. Measured on the demo's activations, 512
latents, k 12, from 488 to 3,907 updates: topk from 0.011 to 0.006, matryoshka from 0.02 to 0.006,
batch_topk from 0.019 to 0.01 (a ratio of 1.8 to 3; this gives 1.7). Rates up to a third off the
best cost 2 to 6% in FVU; the rate of the short run itself cost 47% (batch_topk) and 79%
(matryoshka)."""


@dataclasses.dataclass(frozen=True)
class ShortRun:
    """One candidate.

    Attributes:
        factor: on the rate that the rule gives.
        lr: the rate of the short run.
        objective: of the held-out rows; infinite where the run diverged.
    """

    factor: float
    lr: float
    objective: float


def candidate(config: TrainConfig, factor: float, own_rate: float) -> TrainConfig:
    """The short run of one factor; the model takes no part in it."""
    tokens = max(config.batch, round(config.tokens * config.search_share / AT_MOST))
    short = config.model_copy(
        update={
            "tokens": tokens,
            "batch_size": config.batch,
            "convergence": "off",
            "lr": None,
            "splice": SpliceConfig(),
        }
    )
    return short.model_copy(update={"lr": factor * raised(own_rate, short.updates)})


def next_factor(trials: list[ShortRun]) -> float | None:
    """What to try next: the three, then one beyond the end where the best stands; None when all is
    known."""
    tried = {trial.factor for trial in trials}
    for factor in FACTORS:
        if factor not in tried:
            return factor
    best = min(trials, key=lambda trial: trial.objective).factor
    if len(trials) >= AT_MOST or best not in (min(tried), max(tried)):
        return None
    return best * STEP if best == max(tried) else best / STEP


def best(trials: list[ShortRun]) -> float:
    """The rate of the least objective: the lowest point of a parabola through the best trial and
    its two neighbours.

    Raises:
        DictionaryError: every candidate diverged.
    """
    by_rate = sorted(trials, key=lambda trial: trial.lr)
    lowest = min(range(len(by_rate)), key=lambda number: by_rate[number].objective)
    if not math.isfinite(by_rate[lowest].objective):
        tried = ", ".join(f"{trial.lr:.3g}" for trial in trials)
        raise DictionaryError(
            f"the search for a learning rate found none: training diverged at each of {tried}; "
            f"set train.lr to a number below {min(trial.lr for trial in trials):.1g}"
        )
    around = by_rate[max(0, lowest - 1) : lowest + 2]
    if len(around) < 3 or not all(math.isfinite(trial.objective) for trial in around):
        return by_rate[lowest].lr
    below, at, above = (trial.objective for trial in around)
    curvature = below - 2 * at + above
    return by_rate[lowest].lr * (
        STEP ** ((below - above) / (2 * curvature)) if curvature > 0 else 1.0
    )


@torch.no_grad()
def objective(learner: Learner, held_out: Batch) -> float:
    """The sum of its loss terms on held-out rows, every weight at its full height and no latent
    dead.

    Only of a dictionary that is thrown away: an architecture may move what it keeps for encoding.
    """
    nothing_dead = torch.zeros_like(learner.silent, dtype=torch.bool)
    moment = Moment(
        learner.steps,
        learner.steps,
        nothing_dead,
        torch_generator(learner.config.seed, "objective"),
        False,
    )
    terms = learner.dictionary.loss(learner.read(held_out), moment).losses.values()
    return float(torch.stack(list(terms)).sum())


class Search:
    """The search of one dictionary; its trials are kept in a file, so that a kill costs one of them
    at most.

    Attributes:
        trials: what was tried so far.
    """

    def __init__(self, config: TrainConfig, own_rate: float, file: Path) -> None:
        self.config, self.own_rate, self._file = config, own_rate, file
        self.trials = (
            [ShortRun(**row) for row in json.loads(file.read_text("utf-8"))]
            if file.exists()
            else []
        )

    @property
    def next(self) -> TrainConfig | None:
        """The next short run; None when the rate is known."""
        factor = next_factor(self.trials)
        return None if factor is None else candidate(self.config, factor, self.own_rate)

    def tried(self, lr: float, objective: float) -> None:
        """Keeps how the next one went."""
        factor = next_factor(self.trials)
        assert factor is not None
        self.trials.append(ShortRun(factor, lr, objective))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_name(f".{self._file.name}.writing")
        temporary.write_text(
            json.dumps([dataclasses.asdict(trial) for trial in self.trials]), "utf-8"
        )
        temporary.rename(self._file)

    def rate(self, updates: int) -> float:
        """The rate that was found, for a run of so many updates."""
        short = candidate(self.config, 1.0, self.own_rate).updates
        return best(self.trials) * (short / updates) ** CARRY

    @property
    def best_config(self) -> TrainConfig:
        """The config with the rate that was found."""
        lr = self.rate(self.config.updates)
        tried = ", ".join(f"{trial.lr:.2g}: {trial.objective:.4g}" for trial in self.trials)
        log.info(
            "learning rate %.3g of %s (short runs, rate: objective on held-out rows: %s)",
            lr,
            self.config.dictionary.kind,
            tried,
        )
        return self.config.model_copy(update={"lr": lr})

    @property
    def facts(self) -> list[dict[str, float | None]]:
        """The trials for a manifest; a run that diverged has no objective."""
        rows = [dataclasses.asdict(trial) for trial in self.trials]
        return [
            row | {"objective": row["objective"] if math.isfinite(row["objective"]) else None}
            for row in rows
        ]
