"""One dictionary in training: its optimiser, its schedules, its counters of silent tokens, its
checkpoint."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.device import to_host
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome
from components.dictionary.kernels.product import in_precision
from components.dictionary.kernels.rows import norm, normalise_, project_
from components.dictionary.settings import TrainConfig, raised
from components.dictionary.whitening import Whitening
from components.seeds import torch_generator
from components.store.shards import Codes

log = logging.getLogger(__name__)

Splice = Callable[[Batch, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""(a batch of `stream.Contexts`, its reconstruction by name in activation units) -> loss terms of a
model by name, weights applied. Whoever makes one stands above this package, which knows no
model."""


class LongestSilence:
    """The longest silence of any latent, as far as the host knows it without waiting for the
    device.

    After each update it is sent; it is read LAG updates later, when the device is long past it.
    """

    LAG = 3

    def __init__(self) -> None:
        self._sent: deque[Callable[[], Tensor]] = deque()

    def send(self, silent: Int64[Tensor, " d_sae"]) -> None:
        """Tokens of silence after an update."""
        self._sent.append(to_host(silent.max()))

    def at_most(self, n_tokens: int) -> float:
        """A bound before the next update, when every one has `n_tokens`; to be asked once before
        each update."""
        if len(self._sent) < self.LAG:
            return math.inf
        return self._sent.popleft()().item() + (self.LAG - 1) * n_tokens

    def forget(self) -> None:
        """For whoever changes the counters by hand: nothing is known until updates were sent
        again."""
        self._sent.clear()


class Learner:
    """One dictionary in training: its optimiser, its schedules, its counters of silent tokens.

    Attributes:
        spliced_from: updates that are made before a model takes part; all where none does.
        tokens: learnt so far; batches of whole contexts hold about as many as are wanted.
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
        self.dictionary, self.config, self.splice, self.whitening = (
            dictionary,
            config,
            splice,
            whitening,
        )
        self.folds = (
            True  # at the end; not where the objective that it learnt by is still to be measured
        )
        self.recipe = dictionary.recipe
        self.steps = config.updates
        self.spliced_from = config.spliced_from if splice is not None else self.steps
        self.step, self.tokens = 0, 0
        self.peak = config.lr or raised(self.recipe.lr, self.steps)
        self.learnt = {
            name: weights
            for name, weights in dictionary.named_parameters()
            if weights.requires_grad
        }
        self.optimiser = torch.optim.Adam(
            [{"params": list(self.learnt.values())}],
            lr=self.peak,
            betas=self.recipe.betas,
            eps=self.recipe.eps,
            fused=True,
        )
        self.silent = torch.zeros(
            dictionary.d_sae, dtype=torch.int64, device=dictionary.like.device
        )
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
        return max(
            (weights.nbytes for weights in self.learnt.values() if weights.is_cpu), default=0
        )

    def read(self, batch: Batch) -> Batch:
        """Activations as the dictionary sees them while it learns."""
        if self.whitening is None:
            return batch
        return {name: self.whitening.whitened(batch[name]) for name in self.dictionary.widths}

    def rebuilt(self, batch: Batch, name: str) -> tuple[Codes, Float[Tensor, "row width"]]:
        """Codes of activations and what they stand for, in activation units, whatever it learns
        from."""
        codes = self.dictionary.encode(self.read(batch))
        rows = self.dictionary.decode(codes, name)
        return codes, rows if self.whitening is None else self.whitening.restored(rows)

    def finish(self) -> None:
        """After the last batch, once: what it does not learn by gradients is set, the whitening
        goes into the weights."""
        self.dictionary.finish()
        # the rows may be another one's by now
        rivals = type(self.dictionary).rivals(self.dictionary.options) > 1
        if self.first is not None and not rivals:
            cosines = torch.nn.functional.cosine_similarity(
                self.dictionary.W_dec.detach(), self.first, dim=1
            )
            self.turned = cosines.median().item()
        if self.whitening is not None and self.folds:
            self.dictionary.fold(self.whitening)
            self.whitening = None

    def release(self) -> None:
        """Once it has learnt: frees what only another update would need, gradients and Adam's
        moments."""
        self.optimiser.state.clear()
        self.optimiser.zero_grad(set_to_none=True)

    def learn(self, batch: Batch) -> None:
        """One update. Nothing here waits for the device."""
        read = self.read(batch)
        n_tokens = len(next(iter(read.values())))
        moment = Moment(
            self.step,
            self.steps,
            self.silent >= self.config.silence,
            torch_generator(self.config.seed, "step", self.step),
            self.silent.is_cpu or self.longest.at_most(n_tokens) >= self.config.silence,
        )
        with in_precision(self.config.precision):
            outcome = self.dictionary.loss(read, moment)
        losses = dict(outcome.losses)
        if self.splice is not None and self.step >= self.spliced_from:
            losses = self._spliced(self.splice, batch, outcome)
        if losses:
            self._descend(torch.stack(list(losses.values())).sum())
        self.silent = torch.where(outcome.fired > 0, 0, self.silent + n_tokens)
        if not self.silent.is_cpu:
            self.longest.send(self.silent)
        self.step, self.since, self.tokens = self.step + 1, self.since + 1, self.tokens + n_tokens
        self._add(
            {f"loss.{name}": term for name, term in losses.items()}
            | {"l0": outcome.fired.sum() / n_tokens}
        )

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
        """Learning rate of the update after `step` updates: linear up, level, linear down to
        zero."""
        rising = (step + 1) / max(1.0, self.config.warm_up * self.steps)
        falling = (self.steps - step) / max(1.0, self.config.decay * self.steps)
        return self.peak * min(1.0, rising, falling)

    def save(self, path: Path) -> None:
        """Everything that the next update depends on, in one file, whole or not at all."""
        tensors = {
            f"weights.{name}": tensor for name, tensor in self.dictionary.state_dict().items()
        }
        for name, parameter in self.learnt.items():
            for moment, tensor in self.optimiser.state.get(parameter, {}).items():
                tensors[f"adam.{moment}.{name}"] = tensor
        tensors |= {"silent": self.silent} | {
            f"sums.{name}": total for name, total in self.sums.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.writing")
        counts = {name: str(getattr(self, name)) for name in ("step", "since", "tokens")}
        metadata = {**counts, "curve": json.dumps(self.curve)}
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata,
        )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
        temporary.rename(path)

    def resume(self, path: Path) -> bool:
        """Continues where `save` stood; a file that is damaged is removed and training starts over.
        Whether it continues."""
        try:
            with safe_open(path, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
                metadata = file.metadata()
        except SafetensorError as error:
            log.warning(
                "the checkpoint %s is damaged (%s); it is removed and training starts over",
                path,
                error,
            )
            path.unlink()
            return False
        device = self.silent.device
        under = lambda prefix: {  # noqa: E731
            name.removeprefix(prefix): tensor.clone()
            for name, tensor in stored.items()
            if name.startswith(prefix)
        }
        self.dictionary.load_state_dict(under("weights."))
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            for name, tensor in under(f"adam.{moment}.").items():
                self.optimiser.state[self.learnt[name]][moment] = tensor.to(device)
        self.silent = stored["silent"].to(device)
        self.sums = {name: tensor.to(device) for name, tensor in under("sums.").items()}
        self.step, self.since = int(metadata["step"]), int(metadata["since"])
        # a checkpoint of an earlier version has no such count: about as many, or exactly where no
        # model took part
        self.tokens = int(metadata.get("tokens", self.step * self.config.batch))
        self.curve = [tuple(point) for point in json.loads(metadata["curve"])]
        return True

    def _spliced(self, splice: Splice, batch: Batch, outcome: Outcome) -> dict[str, Tensor]:
        """The terms of the architecture, those of reconstruction with the weight that they keep,
        and those of the model."""
        keeps = self.config.splice.reconstruction
        losses = {
            name: keeps * term if name.partition(".")[0] == "reconstruction" else term
            for name, term in outcome.losses.items()
        }
        rebuilt = {
            name: rows / self.dictionary.scales[name]
            for name, rows in outcome.reconstruction.items()
        }
        if self.whitening is not None:
            rebuilt = {name: self.whitening.restored(rows) for name, rows in rebuilt.items()}
        return losses | dict(splice(batch, rebuilt))

    def _descend(self, loss: Tensor) -> None:
        """Gradient, projection, clip, Adam, renormalisation: five passes over the weights, the clip
        inside Adam's."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        constrained = [self.dictionary.get_parameter(name) for name in self.recipe.unit_rows]
        with torch.no_grad():
            for directions in constrained:
                assert directions.grad is not None
                project_(directions.grad, directions)
            gradients = [
                weights.grad for weights in self.learnt.values() if weights.grad is not None
            ]
            # The fused optimiser divides gradients by this as it reads them (meant for a
            # GradScaler).
            self.optimiser.grad_scale = (norm(gradients) / self.config.clip).clamp(min=1).float()
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(self.step)
            self.optimiser.step()
            for directions in constrained:
                normalise_(directions)

    def _add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
