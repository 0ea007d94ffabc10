"""A minimal crosscoder: reads several hook points at once and reconstructs all of them from one
code.

The terms are those of Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model
Diffing", with TopK in place of the penalty.
"""

from typing import Literal, final

import torch
from pydantic import PositiveInt

from components.config import Config
from components.dictionary.contract import Dictionary, Outcome, Recipe, architectures
from components.dictionary.initial import random_directions
from components.dictionary.losses import fvu
from components.store.shards import Codes


class CrosscoderConfig(Config, title="crosscoder"):
    """One code for several hook points."""

    kind: Literal["crosscoder"] = "crosscoder"
    """One code reads and reconstructs several hook points."""
    d_sae: PositiveInt = 128
    """Number of latents."""
    k: PositiveInt = 8
    """Latents that a token may use."""
    hook_points: tuple[str, ...] = ("resid_post.1", "resid_post.2")
    """What is read and reconstructed."""


@architectures
@final
class Crosscoder(Dictionary):
    """An encoder and a decoder for each hook point; the codes are the TopK of the encoders' sum."""

    config = CrosscoderConfig
    wiring = staticmethod(lambda options, hook_point: (options.hook_points, options.hook_points))
    recipe = property(lambda self: Recipe(lr=1e-3))

    def __init__(self, options, reads, reconstructs, widths):
        super().__init__(options, reads, reconstructs, widths)
        shapes = [(self.d_sae, widths[name]) for name in reads]
        self.encoders = torch.nn.ParameterList([torch.zeros(shape) for shape in shapes])
        self.decoders = torch.nn.ParameterList([torch.zeros(shape) for shape in shapes])
        self.biases = torch.nn.ParameterList([torch.zeros(width) for _, width in shapes])

    @classmethod
    def control(cls, trained):
        """Its own first values."""
        k = max(1, round(trained["l0"]))
        return CrosscoderConfig(d_sae=trained["d_sae"], k=k, hook_points=tuple(trained["reads"]))

    def start(self, sample, generator):
        for name, W_enc, W_dec, bias in zip(
            self.reads, self.encoders, self.decoders, self.biases, strict=True
        ):
            bias.copy_(sample[name].mean(0))
            W_dec.copy_(random_directions(*W_dec.shape, generator))
            W_enc.copy_(W_dec / len(self.reads))

    def _dense(self, batch):
        parts = zip(self.reads, self.encoders, self.biases, strict=True)
        values, indices = sum((batch[name] - bias) @ W.T for name, W, bias in parts).topk(
            self.options.k, dim=1
        )
        return values.new_zeros(len(values), self.d_sae).scatter(1, indices, values.relu())

    def _rows(self, z):
        parts = zip(self.reconstructs, self.decoders, self.biases, strict=True)
        return {name: z @ W + bias for name, W, bias in parts}

    def outcome(self, batch, moment):
        z = self._dense(batch)
        rebuilt = self._rows(z)
        terms = torch.stack([fvu(batch[name], rows) for name, rows in rebuilt.items()])
        return Outcome({"reconstruction": terms.mean()}, rebuilt, (z > 0).sum(0).to(z.dtype))

    def codes(self, batch):
        return Codes.from_dense(self._dense(batch))

    def rebuild(self, codes):
        return self._rows(codes.dense().to(self.like.dtype))

    def directions(self, name):
        return self.decoders[self.reconstructs.index(name)]
