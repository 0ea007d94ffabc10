"""Random directions, nothing learnt: how far size and sparsity alone get.

    u = (x - b_dec) W_enc.T        z = ReLU(the k largest u)        x^ = z W_dec + b_dec        W_enc = g W_dec, random rows

The first values of `topk` and nothing after them (the same seed gives the same directions) but one
number, the gain g: the one of least squared error on the sample. Random directions overlap, so that
with g = 1 the reconstruction overshoots and is worse than the mean activation; a baseline for
reconstruction must not lose by its size alone. The gain changes no order of latents. The chain
makes such a control beside every dictionary, as sparse as that one turned out
(`Dictionary.control`).

Source: Heap et al. 2025, "Sparse autoencoders can interpret randomly initialized transformers"
(arXiv:2501.17727), asks the question of models; here it is the dictionary that is random.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import PositiveInt, model_validator
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
from components.dictionary.initial import start_tied
from components.dictionary.kernels.sparse import counted, topk_codes
from components.store.shards import Codes

ROWS_AT_ONCE = 2048


class UntrainedConfig(Config, title="untrained"):
    """Random directions, nothing learnt."""

    kind: Literal["untrained"] = "untrained"
    """Latents are random directions; a baseline."""
    d_sae: PositiveInt = 1536
    """Number of latents."""
    k: PositiveInt = 32
    """Latents that a token may use."""

    @model_validator(mode="after")
    def _k_fits(self) -> UntrainedConfig:
        refuse_large_k(self.k, self.d_sae)
        return self


@architectures
@final
class Untrained(Dictionary):
    """See the module."""

    version = 2
    config: ClassVar[type[Config]] = UntrainedConfig
    folds: ClassVar[bool] = True
    learns = "nothing"
    baseline = True
    options: UntrainedConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(self.d_in), requires_grad=False)

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1, the encoder their transpose
        times the gain."""
        x = sample[self.hook_point]
        start_tied(self, x, generator)
        self.W_enc.mul_(self._gain(x))

    def _gain(self, x: Tensor) -> float:
        """sum (x - b_dec) . r / sum r . r over the rows, r their reconstruction without gain and
        bias."""
        product = squares = 0.0
        for rows in x.split(ROWS_AT_ONCE):
            rebuilt = (
                self.rebuild(self.codes({self.hook_point: rows}))[self.hook_point] - self.b_dec
            )
            product += ((rows - self.b_dec) * rebuilt).sum(dtype=torch.float64).item()
            squares += rebuilt.square().sum(dtype=torch.float64).item()
        return product / squares if squares else 1.0

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """Nothing to descend on."""
        codes = self.codes(batch)
        return Outcome({}, self.rebuild(codes), counted(codes))

    def codes(self, batch: Batch) -> Codes:
        """The k largest projections, those above zero."""
        no_bias = self.W_dec.new_zeros(self.d_sae)
        return topk_codes(batch[self.hook_point], self.W_enc, no_bias, self.b_dec, self.options.k)
