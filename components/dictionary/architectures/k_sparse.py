"""k-sparse: the linear ancestor of TopK. One matrix encodes and decodes, and only the k largest
codes are kept.

    u = (x - b_dec) W.T + b_enc        z = the k largest u        x^ = z W + b_dec
    loss = sum ||x - x^||^2 / sum ||x - mean x||^2
    k(t) falls linearly from k_start to k over the first half of training

The selection is the only nonlinearity; the falling k keeps latents from dying early, which later
work does with AuxK. Rows of W are free: with tied weights a row settles at norm 1 by itself.

Source: Makhzani and Frey 2013, "k-Sparse Autoencoders" (arXiv:1312.5663). Deviations: b_dec is
subtracted from the input and starts at the geometric median, as in the other architectures; the
squared error is divided by the variance of the batch, so that learning rate and clip mean what they
mean for `topk`; one of the k largest that is not above zero is dropped, because codes are amounts
here (with k far below d_sae there is hardly one). The paper may encode with more than k latents at
test time; here it is k.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import PositiveInt, model_validator
from torch import nn

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
from components.dictionary.initial import geometric_median, random_directions
from components.dictionary.kernels.sparse import (
    Pattern,
    decode,
    fired,
    preactivations,
    select,
    topk_codes,
)
from components.dictionary.losses import fvu
from components.dictionary.nonlinearities import largest
from components.store.shards import Codes

FALLING = 0.5
"""Share of training over which k falls."""


class KSparseConfig(Config, title="k_sparse"):
    """A k-sparse autoencoder with tied weights."""

    kind: Literal["k_sparse"] = "k_sparse"
    """Linear with tied weights; each token uses its k largest latents."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    k: PositiveInt = 32
    """Latents that a token may use."""
    k_start: PositiveInt | None = None
    """Latents that a token may use at the beginning; null is four times k, and k itself keeps it
    constant."""

    @model_validator(mode="after")
    def _k_fits(self) -> KSparseConfig:
        if max(self.k, self.k_start or 0) > self.d_sae:
            raise ValueError(
                f"k is {self.k} and k_start {self.k_start}, but there are only d_sae = "
                f"{self.d_sae} latents; lower them or raise d_sae"
            )
        return self


@architectures
@final
class KSparse(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = KSparseConfig
    dense: ClassVar[int] = 3
    options: KSparseConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @property
    def recipe(self) -> Recipe:
        """The learning rate of `topk`; rows are free."""
        return Recipe(lr=rate(self.d_sae))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1."""
        self.b_dec.copy_(geometric_median(sample[self.hook_point]))
        self.W_dec.copy_(random_directions(self.d_sae, self.d_in, generator))

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x = batch[self.hook_point]
        encoder = (self.W_dec, self.b_enc, self.b_dec)
        centred, pre = preactivations(x, *encoder)
        used = Pattern(largest(pre, self.k_at(moment)), self.d_sae)
        z = select(centred, pre, used, *encoder).relu()
        x_hat = decode(z, used, self.W_dec) + self.b_dec
        return Outcome(
            {"reconstruction": fvu(x, x_hat)},
            {self.hook_point: x_hat},
            fired(used.indices, z, self.d_sae),
        )

    def k_at(self, moment: Moment) -> int:
        """Latents that a token may use after so many updates."""
        start = self.options.k_start or min(4 * self.options.k, self.d_sae)
        left = max(0.0, 1 - moment.step / max(1.0, FALLING * moment.steps))
        return round(self.options.k + left * (start - self.options.k))

    def codes(self, batch: Batch) -> Codes:
        """The k largest pre-activations, those above zero."""
        return topk_codes(
            batch[self.hook_point], self.W_dec, self.b_enc, self.b_dec, self.options.k
        )
