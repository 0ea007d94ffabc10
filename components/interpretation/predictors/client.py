"""Asks a language model whether a latent so explained is active in a window.

Windows go in small batches, a yes or no for each, as a JSON list of 0 and 1. Where the server gives
log-probabilities, the answer to a window is P(1) / (P(0) + P(1)) at its place of the list, which
ranks windows better than 0 and 1 do. The other units alike: are the marked tokens the right ones, is
this the right text of its group; for tokens the model writes a level from 0 to 10 for each token of
one window.

Windows are shown in an order that is drawn for each question, so that neither the company of a
window in its prompt nor its place there tells what is true of it.

A list that is not as asked, a refusal and no answer at all leave their windows without an answer,
with the reason. Where nobody was asked about some window, the whole question is missing.

Source: detection and fuzzing after delphi (arXiv 2410.13928, section 3.2): batches of 5 windows, a
list of 0 and 1; simulation after Bills et al. (2023), levels in one pass. Deviations: no worked
examples; an answer is a probability where one can be had, and no threshold is put to it; wording of
the prompts is ours (prompts/client_*.txt).
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from components.client.contract import MOST_LOGPROBS, Reply, Request
from components.client.forecast import Most
from components.client.prompt import Prompt
from components.client.reading import expected, was_not_asked
from components.config import Config, execution
from components.interpretation.contract import Predictor, predictors
from components.interpretation.prompt import path_of
from components.interpretation.showing import line, numbered
from components.interpretation.tiling import ContextsConfig
from components.interpretation.trials import Answer, Question, Shown, Unit
from components.interpretation.writing import tokens_of_windows
from components.seeds import numpy_generator

UNITS: tuple[Unit, ...] = ("windows", "marks", "choice", "tokens")
VALUES = ("explanation", "windows", "n", "tokens")
TOGETHER = 16
"""Questions that are asked together."""
LEVELS = 10
TOKENS_OF_A_NUMBER = 4
TOKENS_OF_A_TOKEN = 6


class Answers(BaseModel):
    """A number for each text, or for each token."""

    model_config = ConfigDict(extra="forbid")
    answers: list[int]


class ClientPredictorConfig(Config, title="client"):
    """Asks a language model; which one is the section interpret.judge."""

    batch: int = Field(default=5, ge=1, le=50)
    """Windows of one prompt."""
    logprobs: int = Field(default=5, ge=0, le=MOST_LOGPROBS)
    """Alternatives whose log-probabilities are asked for, which grade the answer; 0: none."""
    reasoning: int = Field(default=0, ge=0, le=32_768)
    """Tokens that a model which thinks before it answers may take for that."""
    prompts: str = execution("")
    """Folder with prompts of the same names (client_windows.txt, client_marks.txt,
    client_choice.txt, client_tokens.txt) to use instead; their bytes are in the key."""


class _Ask(NamedTuple):
    """One request, and the windows that it is about."""

    question: int
    windows: Sequence[int]
    request: Request


@predictors
class ClientPredictor(Predictor):
    """Asks a language model."""

    version: ClassVar[int] = 2
    config: ClassVar[type[Config]] = ClientPredictorConfig
    asks: ClassVar[bool] = True
    gives: ClassVar[frozenset[Unit]] = frozenset(UNITS)
    settings: ClientPredictorConfig

    @classmethod
    def files(cls, settings: Any) -> Sequence[Path]:
        """The prompts of all units."""
        names = [f"client_{unit}" for unit in UNITS]
        own = settings.prompts
        return [path_of(name, f"{own}/{name}.txt" if own else "") for name in names]

    @classmethod
    def most_asked(cls, settings: Any, contexts: ContextsConfig, unit: Unit, shown: Shown) -> Most:
        """A call for each batch of windows, each group of a choice, or each window for tokens."""
        n = shown.windows
        prompt = cls._prompt_of(settings, unit).tokens + 64  # the explanation
        if unit == "tokens":
            window = contexts.width * TOKENS_OF_A_TOKEN
            written = contexts.width * TOKENS_OF_A_NUMBER + 16 + settings.reasoning
            return Most(n, n * (prompt + window), n * written)
        calls = shown.groups if unit == "choice" else -(-n // settings.batch)
        written = n * TOKENS_OF_A_NUMBER + calls * (16 + settings.reasoning)
        return Most(calls, calls * prompt + tokens_of_windows(n, contexts), written)

    @classmethod
    def _prompt_of(cls, settings: Any, unit: Unit) -> Prompt:
        path = cls.files(settings)[UNITS.index(unit)]
        shown = "tokens" if unit == "tokens" else "windows"
        return Prompt.read(path, VALUES, ("explanation", shown))

    @functools.cached_property
    def _prompts(self) -> Mapping[Unit, Prompt]:
        return {unit: self._prompt_of(self.settings, unit) for unit in UNITS}

    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        """What the model answers to each question.

        Raises:
            ConfigError: the first requests of the run do not fit the model's context.
        """
        assert self.services.client is not None, "an entry that asks says so: asks = True"
        stream = iter(questions)
        while part := list(itertools.islice(stream, TOGETHER)):
            asked = [
                ask for number, each in enumerate(part) for ask in self._asks(number, each, unit)
            ]
            requests = [ask.request for ask in asked]
            self.services.client.refuse_too_long(requests, f"predict {unit}")
            replies = self.services.client.ask(requests)
            of: dict[int, list[tuple[_Ask, Reply]]] = {}
            for ask, reply in zip(asked, replies, strict=True):
                of.setdefault(ask.question, []).append((ask, reply))
            for number, question in enumerate(part):
                yield _answer(question, of.get(number, []), unit)

    def _asks(self, number: int, question: Question, unit: Unit) -> Iterator[_Ask]:
        strings = question.texts.strings()
        for windows in self._batches(question, unit):
            if unit == "tokens":
                (window,) = windows
                shown = numbered(token.replace("\n", "\\n") for token in strings[window])
                values = {"tokens": shown, "n": str(len(strings[window]))}
                n = len(strings[window])
            else:
                marks = question.marks if unit == "marks" else None
                lines = [
                    line(strings[w], None if marks is None else marks[w].tolist()) for w in windows
                ]
                values, n = {"windows": numbered(lines), "n": str(len(windows))}, len(windows)
            values |= {name: "" for name in VALUES if name not in values}
            messages = self._prompts[unit].messages(
                **values | {"explanation": question.explanation}
            )
            room = n * TOKENS_OF_A_NUMBER + 16 + self.settings.reasoning
            yield _Ask(
                number,
                windows,
                Request(
                    messages,
                    room,
                    schema=Answers,
                    logprobs=self.settings.logprobs or None,
                    label=f"predict {unit}",
                ),
            )

    def _batches(self, question: Question, unit: Unit) -> Iterator[Sequence[int]]:
        """Windows that share a prompt, in the order in which they are shown: each alone for
        tokens, whole groups for a choice."""
        tokens = question.texts.tokens
        if unit == "tokens":
            yield from ([window] for window in range(len(tokens)))
            return
        # A scorer hands over windows in the order in which they were drawn, active ones first; in a
        # choice the right text may stand at one place in all groups. The draw depends on the
        # windows: with one order for all latents a model's bias for a place would not average out.
        checksum = zlib.crc32(tokens.astype("<i8").tobytes())
        generator = numpy_generator(self.services.seed, "client", "order", checksum)
        if unit == "choice":
            assert question.group is not None, "a question of the unit choice has groups"
            for group in dict.fromkeys(question.group.tolist()):
                yield generator.permutation(np.flatnonzero(question.group == group)).tolist()
            return
        order, size = generator.permutation(len(tokens)).tolist(), self.settings.batch
        yield from (order[first : first + size] for first in range(0, len(order), size))


def _answer(question: Question, replies: Sequence[tuple[_Ask, Reply]], unit: Unit) -> Answer:
    """The numbers of all windows, in their order."""
    tokens = question.texts.tokens
    values = np.full(tokens.shape if unit == "tokens" else len(tokens), np.nan)
    reason = None
    for ask, reply in replies:
        if was_not_asked(reply):
            return Answer(None, reply.reason, is_missing=True)
        present = int(question.texts.present[ask.windows[0]].sum())
        n = present if unit == "tokens" else len(ask.windows)
        numbers, why = _numbers(reply, n, LEVELS if unit == "tokens" else 1)
        reason = reason or why
        if numbers is None:
            continue
        if unit == "tokens":
            values[ask.windows[0]] = 0.0
            values[ask.windows[0], :n] = numbers
        else:
            values[list(ask.windows)] = numbers
    return Answer(values, reason) if not np.isnan(values).all() else Answer(None, reason)


def _numbers(reply: Reply, n: int, most: int) -> tuple[Sequence[float] | None, str | None]:
    """The numbers of an answer, graded where that can be; or why they are none."""
    if reply.value is None:
        return None, reply.reason or "not as asked: no list"
    numbers = reply.value.answers
    if len(numbers) != n:
        return None, f"not as asked: wanted {n} numbers, got {len(numbers)}"
    if any(not 0 <= number <= most for number in numbers):
        return None, f"not as asked: wanted numbers from 0 to {most}"
    graded = expected(reply, numbers, most) if most == 1 else None
    return graded or numbers, None
