"""Gated: one product decides which latents are on and, rescaled, how strong they are, so the penalty shrinks no magnitude.

Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders" (arXiv:2404.16014).

    h = (x - b_dec) W_enc.T        gate = h + b_gate        z = [gate > 0] ReLU(exp(r_mag) h + b_mag)
    loss = ||x - x^||^2  +  s(t) l1 sum_f ReLU(gate_f)  +  ||x - (ReLU(gate) sg(W_dec) + sg(b_dec))||^2   (means over tokens)

The auxiliary decode is frozen, as in the paper: its term teaches the gate only. h is computed once. Decoder rows have
norm 1. b_dec still learns through the centred input of the auxiliary term. s rises from 0 to 1 over `l1_warm_up`.
Published learning rate: 5e-5 (dictionary_learning), for tens of thousands of updates. Ours is for short runs, chosen on
`validate` of the demo world (1,536 latents, l1 1, 391 updates of 1,024 tokens, one seed): 1e-3 gave L0 52.0 and FVU
0.0192, 3e-3 gave 27.6 and 0.0178.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, Recipe, architectures
from components.dictionary.initial import geometric_median, random_directions
from components.dictionary.kernels.dense import centred_linear
from components.dictionary.kernels.sparse import decode_codes
from components.dictionary.losses import squared_error
from components.store.shards import Codes


class GatedConfig(Config, title="gated"):
    """A gated dictionary."""

    kind: Literal["gated"] = "gated"
    """A gate decides which latents are on; their magnitudes carry no penalty."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    l1: NonNegativeFloat = 1.0
    """Weight of the penalty on the gates, for activations of mean norm sqrt(d_in)."""
    l1_warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of training over which the penalty rises to its weight."""


@architectures
@final
class Gated(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = GatedConfig
    sparsity = "l1"
    options: GatedConfig
    dense: ClassVar[int] = 6

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_gate = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @property
    def name(self) -> str:
        """As `gated-1536-l1`."""
        return f"gated-{self.d_sae}-l{self.options.l1:g}"

    @property
    def recipe(self) -> Recipe:
        """The paper's betas; see the module for the learning rate."""
        return Recipe(lr=3e-3, betas=(0.0, 0.999), unit_rows=("W_dec",))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1, the encoder their transpose."""
        self.b_dec.copy_(geometric_median(sample[self.hook_point]))
        self.W_dec.copy_(random_directions(self.d_sae, self.d_in, generator))
        self.W_enc.copy_(self.W_dec)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x = batch[self.hook_point]
        gates, z = self._gates_and_values(x)
        x_hat = torch.addmm(self.b_dec, z, self.W_dec)
        open_by = gates.relu()
        from_gates = torch.addmm(self.b_dec.detach(), open_by, self.W_dec.detach())
        rising = min(1.0, moment.step / max(1.0, self.options.l1_warm_up * moment.steps))
        losses = {
            "reconstruction": squared_error(x, x_hat),
            "l1": self.options.l1 * rising * open_by.sum() / len(x),
            "gate": squared_error(x, from_gates),
        }
        return Outcome(losses, {self.hook_point: x_hat}, (z.detach() > 0).sum(0).to(x.dtype))

    def codes(self, batch: Batch) -> Codes:
        """Magnitudes above zero of the latents whose gate is open."""
        return Codes.from_dense(self._gates_and_values(batch[self.hook_point])[1])

    def rebuild(self, codes: Codes) -> Batch:
        """z W_dec + b_dec."""
        return {self.hook_point: decode_codes(codes, self.W_dec) + self.b_dec}

    def directions(self, name: str) -> Float[Tensor, "d_sae width"]:
        """Rows of norm 1."""
        return self.W_dec

    def _gates_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = centred_linear(x, self.W_enc, torch.zeros_like(self.b_gate), self.b_dec)
        gates = h + self.b_gate
        return gates, (gates > 0) * (self.r_mag.exp() * h + self.b_mag).relu()
