"""The encoder's product for architectures whose codes are dense in training: one matrix product
back instead of two.

Autograd would make a whole (tokens, d_sae) x (d_sae, d_in) product only to learn how b_dec moves
the centred input. Reduced over tokens first it is a product of a vector: d b_dec = -(sum over
tokens of du) W_enc.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.dictionary.kernels.product import affine


class _CentredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
        centred = x - b_dec
        ctx.save_for_backward(centred, W_enc)
        return affine(centred, W_enc, b_enc)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc = ctx.saved_tensors
        to_bias = gradient.sum(0)
        return None, gradient.T @ centred, to_bias, -(to_bias @ W_enc)


def centred_linear(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"],
) -> Float[Tensor, "token d_sae"]:
    """(x - b_dec) @ W_enc.T + b_enc, differentiable in the parameters (not in the data)."""
    return _CentredLinear.apply(x, W_enc, b_enc, b_dec)
