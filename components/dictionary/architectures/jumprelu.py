"""JumpReLU: a latent is on where its pre-activation passes a threshold of its own, which is learnt straight through.

Source: Rajamanoharan et al. 2024 (arXiv:2407.14435); the L0 target as in dictionary_learning; tanh from
Anthropic, "Dictionary learning optimization techniques" (January 2025).

    u = (x - b_dec) W_enc.T + b_enc        z = u [u > theta]        x^ = z W_dec + b_dec        loss = FVU + penalty
    l0_target: c (L0 / target - 1)^2        l0: c L0 / target        tanh: c sum_f tanh(4 z_f) / target

Backward, K the box |u - theta| < bandwidth / 2:  dz/du = [u > theta],  dz/dtheta = -theta K / bandwidth, and for the
step  d[u > theta]/dtheta = -K / bandwidth. The step looks at u, not at z. theta is the parameter itself, in scaled units,
and the bandwidth is in them too: with rows of mean norm sqrt(d_in) and directions of norm 1 a pre-activation has a spread
of about 1, where the published 0.001 (rows of norm 1) would let almost no token move a threshold (SAELens issue 494).
Deviation: the thresholds start where the sample has an L0 of `target`, since Adam moves a parameter by at most the
learning rate an update, and a short run would never carry them there from the published 0.001. Published: learning rate
7e-5 over some 100,000 updates, coefficient 1. Ours are for short runs, chosen on `validate` of the demo world (1,536
latents, 391 updates of 1,024 tokens, target 16, one seed): learning rate 1e-3, bandwidth 0.5, coefficient 1 gave L0 3.4
and FVU 0.129; 3e-3, 0.5, 1 gave 3.4 and 0.089; 3e-3, 2, 1 gave 4.9 and 0.062; 5e-3, 2, 4 gave 17.7 and 0.032. Which of
learning rate and coefficient did the last step is not separated.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, Recipe, architectures
from components.dictionary.initial import geometric_median, random_directions
from components.dictionary.kernels.dense import centred_linear
from components.dictionary.kernels.sparse import decode_codes
from components.dictionary.losses import fvu
from components.store.shards import Codes

SAMPLE_ENTRIES = 1 << 22  # pre-activations among which the first threshold is looked for


class JumpReluConfig(Config, title="jumprelu"):
    """A JumpReLU dictionary."""

    kind: Literal["jumprelu"] = "jumprelu"
    """Each latent has a threshold of its own, which is learnt."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    target: PositiveFloat = 32.0
    """Active latents a token at which the thresholds start, and where `l0_target` holds them."""
    penalty: Literal["l0_target", "l0", "tanh"] = "l0_target"
    """What makes latents sparse: distance of L0 from the target, L0 itself, or the tanh of the values."""
    coefficient: NonNegativeFloat = 4.0
    """Weight of the penalty against the fraction of variance unexplained."""
    warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of training over which the penalty rises to its weight."""
    bandwidth: PositiveFloat = 2.0
    """Width of the box around a threshold in which a token moves it, in pre-activations of spread about 1."""

    @model_validator(mode="after")
    def _target_fits(self) -> JumpReluConfig:
        if self.target > self.d_sae:
            raise ValueError(
                f"target is {self.target:g}, but there are only d_sae = {self.d_sae} latents; lower it or raise d_sae"
            )
        return self


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return gradient * (pre > threshold), -(gradient * near).sum(0) * threshold / ctx.bandwidth, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, -(gradient * near).sum(0) / ctx.bandwidth, None


def jump(
    pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, " d_sae"], bandwidth: float
) -> Float[Tensor, "token d_sae"]:
    """u where u > theta, else 0; the gradient towards theta is the box's."""
    return _Jump.apply(pre, threshold, bandwidth)


def step(
    pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, " d_sae"], bandwidth: float
) -> Float[Tensor, "token d_sae"]:
    """1 where u > theta, else 0; a gradient towards theta only."""
    return _Step.apply(pre, threshold, bandwidth)


@architectures
@final
class JumpRelu(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = JumpReluConfig
    sparsity = "target"
    options: JumpReluConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.threshold = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @property
    def name(self) -> str:
        """As `jumprelu-1536-l0_target-32`."""
        return f"jumprelu-{self.d_sae}-{self.options.penalty}-{self.options.target:g}"

    @property
    def recipe(self) -> Recipe:
        """The paper's betas; see the module for the learning rate."""
        return Recipe(lr=5e-3, betas=(0.0, 0.999), unit_rows=("W_dec",))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Random directions of norm 1, the encoder their transpose; one threshold, where L0 is the target."""
        x = sample[self.hook_point]
        self.b_dec.copy_(geometric_median(x))
        self.W_dec.copy_(random_directions(self.d_sae, self.d_in, generator))
        self.W_enc.copy_(self.W_dec)
        rows = x[: max(1, SAMPLE_ENTRIES // self.d_sae)]
        pre = ((rows - self.b_dec) @ self.W_enc.T).flatten()
        on = min(pre.numel(), max(1, round(len(rows) * self.options.target)))
        self.threshold.fill_(pre.kthvalue(max(1, pre.numel() - on)).values.clamp_min(0))

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x, options = batch[self.hook_point], self.options
        pre = centred_linear(x, self.W_enc, self.b_enc, self.b_dec)
        threshold = self.threshold.relu()
        z = jump(pre, threshold, options.bandwidth)
        x_hat = torch.addmm(self.b_dec, z, self.W_dec)
        if options.penalty == "tanh":
            relative = (4 * z).tanh().sum() / len(x) / options.target
        else:
            relative = step(pre, threshold, options.bandwidth).sum() / len(x) / options.target
        if options.penalty == "l0_target":
            relative = (relative - 1).square()
        rising = min(1.0, moment.step / max(1.0, options.warm_up * moment.steps))
        losses = {"reconstruction": fvu(x, x_hat), options.penalty: options.coefficient * rising * relative}
        return Outcome(losses, {self.hook_point: x_hat}, (z.detach() > 0).sum(0).to(x.dtype))

    def codes(self, batch: Batch) -> Codes:
        """Pre-activations above their thresholds."""
        pre = centred_linear(batch[self.hook_point], self.W_enc, self.b_enc, self.b_dec)
        return Codes.from_dense(pre * (pre > self.threshold.relu()))

    def rebuild(self, codes: Codes) -> Batch:
        """z W_dec + b_dec."""
        return {self.hook_point: decode_codes(codes, self.W_dec) + self.b_dec}

    def directions(self, name: str) -> Float[Tensor, "d_sae width"]:
        """Rows of norm 1."""
        return self.W_dec
