"""Puts a passage that has the concept before the prompt, in a conversation at the beginning of the
user's message: steering by example, without touching an activation.

The baseline that every edit must beat where the model can be told in words what is wanted. Passages
are pieces of select documents that have the concept (around a labelled token; for document
concepts, openings); the validate prompts choose among a few. It has no strength: it is applied as
it is, and its cost is measured.

When to use it: always, beside any other method.

Source: prompting as the baseline of steering in Wu et al., AxBench (2025), arXiv:2501.17148.
Deviation: examples instead of an instruction written by a language model, since a base model
follows no instruction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from components.config import Config
from components.model.intervention import Intervention
from components.seeds import numpy_generator
from components.steering.contract import Candidate, Evidence, Steering, SteeringMethod, methods


@dataclasses.dataclass(frozen=True, eq=False)
class Prefix(Steering):
    """Tokens before each row's own, behind the model's first token, or behind what stands before
    the user's message of a conversation.

    Attributes:
        tokens: their ids.
        behind: ids of what stands before the user's message, in rows that begin with it; empty
            where prompts stand by themselves.
    """

    graded = False
    tokens: Int[Tensor, " token"]
    behind: tuple[int, ...] = ()

    @property
    def together(self) -> Hashable:
        """A batch has one place for its prefixes."""
        return self.behind

    @classmethod
    def intervention(cls, rows: Sequence[Prefix], strengths: Float[Tensor, " row"]) -> Intervention:
        """The prefix of each row; strengths have no meaning."""
        prefix = tuple(tuple(row.tokens.tolist()) for row in rows)
        return Intervention(prefix=prefix, behind=rows[0].behind)

    def tensors(self) -> Mapping[str, Tensor]:
        """The token ids, and in a conversation those that they stand behind."""
        behind = {"behind": torch.tensor(self.behind)} if self.behind else {}
        return {"": self.tokens, **behind}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> Prefix:
        """From the token ids."""
        return cls(tensors[""], tuple(tensors["behind"].tolist()) if "behind" in tensors else ())


class PromptConfig(Config):
    """Settings of prompt."""

    n_candidates: PositiveInt = 4
    """Passages for each concept, among which the validate prompts choose."""
    n_tokens: PositiveInt = Field(24, le=512)
    """Tokens of a passage, at most."""


@methods
class Prompt(SteeringMethod):
    """A passage with the concept before the prompt."""

    version = 2  # 2: neutral text leaves room for the passage
    config = PromptConfig
    steering = Prefix

    @classmethod
    def at_most(cls, config: PromptConfig) -> int:
        """Passages a concept."""
        return config.n_candidates

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The passages of each concept, drawn by the seed; no two alike, and all of them fit the
        model beside a prompt and its continuation."""
        most = self.services.model.context_length
        room = self.settings.n_tokens if most is None else most - evidence.longest_text
        conversation = self.services.conversation
        behind = () if conversation is None else conversation.head(self.services.model)
        for column, concept in enumerate(evidence.concepts):
            rows = np.flatnonzero(evidence.labels[:, column].toarray().ravel())
            if not len(rows):
                reason = "no token of the select split has the concept"
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            if concept.unit == "document":
                _, first = np.unique(evidence.document[rows], return_index=True)
                rows = rows[first]
            generator = numpy_generator(self.services.seed, "prompt", concept.name)
            passages: dict[tuple[int, ...], None] = {}
            for row in generator.permutation(rows).tolist():
                if len(passages) == self.settings.n_candidates:
                    break
                passage = self._passage(evidence, row, concept.unit)
                if len(passage) <= room:
                    passages.setdefault(passage)
            if not passages:
                reason = (
                    f"no passage fits: the model reads {most} tokens, and the longest prompt with "
                    f"its continuation has {evidence.longest_text}; lower "
                    "steer.method_settings.prompt.n_tokens or steer.max_new_tokens"
                )
                yield Candidate(concept.name, 0, None, reason=reason)
            for replicate, tokens in enumerate(passages):
                yield Candidate(concept.name, replicate, Prefix(torch.tensor(tokens), behind))

    def _passage(self, evidence: Evidence, row: int, unit: str) -> tuple[int, ...]:
        """The tokens around a labelled one, inside its document; of a document those from there
        on."""
        before = 0 if unit == "document" else self.settings.n_tokens // 2
        first, end = max(0, row - before), row - before + self.settings.n_tokens
        inside = evidence.document[first:end] == evidence.document[row]
        return tuple(evidence.token[first:end][inside].tolist())
