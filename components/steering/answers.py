"""Answers: how probable the answer that a target stands for is made on multiple-choice items that
nothing was learnt from.

    probability    P(matching letter) / (P(A) + P(B)), mean of the two orders of the choices
    mass           P(A) + P(B) at that place: where it is small the model answers something else

An item is a question and two answers, of which one is that of the target. It is asked twice, the
matching answer once under (A) and once under (B), so a liking for a letter gives 0.5. Where the
question lists its two choices, these are taken from it; else the answers are listed behind it. The
letter is read off the predictions behind `Answer: (`, steered as methods steer text that is given.

No judge: it reads predictions, no text. It is measured of the steerings that validate prompts chose,
after that choice, and chooses nothing.

Source: Rimsky et al. (2023), Steering Llama 2 via contrastive activation addition (CAA),
arXiv:2312.06681, section 4: mean probability of the answer that matches the behaviour, on 50 held-out
items. Deviations: both orders of each item; no chat template; the strength is set by what steering
costs, not by a multiplier.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from pydantic import PositiveInt

from components.corpus.encoding import Encoder
from components.errors import InputError
from components.model.intervention import logits_under
from components.model.language_model import LanguageModel
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import Interval
from components.steering.choice import Steered
from components.steering.comparison import Comparison, at
from components.steering.contract import Concept, Steering
from components.steering.conversation import Conversation, opened
from components.steering.given import FilesConfig, rows_of
from components.steering.scores import over, score_row
from components.steering.writer import LOGITS_AT_ONCE, intervention_of
from components.store.judgements import UNSTEERED

VERSION = 1
MEASURES = (
    Measure(
        "answer", "Matching answer", "probability",
        "Probability of the target's answer to multiple-choice items, both orders of the choices.",
        rank=13, kinds=23, least=0, most=1,
    ),
    Measure(
        "answer_gain", "Matching answer over unsteered", "difference",
        "Probability of the target's answer minus the same without steering, target by target.",
        rank=13, kinds=23, least=-1, most=1, part_of="answer",
    ),
)  # fmt: skip
ENDING = "\n\nAnswer: ("
LETTERS = "AB"
WORDS_OF_A_TEXT = 4
"""A text that was learnt from and is shorter may stand in any question."""
_CHOICES = re.compile(
    r"(.*?)\s*(?:\n\s*Choices:)?\s*\n\s*\(A\)\s*(.+?)\s*\n\s*\(B\)\s*(.+?)\s*(?:\n\s*Answer:.*)?",
    re.DOTALL,
)
_LETTER = re.compile(r"\(?([A-Z])\)?")
_THIRD = re.compile(r"^\s*\(C\)", re.MULTILINE)


class AnswersConfig(FilesConfig):
    """Multiple-choice items on which the probability of the matching answer is measured."""

    section = "steer.answers"
    question_column: str = "question"
    """The column that holds the question."""
    matching_column: str = "answer_matching_behavior"
    """The column that holds the answer of the target: words, or the letter of a choice."""
    other_column: str = "answer_not_matching_behavior"
    """The column that holds the other answer."""
    concept_column: str = ""
    """The column that names the target of an item; empty: the file's name does."""
    items: PositiveInt = 50
    """Items of each target, at most, drawn by the seed."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A question and two answers.

    Attributes:
        concept: the target.
        number: among the rows of all files.
        question: without the choices.
        matching: the target's answer.
        other: the other one.
        reason: why it cannot be asked; None where it can.
    """

    concept: str
    number: int
    question: str
    matching: str = ""
    other: str = ""
    reason: str | None = None

    @classmethod
    def of(cls, concept: str, number: int, question: str, matching: str, other: str) -> Item:
        """Of a row; letters are replaced by the choices that the question lists under them."""
        matching, other = matching.strip(), other.strip()
        letters = [_LETTER.fullmatch(answer) for answer in (matching, other)]
        if None in letters:
            return cls(concept, number, question.strip(), matching, other)
        found, named = _CHOICES.fullmatch(question), [match[1] for match in letters if match]
        if found is None or _THIRD.search(question) or sorted(named) != list(LETTERS):
            why = "its answers are letters, and its question does not list two choices, (A) and (B)"
            return cls(concept, number, question.strip(), reason=why)
        choice = dict(zip(LETTERS, found.groups()[1:], strict=True))
        return cls(concept, number, found[1].strip(), choice[named[0]], choice[named[1]])

    def prompts(self) -> tuple[str, str]:
        """As it is asked: the matching answer first, then second."""
        first, second = (
            f"{self.question}\n\nChoices:\n (A) {a}\n (B) {b}{ENDING}"
            for a, b in ((self.matching, self.other), (self.other, self.matching))
        )
        return first, second


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt as tokens.

    Attributes:
        tokens: what stands before the letter.
        letters: the tokens of A, B and so on.
    """

    tokens: list[int]
    letters: tuple[int, ...]

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        prompt: str,
        conversation: Conversation | None = None,
        letters: Sequence[str] | None = None,
    ) -> Asked | str:
        """A prompt of this model, answered by one of these letters (by default A and B); or why it
        cannot answer it with one token."""
        encoder = Encoder.of(model)
        letters = letters or LETTERS
        question = prompt
        if conversation is not None:  # the question is the user's, and the answer has begun
            question, prompt = prompt.removesuffix(ENDING), ENDING.lstrip()
        ids = [each.ids for each in encoder.encode([prompt + x for x in letters], offsets=False)]
        before, written = ids[0][:-1], tuple(each[-1] for each in ids if each)
        unknown = getattr(model.tokenizer, "unk_token_id", None)
        alike = all(each[:-1] == before for each in ids)
        if not alike or unknown in written or len(set(written)) < len(letters):
            told = f"{', '.join(letters[:-1])} and {letters[-1]}"
            return f"the model's vocabulary does not write the letters {told} as one token each"
        if conversation is not None:
            tokens = [*opened(model, [question], conversation)[0], *before]
        else:
            tokens = before if encoder.bos is None else [encoder.bos, *before]
        room = model.context_length
        if room and len(tokens) > room:
            return f"it has {len(tokens)} tokens, and the model reads {room}"
        if not tokens:
            return "nothing stands before the letter"
        return cls(tokens, written)


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Items of the targets, as the model reads them.

    Attributes:
        items: by target, in the order of the files; targets without any have none.
        asked: by number of an item, both orders; or why it cannot be asked.
    """

    items: Mapping[str, Sequence[Item]]
    asked: Mapping[int, tuple[Asked, Asked] | str]

    @classmethod
    def read(
        cls,
        config: AnswersConfig,
        concepts: Sequence[Concept],
        learnt: Sequence[str],
        model: LanguageModel,
        seed: int,
        conversation: Conversation | None = None,
    ) -> Answers | None:
        """The items of these targets; None where no file is named.

        Args:
            config: the section.
            concepts: the targets.
            learnt: texts of the user's own that steerings are learnt or judged from.
            model: the model that is steered.
            seed: draws the items.
            conversation: what prompts are put into.

        Raises:
            InputError: no file, a column that is missing, no item of any target, or items that
                stand in texts that were learnt from.
        """
        if not config.path:
            return None
        items = {concept.name: list[Item]() for concept in concepts}
        named = set()
        for item in _read(config):
            named.add(item.concept)
            items.get(item.concept, []).append(item)
        if not any(items.values()):
            raise InputError(
                f"no item of {config.path} is of a target: items are of "
                f"{', '.join(sorted(named)[:5])}, targets are {', '.join(list(items)[:5])}; set "
                "steer.answers.concept_column, or name the file as the target"
            )
        for name, of in items.items():
            draw = numpy_generator(seed, "answers", name)
            items[name] = [
                of[i] for i in sorted(draw.permutation(len(of))[: config.items].tolist())
            ]
        every = [item for of in items.values() for item in of]
        refuse_learnt([item.question for item in every], learnt, "steer.answers")
        return cls(items, {item.number: _asked(model, item, conversation) for item in every})

    @property
    def pairs(self) -> dict[int, tuple[Asked, Asked]]:
        """By number of an item, both orders, of those that can be asked."""
        return {n: each for n, each in self.asked.items() if not isinstance(each, str)}

    @property
    def tokens(self) -> int:
        """Tokens of a prompt, in the mean."""
        lengths = [len(prompt.tokens) for pair in self.pairs.values() for prompt in pair]
        return round(sum(lengths) / max(1, len(lengths)))

    def rows(
        self, final: Sequence[Steered], model: LanguageModel, batch: int
    ) -> Generator[int, None, list[dict[str, Any]]]:
        """Rows of the ANSWERS table: every item of a target without steering, and under each
        steering that was chosen for the target. Yields prompts done."""
        plans: list[tuple[str, str, float | None, Steering | None, float]] = [
            (name, UNSTEERED, None, None, 0.0) for name, of in self.items.items() if of
        ]
        for s in final:
            name = s.candidate.concept
            if name and self.items.get(name) and s.strength is not None:
                plans.append((name, s.method, s.budget, s.candidate.steering, s.strength))
        rows, pairs = [], self.pairs
        for name, method, budget, steering, strength in plans:
            there = [item.number for item in self.items[name] if item.number in pairs]
            prompts = [prompt for number in there for prompt in pairs[number]]
            found = yield from probabilities(model, prompts, steering, strength, batch)
            told = dict(zip(there, found.reshape(-1, 2, 2), strict=True))
            for item in self.items[name]:
                place = {"concept": name, "method": method, "kl_budget": budget}
                rows.append(place | _row(item, self.asked[item.number], told.get(item.number)))
        return rows


def probabilities(
    model: LanguageModel,
    prompts: Sequence[Asked],
    steering: Steering | None,
    strength: float,
    batch: int,
) -> Generator[int, None, Float[np.ndarray, "prompt letter"]]:
    """P(A), P(B) and so on as the next token of each prompt, under a steering; NaN where the prompt
    and what the steering puts before it are longer than the model reads, and for letters that a
    prompt does not have. Yields prompts done."""
    n_letters = [len(prompt.letters) for prompt in prompts]
    found = np.full((len(prompts), max(n_letters, default=0)), np.nan)
    room = (model.context_length or 2**31) - _before(steering, strength)
    there = [i for i, prompt in enumerate(prompts) if len(prompt.tokens) <= room]
    order = sorted(there, key=lambda i: len(prompts[i].tokens))
    start = 0
    while start < len(order):
        longest = len(prompts[order[min(start + batch, len(order)) - 1]].tokens)
        n = max(1, min(batch, LOGITS_AT_ONCE // (longest * model.vocab_size)))
        part = order[start : start + n]
        start += len(part)
        lengths = torch.tensor([len(prompts[i].tokens) for i in part])
        width = int(lengths.max())
        tokens = torch.tensor(
            [prompts[i].tokens + [0] * (width - len(prompts[i].tokens)) for i in part]
        )
        logits = logits_under(
            model, tokens, intervention_of([steering] * len(part), [strength] * len(part)), lengths
        )
        last = logits[torch.arange(len(part)), (lengths - 1).to(logits.device)]
        probability = last.double().softmax(dim=-1)
        for i, row in zip(part, probability, strict=True):
            letters = torch.tensor(prompts[i].letters, device=row.device)
            found[i, : n_letters[i]] = row[letters].cpu().numpy()
        yield len(part)
    return found


def _before(steering: Steering | None, strength: float) -> int:
    """Tokens that a steering puts before a text."""
    return max(map(len, intervention_of([steering], [strength]).prefix), default=0)


def score_rows(rows: pl.DataFrame, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Rows of the scores table: of each method at each budget the mean over targets, beside the same
    without steering, and the difference, paired by target.

    Args:
        rows: the ANSWERS table.
        comparison: what the scores are about.
    """
    plain = _means(rows.filter(method=UNSTEERED))
    for method, budget in tried(comparison):
        own = _means(rows.filter(pl.col("method") == method, at(budget)))
        for kind in kinds_of(comparison):
            there = [c.name for c in comparison.passed(kind)]
            reasons = rows.filter(pl.col("concept").is_in(there))["reason"]
            why = next(iter(reasons.drop_nulls()), "no item is of them")
            yield from paired_rows(comparison, method, budget, kind, own, plain, MEASURES, why)


def tried(comparison: Comparison) -> Iterator[tuple[str, float | None]]:
    """Every method that steered, at each budget at which it did."""
    for budget, methods in comparison.places:
        for method in comparison.methods:
            if method in methods and method not in comparison.absent:
                yield method, budget


def kinds_of(comparison: Comparison) -> list[str]:
    """The kinds of targets that scores are of: all together first, where there are several."""
    return [*(["all"] if len(comparison.kinds) > 1 else []), *comparison.kinds]


def paired_rows(
    comparison: Comparison,
    method: str,
    budget: float | None,
    kind: str,
    own: Mapping[str, float],
    plain: Mapping[str, float],
    measures: tuple[Measure, Measure],
    why: str,
    caution: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Two rows of the scores table: the mean over targets beside the same without steering, and the
    difference, paired by target.

    Args:
        comparison: what the scores are about.
        method: which steers.
        budget: at which.
        kind: of targets.
        own: value of each target under the method.
        plain: value of each target without steering; targets without one have no value.
        measures: of the value and of the difference.
        why: the reason why targets have none.
        caution: what else a reader has to know.
    """
    passed = comparison.passed(kind)
    there = [c for c in passed if c.name in plain]
    names = [c.name for c in there]
    failed = [name for name in names if name not in own]
    told = []
    if len(there) < len(passed):
        told.append(f"{len(passed) - len(there)} of {len(passed)} targets have no answers: {why}")
    if not passed:
        told.append("no target passed the gate")
    if failed:
        told.append(
            f"{len(failed)} of {len(names)} targets had no usable steering and count as unsteered"
        )
    if caution:
        told.append(caution)
    about = {
        **comparison.who(method),
        "budget": budget,
        "concept_kind": kind,
        "n_failed": len(failed),
        "reason": "; ".join(told) or None,
    }
    values = {name: own.get(name, plain[name]) for name in names}
    gains = {name: values[name] - plain[name] for name in names}
    level = over(plain, kind, there).value
    baseline = None if level is None else (level, "unsteered")
    of_value, of_difference = measures
    for measure, of, beside in (
        (of_value, values, baseline),
        (of_difference, gains, (0.0, "unsteered")),
    ):
        interval: Interval = over(of, kind, there)
        yield score_row(comparison, measure.name, interval, **about, baseline=beside)


def _means(rows: pl.DataFrame) -> dict[str, float]:
    """Target -> mean over its items; targets without any value are left out."""
    means = rows.drop_nulls("probability").group_by("concept").agg(pl.col("probability").mean())
    return dict(means.select("concept", "probability").iter_rows())


def _row(
    item: Item, asked: tuple[Asked, Asked] | str, found: Float[np.ndarray, "2 2"] | None
) -> dict[str, Any]:
    """What is known of one item."""
    row: dict[str, Any] = {"item": item.number, "probability": None, "mass": None, "reason": None}
    if isinstance(asked, str) or found is None:
        return row | {"reason": asked}
    mass = found.sum(axis=1)
    if not (np.isfinite(mass).all() and (mass > 0).all()):
        why = "the predictions are not finite, or the item is too long behind what steers"
        return row | {"reason": why}
    # the matching answer stands under A, then under B
    matching = np.array([found[0, 0], found[1, 1]])
    return row | {"probability": float((matching / mass).mean()), "mass": float(mass.mean())}


def _asked(
    model: LanguageModel, item: Item, conversation: Conversation | None
) -> tuple[Asked, Asked] | str:
    if item.reason:
        return item.reason
    first, second = (Asked.of(model, prompt, conversation) for prompt in item.prompts())
    if isinstance(first, str):
        return first
    return second if isinstance(second, str) else (first, second)


def _read(config: AnswersConfig) -> Iterator[Item]:
    number = 0
    paths = config.files()
    columns = [config.question_column, config.matching_column, config.other_column]
    named = [config.concept_column] if config.concept_column else []
    where = (
        "steer.answers.question_column, matching_column, other_column or concept_column to the "
        "columns that it has"
    )
    for path in paths:
        frame = rows_of(path, [*columns, *named], where)
        for row in frame.iter_rows(named=True):
            name = row[config.concept_column] if config.concept_column else path.stem
            question, matching, other = (row[column] for column in columns)
            if None not in (name, question, matching, other):
                yield Item.of(str(name), number, str(question), str(matching), str(other))
            number += 1


def refuse_learnt(questions: Sequence[str], learnt: Sequence[str], section: str) -> None:
    """Refuses questions that stand in a text that was learnt from, or hold one.

    Raises:
        InputError: one does; names the section whose file it is from.
    """
    texts = [_plain(text) for text in learnt]
    long = [text for text in texts if len(text.split()) >= WORDS_OF_A_TEXT]
    padded = [f" {text} " for text in texts]
    for each in questions:
        question = _plain(each)
        # one word stands in many texts
        stands = len(question.split()) > 1 and any(f" {question} " in text for text in padded)
        if stands or question in texts or any(text in question for text in long):
            raise InputError(
                f"an item of {section} shares its text with steer.targets, which is learnt from "
                f"({each[:80]!r}): what was learnt is no test; take such rows out of one of the two "
                "files"
            )


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
