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

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.config import Config, execution, union_of
from components.device import Execution, resolve
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures, untrained
from components.dictionary.kernels.allocator import kept
from components.dictionary.kernels.product import Precision, in_precision
from components.dictionary.kernels.rows import norm, normalise_, project_
from components.dictionary.stream import Stream
from components.errors import DictionaryError
from components.seeds import torch_generator
from components.store.artifact import Facts, Inputs, Progress, Stage, Work
from components.store.shards import ActivationShards
from components.store.tables import CURVE

log = logging.getLogger(__name__)

SAMPLE_ROWS = 32_768
HELD_OUT_ROWS_IN_CURVE = 2048
_CHECKPOINT = "state.safetensors"

Splice = Callable[[Batch, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""(activations, their reconstruction in activation units) -> further named loss terms, through a model for instance."""


class TrainConfig(Config):
    """Training one dictionary on captured activations."""

    dictionary: union_of(architectures) = TopKConfig()  # type: ignore[valid-type]
    """Architecture, size and sparsity."""
    tokens: NonNegativeInt = 4_000_000
    """Tokens to learn from, rounded up to whole batches; more than were captured means several epochs, 0 leaves the dictionary untrained."""
    batch_size: int = Field(default=4096, ge=2)
    """Tokens in one update; at least 2, since errors are shares of a batch's variance."""
    lr: PositiveFloat | None = None
    """Learning rate at its height; null takes the architecture's own."""
    warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of the updates over which the learning rate rises from zero."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the updates, at the end, over which the learning rate falls to zero."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    precision: Precision = "float32"
    """Of the encoder's product while learning: bfloat16 rounds its factors and sums in float32, which is faster on a GPU; weights, gradients and whatever is encoded later stay in float32."""
    dead_after: PositiveInt = 200_000
    """Tokens of silence after which a latent counts as dead; the field's 10 million suits runs of billions of tokens, and here it would be longer than the run."""
    hook_point: str = ""
    """Which captured hook point to learn; empty takes the first."""
    split: str = "train"
    """The split to learn from."""
    held_out: str = "validate"
    """The split on which the result is measured."""
    log_every: PositiveInt = 50
    """Updates between two points of the curves."""
    seed: int = 0
    """Seed of the first values and, unless `order` is given, of the order of tokens."""
    order: int | None = None
    """Seed of the order of tokens and of the sample that sets the scale; null takes `seed`. Dictionaries of one order share a stream."""
    checkpoint_every: PositiveInt = execution(200)
    """Updates between two checkpoints, from which an interrupted run continues."""


def control(config: TrainConfig, trained: Mapping[str, Any]) -> TrainConfig:
    """The untrained dictionary that stands beside a trained one of any architecture.

    TopK with random directions and as many active latents as the trained one has on held-out text: equal in size and in
    sparsity, so what remains between the two is what was learnt. (First values of another architecture would not do: a
    `relu` one starts half active.)

    Args:
        config: how the trained one was trained: seed and splits are taken over, what only training reads is not.
        trained: its facts: `d_sae`, `l0`, `hook_point`.
    """
    k = min(max(1, round(trained["l0"])), trained["d_sae"])
    return TrainConfig(
        dictionary=TopKConfig(d_sae=trained["d_sae"], k=k),
        tokens=0,
        hook_point=trained["hook_point"],
        split=config.split,
        held_out=config.held_out,
        seed=config.seed,
    )


class LongestSilence:
    """The longest silence of any latent, as far as the host knows it without waiting for the device.

    After each update it is sent; it is read LAG updates later, when the device is long past it.
    """

    LAG = 3

    def __init__(self) -> None:
        self._sent: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def send(self, silent: Int64[Tensor, " d_sae"]) -> None:
        """Tokens of silence after an update."""
        longest, arrived = silent.max(), None
        if longest.is_cuda:
            longest = torch.empty_like(longest, device="cpu", pin_memory=True).copy_(longest, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._sent.append((longest, arrived))

    def at_most(self, n_tokens: int) -> float:
        """A bound before the next update, when every one has `n_tokens`; to be asked once before each update."""
        if len(self._sent) < self.LAG:
            return math.inf
        longest, arrived = self._sent.popleft()
        if arrived is not None:
            arrived.synchronize()
        return longest.item() + (self.LAG - 1) * n_tokens

    def forget(self) -> None:
        """For whoever changes the counters by hand: nothing is known until updates were sent again."""
        self._sent.clear()


class Learner:
    """One dictionary in training: its optimiser, its schedules, its counters of silent tokens."""

    def __init__(self, dictionary: Dictionary, config: TrainConfig, splice: Splice | None = None) -> None:
        self.dictionary, self.config, self.splice = dictionary, config, splice
        self.recipe = dictionary.recipe
        self.steps = math.ceil(config.tokens / config.batch_size) if dictionary.learns != "nothing" else 0
        self.step = 0
        self.peak = config.lr or self.recipe.lr
        self.learnt = {name: weights for name, weights in dictionary.named_parameters() if weights.requires_grad}
        self.optimiser = torch.optim.Adam(
            [{"params": list(self.learnt.values())}],
            lr=self.peak,
            betas=self.recipe.betas,
            eps=self.recipe.eps,
            fused=True,
        )
        self.silent = torch.zeros(dictionary.d_sae, dtype=torch.int64, device=dictionary.like.device)
        self.longest = LongestSilence()
        self.sums: dict[str, Tensor] = {}
        self.since = 0  # updates that the sums run over
        self.curve: list[tuple[int, int, str, float]] = []

    @property
    def largest(self) -> int:
        """Bytes of the largest gradient in the machine's own memory."""
        return max((weights.nbytes for weights in self.learnt.values() if weights.is_cpu), default=0)

    def learn(self, batch: Batch) -> None:
        """One update. Nothing here waits for the device."""
        n_tokens = len(next(iter(batch.values())))
        moment = Moment(
            self.step,
            self.steps,
            self.silent >= self.config.dead_after,
            torch_generator(self.config.seed, "step", self.step),
            self.silent.is_cpu or self.longest.at_most(n_tokens) >= self.config.dead_after,
        )
        with in_precision(self.config.precision):
            outcome = self.dictionary.loss(batch, moment)
        losses = dict(outcome.losses) | self._spliced(batch, outcome)
        if losses:
            self._descend(torch.stack(list(losses.values())).sum())
        self.silent = torch.where(outcome.fired > 0, 0, self.silent + n_tokens)
        if not self.silent.is_cpu:
            self.longest.send(self.silent)
        self.step, self.since = self.step + 1, self.since + 1
        self._add({f"loss.{name}": term for name, term in losses.items()} | {"l0": outcome.fired.sum() / n_tokens})

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and where the counters stand."""
        means = {name: (total / self.since).item() for name, total in sorted(self.sums.items())}
        self.sums.clear()
        self.since = 0
        return {
            "loss": sum(value for name, value in means.items() if name.startswith("loss.")),
            **means,
            "dead_share": (self.silent >= self.config.dead_after).double().mean().item(),
            "learning_rate": self.rate(self.step - 1),
        }

    def weight(self) -> float:
        """Sum of the absolute weights; not finite where any is not."""
        sums = [weights.detach().abs().sum(dtype=torch.float64) for weights in self.learnt.values()]
        return torch.stack(sums).sum().item() if sums else 0.0

    def rate(self, step: int) -> float:
        """Learning rate of the update after `step` updates: linear up, level, linear down to zero."""
        rising = (step + 1) / max(1.0, self.config.warm_up * self.steps)
        falling = (self.steps - step) / max(1.0, self.config.decay * self.steps)
        return self.peak * min(1.0, rising, falling)

    def save(self, path: Path) -> None:
        """Everything that the next update depends on, in one file, whole or not at all."""
        tensors = {f"weights.{name}": tensor for name, tensor in self.dictionary.state_dict().items()}
        for name, parameter in self.learnt.items():
            for moment, tensor in self.optimiser.state.get(parameter, {}).items():
                tensors[f"adam.{moment}.{name}"] = tensor
        tensors |= {"silent": self.silent} | {f"sums.{name}": total for name, total in self.sums.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.writing")
        metadata = {"step": str(self.step), "since": str(self.since), "curve": json.dumps(self.curve)}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
        temporary.rename(path)

    def resume(self, path: Path) -> bool:
        """Continues where `save` stood; a file that is damaged is removed and training starts over. Whether it continues."""
        try:
            with safe_open(path, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
                metadata = file.metadata()
        except SafetensorError as error:
            log.warning("the checkpoint %s is damaged (%s); it is removed and training starts over", path, error)
            path.unlink()
            return False
        device = self.silent.device
        under = lambda prefix: {  # noqa: E731
            name.removeprefix(prefix): tensor.clone() for name, tensor in stored.items() if name.startswith(prefix)
        }
        self.dictionary.load_state_dict(under("weights."))
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            for name, tensor in under(f"adam.{moment}.").items():
                self.optimiser.state[self.learnt[name]][moment] = tensor.to(device)
        self.silent = stored["silent"].to(device)
        self.sums = {name: tensor.to(device) for name, tensor in under("sums.").items()}
        self.step, self.since = int(metadata["step"]), int(metadata["since"])
        self.curve = [tuple(point) for point in json.loads(metadata["curve"])]
        return True

    def _spliced(self, batch: Batch, outcome: Outcome) -> dict[str, Tensor]:
        if self.splice is None:
            return {}
        scales = self.dictionary.scales
        return dict(self.splice(batch, {name: rows / scales[name] for name, rows in outcome.reconstruction.items()}))

    def _descend(self, loss: Tensor) -> None:
        """Gradient, projection, clip, Adam, renormalisation: five passes over the weights, the clip inside Adam's."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        constrained = [self.dictionary.get_parameter(name) for name in self.recipe.unit_rows]
        with torch.no_grad():
            for directions in constrained:
                assert directions.grad is not None
                project_(directions.grad, directions)
            gradients = [weights.grad for weights in self.learnt.values() if weights.grad is not None]
            # The fused optimiser divides gradients by this as it reads them (meant for a GradScaler).
            self.optimiser.grad_scale = (norm(gradients) / self.config.clip).clamp(min=1).float()
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(self.step)
            self.optimiser.step()
            for directions in constrained:
                normalise_(directions)

    def _add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()


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
    agreed = {(learner.config.batch_size, learner.steps) for learner in learning.values()}
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
        learner.dictionary.finish()
        if learner.steps and learner.dictionary.learns == "statistics":
            yield label, _point(learner, held_out)


def _point(learner: Learner, held_out: Batch) -> dict[str, float]:
    """Measures for the curve, which they are added to."""
    training = {} if learner.dictionary.learns == "statistics" else _finite(learner, learner.metrics())
    found = evaluate(learner.dictionary, [held_out])
    metrics = training | _finite(
        learner, {name: found[name] for name in ("fvu", "l0", "dead_share") if name not in training}
    )
    tokens = learner.step * learner.config.batch_size
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
            raise DictionaryError(
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
    steps = math.ceil(config.tokens / config.batch_size)
    found = []
    if 0 < config.tokens < config.batch_size:
        found.append(
            f"train.tokens ({config.tokens:,}) is less than one batch: one update of {config.batch_size:,} tokens is made; "
            "raise train.tokens or lower train.batch_size"
        )
    if steps and config.batch_size > n_rows:
        found.append(
            f"train.batch_size ({config.batch_size:,}) is more than the {n_rows:,} tokens of the split {config.split}: every "
            "batch holds some of them several times; lower it or capture more"
        )
    if steps and config.dead_after >= steps * config.batch_size:
        found.append(
            f"train.dead_after ({config.dead_after:,}) is not less than the tokens of the whole run "
            f"({steps * config.batch_size:,}): no latent ever counts as dead, and none is revived; lower it"
        )
    return found


@torch.no_grad()
def evaluate(dictionary: Dictionary, batches: Iterable[Batch]) -> dict[str, Any]:
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
        codes = dictionary.encode(batch)
        x = batch[name].cpu().double()
        centre = x.mean(0) if centre is None else centre  # deviations from near the mean: no cancellation
        error += (x - dictionary.decode(codes).cpu()).square().sum().item()
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
    steps = math.ceil(config.tokens / config.batch_size)
    return names, config.split, config.held_out, order, config.batch_size, steps


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

    learners, checkpoints = {}, {}
    sample = {name: rows.to(device) for name, rows in stream.sample(SAMPLE_ROWS).items()}
    for label, (folder, own, _) in wanted.items():
        dictionary = untrained(own.dictionary, hook_point, widths, sample, torch_generator(own.seed, "dictionary"))
        learners[label] = learner = Learner(dictionary, own)
        checkpoints[label] = folder / ".checkpoint" / _CHECKPOINT
        if checkpoints[label].exists() and learner.resume(checkpoints[label]):
            log.info("continuing %s at update %d of %d", dictionary.name, learner.step, learner.steps)
    del sample

    started, begun = time.perf_counter(), {label: learner.step for label, learner in learners.items()}
    seconds = 0.0
    for label, metrics in fit(learners, stream, held_out.sample(HELD_OUT_ROWS_IN_CURVE), checkpoints):
        learner, seconds = learners[label], time.perf_counter() - started
        speed = (learner.step - begun[label]) * batch_size / seconds
        done, total = learner.step * batch_size, learner.steps * batch_size
        yield Progress(done, total, "tokens", learner.dictionary.name, metrics | {"tokens_per_second": speed})

    facts = {}
    for label, learner in learners.items():
        dictionary, folder = learner.dictionary, wanted[label][0]
        total = learner.steps * batch_size
        yield Progress(total, total, "tokens", f"measuring {dictionary.name} on {held_out_split}")
        measured = evaluate(dictionary, held_out.in_order(batch_size))
        dictionary.save(folder)
        CURVE.write(folder, [dict(zip(("step", "tokens", "name", "value"), row, strict=True)) for row in learner.curve])
        learnt = (learner.step - begun[label]) * batch_size
        facts[label] = _facts(dictionary, learner, measured, seconds, learnt) | {"trained_together": len(learners)}
    return facts


def _facts(dictionary: Dictionary, learner: Learner, measured: Mapping[str, Any], seconds: float, tokens: int) -> Facts:
    name = dictionary.name if learner.steps or dictionary.learns == "nothing" else f"{dictionary.name}-untrained"
    speed = tokens / seconds if seconds else None
    learnt = {"tokens": learner.steps * learner.config.batch_size, "steps": learner.steps, "tokens_per_second": speed}
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


TRAIN = Stage("train", version=1, make=make, entries=_entries)
