"""Which latents a token uses: selections on pre-activations. They choose indices; values are
gathered afterwards."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

GROUP = 8
NARROW = 4096
"""Entries of a row up to which numpy's partition is the faster one."""
NUMBERED = 1 << 20
"""Entries that it numbers at a time (8 MiB)."""


def largest(pre: Float[Tensor, "token d_sae"], k: int) -> Int64[Tensor, "token k"]:
    """The k largest pre-activations of each token, in no order; signs are not looked at.

    On the CPU they are searched from coarse to fine. Exact up to ties; two fifths of `torch.topk`'s
    time at 1,024 latents and k 16, a third at 16,384 and k 32.
    """
    if pre.is_cpu:
        return coarse_to_fine(pre, k)
    return pre.topk(k, dim=1, sorted=False).indices


def coarse_to_fine(pre: Float[Tensor, "token d"], k: int) -> Int64[Tensor, "token k"]:
    """The k largest lie in the k groups with the largest maxima, so only those groups are searched,
    and the groups are found in the same way, as far as the rows are wide enough for it."""
    if not k or pre.shape[1] % GROUP or pre.shape[1] < 4 * GROUP * k:
        return _partitioned(pre, k)
    members = torch.arange(0, pre.shape[1], pre.shape[1] // GROUP, device=pre.device)
    groups = coarse_to_fine(maxima(pre), k)
    candidates = (groups[:, None, :] + members[None, :, None]).flatten(1)
    return candidates.gather(1, _partitioned(pre.gather(1, candidates), k))


def _partitioned(pre: Tensor, k: int) -> Tensor:
    """The k largest of each row. Of narrow rows by numpy's partition, in half of torch's time, some
    at a time: it numbers every entry."""
    d = pre.shape[1]
    vectorised = pre.is_cpu and pre.dtype in (torch.float32, torch.float64)
    if not vectorised or not 0 < k <= d <= NARROW or not len(pre):
        return pre.topk(k, dim=1, sorted=False).indices
    parts = pre.detach().split(max(1, NUMBERED // d))
    columns = [np.argpartition(part.numpy(), d - k, axis=1)[:, d - k :] for part in parts]
    return torch.from_numpy(columns[0] if len(columns) == 1 else np.concatenate(columns))


def maxima(pre: Float[Tensor, "token d"]) -> Float[Tensor, "token d_over_group"]:
    """The largest of each group; a group is every (d / GROUP)-th column, so that memory is read in
    order."""
    n_groups = pre.shape[1] // GROUP
    return pre.view(-1, GROUP, n_groups).amax(1)


def largest_of_batch(
    pre: Float[Tensor, "token d_sae"], n: int
) -> tuple[Int64[Tensor, " entry"], Int64[Tensor, " tokens_and_one"]]:
    """The n largest pre-activations of the whole batch that are above zero: their latents, and
    where each token begins.

    On the CPU no sort of all entries is made: n groups have maxima of at least the n-th largest
    maximum, so the n largest entries are at least that; the few entries above this bound are then
    searched. Exact up to ties. Elsewhere (where counting would wait for the device) always n come
    back, those at or below zero among them.
    """
    d_sae = pre.shape[1]
    if pre.is_cpu:
        entries = _above(pre, *_bound(pre, n))
        values = pre.view(-1)[entries]
        if len(entries) > n:
            entries = entries[values.topk(n, sorted=False).indices]
    else:
        entries = pre.flatten().topk(min(n, pre.numel()), sorted=False).indices
    entries = entries.sort().values
    ends = torch.arange(len(pre) + 1, device=pre.device) * d_sae
    return entries % d_sae, torch.searchsorted(entries, ends)


def _bound(pre: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Maxima of groups of entries, and a value that at least n entries reach (minus infinity where
    none is known)."""
    d_sae = pre.shape[1]
    if d_sae % GROUP**2 or n > pre.numel() // GROUP**2:
        return pre, pre.new_tensor(-torch.inf) if n >= pre.numel() else pre.flatten().topk(
            n
        ).values[-1]
    groups = maxima(pre)
    coarse = maxima(groups).view(-1)
    return groups, coarse.kthvalue(len(coarse) - n + 1).values


def _above(pre: Tensor, groups: Tensor, bound: Tensor) -> Tensor:
    """Flat numbers of the entries that reach the bound and are above zero."""
    token, group = ((groups >= bound) & (groups > 0)).nonzero(as_tuple=True)
    n_groups = groups.shape[1]
    entries = (token * pre.shape[1] + group)[:, None] + torch.arange(0, pre.shape[1], n_groups)
    values = pre.view(-1)[entries]
    return entries[(values >= bound) & (values > 0)]


def largest_of(
    pre: Float[Tensor, "token d_sae"], chosen: Bool[Tensor, " d_sae"], k: int
) -> Int64[Tensor, "token at_most_k"]:
    """The k largest pre-activations of each token among the chosen latents.

    On the CPU only the chosen columns are searched, and fewer than k come back when fewer are
    chosen. Elsewhere their number is not asked for (that would wait for the device): k come back,
    and those beyond are latents not chosen, which the caller masks with `chosen[indices]`.
    """
    if pre.device.type == "cpu":
        columns = chosen.nonzero().squeeze(1)
        return columns[largest(pre[:, columns], min(k, len(columns)))]
    return largest(pre.masked_fill(~chosen, -torch.inf), k)
