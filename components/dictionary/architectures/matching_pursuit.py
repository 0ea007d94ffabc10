"""Matching pursuit: latents are chosen one after another, each for what those before it leave over.

    r_0 = x - b_dec        f_t = argmax_f <r_t, d_f>        z_(f_t) = ReLU(<r_t, d_(f_t)>)        r_(t+1) = r_t - z_(f_t) d_(f_t)
    x^ = z W_dec + b_dec        loss = sum ||x - x^||^2 / sum ||x - mean x||^2

There is no encoder: the decoder's rows, of norm 1, are all there is. So a latent can be active
because another one is, and correlated or nested directions are told apart, at the price of one
product over all latents for each step.

Source: Costa et al. 2025, "From flat to hierarchical: extracting sparse representations with
matching pursuit" (arXiv:2506.03093); overcomplete's `mp_sae.py` and SAELens's
`matching_pursuit_sae.py` (PR #601) compared. As in SAELens the choice has no gradient and the value
is computed again from the gathered row; b_dec is optional; a token stops when its residual is
shorter than `tolerance` (in scaled units, where the mean norm is sqrt(d_in)) or when a latent is
chosen again, before that one is added. Deviations: at most k steps rather than d_in; the loss is a
fraction of variance; the backward is written by hand (`kernels/pursuit.py`) and no step waits for
the device.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import (
    Batch,
    Dictionary,
    Moment,
    Outcome,
    architectures,
    refuse_large_k,
)
from components.dictionary.initial import geometric_median, random_directions
from components.dictionary.kernels.pursuit import pursue
from components.dictionary.kernels.sparse import fired
from components.dictionary.losses import fvu
from components.store.shards import Codes


class MatchingPursuitConfig(Config, title="matching_pursuit"):
    """Matching pursuit over a learnt dictionary."""

    kind: Literal["matching_pursuit"] = "matching_pursuit"
    """Latents are chosen one after another, each for what is left over."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    k: PositiveInt = 32
    """Latents that a token may use, one step for each."""
    tolerance: NonNegativeFloat = 0.01
    """A token whose residual is shorter than this takes no further latent; the mean activation has
    length sqrt(d_in)."""
    bias: bool = True
    """Whether a learnt centre is subtracted first."""

    @model_validator(mode="after")
    def _k_fits(self) -> MatchingPursuitConfig:
        refuse_large_k(self.k, self.d_sae)
        return self


@architectures
@final
class MatchingPursuit(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = MatchingPursuitConfig
    dense: ClassVar[int] = 2
    options: MatchingPursuitConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in), requires_grad=self.options.bias)

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median (or zero for good), random directions of norm 1."""
        if self.options.bias:
            self.b_dec.copy_(geometric_median(sample[self.hook_point]))
        self.W_dec.copy_(random_directions(self.d_sae, self.d_in, generator))

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring; what is left over is the error."""
        x = batch[self.hook_point]
        values, indices, left = self._pursued(x)
        x_hat = x - left
        active = fired(indices, values, self.d_sae)
        return Outcome({"reconstruction": fvu(x, x_hat)}, {self.hook_point: x_hat}, active)

    def codes(self, batch: Batch) -> Codes:
        """The latents chosen, each once."""
        values, indices, _ = self._pursued(batch[self.hook_point])
        return Codes.from_topk(values, indices, self.d_sae)

    def _pursued(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pursue(x - self.b_dec, self.W_dec, self.options.k, self.options.tolerance)
