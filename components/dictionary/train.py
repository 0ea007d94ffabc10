"""The stage `train`: a stream of activations -> a dictionary.

    sample -> scale, first values -> [ batch -> loss terms -> gradient -> project, clip, Adam, renormalise ] -> held-out FVU

Every learner reads the same batches from one stream, so several dictionaries can learn from it side by side: `make_many`
reads each batch once for all configs that agree on the stream, and each dictionary has the same bits as trained alone.
(Their encoder products are not stacked into one: on a CPU that was measured to be no faster, see docs/sweep.md.) Resuming
is exact: the checkpoint holds weights, Adam's moments, counters of silent tokens, running sums and the curve; batches and
random draws are functions of (seed, step). On the CPU an interrupted and resumed run gives the same bits as an
uninterrupted one with the same number of threads.

A seed replicates everything that is drawn: the first values, the sample that sets scale and bias, and the order of
tokens. Where `order` is given, the last two follow it, and dictionaries of different seeds can share a stream; their
spread is then that of the first values alone.

Source: step order and constants of Gao et al. 2024 (arXiv:2406.04093) and the peers compared in the architectures'
docstrings. Deviations: warm-up is a share of training rather than 1000 steps, because runs here may be shorter than
that; the learning rate falls to zero over the last fifth.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.device import Execution, resolve
from components.dictionary import convergence
from components.dictionary.architectures.untrained import UntrainedConfig
from components.dictionary.contract import Batch, Dictionary, architectures, untrained
from components.dictionary.convergence import Convergence
from components.dictionary.kernels.allocator import kept
from components.dictionary.learner import Learner, LongestSilence, Splice, TrainConfig
from components.dictionary.rates import Search, objective
from components.dictionary.stream import Stream
from components.dictionary.whitening import Whitening, whitening_of
from components.errors import DictionaryError, DivergedError
from components.seeds import torch_generator
from components.store.artifact import Facts, Inputs, Parent, Progress, Stage, Work
from components.store.shards import ActivationShards
from components.store.tables import CURVE

__all__ = ["TRAIN", "Learner", "LongestSilence", "Splice", "TrainConfig", "control", "evaluate", "fit", "make"]

log = logging.getLogger(__name__)

SAMPLE_ROWS = 32_768
HELD_OUT_ROWS_IN_CURVE = 2048
MEASURED_AT_ONCE = 4096
_CHECKPOINT = "state.safetensors"


def control(config: TrainConfig, trained: Mapping[str, Any]) -> TrainConfig:
    """The untrained dictionary that stands beside a trained one of any architecture.

    Random directions, with a gain fitted, and as many active latents as the trained one has on held-out text: equal in size
    and in sparsity, and what it reads is normalised alike, so what remains between the two is what was learnt. (First values
    of another architecture would not do: a `relu` one starts half active.)

    Args:
        config: how the trained one was trained: seed and splits are taken over, what only training reads is not.
        trained: its facts: `d_sae`, `l0`, `hook_point`.
    """
    k = min(max(1, round(trained["l0"])), trained["d_sae"])
    return TrainConfig(
        dictionary=UntrainedConfig(d_sae=trained["d_sae"], k=k),
        normalise=config.normalise,
        whitening_floor=config.whitening_floor,
        hook_point=trained["hook_point"],
        split=config.split,
        held_out=config.held_out,
        seed=config.seed,
    )


def fit(
    learners: Mapping[str, Learner], stream: Stream, held_out: Batch, checkpoints: Mapping[str, Path]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Trains every learner on one stream of batches; yields (label, metrics) at each point of its curve.

    The learners share batch size and number of steps; those with nothing to learn look on. A dictionary learns the same here
    as alone. A kill may fall between two checkpoints of one step: whoever is behind then catches up first, and no batch is
    learnt twice. A factorisation has no measures before its end: its curve is one point.

    Raises:
        DictionaryError: a loss or a weight became NaN or infinite. It is looked for at the points of the curve and before
            each checkpoint, never in between, so that no update waits for the device; a checkpoint that is there is sound.
    """
    learning = {label: learner for label, learner in learners.items() if learner.steps}
    agreed = {(learner.config.batch, learner.steps) for learner in learning.values()}
    assert len(agreed) <= 1, f"learners of one stream agree on batch size and steps, got {agreed}"
    batch_size, steps = next(iter(agreed), (1, 0))
    step = min((learner.step for learner in learning.values()), default=0)
    batches = stream.batches(batch_size, step * batch_size)
    with kept(max((learner.largest for learner in learning.values()), default=0)):
        for now in range(step, steps):
            batch = next(batches)
            turn = {label: learner for label, learner in learning.items() if learner.step == now}
            for learner in turn.values():
                learner.learn(batch)
            for label, learner in turn.items():
                if learner.step % learner.config.log_every == 0 or learner.step == learner.steps:
                    yield label, {} if learner.dictionary.learns == "statistics" else _point(learner, held_out)
                if learner.step % learner.config.checkpoint_every == 0:
                    _finite(learner, {"sum of the weights": learner.weight()})
                    learner.save(checkpoints[label])
    for label, learner in learners.items():
        learner.finish()
        if learner.steps and learner.dictionary.learns == "statistics":
            yield label, _point(learner, held_out)


def _point(learner: Learner, held_out: Batch) -> dict[str, float]:
    """Measures for the curve, which they are added to."""
    training = {} if learner.dictionary.learns == "statistics" else _finite(learner, learner.metrics())
    found = evaluate(learner.dictionary, [held_out], learner)
    metrics = training | _finite(
        learner, {name: found[name] for name in ("fvu", "l0", "dead_share") if name not in training}
    )
    tokens = learner.step * learner.config.batch
    learner.curve += [(learner.step, tokens, name, value) for name, value in metrics.items()]
    return metrics


def _finite(learner: Learner, metrics: dict[str, float]) -> dict[str, float]:
    """The same numbers.

    Raises:
        DictionaryError: one of them is NaN or infinite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            last = learner.curve[-1][0] if learner.curve else 0
            raise DivergedError(
                f"{learner.dictionary.name} diverged: the {name} is {value} at update {learner.step} of {learner.steps}, and "
                f"all was finite at update {last}; the learning rate was {learner.rate(learner.step - 1):.3g} (at its height "
                f"{learner.peak:.3g}) and the activations were finite. No dictionary is made, and the last checkpoint is "
                f"from before; lower train.lr (to {learner.peak / 10:.1g}, say), or raise train.warm_up"
            )
    return metrics


def cautions(config: TrainConfig, n_rows: int) -> list[str]:
    """What is allowed and hardly meant, in sentences.

    Args:
        config: the section.
        n_rows: rows of the split that is learnt from.
    """
    steps, batch = config.updates, config.batch
    found = []
    if 0 < config.tokens < batch:
        found.append(
            f"train.tokens ({config.tokens:,}) is less than one batch: one update of {batch:,} tokens is made; "
            "raise train.tokens or lower train.batch_size"
        )
    if steps and batch > n_rows:
        found.append(
            f"train.batch_size ({batch:,}) is more than the {n_rows:,} tokens of the split {config.split}: every "
            "batch holds some of them several times; lower it or capture more"
        )
    if steps and config.silence >= steps * batch:
        found.append(
            f"train.dead_after ({config.silence:,}) is not less than the tokens of the whole run "
            f"({steps * batch:,}): no latent ever counts as dead, and none is revived; lower it"
        )
    return found


@torch.no_grad()
def evaluate(dictionary: Dictionary, batches: Iterable[Batch], learner: Learner | None = None) -> dict[str, Any]:
    """How well a dictionary reconstructs held-out activations (the first name it reconstructs).

    fvu: sum of squared errors over sum of squared deviations from the mean of all rows, each summed over the whole set
    in float64 and divided once. l0: mean number of active latents. dead_share: share of
    latents active on none of the rows.

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
        else:  # which may be learning whitened rows: everything here is measured in activation units
            codes, rebuilt = learner.rebuilt(batch, name)
        x = batch[name].cpu().double()
        centre = x.mean(0) if centre is None else centre  # deviations from near the mean: no cancellation
        error += (x - rebuilt.cpu()).square().sum().item()
        squares += (x - centre).square().sum().item()
        total += (x - centre).sum(0)
        n, active = n + len(x), active + codes.nnz
        seen[codes.indices.cpu().long()] = True
    variance = squares - total.square().sum().item() / max(1, n)
    if variance <= 0:
        raise DictionaryError(
            f"the {n} held-out activations at {name} do not vary, so no share of their variance can be measured; "
            "capture more text for that split"
        )
    return {
        "fvu": error / variance,
        "l0": active / n,
        "dead_share": 1 - seen.double().mean().item(),
        "rows": n,
    }


def make(folder: Path, config: TrainConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes `dictionary.safetensors`, `dictionary.json` and `curve.parquet`; the facts hold the held-out measures."""
    made = yield from make_many({"": (folder, config, inputs)}, settings)
    return made[""]


def stream_of(config: TrainConfig) -> tuple[Any, ...]:
    """What two configs must have in common to learn from one stream of the same activations."""
    reads, reconstructs = architectures[config.dictionary.kind].wiring(config.dictionary, config.hook_point)
    names = tuple(dict.fromkeys((*reads, *reconstructs)))
    order = config.seed if config.order is None else config.order
    steps = math.ceil(config.tokens / config.batch)
    return names, config.split, config.held_out, order, config.batch, steps


def make_many(
    wanted: Mapping[str, tuple[Path, TrainConfig, Inputs]], settings: Execution | None
) -> Generator[Progress, None, dict[str, Facts]]:
    """`make` for several dictionaries: those that share a stream learn side by side, and each batch is read once.

    Every dictionary gets the bits that it would have alone (with the same number of threads), in a folder of its own.

    Args:
        wanted: label -> (folder, config, inputs).
        settings: where to run.
    """
    groups: dict[Any, list[str]] = {}
    for label, (_, config, inputs) in wanted.items():
        groups.setdefault((inputs["activations"].key, stream_of(config)), []).append(label)
    facts: dict[str, Facts] = {}
    for labels in groups.values():
        facts |= yield from _make_group({label: wanted[label] for label in labels}, settings or Execution())
    return facts


def _make_group(
    wanted: Mapping[str, tuple[Path, TrainConfig, Inputs]], settings: Execution
) -> Generator[Progress, None, dict[str, Facts]]:
    _, config, inputs = next(iter(wanted.values()))
    device = resolve(settings.device)
    shards = ActivationShards(inputs["activations"])
    hook_point = config.hook_point or shards.hook_points[0]
    names, split, held_out_split, order, batch_size, _ = stream_of(config.model_copy(update={"hook_point": hook_point}))
    widths = {name: shards.d_in(name) for name in names}
    stream = Stream(shards, split, names, order, device)
    held_out = Stream(shards, held_out_split, names, order)
    for caution in dict.fromkeys(words for _, own, _ in wanted.values() for words in cautions(own, stream.n_rows)):
        log.warning("%s", caution)

    seconds: dict[str, float] = {}  # of the run that goes on, by label, and tokens learnt in it
    learnt: dict[str, int] = {}
    sample = {name: rows.to(device) for name, rows in stream.sample(SAMPLE_ROWS).items()}
    held_out_rows = held_out.sample(HELD_OUT_ROWS_IN_CURVE)

    def begun(own: TrainConfig) -> Learner:
        whitening = _whitening(own, sample)
        read = sample if whitening is None else {name: whitening.whitened(rows) for name, rows in sample.items()}
        dictionary = untrained(own.dictionary, hook_point, widths, read, torch_generator(own.seed, "dictionary"))
        return Learner(dictionary, own, whitening=whitening)

    def run(learners: Mapping[str, Learner], what: str) -> Iterator[Progress]:
        """Trains them, from where their checkpoints stand; `what` names checkpoints and progress ("" is the run itself)."""
        checkpoints = {label: wanted[label][0] / ".checkpoint" / f"{what}{_CHECKPOINT}" for label in learners}
        for label, learner in learners.items():
            if checkpoints[label].exists() and learner.resume(checkpoints[label]):
                log.info("continuing %s at update %d of %d", learner.dictionary.name, learner.step, learner.steps)
        seconds.clear()
        learnt.clear()
        started, before = time.perf_counter(), {label: learner.step for label, learner in learners.items()}
        for label, metrics in fit(learners, stream, held_out_rows, checkpoints):
            learner = learners[label]
            seconds[label] = time.perf_counter() - started
            learnt[label] = (learner.step - before[label]) * batch_size
            speed = {"tokens_per_second": learnt[label] / seconds[label]}
            done, total = learner.step * batch_size, learner.steps * batch_size
            yield Progress(done, total, "tokens", f"{learner.dictionary.name} {what}".strip(), metrics | speed)
        for path in checkpoints.values() if what else ():
            path.unlink(missing_ok=True)

    configs = {label: _with_rate(own) for label, (_, own, _) in wanted.items()}
    found = yield from _searched(configs, begun, run, wanted, held_out_rows)
    configs |= {label: search.found for label, search in found.items()}
    learners = {label: begun(own) for label, own in configs.items()}
    yield from run(learners, "")
    taken = {label: (seconds.get(label, 0.0), learnt.get(label, 0)) for label in learners}

    facts: dict[str, Facts] = {}
    for label, learner in learners.items():
        dictionary, folder = learner.dictionary, wanted[label][0]
        total = learner.steps * batch_size
        yield Progress(total, total, "tokens", f"measuring {dictionary.name} on {held_out_split}")
        measured = evaluate(dictionary, held_out.in_order(MEASURED_AT_ONCE))
        dictionary.save(folder)
        CURVE.write(folder, [dict(zip(("step", "tokens", "name", "value"), row, strict=True)) for row in learner.curve])
        facts[label] = _facts(dictionary, learner, measured, *taken[label]) | {
            "trained_together": len(learners),
            "rates_tried": found[label].facts if label in found else [],
        }
    beside = {label: convergence.half(own) for label, own in configs.items() if own.convergence == "measured"}
    for label in beside.keys() & found.keys():  # by the same rule: the factor that was found, at its number of updates
        beside[label] = beside[label].model_copy(update={"lr": found[label].rate(beside[label].updates)})
    halves = {
        label: begun(own) for label, own in beside.items() if learners[label].learnt and learners[label].steps > 1
    }
    yield from run(halves, "half-")
    for label, learner in learners.items():
        other = None
        if label in halves:
            other = evaluate(halves[label].dictionary, held_out.in_order(MEASURED_AT_ONCE))["fvu"]
        facts[label] |= _convergence(learner, facts[label]["fvu"], other).facts()
    return facts


def _whitening(config: TrainConfig, sample: Batch) -> Whitening | None:
    """The map of what the section wants whitened, from the sample that sets scale and bias."""
    if config.normalise == "scale":
        return None
    if len(sample) > 1:
        raise DictionaryError(
            f"train.normalise is whiten, and {config.dictionary.kind} reads {', '.join(sample)}: what is whitened is one hook "
            "point that is read and reconstructed; set train.normalise=scale"
        )
    return whitening_of(next(iter(sample.values())), config.whitening_floor)


def _with_rate(config: TrainConfig) -> TrainConfig:
    """The config; where there is nothing to learn by gradients no rate is searched."""
    learns = architectures[config.dictionary.kind].learns == "gradients" and config.updates > 0
    return config if learns or config.lr != "search" else config.model_copy(update={"lr": None})


def _searched(
    configs: Mapping[str, TrainConfig],
    begun: Callable[[TrainConfig], Learner],
    run: Callable[[Mapping[str, Learner], str], Iterator[Progress]],
    wanted: Mapping[str, tuple[Path, TrainConfig, Inputs]],
    held_out: Batch,
) -> Generator[Progress, None, dict[str, Search]]:
    """The learning rates of those that want theirs searched; those of one stream try their next candidates side by side."""
    searches: dict[str, Search] = {}
    for label, own in configs.items():
        if own.lr == "search":
            own_rate = begun(own.model_copy(update={"lr": None})).recipe.lr
            searches[label] = Search(own, own_rate, wanted[label][0] / ".checkpoint" / "rates.json")
    while any(search.next for search in searches.values()):
        todo = {label: search.next for label, search in searches.items() if search.next}
        streams: dict[int, list[str]] = {}
        for label, own in todo.items():
            streams.setdefault(own.updates, []).append(label)
        for labels in streams.values():
            objectives = yield from _tried({label: todo[label] for label in labels}, begun, run, wanted, held_out)
            for label, (lr, value) in objectives.items():
                searches[label].tried(lr, value)
    return searches


def _tried(
    candidates: Mapping[str, TrainConfig],
    begun: Callable[[TrainConfig], Learner],
    run: Callable[[Mapping[str, Learner], str], Iterator[Progress]],
    wanted: Mapping[str, tuple[Path, TrainConfig, Inputs]],
    held_out: Batch,
) -> Generator[Progress, None, dict[str, tuple[float, float]]]:
    """Rate and objective of each candidate. Where one of several diverges each runs again alone: no other pays for it."""
    learners = {label: begun(own) for label, own in candidates.items()}
    for learner in learners.values():
        learner.folds = False
    try:
        yield from run(learners, "rate-")
    except DivergedError as error:
        for label in learners:  # a checkpoint of one that diverged is no beginning for the next candidate
            (wanted[label][0] / ".checkpoint" / f"rate-{_CHECKPOINT}").unlink(missing_ok=True)
        if len(learners) > 1:
            found: dict[str, tuple[float, float]] = {}
            for label, own in candidates.items():
                found |= yield from _tried({label: own}, begun, run, wanted, held_out)
            return found
        (learner,) = learners.values()
        log.info("a rate of %.3g is too high: %s", learner.peak, error)
        return dict.fromkeys(learners, (learner.peak, math.inf))
    return {label: (learner.peak, objective(learner, held_out)) for label, learner in learners.items()}


def _convergence(learner: Learner, fvu: float, half_fvu: float | None) -> Convergence:
    """What is known of it at the end; `half_fvu` where a dictionary learnt half of the tokens beside it."""
    if not learner.learnt or not learner.steps:
        return convergence.nothing_learnt(f"{learner.dictionary.kind} learns nothing by gradients")
    if half_fvu is not None:
        return Convergence(half_fvu / fvu if fvu > 0 else None, "measured", learner.turned)
    if learner.config.convergence == "off":
        return Convergence(None, None, learner.turned, "train.convergence is off")
    ratio, reason = convergence.estimated(learner)
    return Convergence(ratio, "estimated", learner.turned, reason)


def _facts(dictionary: Dictionary, learner: Learner, measured: Mapping[str, Any], seconds: float, tokens: int) -> Facts:
    name = dictionary.name if learner.steps or dictionary.learns == "nothing" else f"{dictionary.name}-untrained"
    speed = tokens / seconds if seconds else None
    learnt = {
        "tokens": learner.steps * learner.config.batch,
        "steps": learner.steps,
        "batch_size": learner.config.batch,
        "lr": learner.peak if learner.learnt and learner.steps else None,
        "tokens_per_second": speed,
    }
    return facts_of(dictionary, name, learner.config.held_out, measured) | learnt


def facts_of(dictionary: Dictionary, name: str, held_out: str, measured: Mapping[str, Any]) -> Facts:
    """What every manifest of `train` says of a dictionary, wherever it learnt; nothing learnt here.

    Args:
        dictionary: which.
        name: what it is called.
        held_out: the split that it was measured on.
        measured: what `evaluate` said.
    """
    return {
        "name": name,
        "architecture": dictionary.kind,
        "hook_point": dictionary.hook_point,
        "reads": list(dictionary.reads),
        "reconstructs": list(dictionary.reconstructs),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "scale": dictionary.scale,
        "dtype": str(dictionary.like.dtype).removeprefix("torch."),
        "tokens": 0,
        "steps": 0,
        "n_seeds": 1,
        "held_out": held_out,
        "held_out_rows": measured["rows"],
        "fvu": measured["fvu"],
        "l0": measured["l0"],
        "dead_share": measured["dead_share"],
        "tokens_per_second": None,
    }


def _entries(config: TrainConfig) -> dict[str, int]:
    kind = config.dictionary.kind
    return {f"architecture.{kind}": architectures.version(kind)}


TRAIN = Stage("train", version=2, make=make, entries=_entries, inputs={"activations": Parent("capture")})
