"""Puts a passage that has the concept, or an instruction, before the prompt, in a conversation at
the beginning of the user's message: steering by example or by words, without touching an
activation.

The baseline that every edit must beat where the model can be told in words what is wanted. Passages
are pieces of select documents that have the concept (around a labelled token; for document
concepts, openings). Instructions are the user's own sentences, with the target's words put in. The
validate prompts choose among all of them. It has no strength: it is applied as it is, and its cost
is measured.

When to use it: always, beside any other method.

Source: prompting as the baseline of steering in Wu et al., AxBench (2025), arXiv:2501.17148.
Deviation: by default examples instead of an instruction, since a base model follows no instruction;
an instruction is the same sentence for all targets and not written by a language model for each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from components.config import Config
from components.corpus.encoding import Encoder
from components.model.intervention import Intervention
from components.seeds import numpy_generator
from components.steering.contract import (
    Candidate,
    Concept,
    Evidence,
    Steering,
    SteeringMethod,
    methods,
)

TARGET = "{target}"
"""What an instruction has in the place of the target's words."""


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

    n_candidates: NonNegativeInt = 4
    """Passages for each concept, among which the validate prompts choose; 0 for instructions
    alone."""
    n_tokens: PositiveInt = Field(24, le=512)
    """Tokens of a passage, at most."""
    instructions: tuple[str, ...] = ()
    """Instructions that are tried beside the passages, such as "Write about {target}."; {target}
    stands for the target's words. For models that follow instructions."""

    @model_validator(mode="after")
    def _something_is_tried(self) -> PromptConfig:
        if not self.n_candidates and not self.instructions:
            raise ValueError(
                "n_candidates is 0 and instructions is empty, so prompt has nothing to try; give "
                "one of them"
            )
        if bare := [each for each in self.instructions if TARGET not in each]:
            raise ValueError(
                f"the instruction {bare[0]!r:.80} would be the same for every target; write "
                f"{TARGET} where the target's words belong"
            )
        return self


@methods
class Prompt(SteeringMethod):
    """A passage with the concept, or an instruction, before the prompt."""

    version = 2  # 2: neutral text leaves room for the passage
    config = PromptConfig
    steering = Prefix

    @classmethod
    def at_most(cls, config: PromptConfig) -> int:
        """Passages and instructions a concept."""
        return config.n_candidates + len(config.instructions)

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The passages of each concept, drawn by the seed, then its instructions; no two alike, and
        all of them fit the model beside a prompt and its continuation."""
        conversation = self.services.conversation
        behind = () if conversation is None else conversation.head(self.services.model)
        for column, concept in enumerate(evidence.concepts):
            passages, reason = self._passages(evidence, column)
            instructions, why_not = self._instructions(evidence, concept)
            prefixes = list(dict.fromkeys((*passages, *instructions)))
            if not prefixes:
                yield Candidate(concept.name, 0, None, reason=reason or why_not)
            for replicate, tokens in enumerate(prefixes):
                yield Candidate(concept.name, replicate, Prefix(torch.tensor(tokens), behind))

    def _passages(
        self, evidence: Evidence, column: int
    ) -> tuple[Sequence[tuple[int, ...]], str | None]:
        """Those of one concept, and where there is none, why."""
        if not self.settings.n_candidates:
            return (), None
        concept, room = evidence.concepts[column], self._room(evidence)
        rows = np.flatnonzero(evidence.labels[:, column].toarray().ravel())
        if not len(rows):
            return (), "no token of the select split has the concept"
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
        reason = (
            f"no passage fits: the model reads {self.services.model.context_length} tokens, and the "
            f"longest prompt with its continuation has {evidence.longest_text}; lower "
            "steer.method_settings.prompt.n_tokens or steer.max_new_tokens"
        )
        return list(passages), None if passages else reason

    def _instructions(
        self, evidence: Evidence, concept: Concept
    ) -> tuple[Sequence[tuple[int, ...]], str | None]:
        """Those for one concept that fit, and where there is none, why."""
        if not self.settings.instructions:
            return (), None
        model, room = self.services.model, self._room(evidence)
        said = [each.replace(TARGET, concept.words) for each in self.settings.instructions]
        # it leaves out marks that stand in a target's words: they would end the user's turn
        encoded = Encoder.of(model).encode(said, offsets=False)
        written = [tuple(each.ids) for each in encoded]
        # an unknown token would stand in the place of the very words that the model is told
        unknown = model.tokenizer.unk_token_id
        readable = [tokens for tokens in written if unknown is None or unknown not in tokens]
        fitting = [tokens for tokens in readable if 0 < len(tokens) <= room]
        reason = (
            "no instruction fits beside the longest prompt and its continuation of "
            f"{evidence.longest_text} tokens; shorten steer.method_settings.prompt.instructions"
            if readable
            else "the model's vocabulary lacks words of every instruction; write "
            "steer.method_settings.prompt.instructions in words that it knows, or leave them out"
        )
        return fitting, None if fitting else reason

    def _room(self, evidence: Evidence) -> float:
        """Tokens that fit the model beside the longest prompt and its continuation."""
        most = self.services.model.context_length
        return math.inf if most is None else most - evidence.longest_text

    def _passage(self, evidence: Evidence, row: int, unit: str) -> tuple[int, ...]:
        """The tokens around a labelled one, inside its document; of a document those from there
        on."""
        before = 0 if unit == "document" else self.settings.n_tokens // 2
        first, end = max(0, row - before), row - before + self.settings.n_tokens
        inside = evidence.document[first:end] == evidence.document[row]
        return tuple(evidence.token[first:end][inside].tolist())
