"""A frozen random decoder with a trained encoder: what a dictionary reaches without learning a
single direction.

    u = (x - b_dec) W_enc.T + b_enc        z = ReLU(the k largest u)        x^ = z W_dec + b_dec        W_dec never moves
    loss = sum ||x - x^||^2 / sum ||x - mean x||^2

Selection, first values, loss and learning rate are those of `topk`, so what lies between the two is
what the decoder learnt. Encoder and both biases learn (b_dec is no direction). Deviation from the
source: no term for dead latents, because a latent that is of no use to a random decoder need not be
revived.

Source: Korznikov et al. 2026, "Sanity checks for sparse autoencoders: do SAEs beat random
baselines?" (arXiv:2602.14111), the frozen decoder.
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
    refuse_large_k,
)
from components.dictionary.initial import start_tied
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


class RandomDecoderConfig(Config, title="random_decoder"):
    """A frozen random decoder with a trained encoder."""

    kind: Literal["random_decoder"] = "random_decoder"
    """Decoder directions stay random, the encoder learns; a baseline."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    k: PositiveInt = 32
    """Latents that a token may use."""

    @model_validator(mode="after")
    def _k_fits(self) -> RandomDecoderConfig:
        refuse_large_k(self.k, self.d_sae)
        return self


@architectures
@final
class RandomDecoder(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = RandomDecoderConfig
    folds: ClassVar[bool] = True
    baseline = True
    dense: ClassVar[int] = 2
    options: RandomDecoderConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @property
    def recipe(self) -> Recipe:
        """The learning rate of `topk`."""
        return Recipe(lr=rate(self.d_sae))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1, the encoder their
        transpose."""
        start_tied(self, sample[self.hook_point], generator)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x = batch[self.hook_point]
        encoder = (self.W_enc, self.b_enc, self.b_dec)
        centred, pre = preactivations(x, *encoder)
        used = Pattern(largest(pre, self.options.k), self.d_sae)
        z = select(centred, pre, used, *encoder).relu()
        x_hat = decode(z, used, self.W_dec) + self.b_dec
        return Outcome(
            {"reconstruction": fvu(x, x_hat)},
            {self.hook_point: x_hat},
            fired(used.indices, z, self.d_sae),
        )

    def codes(self, batch: Batch) -> Codes:
        """The k largest pre-activations, those above zero."""
        return topk_codes(
            batch[self.hook_point], self.W_enc, self.b_enc, self.b_dec, self.options.k
        )
