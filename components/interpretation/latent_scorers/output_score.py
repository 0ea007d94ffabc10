"""Does pushing the latent make the model say the tokens that its direction writes?

At the last token of each opening the decoder direction is added to the residual stream, at
`strength` times the largest activation that any latent has there (what the dictionary does not
explain stays). Of the tokens that the direction writes (components/model/lens.py) two
things are read off the next-token distribution, apart:

    rank   one over the best place that one of them has: 1 where the likeliest token is one of them
    mass   their probability together

The null are random directions of the same norm, pushed at the same places, each with the tokens
that it writes itself: near the end of a model any direction says its own tokens.

Source: Arad, Mueller & Belinkov (2025), SAEs are good for steering if you select the right
features, arXiv 2505.20063. Deviations: 16 openings or more and not one; the set of tokens is a
share of the vocabulary, not 20; rank and mass apart, because their product with the rank as a share
of the vocabulary is the mass alone; the null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from components.config import Config, execution
from components.interpretation.contract import LatentRecord
from components.interpretation.latent_contract import LatentScorer, LatentValue, latent_scorers
from components.interpretation.openings import openings
from components.model.lens import random_like, set_size, written_when_pushed
from components.report.measure import Measure
from components.seeds import torch_generator

FEWEST = 16
"""Openings, at least: with one the score is that of the opening."""


class OutputScoreConfig(Config):
    """Whether the model says what the latent's direction writes."""

    prompts: int = Field(default=FEWEST, ge=FEWEST)
    """Openings at whose end the direction is added."""
    prompt_tokens: int = Field(default=8, ge=1)
    """Tokens of an opening."""
    strength: float = Field(default=10.0, gt=0)
    """What is added, in units of the largest activation of any latent at that token."""
    share: float = Field(default=0.001, gt=0, le=0.1)
    """Tokens that the direction writes, as a share of the vocabulary; at least one."""
    random_directions: PositiveInt = 4
    """Random directions beside each latent."""
    batch: PositiveInt = execution(512)
    """Rows of a pass."""


@latent_scorers
class OutputScore(LatentScorer):
    """Whether the model says what the latent's direction writes."""

    config: ClassVar[type[Config]] = OutputScoreConfig
    settings: OutputScoreConfig
    null: ClassVar[str] = "random directions of equal norm"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(
            "output_score.rank", "Output score, rank", "reciprocal rank",
            "One over the best rank that a token of the direction has when the latent is pushed.",
            rank=13, kinds=13, least=0, most=1, short="output score rank",
        ),
        Measure(
            "output_score.mass", "Output score, mass", "probability",
            "Probability of the direction's tokens when the latent is pushed.",
            rank=14, kinds=14, least=0, most=1, short="output score mass",
        ),
    )  # fmt: skip

    def obstacle(self) -> str | None:
        """No model, no way to push it, or too few openings."""
        if reason := self.services.obstacle("causal_loss"):
            return reason
        dictionary = self.services.dictionary
        assert dictionary is not None
        unread = [name for name in dictionary.reads if name.startswith(("gradient:", "error:"))]
        if unread:
            return f"the dictionary reads {unread[0]}, which one pass of the model does not give"
        n = len(self._openings())
        if n < self.settings.prompts:
            return (
                f"{n} documents of the explain split begin with {self.settings.prompt_tokens} "
                f"tokens, wanted {self.settings.prompts} openings; read more text into that split"
            )
        return None

    def score(self, records: Sequence[LatentRecord]) -> Iterator[Mapping[str, LatentValue]]:
        """Needs no windows, so latents that were skipped are scored too."""
        model, dictionary = self.services.language_model, self.services.dictionary
        assert dictionary is not None
        tokens = self._openings()
        unit = self._largest(tokens) * self.settings.strength
        hook_point, size = dictionary.writes[0], set_size(model, self.settings.share)
        directions = dictionary.decoder_directions(hook_point).float()
        for record in records:
            own = directions[record.latent].cpu()
            generator = torch_generator(self.services.seed, "output_score", record.latent)
            random = random_like(own, self.settings.random_directions, generator)
            pushed = torch.cat([own[None], random])
            rank, mass = written_when_pushed(
                model, tokens, pushed, unit, hook_point, size, self.settings.batch
            ).mean(2)
            yield {
                name: LatentValue(float(each[0]), float(each[1:].mean()), len(tokens))
                for name, each in (("output_score.rank", rank), ("output_score.mass", mass))
            }

    def _openings(self) -> Int[Tensor, "opening token"]:
        services, settings = self.services, self.settings
        assert services.explain is not None
        return openings(
            services.language_model, services.explain, settings.prompts, settings.prompt_tokens
        )

    def _largest(self, tokens: Int[Tensor, "opening token"]) -> Float[Tensor, " opening"]:
        """The largest activation of any latent at the end of each opening; the mean of the others
        where none is active."""
        dictionary = self.services.dictionary
        assert dictionary is not None
        read = self.services.language_model.read(tokens, dictionary.reads)
        codes = dictionary.encode({name: x[:, -1].float() for name, x in read.items()}).to("cpu")
        largest = torch.zeros(len(tokens))
        largest.scatter_reduce_(0, codes.row_index(), codes.values.float(), "amax")
        some = largest[largest > 0]
        return torch.where(largest > 0, largest, some.mean() if len(some) else 1.0)
