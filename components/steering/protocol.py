"""How steering is measured, the same for every method: real passages, plain and steered continuations, strengths.

Common random numbers: the seed of a continuation depends on its prompt and sample only, so every method, and plain
text, meets the same luck; at strength 0 a steered continuation is the plain one. A strength is the coefficient (in
units of the mean activation norm) at which the edit, applied to every token, costs a given KL on neutral text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.corpus.encoding import Encoder
from components.model.divergence import kl_of_directions, kl_per_token, strengths_for_budgets
from components.model.generation import generate
from components.model.intervention import Edit
from components.model.language_model import LanguageModel
from components.seeds import derive
from components.steering.contract import AddVector, Continuation, Steering
from components.steering.passages import contexts
from components.store.artifact import Artifact

LOGITS_AT_ONCE = 2**26
"""Entries of one tensor of logits, at most (256 MiB)."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """An opening.

    Attributes:
        number: in the prompts table.
        tokens: token ids, the first one of a context included.
        n_special: special tokens that stood in the text as words, and were left out.
    """

    number: int
    tokens: tuple[int, ...]
    n_special: int = 0

    @classmethod
    def of(cls, model: LanguageModel, number: int, text: str) -> Prompt:
        """The text behind the model's first token, where it has one."""
        encoder = Encoder.of(model)
        encoded = encoder.encode([text], offsets=False)[0]
        head = () if encoder.bos is None else (encoder.bos,)
        return cls(number, (*head, *encoded.ids), encoded.n_special)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One continuation to be written.

    Attributes:
        prompt: what is given.
        sample: number of the sample.
        steering: None for plain text.
        strength: in units of the mean activation norm.
    """

    prompt: Prompt
    sample: int = 0
    steering: Steering | None = None
    strength: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Writer:
    """Writes continuations and measures them under the unsteered model, in batches of mixed steerings.

    Attributes:
        model: the model.
        max_new_tokens: longest continuation.
        temperature: of sampling.
        seed: of sampling.
        batch_size: rows at a time.
    """

    model: LanguageModel
    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int

    def write(self, jobs: Sequence[Job], side_effects: bool = False) -> Generator[int, None, list[Continuation]]:
        """The continuations in the order of the jobs; yields the number of jobs done in each batch.

        Args:
            jobs: what is to be written.
            side_effects: measure too how far the steering moves predictions on the text that it wrote.
        """
        first: dict[tuple, int] = {}  # a steering that serves several concepts writes its text once
        same = [
            first.setdefault((job.prompt, job.sample, id(job.steering), job.strength), i) for i, job in enumerate(jobs)
        ]
        done: dict[int, Continuation] = {}
        for batch in _batches(jobs, sorted(first.values()), self.batch_size):
            done.update(zip(batch, self._write([jobs[i] for i in batch], side_effects), strict=True))
            yield len(batch)
        return [done[i] for i in same]

    def losses(self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> Float[np.ndarray, " row"]:
        """Nats a token of what was written after each prompt, under the unsteered model; NaN for nothing."""
        return self._measured(prompts, written)[:, 0]

    def _measured(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], jobs: Sequence[Job] | None = None
    ) -> Float[np.ndarray, "row 3"]:
        """Means over what was written, nats a token: loss under the unsteered model, and where jobs are given what their
        steerings do to the predictions of these tokens, KL(plain || steered) and KL(steered || plain); NaN for nothing.
        """
        found = np.full((len(prompts), 3), np.nan)
        rows = [i for i, new in enumerate(written) if len(new)]
        if not rows:
            return found
        width = max(len(prompts[i]) + len(written[i]) for i in rows)
        at_once = max(1, LOGITS_AT_ONCE // (width * self.model.vocab_size) // (1 if jobs is None else 2))
        for part in (rows[start : start + at_once] for start in range(0, len(rows), at_once)):
            texts = [[*prompts[i], *written[i]] for i in part]
            tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts])
            first = min(len(prompts[i]) for i in part) - 1  # the first position that predicts a token that was written
            position = torch.arange(first, width - 1)
            begins, ends = (torch.tensor(list(map(len, of)))[:, None] for of in ([prompts[i] for i in part], texts))
            weight = ((position >= begins - 1) & (position < ends - 1)).double()
            weight /= weight.sum(dim=1, keepdim=True)

            def mean(values: Tensor, weight: Tensor = weight) -> np.ndarray:
                return (values.double().cpu() * weight).sum(dim=1).numpy()

            plain = self.model.logits(tokens)[:, first:-1].log_softmax(dim=-1)
            targets = tokens[:, first + 1 :, None].to(plain.device)
            found[part, 0] = mean(-plain.gather(-1, targets)[..., 0])
            if jobs is None:
                continue
            edit = _edit([jobs[i] for i in part])
            steered = self.model.logits(tokens, edits=[edit] if edit else [])[:, first:-1].log_softmax(dim=-1)
            found[part, 1] = mean((plain.exp() * (plain - steered)).sum(dim=-1))
            found[part, 2] = mean((steered.exp() * (steered - plain)).sum(dim=-1))
        return found

    def _write(self, jobs: Sequence[Job], side_effects: bool) -> list[Continuation]:
        edit, prompts = _edit(jobs), [job.prompt.tokens for job in jobs]
        written = generate(
            self.model,
            prompts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seeds=[derive(self.seed, "generate", job.prompt.number, job.sample) for job in jobs],
            edits=[edit] if edit else [],
        )
        texts = self.model.tokenizer.batch_decode(written, skip_special_tokens=True)
        measured = self._measured(prompts, written, jobs if side_effects else None).tolist()
        return [continuation(text, len(new), *each) for text, new, each in zip(texts, written, measured, strict=True)]


def continuation(
    text: str, n_tokens: int, nll: float, kl: float = math.nan, kl_reverse: float = math.nan
) -> Continuation:
    """What was written, or why that is nothing; NaN is what was not measured."""
    if not text.strip():
        return Continuation(None, n_tokens, None, "the model ended at once" if n_tokens == 0 else "only white space")
    if not math.isfinite(nll):
        return Continuation(None, n_tokens, None, "its loss under the unsteered model is not finite")
    found = (value if math.isfinite(value) else None for value in (kl, kl_reverse))
    return Continuation(text, n_tokens, nll, None, *found)


def _edit(jobs: Sequence[Job]) -> Edit | None:
    """The edit of a batch whose steerings are of one class; None for plain text."""
    rows, strengths = [job.steering for job in jobs if job.steering], torch.tensor([job.strength for job in jobs])
    return type(rows[0]).edit(rows, strengths) if rows else None


def _batches(jobs: Sequence[Job], numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """These numbers of jobs in batches that share a class of steering, a hook point and, nearly, a length of prompt."""
    groups: dict[tuple, list[int]] = {}
    for i in numbers:
        steering = jobs[i].steering
        groups.setdefault((type(steering), getattr(steering, "hook_point", None)), []).append(i)
    for group in groups.values():
        group.sort(key=lambda i: len(jobs[i].prompt.tokens))
        yield from (group[start : start + size] for start in range(0, len(group), size))


@dataclasses.dataclass(frozen=True, eq=False)
class Neutral:
    """Text on which side effects are measured.

    Attributes:
        tokens: beginnings of contexts.
        mask: tokens of documents (no special tokens, no padding): those whose predictions count.
    """

    tokens: Int[Tensor, "context position"]
    mask: Bool[Tensor, "context position"]

    @classmethod
    def read(cls, corpus: Artifact, n_tokens: int, length: int) -> tuple[Neutral, Neutral]:
        """The first `length` tokens of each context of the neutral split: about `n_tokens` to set strengths on, from half
        the contexts at most, and up to four times as many, of other documents, to measure them on. The second is empty
        where the split has no more.
        """
        parts, n, others = cls._parted(corpus, n_tokens, length)
        tokens, mask = parts["token"][:, :length].long(), parts["document"][:, :length] >= 0
        return cls(tokens[:n], mask[:n]), cls(tokens[others][: 4 * n], mask[others][: 4 * n])

    @classmethod
    def whole(cls, corpus: Artifact, n_tokens: int, length: int) -> Neutral:
        """Whole contexts of the documents on which no strength was set, about `n_tokens`, at least two contexts: at the
        beginning of a context, where strengths are set, the same edit costs less than behind it.
        """
        parts, _, others = cls._parted(corpus, n_tokens, length)
        tokens, mask = parts["token"][others].long(), parts["document"][others] >= 0
        n = max(2, round(n_tokens / tokens.shape[1]))
        return cls(tokens[:n], mask[:n])

    @staticmethod
    def _parted(corpus: Artifact, n_tokens: int, length: int) -> tuple[dict[str, Tensor], int, Tensor]:
        """The split's contexts, how many of them set strengths, and which share no document with those."""
        parts = contexts(corpus, "neutral")
        document = parts["document"]
        n = max(1, min(len(document) // 2, round(n_tokens / length)))
        met = torch.isin(document, document[:n, :length]) & (document >= 0)
        return parts, n, (torch.arange(len(document)) >= n) & ~met.any(dim=1)


def calibrate(
    model: LanguageModel, steerings: Sequence[Steering], neutral: Neutral, budgets: Sequence[float], batch: int = 32
) -> Generator[int, None, Float[np.ndarray, "steering budget 2"]]:
    """Strength and measured KL of each steering at each budget; NaN where no strength costs it.

    Yields the number of steerings done. Added vectors take the fast way, which runs only the blocks behind the hook
    point; any other steering is bisected whole.
    """
    found = np.full((len(steerings), len(budgets), 2), np.nan)
    if not neutral.mask.any():
        return found
    vectors = [i for i, steering in enumerate(steerings) if isinstance(steering, AddVector)]
    for start in range(0, len(vectors), batch):
        part = vectors[start : start + batch]
        rows = [s for s in (steerings[i] for i in part) if isinstance(s, AddVector)]
        assert all(row.hook_point == rows[0].hook_point and row.unit == rows[0].unit for row in rows)
        directions = torch.stack([row.vector for row in rows])
        strengths, kl = strengths_for_budgets(
            model, rows[0].hook_point, directions, neutral.tokens, neutral.mask, budgets, rows[0].unit
        )
        found[part] = torch.stack([strengths, kl], dim=-1).numpy()
        yield len(part)
    for i in sorted(set(range(len(steerings))) - set(vectors)):
        for j, budget in enumerate(budgets):
            found[i, j] = _bisect(model, steerings[i], neutral, budget)
        yield 1
    return found


def costs(
    model: LanguageModel, steerings: Sequence[tuple[Steering, float]], neutral: Neutral, batch: int = 32
) -> Generator[int, None, Float[np.ndarray, " steering"]]:
    """Mean KL in nats a token of each (steering, strength) on this text; NaN where it has no token.

    Yields the number of steerings done.
    """
    found = np.full(len(steerings), np.nan)
    if not neutral.mask.any():
        return found
    groups: dict[str | None, list[int]] = {}
    for i, (steering, _) in enumerate(steerings):
        groups.setdefault(steering.hook_point if isinstance(steering, AddVector) else None, []).append(i)
    for hook_point, group in groups.items():
        for start in range(0, len(group), batch if hook_point else 1):
            part = group[start : start + (batch if hook_point else 1)]
            if hook_point:
                rows = [(s, strength) for s, strength in (steerings[i] for i in part) if isinstance(s, AddVector)]
                vectors = torch.stack([strength * s.unit * s.vector for s, strength in rows])
                measured = kl_of_directions(model, hook_point, vectors, neutral.tokens, neutral.mask)
                found[part] = measured.numpy()
            else:
                found[part] = _cost(model, *steerings[part[0]], neutral)
            yield len(part)
    return found


def _cost(model: LanguageModel, steering: Steering, strength: float, neutral: Neutral) -> float:
    rows = len(neutral.tokens)
    edit = type(steering).edit([steering] * rows, torch.full((rows,), strength))
    return float(kl_per_token(model, neutral.tokens, neutral.mask, [edit]).sum() / neutral.mask.sum())


def _bisect(
    model: LanguageModel, steering: Steering, neutral: Neutral, budget: float, tolerance: float = 0.03
) -> tuple[float, float]:
    """Doubles, or halves, until the budget is bracketed, then halves the bracket in the logarithm."""
    low, high, strength = 0.0, math.inf, 0.5
    for _ in range(24):
        kl = _cost(model, steering, strength, neutral)
        if abs(kl - budget) <= tolerance * budget:
            return strength, kl
        low, high = (strength, high) if kl < budget else (low, strength)
        strength = 2 * low if math.isinf(high) else math.sqrt(low * high) if low else high / 2
    return math.nan, math.nan
