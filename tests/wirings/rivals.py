"""Two dictionaries that learn together, of which the one with the smaller loss is kept."""

from typing import Literal, final

import torch
from pydantic import PositiveInt

from components.config import Config
from components.dictionary.contract import Dictionary, Outcome, Recipe, architectures
from components.dictionary.initial import start_tied
from components.dictionary.kernels.sparse import topk_codes
from components.dictionary.losses import fvu

NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


class RivalsConfig(Config, title="rivals"):
    """Several that learn, one that is kept."""

    kind: Literal["rivals"] = "rivals"
    """Several dictionaries learn together from other first values, and the best one is kept."""
    d_sae: PositiveInt = 64
    """Number of latents."""
    k: PositiveInt = 4
    """Latents that a token may use."""
    n: PositiveInt = 2
    """Dictionaries that learn."""


class Tensors(torch.nn.Module):
    """The weights of one of them."""

    def __init__(self, d_sae, d_in):
        super().__init__()
        self.W_enc, self.W_dec = (torch.nn.Parameter(torch.zeros(d_sae, d_in)) for _ in range(2))
        self.b_enc, self.b_dec = (
            torch.nn.Parameter(torch.zeros(d_sae)),
            torch.nn.Parameter(torch.zeros(d_in)),
        )


@architectures
@final
class Rivals(Dictionary):
    """The others are modules from `start` to `finish`; what they lost lately is kept in a buffer of
    the checkpoint."""

    config = RivalsConfig
    recipe = property(lambda self: Recipe(lr=1e-2))

    def __init__(self, options, reads, reconstructs, widths):
        super().__init__(options, reads, reconstructs, widths)
        for name, tensor in Tensors(self.d_sae, self.d_in).named_parameters():
            self.register_parameter(name, tensor)
        self.others = torch.nn.ModuleList()

    @classmethod
    def rivals(cls, options):
        return options.n

    def start(self, sample, generator):
        x = sample[self.hook_point]
        self.others.extend(Tensors(self.d_sae, self.d_in).to(x) for _ in range(self.options.n - 1))
        self.register_buffer("lost", torch.zeros(self.options.n, device=x.device))
        for each in (self, *self.others):
            start_tied(each, x, generator)

    def outcome(self, batch, moment):
        x = batch[self.hook_point]
        parts = [self._part(each, x) for each in (self, *self.others)]
        losses = torch.stack([fvu(x, rebuilt) for rebuilt, _ in parts])
        if self.others:
            self.lost.lerp_(losses.detach(), 0.1)
        rebuilt, z = parts[0]
        return Outcome(
            {"reconstruction": losses.sum()}, {self.hook_point: rebuilt}, (z > 0).sum(0).to(x.dtype)
        )

    def _part(self, weights, x):
        u = (x - weights.b_dec) @ weights.W_enc.T + weights.b_enc
        values, indices = u.topk(self.options.k, dim=1)
        z = torch.zeros_like(u).scatter(1, indices, values.relu())
        return z @ weights.W_dec + weights.b_dec, z

    @torch.no_grad()
    def finish(self):
        best = (self, *self.others)[int(self.lost.argmin())]
        for name in NAMES:
            getattr(self, name).copy_(getattr(best, name))
        self.others = torch.nn.ModuleList()
        del self.lost

    def codes(self, batch):
        return topk_codes(
            batch[self.hook_point], self.W_enc, self.b_enc, self.b_dec, self.options.k
        )
