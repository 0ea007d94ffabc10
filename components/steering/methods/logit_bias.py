"""Raises the logits of a concept's words by a constant: keyword stuffing without touching an
activation.

The baseline that every edit must beat: it brings the words, and knows nothing of the text. Words
are single tokens that are commoner among the concept's tokens than among all others of the select
split (for document concepts, among tokens of documents that have it), by the log-odds ratio over
its standard error. The strength is what is added, in nats.

Source: the log-odds ratio as in Monroe, Colaresi and Quinn (2008),
https://doi.org/10.1093/pan/mpn018, with half a count in every cell in the place of their prior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor

from components.config import Config
from components.model.intervention import Intervention
from components.steering.contract import Candidate, Evidence, Steering, SteeringMethod, methods


@dataclasses.dataclass(frozen=True, eq=False)
class RaiseTokens(Steering):
    """Adds the strength, in nats, to the logits of some tokens.

    Attributes:
        tokens: their ids.
    """

    scale = "nats"
    tokens: Int[Tensor, " word"]

    @classmethod
    def intervention(
        cls, rows: Sequence[RaiseTokens], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """One addition with words and strength of each row."""
        built: dict[tuple[int, torch.device], Tensor] = {}

        def function(logits: Tensor, tokens: Tensor) -> Tensor:
            place = logits.shape[-1], logits.device
            if place not in built:  # moved to the device once, not at every step
                bias = torch.zeros(len(rows), 1, logits.shape[-1])
                for row, steering, strength in zip(bias, rows, strengths.tolist(), strict=True):
                    row[0, steering.tokens] = strength
                built[place] = bias.to(logits)
            return logits + built[place]

        return Intervention(logits=function)

    def tensors(self) -> Mapping[str, Tensor]:
        """The token ids."""
        return {"": self.tokens}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> RaiseTokens:
        """From the token ids."""
        return cls(tensors[""])


class LogitBiasConfig(Config):
    """Settings of logit_bias."""

    n_words: PositiveInt = 10
    """Words of each concept, at most."""


@methods
class LogitBias(SteeringMethod):
    """Raises the logits of words that go with the concept."""

    config = LogitBiasConfig
    steering = RaiseTokens

    @classmethod
    def at_most(cls, config: LogitBiasConfig) -> int:
        """One list of words a concept."""
        return 1

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The words of each concept."""
        for column, concept in enumerate(evidence.concepts):
            if reason := evidence.one_sided(column):
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            inside = evidence.labels[:, column].toarray().ravel().astype(bool)
            z = log_odds(evidence.token, inside)
            words = np.argsort(-z, kind="stable")[: self.settings.n_words]
            words = words[z[words] > 0]
            reason = None if len(words) else "no token is commoner where the concept is"
            steering = RaiseTokens(torch.from_numpy(words)) if len(words) else None
            yield Candidate(concept.name, 0, steering, reason=reason)


def log_odds(
    token: Int[np.ndarray, " row"], inside: Bool[np.ndarray, " row"]
) -> Float[np.ndarray, " vocab"]:
    """Log-odds ratio over its standard error of each token id, rows inside against all others; 0
    for ids without a row."""
    n = int(token.max()) + 1
    counts = [np.bincount(token[rows], minlength=n) for rows in (inside, ~inside)]
    cells = np.stack([part for count in counts for part in (count, count.sum() - count)]) + 0.5
    z = (np.log(cells) * np.array([[1], [-1], [-1], [1]])).sum(0) / np.sqrt((1 / cells).sum(0))
    return np.where(counts[0] + counts[1] > 0, z, 0.0)
