"""What a network can do, found by trying it on a few tokens: names and version numbers of layouts
say too little.

A trial is a few short passes. In a network that can do what is asked two ways of calculating agree
up to rounding; in one that cannot they differ by some share of the numbers themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from components.errors import ModelError
from components.model import loading
from components.model.hub import first_line

LENGTH = 12
"""Tokens of a row in a trial."""
_HUGE = (
    1e30  # larger numbers are no outcome of a calculation: some networks forbid token ids by them
)


def tokens(network: Any, rows: int, length: int = LENGTH) -> Int64[Tensor, "rows length"]:
    """Token ids drawn once and for all; none that the configuration names (end, padding, an image's
    place)."""
    config = network.config.get_text_config(decoder=True)
    *_, vocab_size, context_length = loading.sizes(network.config)
    named = {
        value
        for where in (network.config, config)
        for name, value in vars(where).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    plain = [number for number in range(min(vocab_size, 1000)) if number not in named] or [0]
    length = min(length, context_length or length)
    drawn = torch.randint(len(plain), (rows, length), generator=torch.Generator().manual_seed(0))
    return torch.tensor(plain)[drawn].to(network.device)


def tokens_apart(network: Any) -> Int64[Tensor, "rows length"]:
    """Token ids whose rows and length are no size of anything in the network: the axes of a tensor
    can be told apart."""
    sizes = {n for parameter in network.parameters() for n in parameter.shape} | set(
        _numbers(network.config.to_dict())
    )
    rows, length = [n for n in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37) if n not in sizes][:2]
    return tokens(network, rows, length)


def _numbers(config: Mapping[Any, Any]) -> Iterator[int]:
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield value


def is_causal(network: Any) -> bool:
    """Whether later tokens leave what is computed for earlier ones as it is.

    One pass over two rows that differ in their second half: in a causal network their first half
    comes out the same.

    Raises:
        ModelError: the network needs more than token ids, or has an encoder beside its decoder.
    """
    name = type(network).__name__
    if network.config.is_encoder_decoder:
        raise ModelError(
            f"{name} has an encoder and a decoder, each with a text of its own; models of one "
            "stack of blocks are examined: causal language models and encoders"
        )
    row = tokens(network, 2)
    half = row.shape[1] // 2
    row[1, :half] = row[0, :half]
    row[1, half:] = row[0, half:].flip(0)
    try:
        first, second = outcome(network, row)
    except Exception as error:  # networks for images, sounds or pairs of texts fail in many ways
        raise ModelError(
            f"{name} does not run on token ids alone ({first_line(error)}); only models of text "
            "can be examined"
        ) from error
    # the same calculation twice: 0 apart in 170 causal layouts of two blocks, and 4e-6 in a new
    # ModernBERT in float32
    return agree(first[:half], second[:half], network.dtype, tolerance=0.2)


def outcome(network: Any, tokens: Tensor, **kwargs: Any) -> Tensor:
    """What a pass ends in: logits [b, t, V], or where there is no head the last activations [b, t,
    d]."""
    with torch.no_grad():
        output = network(input_ids=tokens, use_cache=False, **kwargs)
    return output.logits if "logits" in output else output[0]


def agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype, tolerance: float = 10) -> bool:
    """Whether two outcomes [..., n] of one calculation differ by no more than rounding.

    What all numbers of a row share is left out: a large common offset of logits would hide what
    tells them apart.

    Args:
        ours: one outcome.
        theirs: the other, as large.
        dtype: in which it was calculated.
        tolerance: relative distance, in units of the type's smallest step (of 1e-5 in float32: a
            pass gathers more than one step).
    """
    step = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    x, y = (torch.where(z.abs() < _HUGE, z.double(), 0) for z in (ours, theirs))
    x, y = (z - z.mean(dim=-1, keepdim=True) for z in (x, y))
    return bool((x - y).norm() <= tolerance * step * y.norm())
