"""Decoding and gradients that touch only the latents in use; the encoder's product is the only
dense one.

With k latents a token, decode and all gradients cost tokens * k * d_in instead of tokens * d_sae *
d_in. Stock operators only: weighted sums of rows (`embedding_bag`, measured at half the time of
MKL's CSR product), sampled products (`sampled_addmm`), and one stable sort of the indices as the
transposed pattern that encoder and decoder share. Nothing of shape (tokens, k, d_in) is ever made.
The same operators run on the CPU and on CUDA, and sum in a fixed order.

Source: the scheme of Gao et al. 2024 (arXiv:2406.04093, section D.2), whose kernels are Triton.
Bias gradients are reduced over tokens first: d b_dec = -(sum over tokens of du) W_enc, a product of
a vector instead of a matrix.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from components.dictionary.kernels import product
from components.dictionary.losses import auxk
from components.dictionary.nonlinearities import largest, largest_of
from components.store.shards import Codes

# "Sparse CSR tensor support is in beta state", said once for each process
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


ENTRIES_AT_ONCE_ELSEWHERE = 1 << 30
"""Pre-activations held at a time on a GPU; for the CPU see `product`."""


class Pattern:
    """Which latents each token uses, with the three products over them. Values have the shape of
    the indices.

    Attributes:
        indices: latents of each token: k for every token [token, k], or of any number [entry]; one
            may stand twice.
        d_sae: number of latents.
        offsets: where each token's entries begin, and the end; only with indices [entry].
        n: number of tokens.
    """

    def __init__(
        self,
        indices: Int[Tensor, "..."],
        d_sae: int,
        offsets: Int64[Tensor, " n_and_one"] | None = None,
    ):
        assert indices.dim() == (2 if offsets is None else 1), (
            "indices [token, k], or [entry] with offsets"
        )
        self.indices = indices
        self.d_sae = d_sae
        self.offsets = offsets
        self.n = len(indices) if offsets is None else len(offsets) - 1

    @cached_property
    def tokens(self) -> Int64[Tensor, " entry"]:
        """The token of each entry."""
        if self.offsets is not None:
            return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.indices))
        k = self.indices.shape[1]
        return torch.arange(self.n * k, device=self.indices.device) // max(1, k)

    @cached_property
    def _transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order of the entries by latent (tokens ascending inside), their tokens, and where each
        latent begins."""
        latents = self.indices.reshape(-1)
        if latents.is_cpu and self.d_sae <= np.iinfo(np.uint16).max:
            # numpy sorts 16 bits by radix, in an eighth of the time
            order = torch.from_numpy(latents.numpy().astype(np.uint16).argsort(kind="stable"))
            latents = latents[order].int()
        else:
            latents, order = latents.int().sort(stable=True)
        bounds = torch.arange(self.d_sae + 1, dtype=torch.int32, device=latents.device)
        return order, self.tokens[order].int(), torch.searchsorted(latents, bounds, out_int32=True)

    def to_tokens(
        self, values: Float[Tensor, "..."], table: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "token d"]:
        """For each token, the sum of its latents' rows of the table, weighted: values @ table."""
        # torch makes tables for a gradient that is not asked for here, where a weight has one
        table, values = table.detach(), values.detach()
        if self.offsets is None:
            return embedding_bag(self.indices, table, mode="sum", per_sample_weights=values)
        last = {"per_sample_weights": values, "include_last_offset": True}
        return embedding_bag(self.indices, table, self.offsets, mode="sum", **last)

    def to_latents(
        self, values: Float[Tensor, "..."], table: Float[Tensor, "token d"]
    ) -> Float[Tensor, "d_sae d"]:
        """For each latent, the sum of its tokens' rows of the table, weighted: values.T @ table."""
        order, tokens, offsets = self._transposed
        weights = values.reshape(-1)[order]
        return embedding_bag(
            tokens, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )

    def between(
        self, tokens: Float[Tensor, "token d"], latents: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "..."]:
        """For each token and each of its latents, the inner product of their rows: (tokens @
        latents.T) where used.

        Taken latent by latent: the rows that are jumped about in are those of the tokens, a table
        small enough for a cache (half the time of going token by token).
        """
        order, members, offsets = self._transposed
        zeros = tokens.new_zeros(len(order))
        sampled = torch.sparse_csr_tensor(
            offsets, members, zeros, (self.d_sae, self.n), check_invariants=False
        )
        products = torch.sparse.sampled_addmm(sampled, latents, tokens.T, beta=0).values()
        return torch.empty_like(products).scatter_(0, order, products).view(self.indices.shape)


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


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        centred: Tensor,
        pattern: Pattern,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
    ) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(centred, W_enc)
        return values.view_as(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_encoder = ctx.pattern.to_latents(gradient, centred)
        to_bias = ctx.pattern.to_latents(gradient, gradient.new_ones(len(centred), 1)).squeeze(1)
        return None, None, None, to_encoder, to_bias, -(to_bias @ W_enc)


def decode(
    values: Float[Tensor, "..."], pattern: Pattern, W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "token d_in"]:
    """values @ W_dec over the latents in use; differentiable in values and W_dec."""
    return _Decode.apply(values, W_dec, pattern)


def choose(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
    choice: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, "token d_in"], Int64[Tensor, "token k"], Float[Tensor, "token k"]]:
    """x - b_dec, the latents that `choice` takes of each token, and their pre-activations; no
    gradient: see `attach`.

    The one dense product, made for some tokens at a time: `choice` (pre-activations -> indices,
    token by token, on the CPU by several threads at once) finds it in the cache, and
    pre-activations of a whole batch are never in memory.
    """

    def use(pre: Tensor) -> tuple[Tensor, Tensor]:
        indices = choice(pre)
        return indices, pre.gather(1, indices)

    with torch.no_grad():
        centred = x - b_dec
        if x.is_cpu:
            parts = product.by_rows(centred, W_enc, b_enc, use)
        else:
            blocks = centred.split(max(1, ENTRIES_AT_ONCE_ELSEWHERE // len(W_enc)))
            parts = [use(product.affine(rows, W_enc, b_enc)) for rows in blocks]
        indices, values = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return centred, indices, values


def attach(
    values: Float[Tensor, "..."],
    centred: Float[Tensor, "token d_in"],
    pattern: Pattern,
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
) -> Float[Tensor, "..."]:
    """Pre-activations that are known already, now differentiable in W_enc, b_enc and b_dec (not in
    the data)."""
    return _Attach.apply(values, centred, pattern, W_enc, b_enc, b_dec)


def preactivations(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_sae"]]:
    """x - b_dec, and (x - b_dec) @ W_enc.T + b_enc of the whole batch; no gradient: `select`
    carries it."""
    with torch.no_grad():
        centred = x - b_dec
        return centred, product.affine(centred, W_enc, b_enc)


def select(
    centred: Float[Tensor, "token d_in"],
    pre: Float[Tensor, "token d_sae"],
    pattern: Pattern,
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
) -> Float[Tensor, "..."]:
    """The pre-activations of the latents in use, differentiable in W_enc, b_enc and b_dec (not in
    the data)."""
    values = (
        pre.gather(1, pattern.indices)
        if pattern.offsets is None
        else pre[pattern.tokens, pattern.indices]
    )
    return attach(values, centred, pattern, W_enc, b_enc, b_dec)


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


def topk_rebuilt(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    W_dec: Float[Tensor, "d_sae d_in"],
    b_dec: Float[Tensor, " d_in"],
    k: int,
) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, " d_sae"]]:
    """What `topk_codes` without a bias stand for, and on how many tokens each latent is active. No
    wait for the device."""
    _, pre = preactivations(x, W_enc, W_enc.new_zeros(len(W_enc)), b_dec)
    used = Pattern(largest(pre, k), len(W_dec))
    values = pre.gather(1, used.indices).relu()
    return used.to_tokens(values, W_dec) + b_dec, fired(used.indices, values, len(W_dec))


def fired(
    latents: Int[Tensor, "..."], values: Float[Tensor, "..."], d_sae: int
) -> Float[Tensor, " d_sae"]:
    """On how many tokens each latent is active, from the latents chosen and their values; no
    gradient."""
    active = (values.detach() > 0).to(values.dtype).reshape(-1)
    return active.new_zeros(d_sae).index_add_(0, latents.reshape(-1), active)


def auxiliary(
    error: Float[Tensor, "token d_in"],
    centred: Float[Tensor, "token d_in"],
    pre: Float[Tensor, "token d_sae"],
    dead: Bool[Tensor, " d_sae"],
    encoder: tuple[Tensor, Tensor, Tensor],
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, ""]:
    """The AuxK term of pre-activations that are all there: dead latents foretell the error, encoder
    and decoder learn."""
    k_aux = most_revived(*W_dec.shape)
    spare = Pattern(largest_of(pre, dead, k_aux), len(W_dec))
    values = select(centred, pre, spare, *encoder).relu() * dead[spare.indices]
    return auxk(error, decode(values, spare, W_dec), dead.sum(), k_aux)


def most_revived(d_sae: int, d_in: int) -> int:
    """Dead latents that take part in AuxK for one token: half the width of the activations."""
    return min(max(1, d_in // 2), d_sae)


def counted(codes: Codes) -> Float[Tensor, " d_sae"]:
    """Rows on which each latent is active."""
    return torch.bincount(codes.indices.long(), minlength=codes.d_sae).to(codes.values.dtype)
