"""Random directions, nothing learnt: how far size and sparsity alone get.

    u = (x - b_dec) W_enc.T        z = ReLU(the k largest u)        x^ = z W_dec + b_dec        W_enc = W_dec, random rows

The first values of `topk` and nothing after them (the same seed gives the same directions), under a name of its own so
that it can stand in a table. The chain makes a control of its own beside every dictionary, as sparse as that one turned
out (`components.dictionary.train.control`); this entry is for comparisons at a k that is chosen.

Source: Heap et al. 2025, "Sparse autoencoders can interpret randomly initialized transformers" (arXiv:2501.17727), asks
the question of models; here it is the dictionary that is random.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import PositiveInt, model_validator
from torch import nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, Recipe, architectures, refuse_large_k
from components.dictionary.initial import geometric_median, random_directions
from components.dictionary.kernels.sparse import counted, topk_codes
from components.store.shards import Codes


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

    version = 1
    config: ClassVar[type[Config]] = UntrainedConfig
    learns = "nothing"
    baseline = True
    options: UntrainedConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(self.d_in), requires_grad=False)

    @property
    def recipe(self) -> Recipe:
        """Never used."""
        return Recipe(lr=1.0)

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1."""
        self.b_dec.copy_(geometric_median(sample[self.hook_point]))
        self.W_dec.copy_(random_directions(self.d_sae, self.d_in, generator))

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """Nothing to descend on."""
        codes = self.codes(batch)
        return Outcome({}, self.rebuild(codes), counted(codes))

    def codes(self, batch: Batch) -> Codes:
        """The k largest projections, those above zero."""
        no_bias = self.W_dec.new_zeros(self.d_sae)
        return topk_codes(batch[self.hook_point], self.W_dec, no_bias, self.b_dec, self.options.k)
