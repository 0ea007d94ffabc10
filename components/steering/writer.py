"""Writes continuations, plain and steered, and measures them under the unsteered model.

Common random numbers: the seed of a continuation depends on its prompt and sample only, so every
method, and plain text, meets the same luck; at strength 0 a steered continuation is the plain one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.corpus.encoding import Encoder
from components.model.approach import Approach
from components.model.generation import generate
from components.model.intervention import NOTHING, Intervention, logits_under
from components.model.language_model import LanguageModel
from components.seeds import derive
from components.steering.contract import Continuation, Steering
from components.steering.conversation import Conversation, placed
from components.steering.journal import Journal

LOGITS_AT_ONCE = 2**26
"""Entries of one tensor of logits, at most (256 MiB)."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """An opening.

    Attributes:
        number: in the prompts table.
        tokens: token ids, the first one of a context included.
        n_special: special tokens that stood in the text as words, and were left out.
        text: the opening as it was given.
    """

    number: int
    tokens: tuple[int, ...]
    n_special: int = 0
    text: str = ""

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        number: int,
        text: str,
        conversation: Conversation | None = None,
    ) -> Prompt:
        """The text behind the model's first token, where it has one, or as the user's message."""
        encoded = Encoder.of(model).encode([text], offsets=False)[0]
        tokens = placed(model, encoded, text, conversation)
        return cls(number, tuple(tokens), encoded.n_special, text)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One continuation to be written.

    Attributes:
        prompt: what it goes on from.
        sample: number of the sample.
        steering: None for plain text.
        strength: of the steering, in its own units.
    """

    prompt: Prompt
    sample: int = 0
    steering: Steering | None = None
    strength: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Writer:
    """Writes continuations and measures them under the unsteered model, in batches of mixed
    steerings.

    Attributes:
        model: the model.
        max_new_tokens: longest continuation.
        temperature: of sampling.
        seed: of sampling.
        batch_size: rows at a time.
        known: what was written and is not to be written again (`keep`).
        journal: what an interrupted run wrote.
        conversation: what prompts are put into; None where they stand by themselves.
    """

    model: LanguageModel
    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int
    known: dict[Hashable, Continuation] = dataclasses.field(default_factory=dict)
    journal: Journal = dataclasses.field(default_factory=Journal)
    conversation: Conversation | None = None

    def keep(self, written: Sequence[tuple[Job, Continuation]]) -> None:
        """Keeps text: whoever asks for it again has it at once."""
        self.known.update({_same(job): text for job, text in written})

    def write(
        self, jobs: Sequence[Job], side_effects: bool = False
    ) -> Generator[int, None, list[Continuation]]:
        """The continuations in the order of the jobs; yields the number of jobs done in each batch.

        Args:
            jobs: what is to be written.
            side_effects: measure too how far the steering moves predictions on the text that it
                wrote.
        """
        first: dict[Hashable, int] = {}  # what serves several concepts writes its text once
        same = [first.setdefault(_same(job), i) for i, job in enumerate(jobs)]
        done = {
            i: self.known[key]
            for key, i in first.items()
            if key in self.known and (self.known[key].kl_reverse is not None or not side_effects)
        }
        left = [i for i in sorted(first.values()) if i not in done]
        for batch in _batches(jobs, left, self.batch_size):
            texts = self._remembered([jobs[i] for i in batch], side_effects)
            done.update(zip(batch, texts, strict=True))
            yield len(batch)
        return [done[i] for i in same]

    def losses(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
    ) -> Float[np.ndarray, " row"]:
        """Nats a token of what was written after each prompt, under the unsteered model; NaN for
        nothing."""
        return self._measured(prompts, written)[:, 0]

    def _measured(
        self,
        prompts: Sequence[Sequence[int]],
        written: Sequence[Sequence[int]],
        jobs: Sequence[Job] | None = None,
        drawn_from: Sequence[Float[Tensor, "row V"]] = (),
        approach: Approach | None = None,
    ) -> Float[np.ndarray, "row 3"]:
        """Means over what was written, nats a token: loss under the unsteered model, and where jobs
        are given what their steerings do to the predictions of these tokens, KL(plain || steered)
        and KL(steered || plain); NaN for nothing.

        Args:
            prompts: token ids.
            written: what came after each.
            jobs: with their steerings.
            drawn_from: logits that each token was drawn from, step by step; none: the text is read
                once more under its steering.
            approach: what came to the first edit while the text was written; None: the whole model
                reads it.
        """
        measured = np.full((len(prompts), 3), np.nan)
        rows = [i for i, new in enumerate(written) if len(new)]
        if not rows:
            return measured
        width = max(len(prompts[i]) + len(written[i]) for i in rows)
        at_once = max(
            1, LOGITS_AT_ONCE // (width * self.model.vocab_size) // (1 if jobs is None else 2)
        )
        for part in (rows[start : start + at_once] for start in range(0, len(rows), at_once)):
            texts = [[*prompts[i], *written[i]] for i in part]
            tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts])
            begins = torch.tensor([len(prompts[i]) for i in part])[:, None]
            lengths = torch.tensor([len(written[i]) for i in part])[:, None]
            step = torch.arange(int(lengths.max()))[None]
            # of each row the positions at which its tokens were predicted, in order
            at = (begins - 1 + step).clamp(max=width - 2)
            weight = (step < lengths).double() / lengths

            def predictions(logits: Tensor, at: Tensor = at) -> Tensor:
                return logits.take_along_dim(at[..., None].to(logits.device), 1).log_softmax(-1)

            def mean(values: Tensor, weight: Tensor = weight) -> np.ndarray:
                return (values.double().cpu() * weight).sum(dim=1).numpy()

            unsteered = approach.logits(part, tokens) if approach else self.model.logits(tokens)
            plain = predictions(unsteered)
            targets = tokens.take_along_dim(at + 1, 1)[..., None].to(plain.device)
            measured[part, 0] = mean(-plain.gather(-1, targets)[..., 0])
            if jobs is None:
                continue
            if drawn_from:
                steps = drawn_from[: step.shape[1]]
                steered = torch.stack([each[part] for each in steps], dim=1).log_softmax(dim=-1)
            else:
                intervention = _intervention([jobs[i] for i in part])
                steered = predictions(logits_under(self.model, tokens, intervention, begins[:, 0]))
            measured[part, 1] = mean(_divergence(plain, steered))
            measured[part, 2] = mean(_divergence(steered, plain))
        return measured

    def _remembered(self, jobs: Sequence[Job], side_effects: bool) -> list[Continuation]:
        """A batch, from the journal where it stands there."""

        def written() -> list[list[Any]]:
            return [list(vars(text).values()) for text in self._write(jobs, side_effects)]

        asked = [
            [job.prompt.tokens, job.prompt.number, job.sample, job.steering, job.strength]
            for job in jobs
        ]
        return [
            Continuation(*fields)
            for fields in self.journal.remember(["text", side_effects, asked], written)
        ]

    def _write(self, jobs: Sequence[Job], side_effects: bool) -> list[Continuation]:
        prompts = [job.prompt.tokens for job in jobs]
        intervention = _intervention(jobs)
        logits: list[Tensor] = []
        fits = len(jobs) * self.max_new_tokens * self.model.vocab_size <= LOGITS_AT_ONCE
        watched = side_effects and fits and not intervention.decoding
        approach = Approach(self.model, intervention, prompts)
        written = generate(
            self.model,
            prompts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seeds=[derive(self.seed, "generate", job.prompt.number, job.sample) for job in jobs],
            intervention=approach.kept() if approach.known else intervention,
            watch=logits.append if watched else None,
        )
        texts = self.model.tokenizer.batch_decode(written, skip_special_tokens=True)
        measured = self._measured(
            prompts,
            written,
            jobs if side_effects else None,
            logits,
            approach if approach.known else None,
        )
        results = zip(jobs, texts, written, measured.tolist(), strict=True)
        return [
            continuation(text, len(new), *each, prompt=job.prompt.text)
            for job, text, new, each in results
        ]


def _divergence(
    p: Float[Tensor, "row step V"], q: Float[Tensor, "row step V"]
) -> Float[Tensor, "row step"]:
    """KL(p || q) of log-probabilities."""
    return (p.exp() * (p - q)).sum(dim=-1)


def _same(job: Job) -> Hashable:
    """What two jobs share that write the same text."""
    return job.prompt, job.sample, id(job.steering), job.strength


def continuation(
    text: str,
    n_tokens: int,
    nll: float,
    kl: float = math.nan,
    kl_reverse: float = math.nan,
    prompt: str = "",
) -> Continuation:
    """What was written, or why that is nothing; NaN is what was not measured."""
    reason = None
    if not text.strip():
        reason = "the model ended at once" if n_tokens == 0 else "only white space"
    elif not math.isfinite(nll):
        reason = "its loss under the unsteered model is not finite"
    if reason:
        return Continuation(None, n_tokens, None, reason, prompt=prompt)
    costs = (value if math.isfinite(value) else None for value in (kl, kl_reverse))
    return Continuation(text, n_tokens, nll, None, *costs, prompt=prompt)


def intervention_of(
    steerings: Sequence[Steering | None], strengths: Sequence[float]
) -> Intervention:
    """That of a batch whose steerings can share one; nothing where all are None, as of plain
    text."""
    rows = [steering for steering in steerings if steering]
    return type(rows[0]).intervention(rows, torch.tensor(strengths)) if rows else NOTHING


def _intervention(jobs: Sequence[Job]) -> Intervention:
    return intervention_of([job.steering for job in jobs], [job.strength for job in jobs])


def _batches(jobs: Sequence[Job], numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """These numbers of jobs in batches whose steerings can share a pass, with prompts of nearly
    equal length."""
    groups: dict[tuple, list[int]] = {}
    for i in numbers:
        steering = jobs[i].steering
        groups.setdefault((type(steering), steering and steering.together), []).append(i)
    for group in groups.values():
        group.sort(key=lambda i: len(jobs[i].prompt.tokens))
        yield from (group[start : start + size] for start in range(0, len(group), size))
