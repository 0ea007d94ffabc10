"""A minimal transcoder: reads what goes into an MLP and reconstructs what comes out of it."""

from typing import Literal, final

import torch
from pydantic import PositiveInt

from components.config import Config
from components.dictionary.contract import Dictionary, Outcome, Recipe, architectures
from components.dictionary.initial import geometric_median, random_directions
from components.dictionary.kernels.sparse import topk_codes
from components.dictionary.losses import fvu


class TranscoderConfig(Config, title="transcoder"):
    """What goes into a module -> what comes out of it."""

    kind: Literal["transcoder"] = "transcoder"
    """Codes of one hook point reconstruct another one."""
    d_sae: PositiveInt = 128
    """Number of latents."""
    k: PositiveInt = 8
    """Latents that a token may use."""
    writes: str = "mlp_out.2"
    """The hook point that is reconstructed."""


@architectures
@final
class Transcoder(Dictionary):
    """TopK codes of centred rows; the decoder starts at random directions in the other place's
    width."""

    config = TranscoderConfig
    wiring = staticmethod(lambda options, hook_point: ((hook_point,), (options.writes,)))
    recipe = property(lambda self: Recipe(lr=1e-3))

    def __init__(self, options, reads, reconstructs, widths):
        super().__init__(options, reads, reconstructs, widths)
        (d_out,) = (widths[name] for name in reconstructs)
        self.W_enc = torch.nn.Parameter(torch.zeros(self.d_sae, self.d_in))
        self.W_dec = torch.nn.Parameter(torch.zeros(self.d_sae, d_out))
        self.b_enc = torch.nn.Parameter(torch.zeros(self.d_sae))
        self.b_in = torch.nn.Parameter(torch.zeros(self.d_in), requires_grad=False)
        self.b_dec = torch.nn.Parameter(torch.zeros(d_out))

    @classmethod
    def control(cls, trained):
        """Its own first values."""
        k = max(1, round(trained["l0"]))
        return TranscoderConfig(d_sae=trained["d_sae"], k=k, writes=trained["reconstructs"][0])

    def start(self, sample, generator):
        self.b_in.copy_(geometric_median(sample[self.reads[0]]))
        self.b_dec.copy_(geometric_median(sample[self.reconstructs[0]]))
        self.W_enc.copy_(random_directions(*self.W_enc.shape, generator))
        self.W_dec.copy_(random_directions(*self.W_dec.shape, generator) / 10)

    def outcome(self, batch, moment):
        u = (batch[self.reads[0]] - self.b_in) @ self.W_enc.T + self.b_enc
        values, indices = u.topk(self.options.k, dim=1)
        z = torch.zeros_like(u).scatter(1, indices, values.relu())
        rebuilt = z @ self.W_dec + self.b_dec
        losses = {"reconstruction": fvu(batch[self.reconstructs[0]], rebuilt)}
        return Outcome(losses, {self.reconstructs[0]: rebuilt}, (z > 0).sum(0).to(u.dtype))

    def codes(self, batch):
        return topk_codes(batch[self.reads[0]], self.W_enc, self.b_enc, self.b_in, self.options.k)
