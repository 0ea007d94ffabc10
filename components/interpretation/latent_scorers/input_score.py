"""Does the latent read the tokens that it writes?

Of the windows in which it is most active, the share whose most active token is among the tokens
that its decoder direction writes (components/model/lens.py). A latent with a high input
score and a low output score is about what stands there, not about what comes.

The null are the token sets of the other sampled latents, against the same windows: a set of
common tokens meets common peaks without any tie between the two. Latents whose weights are shared
by encoder and decoder, as those of an untrained dictionary are, exceed it in a model with tied
embeddings: a direction then reads what it writes by construction, which its row shows.

Source: Arad, Mueller & Belinkov (2025), arXiv 2505.20063. Deviations: the set of tokens is a share
of the vocabulary, not 20; the null; 40 windows and not 100, because here windows come evenly from
every tenth of activation, and the strongest are meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, PositiveInt

from components.config import Config
from components.interpretation.contract import LatentRecord
from components.interpretation.latent_contract import LatentScorer, LatentValue, latent_scorers
from components.model.lens import set_size, token_sets
from components.report.measure import Measure

NAME = "input_score.share"


class InputScoreConfig(Config):
    """Whether the latent reads the tokens that its direction writes."""

    windows: PositiveInt = 40
    """The most active windows of all splits together, at most."""
    fewest: PositiveInt = 10
    """A latent with fewer has no score."""
    share: float = Field(default=0.001, gt=0, le=0.1)
    """Tokens that the direction writes, as a share of the vocabulary; at least one."""


@latent_scorers
class InputScore(LatentScorer):
    """Whether the latent reads the tokens that its direction writes."""

    config: ClassVar[type[Config]] = InputScoreConfig
    settings: InputScoreConfig
    null: ClassVar[str] = "the tokens that other latents write"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(
            NAME, "Input score", "share",
            "Windows whose most active token is one that the latent's direction writes.",
            rank=12, kinds=12, least=0, most=1, short="input score",
        ),
    )  # fmt: skip

    def obstacle(self) -> str | None:
        """No model, or a direction that is not written to its residual stream."""
        return self.services.obstacle("causal_loss")

    def score(self, records: Sequence[LatentRecord]) -> Iterator[Mapping[str, LatentValue]]:
        """The share for each record, beside the mean share of the other records' sets."""
        model, dictionary = self.services.language_model, self.services.dictionary
        assert dictionary is not None
        if not records:
            return
        latents = torch.tensor([record.latent for record in records])
        rows = dictionary.decoder_directions(dictionary.writes[0])
        directions = rows.float().cpu()[latents]
        size = set_size(model, self.settings.share)
        written = token_sets(model, directions, size).numpy()
        for number, record in enumerate(records):
            peaks = self._peaks(record)
            n = len(peaks)
            if n < self.settings.fewest or len(records) < 2:
                wanted = f"wanted {self.settings.fewest} (interpret.latent_scorer_settings"
                reason = f"{n} active windows, {wanted}.input_score.fewest)"
                if len(records) < 2:
                    reason = "no other latent whose tokens it could be compared with"
                yield {NAME: LatentValue(None, None, n, n, reason)}
                continue
            shares = np.array([np.isin(peaks, tokens).mean() for tokens in written])
            others = np.arange(len(records)) != number
            yield {NAME: LatentValue(float(shares[number]), float(shares[others].mean()), n)}

    def _peaks(self, record: LatentRecord) -> Int[np.ndarray, " window"]:
        """The most active token of each of the most active windows."""
        tokens, strongest = [], []
        for windows in (record.explain, record.calibrate, record.test):
            active = windows.part(windows.active)
            at = active.activations.argmax(axis=1)
            number = np.arange(len(at))
            tokens.append(active.texts.tokens[number, at])
            strongest.append(active.activations[number, at])
        order = np.argsort(-np.concatenate(strongest), kind="stable")[: self.settings.windows]
        return np.concatenate(tokens)[order]
