"""The raw basis: coordinates of the activations as latents, each with both signs; nothing is
learnt.

The question it answers is whether a dictionary is better than the model's own axes.

    u = (c, -c)  with c = x - b_dec        z = ReLU(the k largest u)        x^ = b_dec + z_(first half) - z_(second half)

Latent i is coordinate i above the mean, latent d_in + i the same below it, because codes are
amounts and never negative here. So d_sae = 2 d_in, and keeping the k largest is the best
reconstruction from k coordinates; with k = d_in it is exact. b_dec is the mean of the sample from
which the scale is estimated, the only number that is not fixed beforehand; no weight matrix is
stored.

Source: the neuron baseline of Bricken et al. 2023, "Towards Monosemanticity" (there MLP neurons as
they are; at a hook point without a nonlinearity both signs are needed).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures
from components.dictionary.initial import both_signs
from components.dictionary.kernels.sparse import counted
from components.dictionary.nonlinearities import largest
from components.store.shards import Codes


class NeuronsConfig(Config, title="neurons"):
    """The raw basis, both signs."""

    kind: Literal["neurons"] = "neurons"
    """Latents are the coordinates themselves, 2 * d_in of them; a baseline."""
    k: PositiveInt = 32
    """Latents that a token may use."""


@architectures
@final
class Neurons(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = NeuronsConfig
    learns = "nothing"
    baseline = True
    options: NeuronsConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.b_dec = nn.Parameter(torch.zeros(self.d_in), requires_grad=False)

    @classmethod
    def size(cls, options: Any, d_in: int) -> int:
        """Two for each coordinate."""
        return 2 * d_in

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the mean; nothing is drawn."""
        self.b_dec.copy_(sample[self.hook_point].double().mean(0))

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """Nothing to descend on."""
        codes = self.codes(batch)
        return Outcome({}, self.rebuild(codes), counted(codes))

    def codes(self, batch: Batch) -> Codes:
        """The k largest deviations from the bias."""
        centred = batch[self.hook_point] - self.b_dec
        pre = torch.cat([centred, -centred], dim=1)
        indices = largest(pre, self.options.k)
        return Codes.from_topk(pre.gather(1, indices).relu(), indices, self.d_sae)

    def rebuild(self, codes: Codes) -> Batch:
        """Each code at its coordinate; of shape (rows, 2 d_in) on the way."""
        above, below = codes.dense().to(self.b_dec.dtype).chunk(2, dim=1)
        return {self.hook_point: above - below + self.b_dec}

    def directions(self, name: str) -> Float[Tensor, "d_sae width"]:
        """Unit vectors and their opposites."""
        return both_signs(torch.eye(self.d_in, dtype=self.like.dtype, device=self.like.device))
