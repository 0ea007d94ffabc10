"""BatchTopK: the tokens of a batch share k latents each, so that hard tokens use more and easy ones
fewer.

Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders" (arXiv:2412.06410);
dictionary_learning `trainers/batch_top_k.py`, SAELens `batchtopk_sae.py` and overcomplete compared.

    u = (x - b_dec) W_enc.T + b_enc        z = ReLU(the k n largest u of n tokens)        x^ = z W_dec + b_dec
    loss = sum ||x - x^||^2 / sum ||x - mean x||^2  +  1/32 AuxK          inference: z = u where u > threshold, above zero

Loss, AuxK, first values and unit decoder rows are those of `topk`. Where the references differ:
exactly k n entries are kept (overcomplete keeps ties), the threshold follows dictionary_learning's
rule with the deviations that `threshold.py` states, is in scaled units and part of what is saved.
The entries are found by a bound from maxima of groups rather than by a sort of all n d_sae, the
same set up to ties.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from components.config import Config
from components.dictionary.contract import (
    Batch,
    Dictionary,
    Moment,
    Outcome,
    architectures,
    refuse_large_k,
)
from components.dictionary.initial import linear_parameters
from components.dictionary.kernels.sparse import Pattern, decode
from components.dictionary.losses import fvu
from components.dictionary.threshold import batch_codes, batch_outcome, batch_start
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
        linear_parameters(self)
        self.register_buffer("threshold", torch.zeros(()))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """As `topk`; the threshold keeps k latents a row of the sample."""
        batch_start(self, sample[self.hook_point], generator)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring; moves the threshold."""
        x = batch[self.hook_point]

        def rebuild(z: Tensor, used: Pattern) -> tuple[dict[str, Tensor], Tensor]:
            x_hat = decode(z, used, self.W_dec) + self.b_dec
            return {"reconstruction": fvu(x, x_hat)}, x_hat

        return batch_outcome(self, x, moment, rebuild)

    def codes(self, batch: Batch) -> Codes:
        """Pre-activations above the threshold."""
        return batch_codes(self, batch[self.hook_point])
