"""Writes continuations, plain and steered, and measures them under the unsteered model.

Common random numbers: the seed of a continuation depends on its prompt and sample only, so every
method, and plain text, meets the same luck; at strength 0 a steered continuation is the plain one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
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
TOKENS_AT_ONCE = 2**11
"""Tokens that a pass over written text reads on a CPU, at most: what a block hands on then stays in
the cache. A row comes out the same whatever rows share its pass, but for rounding."""
Tokens: TypeAlias = tuple[int, ...]


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

    def losses_of_many(
        self, prompts: Sequence[Tokens], written: Sequence[Tokens]
    ) -> Float[np.ndarray, " row"]:
        """The same, `batch_size` rows at a time in their order; a row that comes again is read
        once."""
        losses = np.full(len(written), np.nan)
        # within a frame, since the length of a sum can change its last bit
        alike: dict[tuple[int, int], dict[tuple[Tokens, Tokens], list[int]]] = {}
        for start in range(0, len(written), self.batch_size):
            batch = slice(start, start + self.batch_size)
            for rows, frame in self._parts(prompts[batch], written[batch]):
                of_frame = alike.setdefault(frame, {})
                for i in (start + row for row in rows):
                    of_frame.setdefault((prompts[i], written[i]), []).append(i)
        for frame, of_frame in alike.items():
            size = min(self.batch_size, self._at_once(frame[0]))
            texts = list(of_frame)
            for part in (texts[start : start + size] for start in range(0, len(texts), size)):
                found = self._part([p for p, _ in part], [w for _, w in part], frame)[:, 0]
                for text, loss in zip(part, found.tolist(), strict=True):
                    losses[of_frame[text]] = loss
        return losses

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
        for rows, frame in self._parts(prompts, written, 1 if jobs is None else 2):

            def read(part: slice, tokens: Tensor, rows: Sequence[int] = rows) -> Tensor:
                return approach.logits(rows[part], tokens) if approach else self._read(part, tokens)

            drawn = drawn_from[: frame[1]]
            if len(rows) < len(prompts):
                drawn = [each[rows] for each in drawn]
            measured[rows] = self._part(
                [prompts[i] for i in rows],
                [written[i] for i in rows],
                frame,
                None if jobs is None else [jobs[i] for i in rows],
                drawn,
                read,
            )
        return measured

    def _parts(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], n_logits: int = 1
    ) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Rows with text that are measured together, and their frame: tokens of a row with its
        padding, and how many are written at most."""
        rows = [i for i, new in enumerate(written) if len(new)]
        width = max((len(prompts[i]) + len(written[i]) for i in rows), default=1)
        size = self._at_once(width, n_logits)
        for part in (rows[start : start + size] for start in range(0, len(rows), size)):
            yield part, (width, max(len(written[i]) for i in part))

    def _at_once(self, width: int, n_logits: int = 1) -> int:
        return max(1, LOGITS_AT_ONCE // (width * self.model.vocab_size) // n_logits)

    def _part(
        self,
        prompts: Sequence[Sequence[int]],
        written: Sequence[Sequence[int]],
        frame: tuple[int, int],
        jobs: Sequence[Job] | None = None,
        drawn_from: Sequence[Float[Tensor, "row V"]] = (),
        read: Callable[[slice, Tensor], Tensor] | None = None,
    ) -> Float[np.ndarray, "row 3"]:
        """`_measured` of rows that fit together, none of them empty.

        Args:
            prompts: token ids.
            written: what came after each.
            frame: tokens of a row with its padding, and steps of a mean.
            jobs: with their steerings.
            drawn_from: logits that each token was drawn from.
            read: (which of the rows, their tokens) -> plain logits; None: the model's.
        """
        width, n_steps = frame
        texts = [[*prompt, *new] for prompt, new in zip(prompts, written, strict=True)]
        tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts])
        begins = torch.tensor([len(prompt) for prompt in prompts])[:, None]
        lengths = torch.tensor([len(new) for new in written])[:, None]
        step = torch.arange(n_steps)[None]
        # of each row the positions at which its tokens were predicted, in order
        at = (begins - 1 + step).clamp(max=width - 2)
        weight = (step < lengths).double() / lengths

        under = None
        if jobs is not None and not drawn_from:
            under = logits_under(self.model, tokens, _intervention(jobs), begins[:, 0])
            under = _predictions(under, at)
        measured = np.full((len(texts), 3), np.nan)
        size = len(texts)
        if self.model.device.type == "cpu":
            size = -(-size // -(-tokens.numel() // TOKENS_AT_ONCE))
        for part in (slice(start, start + size) for start in range(0, len(texts), size)):
            share = weight[part]

            def mean(values: Tensor, share: Tensor = share) -> np.ndarray:
                return (values.double().cpu() * share).sum(dim=1).numpy()

            plain = _predictions((read or self._read)(part, tokens[part]), at[part])
            targets = tokens[part].take_along_dim(at[part] + 1, 1)[..., None].to(plain.device)
            measured[part, 0] = mean(-plain.gather(-1, targets)[..., 0])
            if jobs is None:
                continue
            if under is None:
                steps = [each[part] for each in drawn_from]
                steered = torch.stack(steps, dim=1).log_softmax(dim=-1)
            else:
                steered = under[part]
            measured[part, 1] = mean(_divergence(plain, steered))
            measured[part, 2] = mean(_divergence(steered, plain))
        return measured

    def _read(self, part: slice, tokens: Int64[Tensor, "row t"]) -> Float[Tensor, "row t V"]:
        return self.model.logits(tokens)

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
        # at strength 0 text is plain, and to the last bit is said of it what is said of plain text
        spared = approach.known and any(job.strength for job in jobs)
        written = generate(
            self.model,
            prompts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seeds=[derive(self.seed, "generate", job.prompt.number, job.sample) for job in jobs],
            intervention=approach.kept() if spared else intervention,
            watch=logits.append if watched else None,
        )
        texts = self.model.tokenizer.batch_decode(written, skip_special_tokens=True)
        measured = self._measured(
            prompts,
            written,
            jobs if side_effects else None,
            logits,
            approach if spared else None,
        )
        results = zip(jobs, texts, written, measured.tolist(), strict=True)
        return [
            continuation(text, len(new), *each, prompt=job.prompt.text)
            for job, text, new, each in results
        ]


def _predictions(
    logits: Float[Tensor, "row t V"], at: Int64[Tensor, "row step"]
) -> Float[Tensor, "row step V"]:
    """Log-probabilities at these positions of each row."""
    places = at + logits.shape[1] * torch.arange(len(at))[:, None]
    # whole vectors are copied: entry by entry it takes five times as long
    found = logits.flatten(0, 1).index_select(0, places.flatten().to(logits.device))
    return found.unflatten(0, places.shape).log_softmax(dim=-1)


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


def tokens_before(steerings: Sequence[Steering]) -> int:
    """Tokens that one of these steerings puts before a text, at most."""
    groups: dict[tuple[type[Steering], Hashable], list[Steering]] = {}
    for steering in steerings:
        groups.setdefault((type(steering), steering.together), []).append(steering)
    prefixes = [intervention_of(rows, [1.0] * len(rows)).prefix for rows in groups.values()]
    return max((len(prefix) for of_group in prefixes for prefix in of_group), default=0)


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
