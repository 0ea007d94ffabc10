"""Learning: one stream of batches, any number of dictionaries that read each of them, and how well
they do meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.dictionary.contract import Batch, Dictionary
from components.dictionary.kernels.allocator import kept
from components.dictionary.learner import Learner
from components.dictionary.stream import Contexts, Stream
from components.errors import DictionaryError, DivergedError


def fit(
    learners: Mapping[str, Learner],
    stream: Stream,
    held_out: Batch,
    checkpoints: Mapping[str, Path],
) -> Iterator[tuple[str, dict[str, float]]]:
    """Trains every learner on one stream of batches; yields (label, metrics) at each point of its
    curve.

    The learners share batch size, number of updates, and the update from which a model takes part.
    One that learns nothing from batches gets none. A dictionary learns the same here as alone. A
    kill may fall between two checkpoints of one update: the learner that is behind then catches up
    first, and no learner sees a batch twice. A factorisation has no measures before its end, so its
    curve is one point.

    Args:
        learners: by label.
        stream: what they learn from.
        held_out: rows on which the curve is measured.
        checkpoints: the file of each learner, by label.

    Raises:
        DivergedError: a loss or a weight became NaN or infinite. It is looked for at the points of
            the curve and before each checkpoint, never in between, so that no update waits for the
            device; a checkpoint that is there is sound.
    """
    learning = {label: learner for label, learner in learners.items() if learner.steps}
    agreed = {(each.config.batch, each.steps, each.spliced_from) for each in learning.values()}
    assert len(agreed) <= 1, f"learners of one stream agree on batch size and updates, got {agreed}"
    batch_size, steps, spliced_from = next(iter(agreed), (1, 0, 0))
    step = min((learner.step for learner in learning.values()), default=0)
    batches = _batches(stream, batch_size, step, spliced_from)
    with kept(max((learner.largest for learner in learning.values()), default=0)):
        for now in range(step, steps):
            batch = next(batches)
            turn = {label: learner for label, learner in learning.items() if learner.step == now}
            for learner in turn.values():
                learner.learn(batch)
            for label, learner in turn.items():
                if learner.step % learner.config.log_every == 0 or learner.step == learner.steps:
                    yield (
                        label,
                        {}
                        if learner.dictionary.learns == "statistics"
                        else _point(learner, held_out),
                    )
                if learner.step % learner.config.checkpoint_every == 0:
                    _finite(learner, {"sum of the weights": learner.weight()})
                    learner.save(checkpoints[label])
    for label, learner in learners.items():
        learner.finish()
        if learner.steps and learner.dictionary.learns == "statistics":
            yield label, _point(learner, held_out)


def _batches(stream: Stream, batch_size: int, step: int, spliced_from: int) -> Iterator[Batch]:
    """From this update on: shuffled rows, then whole contexts once the model takes part."""
    if step < spliced_from:
        yield from itertools.islice(
            stream.batches(batch_size, step * batch_size), spliced_from - step
        )
    yield from Contexts(stream).batches(batch_size, max(0, step - spliced_from))


def _point(learner: Learner, held_out: Batch) -> dict[str, float]:
    """Measures for the curve, which they are added to."""
    training = (
        {} if learner.dictionary.learns == "statistics" else _finite(learner, learner.metrics())
    )
    measured = evaluate(learner.dictionary, [held_out], learner)
    metrics = training | _finite(
        learner,
        {name: measured[name] for name in ("fvu", "l0", "dead_share") if name not in training},
    )
    learner.curve += [
        (learner.step, learner.tokens, name, value) for name, value in metrics.items()
    ]
    return metrics


def _finite(learner: Learner, metrics: dict[str, float]) -> dict[str, float]:
    """The same numbers.

    Raises:
        DivergedError: one of them is NaN or infinite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            last = learner.curve[-1][0] if learner.curve else 0
            raise DivergedError(
                f"{learner.dictionary.name} diverged: the {name} is {value} at update "
                f"{learner.step} of {learner.steps}, and all was finite at update {last}; the "
                f"learning rate was {learner.rate(learner.step - 1):.3g} (at its height "
                f"{learner.peak:.3g}) and the activations were finite. No dictionary is made, and "
                f"the last checkpoint is from before; lower train.lr (to {learner.peak / 10:.1g}, "
                "say), or raise train.warm_up"
            )
    return metrics


@torch.no_grad()
def evaluate(
    dictionary: Dictionary, batches: Iterable[Batch], learner: Learner | None = None
) -> dict[str, Any]:
    """How well a dictionary reconstructs held-out activations (the first name it reconstructs).

    Args:
        dictionary: which.
        batches: held-out rows by name.
        learner: where the dictionary is still learning, so that whitened rows are measured in
            activation units.

    Returns:
        fvu: sum of squared errors over sum of squared deviations from the mean of all rows, each
            summed over the whole
        set in float64 and divided once. l0: mean number of active latents. dead_share: share of
            latents that are
        active on none of the rows. rows: how many there were.

    Raises:
        DictionaryError: no rows, or rows that do not vary.
    """
    name = dictionary.reconstructs[0]
    n, active = 0, 0
    error = squares = 0.0
    centre: Tensor | None = None
    total = torch.zeros(dictionary.widths[name], dtype=torch.float64)
    seen = torch.zeros(dictionary.d_sae, dtype=torch.bool)
    for batch in batches:
        if learner is None:
            codes = dictionary.encode(batch)
            rebuilt = dictionary.decode(codes)
        else:
            codes, rebuilt = learner.rebuilt(batch, name)
        x = batch[name].cpu().double()
        # deviations from near the mean: no cancellation
        centre = x.mean(0) if centre is None else centre
        error += (x - rebuilt.cpu()).square().sum().item()
        squares += (x - centre).square().sum().item()
        total += (x - centre).sum(0)
        n, active = n + len(x), active + codes.nnz
        seen[codes.indices.cpu().long()] = True
    variance = squares - total.square().sum().item() / max(1, n)
    if variance <= 0:
        raise DictionaryError(
            f"the {n} held-out activations at {name} do not vary, so no share of their variance "
            "can be measured; capture more text for that split"
        )
    return {
        "fvu": error / variance,
        "l0": active / n,
        "dead_share": 1 - seen.double().mean().item(),
        "rows": n,
    }
