"""Principal components, both signs of each, top-k sparsified: the best linear code of its rank, and
not a sparse one.

    C = covariance of the activations over all batches = V diag(l) V.T
    u = (x - b_dec) (V, -V)        z = ReLU(the k largest u)        x^ = z (V, -V).T + b_dec        b_dec = mean

Exact: count, sum and products of deviations are added up in float64 over every batch (around the
mean of the sample, so that nothing cancels) and factorised once at the end; memory is d_in^2
however long the stream is. The sums are part of the checkpoint, so a resumed run gives the same
components, and they are dropped when the components are there. Latent i is component i, by falling
variance, and latent d_in + i its opposite, because codes are amounts and never negative here; so
d_sae = 2 d_in. Rows are orthonormal, so the k largest codes are the k largest contributions and the
best reconstruction from k components of each token; with k = d_in it is exact. Before the end it is
the raw basis.

Source: Pearson 1901; as a baseline for dictionaries, Cunningham et al. 2023 (arXiv:2309.08600).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures
from components.dictionary.initial import both_signs
from components.dictionary.kernels.sparse import topk_codes, topk_rebuilt
from components.store.shards import Codes


class PcaConfig(Config, title="pca"):
    """Principal components, both signs."""

    kind: Literal["pca"] = "pca"
    """Latents are principal components and their opposites, 2 * d_in of them; a baseline."""
    k: PositiveInt = 32
    """Latents that a token may use."""


@architectures
@final
class Pca(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = PcaConfig
    learns = "statistics"
    baseline = True
    options: PcaConfig

    n: Tensor | None
    total: Tensor | None
    products: Tensor | None

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(self.d_in), requires_grad=False)
        for name in ("n", "total", "products"):  # there only while batches are summed up
            self.register_buffer(name, None)

    @classmethod
    def size(cls, options: Any, d_in: int) -> int:
        """Two for each component."""
        return 2 * d_in

    @classmethod
    def gathers(cls, options: Any, d_in: int) -> int:
        """Sum and products, in float64."""
        return 8 * d_in * (d_in + 1)

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """The raw basis around the mean, and empty sums."""
        self.b_dec.copy_(sample[self.hook_point].double().mean(0))
        self.W_dec.copy_(both_signs(torch.eye(self.d_in)))
        zeros = torch.zeros(self.d_in, self.d_in, dtype=torch.float64, device=self.like.device)
        self.n, self.total, self.products = zeros[0, 0].clone(), zeros[0].clone(), zeros

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """Adds the batch to the sums; nothing to descend on."""
        if self.n is not None and self.total is not None and self.products is not None:
            deviations = (batch[self.hook_point] - self.b_dec).double()
            self.n += len(deviations)
            self.total += deviations.sum(0)
            self.products += deviations.T @ deviations
        x_hat, active = topk_rebuilt(
            batch[self.hook_point], self.W_dec, self.W_dec, self.b_dec, self.options.k
        )
        return Outcome({}, {self.hook_point: x_hat}, active)

    @torch.no_grad()
    def finish(self) -> None:
        """Components by falling variance, the largest coordinate of each positive; the sums are
        dropped."""
        if (
            self.n is not None
            and self.total is not None
            and self.products is not None
            and self.n > 0
        ):
            mean = self.total / self.n
            covariance = self.products / self.n - torch.outer(mean, mean)
            components = torch.linalg.eigh(covariance).eigenvectors.flip(1).T
            largest = components.gather(1, components.abs().argmax(1, keepdim=True))
            self.W_dec.copy_(both_signs(components * largest.sign()))
            self.b_dec.add_(mean.to(self.b_dec.dtype))
        self.n = self.total = self.products = None

    def codes(self, batch: Batch) -> Codes:
        """The k largest projections."""
        no_bias = self.W_dec.new_zeros(self.d_sae)
        return topk_codes(batch[self.hook_point], self.W_dec, no_bias, self.b_dec, self.options.k)
