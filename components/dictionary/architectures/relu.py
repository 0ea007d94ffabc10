"""ReLU with an L1 penalty weighted by the decoder's norms (the April 2024 form), or with decoder
rows of norm 1.

Source: Anthropic, "Update on how we train SAEs" (Transformer Circuits, April 2024); SAELens
`standard_sae.py` and dictionary_learning `StandardTrainerAprilUpdate` compared.

    z = ReLU((x - b_dec) W_enc.T + b_enc)        x^ = z W_dec + b_dec
    loss = mean over tokens of ||x - x^||^2  +  s(t) l1 mean over tokens of sum_f z_f ||d_f||

s rises from 0 to 1 over the first `l1_warm_up` of training, the gradient flows through ||d_f||,
decoder rows are free (they start at norm 0.1); with `decoder: unit` they are kept at norm 1 and the
penalty is the plain sum of codes, the older form (Bricken et al. 2023). With activations of mean
norm sqrt(d_in) the coefficient 5 is a good beginning. Deviations from the update: the learning rate
is higher (published 5e-5, which on the demo world leaves half the variance unexplained after 200
updates of 4,096 tokens); b_dec is subtracted from the input and starts at the geometric median, as
in the other architectures. Codes are dense while training (they start half full), so the step uses
dense products; they leave `codes` sparse.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt

from components.config import Config
from components.dictionary.contract import (
    Batch,
    Dictionary,
    Moment,
    Outcome,
    Recipe,
    architectures,
    rate,
)
from components.dictionary.initial import linear_parameters, start_tied
from components.dictionary.kernels.dense import centred_linear
from components.dictionary.losses import squared_error, weighted_l1
from components.store.shards import Codes


class ReluConfig(Config, title="relu"):
    """A ReLU dictionary with an L1 penalty."""

    kind: Literal["relu"] = "relu"
    """Latents are made sparse by an L1 penalty."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    decoder: Literal["free", "unit"] = "free"
    """Rows of the decoder of any norm (the penalty counts it), or kept at norm 1."""
    l1: NonNegativeFloat = 5.0
    """Weight of the penalty, for activations of mean norm sqrt(d_in)."""
    l1_warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of training over which the penalty rises to its weight; without it latents die
    early."""


@architectures
@final
class Relu(Dictionary):
    """See the module."""

    version = 2
    config: ClassVar[type[Config]] = ReluConfig
    folds: ClassVar[bool] = True
    sparsity = "l1"
    dense: ClassVar[int] = 4
    options: ReluConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        linear_parameters(self)

    @property
    def name(self) -> str:
        """As `relu-1536-l5`, or `relu-unit-1536-l5`."""
        unit = "unit-" if self.options.decoder == "unit" else ""
        return f"relu-{unit}{self.d_sae}-l{self.options.l1:g}"

    @property
    def recipe(self) -> Recipe:
        """The learning rate of `topk`, so that all are compared at one."""
        return Recipe(
            lr=rate(self.d_sae), unit_rows=("W_dec",) if self.options.decoder == "unit" else ()
        )

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 0.1 (1 in the unit form), the
        encoder their transpose."""
        start_tied(
            self,
            sample[self.hook_point],
            generator,
            norm=1.0 if self.options.decoder == "unit" else 0.1,
        )

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x = batch[self.hook_point]
        z = centred_linear(x, self.W_enc, self.b_enc, self.b_dec).relu()
        x_hat = torch.addmm(self.b_dec, z, self.W_dec)
        rising = moment.risen(self.options.l1_warm_up)
        losses = {
            "reconstruction": squared_error(x, x_hat),
            "l1": self.options.l1 * rising * weighted_l1(z, self.W_dec),
        }
        return Outcome(losses, {self.hook_point: x_hat}, (z.detach() > 0).sum(0).to(x.dtype))

    def codes(self, batch: Batch) -> Codes:
        """All pre-activations above zero."""
        z = centred_linear(batch[self.hook_point], self.W_enc, self.b_enc, self.b_dec).relu()
        return Codes.from_dense(z)
