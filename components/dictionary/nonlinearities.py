"""Which latents a token uses: selections on pre-activations. They choose indices; values are gathered afterwards."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

GROUP = 8


def largest(pre: Float[Tensor, "token d_sae"], k: int) -> Int64[Tensor, "token k"]:
    """The k largest pre-activations of each token, in no order; signs are not looked at.

    Wide rows are searched in two steps: the k largest lie in the k groups with the largest maxima, so only those groups
    are searched. Exact up to ties; on a CPU core 0.7 of `torch.topk`'s time at 2,048 latents, half at 16,384.
    """
    d_sae = pre.shape[1]
    if not pre.is_cpu or d_sae % GROUP or d_sae < max(2048, 4 * GROUP * k):
        return pre.topk(k, dim=1, sorted=False).indices
    n_groups = d_sae // GROUP  # a group is every n_groups-th latent, so that maxima run along contiguous memory
    groups = pre.view(-1, GROUP, n_groups).amax(1).topk(k, dim=1, sorted=False).indices
    members = torch.arange(0, d_sae, n_groups)
    candidates = (groups[:, None, :] + members[None, :, None]).flatten(1)
    return candidates.gather(1, pre.gather(1, candidates).topk(k, dim=1, sorted=False).indices)


def largest_of(
    pre: Float[Tensor, "token d_sae"], chosen: Bool[Tensor, " d_sae"], k: int
) -> Int64[Tensor, "token at_most_k"]:
    """The k largest pre-activations of each token among the chosen latents.

    On the CPU only the chosen columns are searched, and fewer than k come back when fewer are chosen. Elsewhere their
    number is not asked for (that would wait for the device): k come back, and those beyond are latents not chosen, which
    the caller masks with `chosen[indices]`.
    """
    if pre.device.type == "cpu":
        columns = chosen.nonzero().squeeze(1)
        return columns[largest(pre[:, columns], min(k, len(columns)))]
    return largest(pre.masked_fill(~chosen, -torch.inf), k)
