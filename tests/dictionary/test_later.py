"""Room for what comes later: these need no other contract than the one that is there.

Each double is as small as the claim: a transcoder, a dictionary of two hook points that reads a
gradient, one on the error of another that is frozen, one learnt without gradients, a loss spliced
in from outside.
"""

from __future__ import annotations

from typing import ClassVar, final

import pytest
import torch
from torch import nn

from components.config import Config
from components.dictionary.architectures.topk import TopK, TopKConfig
from components.dictionary.contract import Dictionary, Outcome, Recipe
from components.dictionary.fit import evaluate
from components.dictionary.learner import Learner
from components.dictionary.settings import SpliceConfig, TrainConfig
from components.errors import DictionaryError
from components.store.shards import Codes

IN, OUT, GRADIENT = "resid_post.0", "mlp_out.1", "gradient:resid_post.0"
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(512, 6, generator=GENERATOR)
BATCH = {IN: X, OUT: 10 * X[:, :4] @ torch.randn(4, 3, generator=GENERATOR), GRADIENT: 1e-3 * X}


class ToyConfig(Config):
    """Options of every double here."""

    kind: str = "toy"
    """Not registered."""
    d_sae: int = 8
    """Latents."""


@final
class Linear(Dictionary):
    """Codes are linear in everything read, side by side; every reconstructed name has a decoder."""

    kind = "toy"
    config: ClassVar[type[Config]] = ToyConfig

    def __init__(self, options, reads, reconstructs, widths):
        super().__init__(options, reads, reconstructs, widths)
        self.encoders = nn.ParameterList(
            torch.randn(8, widths[name], generator=GENERATOR) / 3 for name in reads
        )
        self.decoders = nn.ParameterList(
            torch.randn(8, widths[name], generator=GENERATOR) / 3 for name in reconstructs
        )

    name = property(lambda self: "toy")
    recipe = property(lambda self: Recipe(lr=1e-2))

    def start(self, sample, generator):
        pass

    def _latents(self, batch):
        return sum(
            batch[name] @ W.T for name, W in zip(self.reads, self.encoders, strict=True)
        ).relu()

    def _out(self, z):
        return {name: z @ W for name, W in zip(self.reconstructs, self.decoders, strict=True)}

    def outcome(self, batch, moment):
        z = self._latents(batch)
        out = self._out(z)
        losses = {
            f"reconstruction.{name}": (batch[name] - rows).square().mean()
            for name, rows in out.items()
        }
        return Outcome(losses, out, (z > 0).sum(0).float())

    def codes(self, batch):
        return Codes.from_dense(self._latents(batch))

    def rebuild(self, codes):
        return self._out(codes.dense())

    def directions(self, name):
        return self.decoders[self.reconstructs.index(name)]


@final
class PrincipalComponents(Dictionary):
    """Learnt without gradients: batches are summed up, `finish` factorises."""

    kind = "pca"
    config: ClassVar[type[Config]] = ToyConfig
    name = property(lambda self: "pca")
    recipe = property(lambda self: Recipe(lr=1.0))

    def __init__(self, options, reads, reconstructs, widths):
        super().__init__(options, reads, reconstructs, widths)
        self.register_buffer("moments", torch.zeros(self.d_in, self.d_in))
        self.W = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)

    def start(self, sample, generator):
        pass

    def outcome(self, batch, moment):
        x = batch[self.hook_point]
        self.moments += x.T @ x
        return Outcome(
            {}, {self.hook_point: x @ self.W.T @ self.W}, torch.full((self.d_sae,), float(len(x)))
        )

    def finish(self):
        self.W.copy_(torch.linalg.eigh(self.moments).eigenvectors.T[-self.d_sae :])

    def codes(self, batch):
        return Codes.from_dense(batch[self.hook_point] @ self.W.T)

    def rebuild(self, codes):
        return {self.hook_point: codes.dense() @ self.W}

    def directions(self, name):
        return self.W


CONFIG = TrainConfig(tokens=40 * 512, batch_size=512, lr=2e-2, warm_up=0, decay=0)
WIDTHS = {name: rows.shape[1] for name, rows in BATCH.items()}


def trained(dictionary, batch=BATCH, splice=None, config=CONFIG):
    dictionary.begin(batch, torch.Generator().manual_seed(0))
    learner = Learner(dictionary, config, splice)
    for _ in range(learner.steps):
        learner.learn(batch)
    dictionary.finish()
    return learner


def test_a_transcoder_reads_one_hook_point_and_reconstructs_another_in_its_own_units():
    transcoder = Linear(ToyConfig(), (IN,), (OUT,), WIDTHS)
    trained(transcoder)
    assert transcoder.scales[IN] != transcoder.scales[OUT]
    codes = transcoder.encode(X)
    assert transcoder.decode(codes).shape == (512, 3)
    torch.testing.assert_close(
        transcoder.decode(codes), codes.dense() @ transcoder.decoder_directions()
    )
    assert evaluate(transcoder, [BATCH])["fvu"] < 0.3


def test_several_hook_points_and_a_gradient_are_read_together_and_gradients_take_the_inverse_scale():
    crosscoder = Linear(ToyConfig(), (IN, GRADIENT), (IN, OUT), WIDTHS)
    trained(crosscoder)
    assert crosscoder.scales[GRADIENT] == pytest.approx(1 / crosscoder.scales[IN])
    codes = crosscoder.encode(BATCH)
    for name in (IN, OUT):
        torch.testing.assert_close(
            crosscoder.decode(codes, name), codes.dense() @ crosscoder.decoder_directions(name)
        )


def test_a_gradient_without_its_hook_point_has_no_scale():
    with pytest.raises(
        DictionaryError,
        match=r"gradient:resid_post\.0 is scaled by the activations at resid_post\.0, got",
    ):
        trained(Linear(ToyConfig(), (GRADIENT,), (GRADIENT,), WIDTHS), {GRADIENT: BATCH[GRADIENT]})


def test_what_reconstructs_several_names_inherits_no_decoder():
    several = TopK(TopKConfig(d_sae=8, k=2), (IN,), (IN, OUT), WIDTHS)
    with pytest.raises(
        DictionaryError,
        match=r"reconstructs resid_post\.0, mlp_out\.1, .* no `directions` of its own",
    ):
        several.decoder_directions(OUT)
    with pytest.raises(DictionaryError, match=r"no `rebuild` of its own"):
        several.decode(Codes.from_dense(torch.ones(1, 8)), OUT)


def test_a_second_dictionary_learns_the_error_of_a_frozen_one():
    error = f"error:{IN}"
    names, widths = (error,), {error: 6}
    first = TopK(TopKConfig(d_sae=8, k=1), (IN,), (IN,), WIDTHS)
    trained(first)
    left = {error: X - first.decode(first.encode(X))}
    second = TopK(TopKConfig(d_sae=8, k=1), names, names, widths)
    trained(second, left)
    both = first.decode(first.encode(X)) + second.decode(second.encode(left))
    assert (X - both).square().sum() < 0.8 * left[error].square().sum()


def test_a_factorisation_needs_no_gradient():
    pca = PrincipalComponents(ToyConfig(d_sae=6), (IN,), (IN,), WIDTHS)
    learner = trained(pca)
    torch.testing.assert_close(pca.decode(pca.encode(X)), X, atol=1e-4, rtol=1e-4)
    assert "learning_rate" in learner.metrics()


def test_a_loss_spliced_in_from_outside_reaches_the_weights():
    seen = []

    def splice(batch, reconstruction):
        seen.append(reconstruction[IN].detach())
        return {
            "through_the_model": (batch[IN] - reconstruction[IN]).square().sum() * 0
            + reconstruction[IN].square().mean()
        }

    plain, spliced = (TopK(TopKConfig(d_sae=8, k=2), (IN,), (IN,), WIDTHS) for _ in range(2))
    trained(plain)
    learner = trained(
        spliced, splice=splice, config=CONFIG.model_copy(update={"splice": SpliceConfig(share=1)})
    )
    assert "loss.through_the_model" in learner.metrics()
    assert seen[0].shape == X.shape and seen[0].norm() > 0.3 * X.norm()  # activation units
    assert spliced.decode(spliced.encode(X)).norm() < 0.95 * plain.decode(plain.encode(X)).norm()
