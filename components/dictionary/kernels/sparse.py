"""Decoding and gradients that touch only the latents in use; the encoder's product is the only dense one.

With k latents a token, decode and all gradients cost tokens * k * d_in instead of tokens * d_sae * d_in. Stock operators
only: weighted sums of rows (`embedding_bag`, measured at half the time of MKL's CSR product), sampled products
(`sampled_addmm`), and one stable sort of the indices as the transposed pattern that encoder and decoder share. Nothing
of shape (tokens, k, d_in) is ever made. The same operators run on the CPU and on CUDA, and sum in a fixed order.

Source: the scheme of Gao et al. 2024 (arXiv:2406.04093, section D.2), whose kernels are Triton. Bias gradients are
reduced over tokens first: d b_dec = -(sum over tokens of du) W_enc, a product of a vector instead of a matrix.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from components.dictionary.nonlinearities import largest
from components.store.shards import Codes

with warnings.catch_warnings():  # "Sparse CSR tensor support is in beta state", said once for each process
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


class Pattern:
    """Which latents each token uses, with the three products over them.

    Attributes:
        indices: latents of each token, k at most d_sae; one may stand twice in a row.
        d_sae: number of latents.
    """

    def __init__(self, indices: Int64[Tensor, "token k"], d_sae: int) -> None:
        self.indices = indices
        self.d_sae = d_sae

    @cached_property
    def _transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order of the entries by latent (tokens ascending inside), their tokens, and where each latent begins."""
        latents, order = self.indices.reshape(-1).int().sort(stable=True)
        bounds = torch.arange(self.d_sae + 1, dtype=torch.int32, device=latents.device)
        return order, order // self.indices.shape[1], torch.searchsorted(latents, bounds)

    def to_tokens(self, values: Float[Tensor, "token k"], table: Float[Tensor, "d_sae d"]) -> Float[Tensor, "token d"]:
        """For each token, the sum of its latents' rows of the table, weighted: values @ table."""
        return embedding_bag(self.indices, table, mode="sum", per_sample_weights=values)

    def to_latents(self, values: Float[Tensor, "token k"], table: Float[Tensor, "token d"]) -> Float[Tensor, "d_sae d"]:
        """For each latent, the sum of its tokens' rows of the table, weighted: values.T @ table."""
        order, tokens, offsets = self._transposed
        weights = values.reshape(-1)[order]
        return embedding_bag(tokens, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)

    def between(self, tokens: Float[Tensor, "token d"], latents: Float[Tensor, "d_sae d"]) -> Float[Tensor, "token k"]:
        """For each token and each of its latents, the inner product of their rows: (tokens @ latents.T) where used."""
        n, k = self.indices.shape
        rows = torch.arange(0, n * k + 1, k, dtype=torch.int32, device=self.indices.device)
        zeros = tokens.new_zeros(n * k)
        sampled = torch.sparse_csr_tensor(
            rows, self.indices.reshape(-1).int(), zeros, (n, self.d_sae), check_invariants=False
        )
        return torch.sparse.sampled_addmm(sampled, tokens, latents.T, beta=0).values().view(n, k)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(values, W_dec)
        return pattern.to_tokens(values, W_dec)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_values, to_decoder, _ = ctx.needs_input_grad
        return (
            ctx.pattern.between(gradient, W_dec) if to_values else None,
            ctx.pattern.to_latents(values, gradient) if to_decoder else None,
            None,
        )


class _Select(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, centred: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, pre: Tensor, pattern: Pattern
    ) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(centred, W_enc)
        return pre.gather(1, pattern.indices)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_encoder = ctx.pattern.to_latents(gradient, centred)
        to_bias = ctx.pattern.to_latents(gradient, gradient.new_ones(len(gradient), 1)).squeeze(1)
        return None, to_encoder, to_bias, -(to_bias @ W_enc), None, None


def decode(
    values: Float[Tensor, "token k"], pattern: Pattern, W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "token d_in"]:
    """values @ W_dec over the latents in use; differentiable in values and W_dec."""
    return _Decode.apply(values, W_dec, pattern)


def preactivations(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_sae"]]:
    """x - b_dec, and the one dense product (x - b_dec) @ W_enc.T + b_enc; no gradient: `select` carries it."""
    with torch.no_grad():
        centred = x - b_dec
        return centred, torch.addmm(b_enc, centred, W_enc.T)


def select(
    centred: Float[Tensor, "token d_in"],
    pre: Float[Tensor, "token d_sae"],
    pattern: Pattern,
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
) -> Float[Tensor, "token k"]:
    """The pre-activations of the latents in use, differentiable in W_enc, b_enc and b_dec (not in the data)."""
    return _Select.apply(centred, W_enc, b_enc, b_dec, pre, pattern)


def decode_codes(codes: Codes, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "row d_in"]:
    """codes @ W_dec for rows of any length; an empty row gives zeros. No gradient."""
    return embedding_bag(
        codes.indices.long(),
        W_dec,
        codes.offsets,
        mode="sum",
        per_sample_weights=codes.values.to(W_dec.dtype),
        include_last_offset=True,
    )


def topk_codes(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
    k: int,
) -> Codes:
    """The k largest pre-activations of each token, those above zero. No gradient."""
    _, pre = preactivations(x, W_enc, b_enc, b_dec)
    indices = largest(pre, k)
    return Codes.from_topk(pre.gather(1, indices).relu(), indices, W_enc.shape[0])


def counted(codes: Codes) -> Float[Tensor, " d_sae"]:
    """Rows on which each latent is active."""
    return torch.bincount(codes.indices.long(), minlength=codes.d_sae).to(codes.values.dtype)
