"""A network with its weights drawn anew: what a model of this shape computes without having learnt.

Every matrix (a parameter of two or more dimensions, so embeddings too) gets Gaussian numbers of its
own mean and its own standard deviation. Biases and the gains of norms stay: they are vectors, and
without them the sizes of activations would change as well. Weights that two places share are drawn
once and stay shared. `all_but_embeddings` leaves every embedding and the head that gives logits, so
that tokens keep the vectors that training gave them.

Source: Heap et al. 2025 (arXiv:2501.17727), the re-randomised models, with and without embeddings.
Deviation: what is drawn depends on a seed and the parameter's name alone, so a model with one more
block has the same first blocks.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from components.errors import ModelError
from components.seeds import torch_generator

Randomise = Literal["none", "all", "all_but_embeddings"]
VERSION = 1
"""Of the draw; a part of the key of a model with drawn weights."""


@torch.no_grad()
def randomise(network: Any, which: Randomise, seed: int) -> None:
    """Draws the matrices of a network anew, in place.

    Args:
        network: of transformers, on the CPU.
        which: all matrices, or all but embeddings and head.
        seed: of the draw.

    Raises:
        ModelError: a matrix whose numbers are not floating point (a quantised model).
    """
    left = _embeddings(network) if which == "all_but_embeddings" else frozenset()
    for name, weight in network.named_parameters():
        if weight.ndim < 2 or id(weight) in left:
            continue
        if not weight.is_floating_point():
            raise ModelError(
                f"weights {name} are {weight.dtype}, and model.randomise wants floating-point "
                "ones; take the model before it was quantised"
            )
        numbers = weight.float()  # half precision cannot hold the mean of many numbers
        drawn = torch.randn(weight.shape, generator=torch_generator(seed, "randomise", name))
        weight.copy_(drawn.mul_(numbers.std(correction=0)).add_(numbers.mean()))


def _embeddings(network: Any) -> frozenset[int]:
    """The parameters of embeddings, of tokens and positions, and of the head, by identity."""
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    head = network.get_output_embeddings()
    return frozenset(embeddings | ({id(head.weight)} if head is not None else set()))
