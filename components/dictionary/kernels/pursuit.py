"""Greedy selection, one latent at a time from what the others leave over, with a gradient that
needs no residuals kept.

    r_0 = x        f_t = argmax_f <r_t, d_f>        v_t = ReLU(<r_t, d_(f_t)>)        r_(t+1) = r_t - v_t d_(f_t)

The choice has no gradient; the value does, through the residual into every earlier step. Autograd
would keep a residual and a gathered row of shape (token, d_in) for each step. Here the backward
walks back from the last residual and undoes one step at a time, so memory is that of two residuals
however many steps there are. With G the gradient of r_(t+1):

    dv_t = (gradient of v_t) - <G, d>  where v_t > 0        to d: dv_t r_t - v_t G        to r_t: G + dv_t d

A token is done when its residual is shorter than `tolerance` or its choice was chosen before; its
later values are zero. The host is not asked whether all are done, except on the CPU, where asking
costs nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class _Pursuit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, steps: int, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        residual = x.clone()
        indices = torch.zeros(len(x), steps, dtype=torch.int64, device=x.device)
        values = x.new_zeros(len(x), steps)
        going = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for step in range(steps):
            chosen = (residual @ W.T).argmax(1)
            going = (
                going
                & (residual.norm(dim=1) >= tolerance)
                & (indices[:, :step] != chosen[:, None]).all(1)
            )
            if going.is_cpu and not going.any():
                break
            rows = W[chosen]
            value = (residual * rows).sum(1).relu() * going
            residual.addcmul_(value[:, None], rows, value=-1)
            indices[:, step], values[:, step] = chosen, value
        ctx.steps = steps
        ctx.save_for_backward(indices, values, residual, W)
        ctx.mark_non_differentiable(indices)
        return values, indices, residual

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, to_values: Tensor, _: Any, to_residual: Tensor
    ) -> tuple[Tensor | None, ...]:
        indices, values, residual, W = ctx.saved_tensors
        residual, to_residual, to_W = residual.clone(), to_residual.clone(), torch.zeros_like(W)
        for step in reversed(range(ctx.steps)):
            chosen, value = indices[:, step], values[:, step, None]
            rows = W[chosen]
            residual.addcmul_(value, rows)
            to_value = (to_values[:, step, None] - (to_residual * rows).sum(1, keepdim=True)) * (
                value > 0
            )
            to_W.index_add_(0, chosen, to_value * residual - value * to_residual)
            to_residual.addcmul_(to_value, rows)
        return to_residual, to_W, None, None


def pursue(
    x: Float[Tensor, "token d_in"], W: Float[Tensor, "d_sae d_in"], steps: int, tolerance: float
) -> tuple[Float[Tensor, "token steps"], Int64[Tensor, "token steps"], Float[Tensor, "token d_in"]]:
    """Values and latents in the order of their choice, and what is left over; differentiable in x
    and W.

    Values of zero stand for nothing, whatever the latent beside them. With rows of norm 1 each step
    removes what it can. One product (token, d_in) x (d_in, d_sae) a step.
    """
    return _Pursuit.apply(x, W, steps, tolerance)
