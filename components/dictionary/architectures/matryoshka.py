"""Matryoshka: nested prefixes of the latents each reconstruct on their own, so that early latents
stay general.

Source: Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders"
(arXiv:2503.17547); dictionary_learning `trainers/matryoshka_batch_top_k.py` and SAELens
`matryoshka_batchtopk_sae.py` compared.

    z = ReLU(the k n largest u of n tokens), as `batch_topk`        x^_i = b_dec + sum of z_f d_f over the first w_i latents
    loss = sum over i of g_i sum ||x - x^_i||^2 / sum ||x - mean x||^2  +  1/32 AuxK on the error of all latents

Decoding is cumulative: groups of latents are decoded once each and summed up, at the cost of one
full decode (SAELens decodes every prefix anew). The weights g stand in the configuration because
the references differ there: SAELens gives every prefix the weight 1, dictionary_learning takes the
mean of g_i times the error with g_i = 1/n, so 1/n^2 in all. Here they are 1/n by default: their sum
is 1, and 1/32 means the same as in `topk`. The dictionary_learning fractions are those of the
groups, here the prefixes are named by their shares of d_sae. First values, threshold and unit
decoder rows are those of `batch_topk`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
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
from components.dictionary.kernels.sparse import (
    Pattern,
    decode,
)
from components.dictionary.losses import fvu
from components.dictionary.threshold import batch_codes, batch_outcome, batch_start
from components.store.shards import Codes


class MatryoshkaConfig(Config, title="matryoshka"):
    """A Matryoshka dictionary."""

    kind: Literal["matryoshka"] = "matryoshka"
    """Nested prefixes of the latents each reconstruct; the tokens of a batch share k latents
    each."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    k: PositiveInt = 32
    """Latents that a token uses on average."""
    prefixes: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0)
    """Share of the latents in each prefix, ascending to 1; each times d_sae is a whole number."""
    weights: tuple[NonNegativeFloat, ...] = (0.2, 0.2, 0.2, 0.2, 0.2)
    """Weight of each prefix's reconstruction; SAELens takes ones, dictionary_learning one over the
    square of their number."""
    auxk_coefficient: NonNegativeFloat = 1 / 32
    """Weight of the term by which dead latents learn; 0 switches it off."""

    @model_validator(mode="after")
    def _k_fits(self) -> MatryoshkaConfig:
        refuse_large_k(self.k, self.d_sae)
        if len(self.weights) != len(self.prefixes):
            raise ValueError(
                f"{len(self.prefixes)} prefixes but {len(self.weights)} weights; give one for each"
            )
        shares = (0.0, *self.prefixes)
        if any(low >= high for low, high in pairwise(shares)) or shares[-1] != 1.0:
            raise ValueError(
                f"prefixes are {self.prefixes}; give shares that ascend from above 0 to 1"
            )
        if any(
            abs(share * self.d_sae - round(share * self.d_sae)) > 1e-6 for share in self.prefixes
        ):
            whole = math.lcm(
                *(Fraction(share).limit_denominator(4096).denominator for share in self.prefixes)
            )
            raise ValueError(
                f"d_sae is {self.d_sae}, and prefixes of {self.prefixes} of it are not whole "
                f"numbers of latents; take a multiple of {whole}, as "
                f"{max(1, round(self.d_sae / whole)) * whole}, or other prefixes"
            )
        return self

    @property
    def widths(self) -> list[int]:
        """Latents in each prefix."""
        return [round(share * self.d_sae) for share in self.prefixes]


@architectures
@final
class Matryoshka(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = MatryoshkaConfig
    folds: ClassVar[bool] = True
    trains_as_it_encodes = False
    options: MatryoshkaConfig
    threshold: Tensor
    ends: Tensor

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        linear_parameters(self)
        self.register_buffer("threshold", torch.zeros(()))
        # kept on the device: a list that is sent there at each update would make the host wait
        self.register_buffer("ends", torch.tensor(options.widths), persistent=False)

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """As `batch_topk`; the threshold keeps k latents a row of the sample."""
        batch_start(self, sample[self.hook_point], generator)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring; moves the threshold."""
        x = batch[self.hook_point]

        def rebuild(z: Tensor, used: Pattern) -> tuple[dict[str, Tensor], Tensor]:
            x_hats = self._prefixes(z, used)
            weighted = zip(self.options.weights, x_hats, strict=True)
            *inner, outer = (weight * fvu(x, rows) for weight, rows in weighted)
            losses = {"reconstruction": outer}
            if inner:
                losses["prefixes"] = torch.stack(inner).sum()
            return losses, x_hats[-1]

        return batch_outcome(self, x, moment, rebuild)

    def codes(self, batch: Batch) -> Codes:
        """Pre-activations above the threshold."""
        return batch_codes(self, batch[self.hook_point])

    def _prefixes(
        self, z: Float[Tensor, " entry"], used: Pattern
    ) -> Float[Tensor, "prefix token width"]:
        """The reconstruction of every prefix. One decode: each token has a row for every group of
        latents."""
        group = torch.bucketize(used.indices, self.ends, right=True)
        row, order = (group * used.n + used.tokens).sort(stable=True)
        offsets = torch.searchsorted(
            row, torch.arange(len(self.ends) * used.n + 1, device=z.device)
        )
        parts = decode(z[order], Pattern(used.indices[order], self.d_sae, offsets), self.W_dec)
        return parts.view(len(self.ends), used.n, -1).cumsum(0) + self.b_dec
