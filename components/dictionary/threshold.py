"""What a batch shares in training becomes one threshold for every row: inference of the BatchTopK
family.

In training the k * n largest pre-activations of n tokens are kept, wherever they fall. A row alone
has no batch, so codes are the pre-activations above a running threshold: the mean, over recent
batches, of the smallest value that was kept.

Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders" (arXiv:2412.06410);
dictionary_learning `trainers/batch_top_k.py`, whose rule this is: decay 0.999 from update 1000 on,
the first value assigned. Deviations: runs here may be shorter than that, so the mean begins after a
tenth of the updates and forgets over a twentieth of them, at most 1000 each, and is then the rule
of the source; and it has a value from the start (of the sample), so that a dictionary that never
trained encodes about k latents too. The learning rate falls to zero at the end, so the last
batches, which the mean remembers, were cut by weights that hardly move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.dictionary.contract import Moment, Outcome
from components.dictionary.initial import start_tied
from components.dictionary.kernels.sparse import Pattern, auxiliary, fired, preactivations, select
from components.dictionary.nonlinearities import largest_of_batch
from components.store.shards import Codes

LONGEST = 1000
"""Updates that the mean waits and remembers at most."""
ROWS_AT_START = 4096


def smallest_kept(
    values: Float[Tensor, " entry"], otherwise: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """The smallest value above zero; `otherwise` where there is none. No wait for the device."""
    infinite = torch.full((1,), torch.inf, dtype=values.dtype, device=values.device)
    smallest = torch.cat([torch.where(values > 0, values, torch.inf), infinite]).amin()
    return torch.where(smallest.isfinite(), smallest, otherwise)


def kept(pre: Float[Tensor, "token d_sae"], k: int) -> Pattern:
    """The k * n largest pre-activations of n tokens, those above zero."""
    latents, offsets = largest_of_batch(pre, k * len(pre))
    return Pattern(latents, pre.shape[1], offsets)


@torch.no_grad()
def follow(threshold: Float[Tensor, ""], values: Float[Tensor, " entry"], moment: Moment) -> None:
    """Moves the running threshold (in place) towards the smallest value that this batch kept."""
    begin, memory = min(LONGEST, moment.steps // 10), min(LONGEST, max(1, moment.steps // 20))
    weight = 1.0 if moment.step <= begin else 1 / memory
    threshold.lerp_(smallest_kept(values, threshold), weight)


def batch_start(
    dictionary: Any, sample: Float[Tensor, "row d_in"], generator: torch.Generator
) -> None:
    """First values of a tied dictionary; its threshold keeps k latents a row of the sample."""
    start_tied(dictionary, sample, generator)
    _, pre = preactivations(sample[:ROWS_AT_START], *_encoder(dictionary))
    pattern = kept(pre, dictionary.options.k)
    smallest = smallest_kept(pre[pattern.tokens, pattern.indices], pre.new_zeros(()))
    dictionary.threshold.copy_(smallest)


def batch_outcome(
    dictionary: Any,
    x: Float[Tensor, "token d_in"],
    moment: Moment,
    rebuild: Callable[
        [Float[Tensor, " entry"], Pattern], tuple[dict[str, Tensor], Float[Tensor, "token d_in"]]
    ],
) -> Outcome:
    """What a batch gives whose tokens share k latents each; moves the threshold.

    Args:
        dictionary: has `W_enc`, `b_enc`, `W_dec`, `b_dec`, `threshold`; options `k`,
            `auxk_coefficient`.
        x: scaled rows.
        moment: where training stands.
        rebuild: values and places of the codes -> loss terms and the reconstruction.
    """
    encoder = _encoder(dictionary)
    centred, pre = preactivations(x, *encoder)
    used = kept(pre, dictionary.options.k)
    z = select(centred, pre, used, *encoder).relu()
    follow(dictionary.threshold, z, moment)
    losses, x_hat = rebuild(z, used)
    coefficient = dictionary.options.auxk_coefficient
    if moment.revives(coefficient):
        term = auxiliary(x - x_hat, centred, pre, moment.dead, encoder, dictionary.W_dec)
        losses["auxk"] = coefficient * term
    return Outcome(losses, {dictionary.hook_point: x_hat}, fired(used.indices, z, dictionary.d_sae))


def batch_codes(dictionary: Any, x: Float[Tensor, "row d_in"]) -> Codes:
    """Codes: pre-activations above the threshold, and above zero."""
    _, pre = preactivations(x, *_encoder(dictionary))
    return Codes.from_dense(torch.where(pre > dictionary.threshold, pre, 0).relu())


def _encoder(dictionary: Any) -> tuple[Tensor, Tensor, Tensor]:
    return dictionary.W_enc, dictionary.b_enc, dictionary.b_dec
