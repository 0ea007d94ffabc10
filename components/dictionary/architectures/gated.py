"""Gated: one decision whether a latent is active, another how much, so that the penalty cannot
shrink what is active.

    h = (x - b_dec) W_enc.T        pi = h + b_gate        m = ReLU(h exp(r_mag) + b_mag)
    z = m where pi > 0, else 0     x^ = z W_dec + b_dec
    loss = ||x - x^||^2  +  s(t) l1 sum_f ReLU(pi_f)  +  ||x - (ReLU(pi) sg(W_dec) + sg(b_dec))||^2   (means over tokens)

sg stops the gradient: the auxiliary term trains the gate against a frozen decoder, as in the paper
and in dictionary_learning (SAELens lets it move the decoder). The decision itself has no gradient.
Gate and magnitude share one encoder product, h; the decoder's rows have norm 1, so the penalty
needs no weights. s rises from 0 to 1 over the first `l1_warm_up` of training. Codes are dense while
training; they leave `codes` sparse.

Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders"
(arXiv:2404.16014), equations 3 to 8. Deviations: Adam's first decay rate is 0.9 and not 0, which
suits runs a hundred times as long; b_dec starts at the geometric median, as in the other
architectures; the penalty is in units of activations of mean norm sqrt(d_in); the learning rate is
that of `topk` (published: 3e-4 in the paper, 5e-5 in dictionary_learning, for a hundred thousand
updates).
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures
from components.dictionary.initial import start_tied
from components.dictionary.kernels.dense import centred_linear
from components.dictionary.losses import squared_error
from components.store.shards import Codes


class GatedConfig(Config, title="gated"):
    """A gated dictionary."""

    kind: Literal["gated"] = "gated"
    """A gate decides which latents are active, their size is learnt apart and not shrunk by the
    penalty."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    l1: NonNegativeFloat = 5.0
    """Weight of the penalty on the gate, for activations of mean norm sqrt(d_in)."""
    l1_warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of training over which the penalty rises to its weight."""


@architectures
@final
class Gated(Dictionary):
    """See the module."""

    version = 2
    config: ClassVar[type[Config]] = GatedConfig
    folds: ClassVar[bool] = True
    sparsity = "l1"
    dense: ClassVar[int] = 7
    options: GatedConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_gate = nn.Parameter(torch.zeros(self.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1, the encoder their
        transpose."""
        start_tied(self, sample[self.hook_point], generator)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x = batch[self.hook_point]
        gate, z = self._gate_and_codes(x)
        opened = gate.relu()
        x_hat = torch.addmm(self.b_dec, z, self.W_dec)
        by_gate = torch.addmm(self.b_dec.detach(), opened, self.W_dec.detach())
        rising = moment.risen(self.options.l1_warm_up)
        losses = {
            "reconstruction": squared_error(x, x_hat),
            "l1": self.options.l1 * rising * opened.sum() / len(x),
            "gate": squared_error(x, by_gate),
        }
        return Outcome(losses, {self.hook_point: x_hat}, (z.detach() > 0).sum(0).to(x.dtype))

    def codes(self, batch: Batch) -> Codes:
        """Magnitudes of the latents whose gate is open, those above zero."""
        return Codes.from_dense(self._gate_and_codes(batch[self.hook_point])[1])

    def _gate_and_codes(
        self, x: Float[Tensor, "token d_in"]
    ) -> tuple[Float[Tensor, "token d_sae"], Float[Tensor, "token d_sae"]]:
        gate = centred_linear(x, self.W_enc, self.b_gate, self.b_dec)
        magnitude = torch.addcmul(
            self.b_mag - self.b_gate * self.r_mag.exp(), gate, self.r_mag.exp()
        ).relu()
        return gate, magnitude * (gate > 0)
