"""TopK: each token uses its k largest pre-activations, rectified; silent latents learn what the
live ones leave over.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093); the code
of openai/sparse_autoencoder, dictionary_learning and sparsify compared.

    u = (x - b_dec) W_enc.T + b_enc        z = ReLU(the k largest u)        x^ = z W_dec + b_dec
    loss = sum ||x - x^||^2 / sum ||x - mean x||^2  +  1/32 AuxK  +  c Multi-TopK

Where the references differ: the largest are taken before the ReLU (OpenAI), so a tie at zero
selects nothing. The main term is a fraction of variance, as AuxK is, so that 1/32 means the same at
every scale of activations. AuxK: the target is the error without gradient, the auxiliary decode has
no bias, its values are rectified, its gradient reaches encoder and decoder, k_aux = d_in / 2 and at
most as many as are dead, dead is counted in tokens. Decoder rows have norm 1. Multi-TopK (section
4.4; off by default as in sparsify, which weighs it 1/8): the same fraction of variance for the 4k
largest, which hold the k largest, so that codes stay useful where more latents are let through; its
gradient reaches the encoder (sparsify's does not). Every weight is stored as [d_sae, d_in], the
layout of both sparse gradients.
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
from components.dictionary.initial import linear_parameters, start_tied
from components.dictionary.kernels.sparse import (
    Pattern,
    attach,
    choose,
    decode,
    fired,
    most_revived,
)
from components.dictionary.losses import auxk, fvu
from components.dictionary.nonlinearities import largest, largest_of
from components.store.shards import Codes

MULTI = 4
"""Multi-TopK's second reconstruction takes this many times k."""


class TopKConfig(Config, title="topk"):
    """A TopK dictionary."""

    kind: Literal["topk"] = "topk"
    """Each token uses its k largest latents."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    k: PositiveInt = 32
    """Latents that a token may use."""
    auxk_coefficient: NonNegativeFloat = 1 / 32
    """Weight of the term by which dead latents learn; 0 switches it off."""
    multi_topk_coefficient: NonNegativeFloat = 0
    """Weight of a second reconstruction from the 4k largest latents; 0 switches it off, the field
    takes 1/8."""

    @model_validator(mode="after")
    def _k_fits(self) -> TopKConfig:
        refuse_large_k(self.k, self.d_sae)
        return self


@architectures
@final
class TopK(Dictionary):
    """See the module."""

    version = 1
    dense: ClassVar[int] = (
        2  # pre-activations, and a copy of those of dead latents while these learn
    )
    in_blocks: ClassVar[bool] = True
    config: ClassVar[type[Config]] = TopKConfig
    folds: ClassVar[bool] = True
    options: TopKConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        linear_parameters(self)

    @classmethod
    def used(cls, options: TopKConfig) -> int:
        """k, or what Multi-TopK decodes."""
        return (
            min(MULTI * options.k, options.d_sae) if options.multi_topk_coefficient else options.k
        )

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1, the encoder their
        transpose."""
        start_tied(self, sample[self.hook_point], generator)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x, k = batch[self.hook_point], self.options.k
        wide = self.used(self.options)
        k_aux, revive = (
            most_revived(self.d_sae, self.d_in),
            moment.revives(self.options.auxk_coefficient),
        )

        def choice(pre: Tensor) -> Tensor:
            live = largest(pre, wide)
            if wide > k:  # the k largest of them first
                live = live.gather(1, pre.gather(1, live).argsort(dim=1, descending=True))
            return torch.cat([live, largest_of(pre, moment.dead, k_aux)], dim=1) if revive else live

        encoder = (self.W_enc, self.b_enc, self.b_dec)
        centred, indices, pre = choose(x, *encoder, choice)
        pattern = Pattern(indices, self.d_sae)
        z = attach(pre, centred, pattern, *encoder).relu()
        parts = [(z, pattern)]  # the k largest, the rest of the 4k largest, the dead
        if wide > k or revive:
            widths = [k, wide - k, indices.shape[1] - wide]
            columns = zip(z.split(widths, dim=1), indices.split(widths, dim=1), strict=True)
            parts = [
                (values.contiguous(), Pattern(of.contiguous(), self.d_sae))
                for values, of in columns
            ]
        x_hat = decode(*parts[0], self.W_dec) + self.b_dec
        losses = {"reconstruction": fvu(x, x_hat)}
        if wide > k:
            x_wide = x_hat + decode(*parts[1], self.W_dec)
            losses["multi_topk"] = self.options.multi_topk_coefficient * fvu(x, x_wide)
        if revive:
            spare, of = parts[2]
            predicted = decode(spare * moment.dead[of.indices], of, self.W_dec)
            losses["auxk"] = self.options.auxk_coefficient * auxk(
                x - x_hat, predicted, moment.dead.sum(), k_aux
            )
        return Outcome(
            losses, {self.hook_point: x_hat}, fired(indices[:, :k], z[:, :k], self.d_sae)
        )

    def codes(self, batch: Batch) -> Codes:
        """The k largest pre-activations, those above zero."""
        encoder = (self.W_enc, self.b_enc, self.b_dec)
        _, indices, pre = choose(
            batch[self.hook_point], *encoder, lambda part: largest(part, self.options.k)
        )
        return Codes.from_topk(pre.relu(), indices, self.d_sae)
