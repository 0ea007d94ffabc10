"""TopK: each token uses its k largest pre-activations, rectified; silent latents learn what the live ones leave over.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093); the code of
openai/sparse_autoencoder, dictionary_learning and sparsify compared.

    u = (x - b_dec) W_enc.T + b_enc        z = ReLU(the k largest u)        x^ = z W_dec + b_dec
    loss = sum ||x - x^||^2 / sum ||x - mean x||^2  +  1/32 AuxK

Where the references differ: the largest are taken before the ReLU (OpenAI), so a tie at zero selects nothing. The main
term is a fraction of variance, as AuxK is, so that 1/32 means the same at every scale of activations. AuxK: the target
is the error without gradient, the auxiliary decode has no bias, its values are rectified, its gradient reaches encoder
and decoder, k_aux = d_in / 2 and at most as many as are dead, dead is counted in tokens. Decoder rows have norm 1.
Every weight is stored as [d_sae, d_in], the layout of both sparse gradients.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, Recipe, architectures
from components.dictionary.initial import geometric_median, random_directions
from components.dictionary.kernels.sparse import Pattern, decode, decode_codes, preactivations, select
from components.dictionary.losses import auxk, fvu
from components.dictionary.nonlinearities import largest, largest_of
from components.store.shards import Codes


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

    @model_validator(mode="after")
    def _k_fits(self) -> TopKConfig:
        if self.k > self.d_sae:
            raise ValueError(f"k is {self.k}, but there are only d_sae = {self.d_sae} latents; lower k or raise d_sae")
        return self


@architectures
@final
class TopK(Dictionary):
    """See the module."""

    version = 1
    dense: ClassVar[int] = 2  # pre-activations, and a copy in which live latents are masked while dead ones learn
    config: ClassVar[type[Config]] = TopKConfig
    options: TopKConfig

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @property
    def name(self) -> str:
        """As `topk-1536-k32`."""
        return f"topk-{self.d_sae}-k{self.options.k}"

    @property
    def recipe(self) -> Recipe:
        """sparsify's and dictionary_learning's learning rate: 2e-4 at 2^14 latents, as the root of their number."""
        return Recipe(lr=2e-4 / (self.d_sae / 2**14) ** 0.5, unit_rows=("W_dec",))

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Bias at the geometric median, random directions of norm 1, the encoder their transpose."""
        self.b_dec.copy_(geometric_median(sample[self.hook_point]))
        self.W_dec.copy_(random_directions(self.d_sae, self.d_in, generator))
        self.W_enc.copy_(self.W_dec)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """The loss in the module's docstring."""
        x = batch[self.hook_point]
        encoder = (self.W_enc, self.b_enc, self.b_dec)
        centred, pre = preactivations(x, *encoder)
        used = Pattern(largest(pre, self.options.k), self.d_sae)
        # Without a wait the host knows only on the CPU whether any latent is dead; elsewhere the term is always made.
        revive = self.options.auxk_coefficient > 0 and (not moment.dead.is_cpu or bool(moment.dead.any()))
        losses: dict[str, Tensor] = {}
        if revive:
            k_aux = min(max(1, self.d_in // 2), self.d_sae)
            spare = Pattern(largest_of(pre, moment.dead, k_aux), self.d_sae)
            both = Pattern(torch.cat([used.indices, spare.indices], dim=1), self.d_sae)
            values = select(centred, pre, both, *encoder).relu()
            z, z_spare = values[:, : self.options.k].contiguous(), values[:, self.options.k :]
            x_hat = decode(z, used, self.W_dec) + self.b_dec
            predicted = decode(z_spare * moment.dead[spare.indices], spare, self.W_dec)
            losses["auxk"] = self.options.auxk_coefficient * auxk(x - x_hat, predicted, moment.dead.sum(), k_aux)
        else:
            z = select(centred, pre, used, *encoder).relu()
            x_hat = decode(z, used, self.W_dec) + self.b_dec
        losses["reconstruction"] = fvu(x, x_hat)
        fired = torch.zeros_like(self.b_enc).index_add_(0, used.indices.view(-1), (z > 0).to(x.dtype).view(-1))
        return Outcome(losses, {self.hook_point: x_hat}, fired)

    def codes(self, batch: Batch) -> Codes:
        """The k largest pre-activations, those above zero."""
        _, pre = preactivations(batch[self.hook_point], self.W_enc, self.b_enc, self.b_dec)
        indices = largest(pre, self.options.k)
        return Codes.from_topk(pre.gather(1, indices).relu(), indices, self.d_sae)

    def rebuild(self, codes: Codes) -> Batch:
        """z W_dec + b_dec."""
        return {self.hook_point: decode_codes(codes, self.W_dec) + self.b_dec}

    def directions(self, name: str) -> Float[Tensor, "d_sae width"]:
        """Rows of norm 1."""
        return self.W_dec
