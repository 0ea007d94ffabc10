"""One dictionary in training: its section, its optimiser, its schedules, its counters of silent tokens, its checkpoint.

Size of a batch, learning rate and patience with silent latents follow from the number of tokens where the section does
not set them. The field's constants are made for runs of tens of thousands of updates: in a short run at such a rate the
rows hardly leave their random first values, since a row turns by about the rate times the number of updates.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.config import Config, execution, union_of
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures
from components.dictionary.kernels.product import Precision, in_precision
from components.dictionary.kernels.rows import norm, normalise_, project_
from components.dictionary.whitening import Whitening
from components.seeds import torch_generator
from components.store.shards import Codes

log = logging.getLogger(__name__)

UPDATES = 8_000
"""Updates that a run is given, as long as its batches stay within BATCHES."""
BATCHES = 512, 4096
LONG = 500_000
"""Updates of a run that an architecture's own rate is made for."""
STEEPNESS = 0.5
"""How the rate rises as a run gets shorter: LONG over its updates, to this power; see docs/performance.md."""
HIGHEST = 0.01
PATIENCE = 10_000_000
"""Tokens of silence after which the field calls a latent dead."""

Splice = Callable[[Batch, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""(activations, their reconstruction in activation units) -> further named loss terms, through a model for instance."""


class TrainConfig(Config):
    """Training one dictionary on captured activations."""

    dictionary: union_of(architectures) = TopKConfig()  # type: ignore[valid-type]
    """Architecture, size and sparsity."""
    tokens: NonNegativeInt = 4_000_000
    """Tokens to learn from, rounded up to whole batches; more than were captured means several epochs, 0 leaves the dictionary untrained."""
    batch_size: int | None = Field(default=None, ge=2)
    """Tokens in one update (at least 2, since errors are shares of a batch's variance); null lets it follow from the tokens: some 8,000 updates, of 512 to 4,096 tokens each."""
    lr: PositiveFloat | Literal["search"] | None = None
    """Learning rate at its height; null takes the architecture's own, raised where there are few updates; `search` tries a few around that on the held-out split first."""
    search_share: float = Field(default=0.5, gt=0, le=4)
    """What the search may cost at most, as a share of what training costs."""
    normalise: Literal["scale", "whiten"] = "scale"
    """What the dictionary learns from: activations times one number, or whitened ones, so that directions of little variance count as much as those of much; folded into the weights when they are saved."""
    whitening_floor: PositiveFloat = 0.1
    """Share of the mean variance that is added to every direction's before whitening."""
    convergence: Literal["estimated", "measured", "off"] = "estimated"
    """How it is told whether training had converged: from the part of the curve at a constant rate, or by a second dictionary that learns half the tokens under its own whole schedule (half of the cost again)."""
    warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of the updates over which the learning rate rises from zero."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the updates, at the end, over which the learning rate falls to zero."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    precision: Precision = "float32"
    """Of the encoder's product while learning: bfloat16 rounds its factors and sums in float32, which is faster on a GPU; weights, gradients and whatever is encoded later stay in float32."""
    dead_after: PositiveInt | None = None
    """Tokens of silence after which a latent counts as dead; null is a twentieth of the run, at most the field's 10 million."""
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

    @model_validator(mode="after")
    def _can_be_whitened(self) -> TrainConfig:
        if self.normalise == "whiten" and not architectures[self.dictionary.kind].folds:
            able = ", ".join(name for name, entry in architectures.items() if entry.folds)
            raise ValueError(
                f"normalise is whiten, and {self.dictionary.kind} has no encoder and decoder of its own that the map could be "
                f"folded into; set normalise=scale, or take one of {able}"
            )
        return self

    @property
    def batch(self) -> int:
        """Tokens in one update."""
        if self.batch_size is not None:
            return self.batch_size
        fewest, most = BATCHES
        wanted = max(1, self.tokens // UPDATES)
        return min(most, max(fewest, 1 << (wanted.bit_length() - 1)))

    @property
    def updates(self) -> int:
        """Batches that are learnt from; none where there is nothing to learn."""
        learns = architectures[self.dictionary.kind].learns
        return math.ceil(self.tokens / self.batch) if learns != "nothing" else 0

    @property
    def silence(self) -> int:
        """Tokens of silence after which a latent counts as dead."""
        return self.dead_after or max(1, min(PATIENCE, self.tokens // 20))

    @property
    def relative_cost(self) -> float:
        """Cost of all that is learnt, the search and the half run with it, over the cost of the dictionary alone."""
        learns = architectures[self.dictionary.kind].learns == "gradients"
        return 1 + learns * (self.search_share * (self.lr == "search") + 0.5 * (self.convergence == "measured"))


def raised(lr: float, updates: int) -> float:
    """An architecture's own learning rate, raised for a run that is shorter than those it is made for.

    Never lowered, and never raised above HIGHEST.
    """
    return max(lr, min(HIGHEST, lr * (LONG / max(1, updates)) ** STEEPNESS))


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
    """One dictionary in training: its optimiser, its schedules, its counters of silent tokens.

    Attributes:
        first: the decoder's rows before the first update; None where gradients leave them alone.
        turned: once it has learnt, the median cosine between these and the rows then.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        config: TrainConfig,
        splice: Splice | None = None,
        whitening: Whitening | None = None,
    ) -> None:
        assert config.lr != "search", "a rate is searched before a learner is made (rates.py)"
        self.dictionary, self.config, self.splice, self.whitening = dictionary, config, splice, whitening
        self.folds = True  # at the end; not where the objective that it learnt by is still to be measured
        self.recipe = dictionary.recipe
        self.steps = config.updates
        self.step = 0
        self.peak = config.lr or raised(self.recipe.lr, self.steps)
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
        directions = dictionary.get_parameter("W_dec") if "W_dec" in self.learnt else None
        self.first = None if directions is None else directions.detach().clone()
        self.turned: float | None = None
        self.curve: list[tuple[int, int, str, float]] = []

    @property
    def largest(self) -> int:
        """Bytes of the largest gradient in the machine's own memory."""
        return max((weights.nbytes for weights in self.learnt.values() if weights.is_cpu), default=0)

    def read(self, batch: Batch) -> Batch:
        """Activations as the dictionary sees them while it learns."""
        if self.whitening is None:
            return batch
        return {name: self.whitening.whitened(rows) for name, rows in batch.items()}

    def rebuilt(self, batch: Batch, name: str) -> tuple[Codes, Float[Tensor, "row width"]]:
        """Codes of activations and what they stand for, in activation units, whatever it learns from."""
        codes = self.dictionary.encode(self.read(batch))
        rows = self.dictionary.decode(codes, name)
        return codes, rows if self.whitening is None else self.whitening.restored(rows)

    def finish(self) -> None:
        """After the last batch, once: what it does not learn by gradients is set, the whitening goes into the weights."""
        self.dictionary.finish()
        if self.first is not None:
            cosines = torch.nn.functional.cosine_similarity(self.dictionary.W_dec.detach(), self.first, dim=1)
            self.turned = cosines.median().item()
        if self.whitening is not None and self.folds:
            self.dictionary.fold(self.whitening)
            self.whitening = None

    def learn(self, batch: Batch) -> None:
        """One update. Nothing here waits for the device."""
        batch = self.read(batch)
        n_tokens = len(next(iter(batch.values())))
        moment = Moment(
            self.step,
            self.steps,
            self.silent >= self.config.silence,
            torch_generator(self.config.seed, "step", self.step),
            self.silent.is_cpu or self.longest.at_most(n_tokens) >= self.config.silence,
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
            "dead_share": (self.silent >= self.config.silence).double().mean().item(),
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
