"""BatchTopK: the tokens of a batch share k latents each, so that hard tokens use more and easy ones fewer.

Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders" (arXiv:2412.06410); dictionary_learning
`trainers/batch_top_k.py`, SAELens `batchtopk_sae.py` and overcomplete compared.

    u = (x - b_dec) W_enc.T + b_enc        z = ReLU(the k n largest u of n tokens)        x^ = z W_dec + b_dec
    loss = sum ||x - x^||^2 / sum ||x - mean x||^2  +  1/32 AuxK          inference: z = u where u > threshold, above zero

Loss, AuxK, first values and unit decoder rows are those of `topk`. Where the references differ: exactly k n entries are
kept (overcomplete keeps ties), the threshold follows dictionary_learning's rule with the deviations that `threshold.py`
states, is in scaled units and part of what is saved. The entries are found by a bound from maxima of groups rather than by
a sort of all n d_sae, the same set up to ties.
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
    Recipe,
    architectures,
    rate,
    refuse_large_k,
)
from components.dictionary.initial import start_tied
from components.dictionary.kernels.sparse import auxiliary, decode, fired, preactivations, select
from components.dictionary.losses import fvu
from components.dictionary.threshold import above, at_start, follow, kept
from components.store.shards import Codes


class BatchTopKConfig(Config, title="batch_topk"):
    """A BatchTopK dictionary."""

    kind: Literal["batch_topk"] = "batch_topk"
    """The tokens of a batch share k latents each."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    k: PositiveInt = 32
    """Latents that a token uses on average."""
    auxk_coefficient: NonNegativeFloat = 1 / 32
    """Weight of the term by which dead latents learn; 0 switches it off."""

    @model_validator(mode="after")
    def _k_fits(self) -> BatchTopKConfig:
        refuse_large_k(self.k, self.d_sae)
        return self


@architectures
@final
class BatchTopK(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = BatchTopKConfig
    folds: ClassVar[bool] = True
    trains_as_it_encodes = False
    options: BatchTopKConfig
    threshold: Tensor

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def recipe(self) -> Recipe:
        """The learning rate of `topk`."""
        return Recipe(lr=rate(self.d_sae), unit_rows=("W_dec",))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """As `topk`; the threshold keeps k latents a row of the sample."""
        x = sample[self.hook_point]
        start_tied(self, x, generator)
        self.threshold.copy_(at_start(x, self.W_enc, self.b_enc, self.b_dec, self.options.k))

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring; moves the threshold."""
        x = batch[self.hook_point]
        encoder = (self.W_enc, self.b_enc, self.b_dec)
        centred, pre = preactivations(x, *encoder)
        used = kept(pre, self.options.k)
        z = select(centred, pre, used, *encoder).relu()
        follow(self.threshold, z, moment)
        x_hat = decode(z, used, self.W_dec) + self.b_dec
        losses = {"reconstruction": fvu(x, x_hat)}
        if moment.revives(self.options.auxk_coefficient):
            term = auxiliary(x - x_hat, centred, pre, moment.dead, encoder, self.W_dec)
            losses["auxk"] = self.options.auxk_coefficient * term
        return Outcome(losses, {self.hook_point: x_hat}, fired(used.indices, z, self.d_sae))

    def codes(self, batch: Batch) -> Codes:
        """Pre-activations above the threshold."""
        _, pre = preactivations(batch[self.hook_point], self.W_enc, self.b_enc, self.b_dec)
        return above(pre, self.threshold)
