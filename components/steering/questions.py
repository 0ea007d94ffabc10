"""Accuracy on multiple-choice questions that have nothing to do with the targets: what steering
costs the model in what it knew.

    accuracy    share of the questions whose right choice has the most probable letter

A question and its choices are given, and the letter is read off the predictions behind
`Answer: (`, steered as methods steer text that is given. The choices of each question are turned so
that the right one stands under every letter equally often: a model that always says one letter is
right as often as chance. All targets are asked the same questions, and nothing is chosen by them.

Source: the check of general abilities in Rimsky et al. (2023), Steering Llama 2 via contrastive
activation addition (CAA), arXiv:2312.06681, section 7 (accuracy on MMLU under steering). Deviations:
the strength is set by what steering costs; letters are balanced; no chat template unless
`steer.chat.messages`.
"""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float
from pydantic import PositiveInt

from components.errors import InputError
from components.model.language_model import LanguageModel
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import Interval, bounded, t_interval, wilson
from components.steering.answers import (
    ENDING,
    Asked,
    kinds_of,
    paired_rows,
    probabilities,
    refuse_learnt,
    tried,
)
from components.steering.choice import Steered
from components.steering.comparison import Comparison, at
from components.steering.contract import Steering
from components.steering.conversation import Conversation
from components.steering.given import FilesConfig, rows_of
from components.store.judgements import UNSTEERED

log = logging.getLogger(__name__)

VERSION = 1
MEASURES = (
    Measure(
        "accuracy", "Accuracy", "share",
        "Share of questions about other things that are answered rightly under steering.",
        rank=14, kinds=24, least=0, most=1,
    ),
    Measure(
        "accuracy_change", "Accuracy over unsteered", "difference",
        "Accuracy under steering minus the same without steering: a side effect.",
        rank=14, kinds=24, least=-1, most=1, part_of="accuracy",
    ),
)  # fmt: skip
LETTERS: Sequence[str] = "ABCDEFGHIJ"


class QuestionsConfig(FilesConfig):
    """Multiple-choice questions about other things than the targets, on which the accuracy under
    steering is measured."""

    section = "steer.questions"
    question_column: str = "question"
    """The column that holds the question."""
    choices_column: str = "choices"
    """The column that holds the list of its choices."""
    answer_column: str = "answer"
    """The column that says which is right."""
    answers_are: Literal["auto", "number", "letter", "text"] = "auto"
    """How that column says it: the number of the choice from 0, its letter, or its text; auto: as
    all rows of a file can be read."""
    items: PositiveInt = 100
    """Questions, at most, drawn by the seed."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with its choices.

    Attributes:
        number: among the rows of all files.
        question: without the choices.
        choices: as the file lists them.
        right: which of them.
    """

    number: int
    question: str
    choices: Sequence[str]
    right: int

    def prompt(self, place: int) -> str:
        """As it is asked: the choices turned until the right one stands at this place."""
        shift = self.right - place
        turned = [self.choices[(i + shift) % len(self.choices)] for i in range(len(self.choices))]
        listed = "".join(
            f"\n ({letter.strip()}) {choice}"
            for letter, choice in zip(LETTERS, turned, strict=False)
        )
        return f"{self.question}\n\nChoices:{listed}{ENDING}"


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """Questions as the model reads them.

    Attributes:
        items: those that were drawn, in the order of the files.
        places: under which letter the right choice of each stands.
        asked: the prompt of each; or why it cannot be asked.
    """

    items: Sequence[Item]
    places: Sequence[int]
    asked: Sequence[Asked | str]

    @classmethod
    def read(
        cls,
        config: QuestionsConfig,
        learnt: Sequence[str],
        model: LanguageModel,
        seed: int,
        conversation: Conversation | None = None,
    ) -> Questions | None:
        """The questions; None where no file is named.

        Args:
            config: the section.
            learnt: texts of the user's own that steerings are learnt or judged from.
            model: the model that is steered.
            seed: draws the questions, and the letters of their right choices.
            conversation: what prompts are put into.

        Raises:
            InputError: no file, a column that is missing, no row that is a question with choices,
                or questions that stand in texts that were learnt from.
        """
        if not config.path:
            return None
        every = list(_read(config))
        if not every:
            raise InputError(
                f"no row of {config.path} has a question, 2 to {len(LETTERS)} different choices and "
                "the right one of them (its number from 0, its letter, or its text); set "
                "steer.questions.question_column, choices_column or answer_column to the columns "
                "that have them, and answers_are to how the last one says it"
            )
        draw = numpy_generator(seed, "questions")
        drawn = draw.permutation(len(every))[: config.items].tolist()
        # within a drawn order, so that the letters are balanced among questions of any one size
        of_size: dict[int, int] = {}
        placed = []
        for i in drawn:
            n = len(every[i].choices)
            placed.append((i, of_size.get(n, 0) % n))
            of_size[n] = of_size.get(n, 0) + 1
        placed.sort()
        items, places = [every[i] for i, _ in placed], [place for _, place in placed]
        refuse_learnt([item.question for item in items], learnt, "steer.questions")
        asked = [
            Asked.of(model, item.prompt(place), conversation, LETTERS[: len(item.choices)])
            for item, place in zip(items, places, strict=True)
        ]
        return cls(items, places, asked)

    @property
    def tokens(self) -> int:
        """Tokens of a prompt, in the mean."""
        lengths = [len(each.tokens) for each in self.asked if isinstance(each, Asked)]
        return round(sum(lengths) / max(1, len(lengths)))

    def rows(
        self, final: Sequence[Steered], model: LanguageModel, batch: int
    ) -> Generator[int, None, list[dict[str, Any]]]:
        """Rows of the QUESTIONS table: every question without steering, and under each steering that
        was chosen for a target. Yields prompts done."""
        plans: list[tuple[str | None, str, float | None, Steering | None, float]] = [
            (None, UNSTEERED, None, None, 0.0)
        ]
        for s in final:
            if s.candidate.concept and s.strength is not None:
                place = s.candidate.concept, s.method, s.budget
                plans.append((*place, s.candidate.steering, s.strength))
        there = [i for i, each in enumerate(self.asked) if isinstance(each, Asked)]
        prompts = [each for each in self.asked if isinstance(each, Asked)]
        rows = []
        for concept, method, budget, steering, strength in plans:
            found = yield from probabilities(model, prompts, steering, strength, batch)
            told = dict(zip(there, found, strict=True))
            place = {"concept": concept, "method": method, "kl_budget": budget}
            rows += [place | self._row(i, told.get(i)) for i in range(len(self.items))]
        return rows

    def _row(self, i: int, found: Float[np.ndarray, " letter"] | None) -> dict[str, Any]:
        """What is known of one question."""
        item, asked = self.items[i], self.asked[i]
        row = {"item": item.number, "choices": len(item.choices)}
        nothing = {"right": None, "probability": None, "mass": None}
        if isinstance(asked, str):
            return row | nothing | {"reason": asked}
        assert found is not None, "what can be asked has been asked"
        own = found[: len(item.choices)]
        mass = float(own.sum())
        if not (np.isfinite(own).all() and mass > 0):
            why = "the predictions are not finite, or the question is too long behind what steers"
            return row | nothing | {"reason": why}
        right = bool(own.argmax() == self.places[i])
        share = float(own[self.places[i]] / mass)
        return row | {"right": right, "probability": share, "mass": mass, "reason": None}


def score_rows(rows: pl.DataFrame, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Rows of the scores table: of each method at each budget the mean over targets, beside the same
    without steering, and the difference, paired by target and question.

    Args:
        rows: the QUESTIONS table.
        comparison: what the scores are about.
    """
    unsteered = rows.filter(pl.col("method") == UNSTEERED)
    answered = unsteered.drop_nulls("right").select("item", "choices", plain="right")
    names = [c.name for c in comparison.passed("all")]
    level = answered["plain"].cast(pl.Float64).mean()
    no_answer = next(iter(unsteered["reason"].drop_nulls()), "no question can be asked")
    for method, budget in tried(comparison):
        # what steers may leave no room for a long question: both sides are of those that have it
        asked = (
            rows.filter(pl.col("method") == method, at(budget))
            .drop_nulls("right")
            .join(answered.select("item", "plain"), on="item")
        )
        both = asked.group_by("concept").agg(
            pl.col("right").mean(), pl.col("plain").mean(), n=pl.len()
        )
        own = dict(both.select("concept", "right").iter_rows())
        plain = {} if level is None else dict.fromkeys(names, level)
        plain |= dict(both.select("concept", "plain").iter_rows())
        told = [_caution(answered)]
        if lost := answered.height - int(both["n"].min() or answered.height):  # type: ignore[arg-type]
            told.append(
                f"up to {lost} of {answered.height} questions of a target have no answer under it "
                "and are left out, without steering too"
            )
        caution = "; ".join(filter(None, told)) or None
        for kind in kinds_of(comparison):
            scored = paired_rows(
                comparison, method, budget, kind, own, plain, MEASURES, no_answer, caution
            )
            there = [c.name for c in comparison.passed(kind)]
            for row, by_item in zip(scored, _by_item(asked, there), strict=True):
                yield _wider(row, by_item)


def _by_item(
    asked: pl.DataFrame, concepts: Sequence[str]
) -> tuple[Float[np.ndarray, " item"], Float[np.ndarray, " item"]]:
    """Of each question the share of these targets under which it is answered rightly, and that
    share less 1 where the plain model answers it rightly."""
    of = (
        asked.filter(pl.col("concept").is_in(concepts))
        .group_by("item")
        .agg(pl.col("right").mean(), pl.col("plain").first().cast(pl.Float64))
    )
    shares = of.sort("item")
    return shares["right"].to_numpy(), (shares["right"] - shares["plain"]).to_numpy()


def _wider(row: dict[str, Any], by_item: Float[np.ndarray, " item"]) -> dict[str, Any]:
    """The same with Student's interval over questions, where that is the wider one.

    All targets are asked the same questions. A plain model that is lucky with them seems to lose by
    every steering, and an interval over targets alone would be sure of it.
    """
    over_items = t_interval(by_item)
    if row["value"] is None or over_items.low is None or over_items.high is None:
        return row
    half = (over_items.high - over_items.low) / 2
    if not half:  # all alike, which tells no interval
        return row
    if row["low"] is not None and row["high"] - row["low"] >= 2 * half:
        return row
    least = -1.0 if row["measure"] == "accuracy_change" else 0.0
    interval = Interval(row["value"], row["value"] - half, row["value"] + half, len(by_item))
    wide = bounded(interval, least, 1.0)
    told = {"low": wide.low, "high": wide.high, "n": len(by_item)}
    return row | told | {"unit_of_replication": "question"}


def _caution(answered: pl.DataFrame) -> str | None:
    """Why a change of the accuracy may not be seen: the plain model does not know the answers."""
    if not answered.height:
        return None
    n, n_right = answered.height, int(answered["plain"].sum())
    chance = float((1 / answered["choices"]).mean())  # type: ignore[arg-type]
    low = wilson(n_right, n).low
    if low is not None and low > chance:
        return None
    return (
        f"without steering {n_right} of {n} questions are answered rightly, not surely more than by "
        f"chance ({chance:.2f}): what the model does not know, steering cannot take away"
    )


def _read(config: QuestionsConfig) -> Iterator[Item]:
    """Rows that are questions. Others (no right choice, choices that are alike, too many) are
    counted and left out."""
    columns = [config.question_column, config.choices_column, config.answer_column]
    where = "steer.questions.question_column, choices_column or answer_column to the columns that it has"
    number = 0
    for path in config.files():
        listed = [
            _Row.of(*row) for row in rows_of(path, columns, where).select(columns).iter_rows()
        ]
        right = _right(listed, config.answers_are, path)
        left_out = 0
        for row, place in zip(listed, right, strict=True):
            if row.is_question and place is not None:
                yield Item(number, row.question, row.choices, place)
            else:
                left_out += 1
            number += 1
        if left_out:
            log.warning(
                "%d of %d rows of %s are left out: no question, not 2 to %d different choices, or "
                "none of them that %s names",
                left_out,
                len(listed),
                path,
                len(LETTERS),
                config.answer_column,
            )


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of a file.

    Attributes:
        question: what is asked.
        choices: as they are listed.
        letters: what each is called.
        answer: what the file says is right, as text.
    """

    question: str
    choices: Sequence[str]
    letters: Sequence[str]
    answer: str

    @classmethod
    def of(cls, question: Any, choices: Any, answer: Any) -> _Row:
        """From the three columns; choices are a list, or lists `text` and `label` (ARC's
        layout)."""
        labels: Sequence[str] = LETTERS
        if isinstance(choices, dict):
            labels = [_text(each) for each in choices.get("label") or LETTERS]
            choices = choices.get("text")
        # some tables fill short lists up with nulls
        there = [each for each in choices if each is not None] if isinstance(choices, list) else []
        return cls(_text(question), [_text(each) for each in there], labels, _text(answer))

    @property
    def is_question(self) -> bool:
        """Whether it can be asked."""
        n, different = len(self.choices), set(self.choices) - {""}
        return bool(self.question) and 2 <= n <= len(LETTERS) and len(different) == n

    def place(self, reading: str) -> int | None:
        """The choice that the answer names, read so; None for none of them."""
        if reading == "number":
            named = int(self.answer) if self.answer.isdecimal() else len(self.choices)
        else:
            names = self.choices if reading == "text" else self.letters
            said = self.answer if reading == "text" else self.answer.strip("().").upper()
            named = names.index(said) if said in names else len(self.choices)
        return named if named < len(self.choices) else None


def _right(rows: Sequence[_Row], reading: str, path: Path) -> list[int | None]:
    """The right choice of each row, all read in one way.

    Raises:
        InputError: two ways read as many rows and mean different choices.
    """
    if reading != "auto":
        return [row.place(reading) for row in rows]
    ways = {way: [row.place(way) for row in rows] for way in ("number", "letter", "text")}
    n_read = {way: len(read) - read.count(None) for way, read in ways.items()}
    most = max(n_read.values())
    best = [way for way in ways if n_read[way] == most]
    if most and any(ways[way] != ways[best[0]] for way in best):
        raise InputError(
            f"the right choices in {path} can be read as {' or as '.join(best)}, and these mean "
            f"different choices; say which in steer.questions.answers_are"
        )
    return ways[best[0]]


def _text(value: Any) -> str:
    """As text in composed characters; a whole number as such, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value)).strip()
