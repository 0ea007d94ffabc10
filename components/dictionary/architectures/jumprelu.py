"""JumpReLU: a latent keeps its pre-activation where that exceeds the latent's own learnt threshold.

    u = (x - b_dec) W_enc.T + b_enc        z = u where u > theta, else 0        x^ = z W_dec + b_dec
    loss = sum ||x - x^||^2 / sum ||x - mean x||^2  +  s(t) coefficient * penalty  +  dead_coefficient * dead

    penalty `l0_target`   (L0 / target_l0 - 1)^2
            `l0`          L0 / d_in
            `tanh`        sum_f tanh(4 z_f) / d_in
    dead    mean over tokens and latents of ReLU(theta - u) for latents that have been silent, 0 for all others

The threshold moves by straight-through estimates on the pre-activation, with K the rectangle of
width `bandwidth` e: dz/dtheta = -(theta / e) K((u - theta) / e), dL0/dtheta = -(1 / e) K((u -
theta) / e), dz/du = 1 where u > theta, dL0/du = 0. theta itself is the parameter, not its
logarithm: under Adam a step in the logarithm is about theta times the learning rate, too little
from a small theta. Decoder rows have norm 1. `tanh` also has its own gradient in z.

Where the references differ: dictionary_learning lets the step see z instead of u, so that latents
below theta never count (one side of the rectangle is missing); here it sees u. The bandwidth is in
units of scaled pre-activations, whose spread is about 1 when activations have mean norm sqrt(d_in):
0.001 at mean norm 1 is 0.001 sqrt(d_in) here, and at that width a run of fewer than some ten
thousand updates leaves thresholds where they began, so the default is the wide one of Anthropic and
Llamascopium. For the same reason theta starts where a token of the sample uses `start_l0` times the
wanted number of latents, not near zero. The main term is a fraction of variance, so a coefficient
means the same at every scale; dictionary_learning's is 1 at unit mean square, which at 400 updates
on the demo world left L0 at a third of its target, 4 reached it. The learning rate is that of
`topk` (dictionary_learning's is 7e-5 at any number), and Adam's first decay rate is 0.9 where the
paper has 0: on the demo world 2,000 updates end at an FVU of 0.0127 instead of 0.0188, both at L0
16 and 512 latents.

A latent below its threshold on every token has no gradient at all, so a silent one would stay
silent. `dead` pulls its pre-activations up and its threshold down until it is active again; under
Adam the weight hardly matters, since nothing else moves what it moves.

Source: Rajamanoharan et al. 2024, "Jumping ahead" (arXiv:2407.14435), equations 9 to 14; Anthropic,
"Dictionary learning optimization techniques" (Transformer Circuits, January 2025) for `tanh`, the
width and the term for dead latents; dictionary_learning `trainers/jumprelu.py` and SAELens
`jumprelu_sae.py` compared.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures
from components.dictionary.initial import start_tied
from components.dictionary.kernels.dense import centred_linear
from components.dictionary.losses import fvu
from components.errors import DictionaryError
from components.store.shards import Codes

TANH_SLOPE = 4.0


class JumpReluConfig(Config, title="jumprelu"):
    """A JumpReLU dictionary."""

    kind: Literal["jumprelu"] = "jumprelu"
    """Every latent has a threshold of its own, learnt by straight-through estimates."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    target_l0: PositiveFloat = 32.0
    """Mean number of active latents a token that `l0_target` aims at, and that sets where
    thresholds start."""
    penalty: Literal["l0_target", "l0", "tanh"] = "l0_target"
    """What is made small: the relative distance from the target, the number of active latents, or
    its smooth stand-in."""
    coefficient: NonNegativeFloat = 4.0
    """Weight of the penalty beside the fraction of variance unexplained."""
    warm_up: float = Field(default=0.1, ge=0, le=1)
    """Share of training over which the penalty rises to its weight."""
    bandwidth: PositiveFloat = 2.0
    """Width of the rectangle around a threshold that tells it how to move, for activations of mean
    norm sqrt(d_in)."""
    start_l0: PositiveFloat = 1.0
    """Thresholds start where a token uses this many times `target_l0` latents."""
    dead_coefficient: NonNegativeFloat = 0.01
    """Weight of the term that brings silent latents back; 0 switches it off."""


@architectures
@final
class JumpRelu(Dictionary):
    """See the module."""

    version = 3
    config: ClassVar[type[Config]] = JumpReluConfig
    folds: ClassVar[bool] = True
    sparsity = "target_l0"
    options: JumpReluConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.threshold = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @classmethod
    def sparsity_of(cls, options: JumpReluConfig) -> str:
        """The coefficient, where no L0 is aimed at."""
        return cls.sparsity if options.penalty == "l0_target" else "coefficient"

    @property
    def name(self) -> str:
        """As `jumprelu-1536-l32` (the L0 aimed at), or `jumprelu-1536-tanh0.1` (penalty and
        coefficient)."""
        aimed = self.options.penalty == "l0_target"
        return f"jumprelu-{self.d_sae}-" + (
            f"l{self.options.target_l0:g}"
            if aimed
            else f"{self.options.penalty}{self.options.coefficient:g}"
        )

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions, the encoder their transpose, one
        threshold for all."""
        if self.options.penalty == "l0_target" and self.options.target_l0 > self.d_sae:
            raise DictionaryError(
                f"target_l0 is {self.options.target_l0:g}, but there are only d_sae = "
                f"{self.d_sae} latents; lower target_l0 or raise d_sae"
            )
        x = sample[self.hook_point]
        start_tied(self, x, generator)
        u = centred_linear(x[:: max(1, len(x) // 512)], self.W_enc, self.b_enc, self.b_dec)
        active = min(
            u.numel(), max(1, round(self.options.start_l0 * self.options.target_l0 * len(u)))
        )
        self.threshold.fill_(u.flatten().topk(active).values[-1].clamp_min(0))

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x = batch[self.hook_point]
        u = centred_linear(x, self.W_enc, self.b_enc, self.b_dec)
        z = jump(u, self.threshold, self.options.bandwidth)
        x_hat = torch.addmm(self.b_dec, z, self.W_dec)
        rising = moment.risen(self.options.warm_up)
        losses = {
            "reconstruction": fvu(x, x_hat),
            "sparsity": self.options.coefficient * rising * self._penalty(u, z),
        }
        if moment.revives(self.options.dead_coefficient):
            below = (self.threshold.clamp_min(0) - u).relu() * moment.dead
            losses["dead"] = self.options.dead_coefficient * below.mean()
        return Outcome(losses, {self.hook_point: x_hat}, (z.detach() > 0).sum(0).to(x.dtype))

    def codes(self, batch: Batch) -> Codes:
        """All pre-activations above their thresholds."""
        u = centred_linear(batch[self.hook_point], self.W_enc, self.b_enc, self.b_dec)
        return Codes.from_dense(jump(u, self.threshold, self.options.bandwidth))

    def _penalty(
        self, u: Float[Tensor, "token d_sae"], z: Float[Tensor, "token d_sae"]
    ) -> Float[Tensor, ""]:
        if self.options.penalty == "tanh":
            return (TANH_SLOPE * z).tanh().sum() / len(z) / self.d_in
        l0 = active_latents(u, self.threshold, self.options.bandwidth)
        if self.options.penalty == "l0":
            return l0 / self.d_in
        return (l0 / self.options.target_l0 - 1).square()


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        threshold = threshold.clamp_min(0)  # codes are positive
        ctx.save_for_backward(u, threshold)
        ctx.bandwidth = bandwidth
        return u * (u > threshold)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, threshold = ctx.saved_tensors
        near = (u - threshold).abs() < ctx.bandwidth / 2
        to_threshold = -(threshold / ctx.bandwidth) * (near * gradient).sum(0)
        return gradient * (u > threshold), to_threshold, None


class _ActiveLatents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        threshold = threshold.clamp_min(0)
        near = ((u - threshold).abs() < bandwidth / 2).sum(0)
        ctx.save_for_backward(-near.to(u.dtype) / (bandwidth * len(u)))
        return (u > threshold).sum().to(u.dtype) / len(u)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (to_threshold,) = ctx.saved_tensors
        return None, gradient * to_threshold, None


def jump(
    u: Float[Tensor, "token d_sae"], threshold: Float[Tensor, " d_sae"], bandwidth: float
) -> Float[Tensor, "token d_sae"]:
    """u where it exceeds its threshold (and zero), else 0; the threshold's gradient is the
    straight-through estimate."""
    return _Jump.apply(u, threshold, bandwidth)


def active_latents(
    u: Float[Tensor, "token d_sae"], threshold: Float[Tensor, " d_sae"], bandwidth: float
) -> Float[Tensor, ""]:
    """Mean number of latents above their thresholds; the threshold's gradient is the
    straight-through estimate."""
    return _ActiveLatents.apply(u, threshold, bandwidth)
