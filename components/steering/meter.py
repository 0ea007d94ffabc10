"""How much steering there is to do, counted before it begins: tokens that the model reads or
writes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from components.steering.battery import N_READ, most_cells
from components.steering.strength import EXPECTED_ROUNDS
from components.store.stage import Progress

if TYPE_CHECKING:
    from components.steering.config import SteerConfig
    from components.steering.writer import Prompt

Result = TypeVar("Result")
BRACKET_SHARE = 4
"""The search for strengths begins on one part in so many of the neutral text."""
QUESTION = 100
"""Tokens of a multiple-choice question, before any is read."""


class Meter:
    """Counts tokens that the model reads or writes, done and to be done.

    Attributes:
        done: tokens so far.
        texts, directions: continuations and steerings in all, at most, once `plan` has counted
            them; text that only sets strengths is not counted.
        asked: pairs of a test text and a concept that judges which ask a language model are asked
            about, at most, likewise.
        longest: tokens of the longest prompt.
        rows: pairs of a text and a concept that it is judged for, likewise.
        stand_ins: control directions that stand in for candidates, where a method has a choice.
        continuation: tokens for one continuation, read once more to measure its loss.
        tested: tokens for one of a test prompt, read once more to measure what the steering costs
            on it.
        cell: tokens for one cell of the gaming battery: one continuation, and every trick's text
            read.
        calibration: tokens for one steering: about four measurements on some neutral text for each
            budget, and a few rounds of text after validate prompts.
    """

    def __init__(
        self, config: SteerConfig, prompts: Mapping[str, Sequence[Prompt]], untrained: bool = False
    ) -> None:
        self.done, self._started = 0, time.monotonic()
        self._config, self._untrained = config, untrained
        spoilt = Counter(method for method, _ in config.spoilt().values())
        n_places = len(config.hook_point_sweep)
        self._entries = [
            (
                kind,
                kind.at_most(settings),
                spoilt[name],
                n_places if kind.any_hook_point and n_places else 1,
            )
            for name, (kind, settings) in config.method_kinds().items()
        ]
        self._sweeps = n_places > 0
        self._n = {split: len(of_split) * config.n_samples for split, of_split in prompts.items()}
        longest = max(len(prompt.tokens) for of_split in prompts.values() for prompt in of_split)
        self.longest = longest
        self.continuation, self.tested = (n * (longest + config.max_new_tokens) for n in (2, 3))
        self.cell = self.continuation + N_READ * (longest + config.max_new_tokens)
        n_budgets = len(config.kl_budgets)
        self.bracket = 4 * config.neutral_tokens // BRACKET_SHARE * n_budgets
        rounds = round(EXPECTED_ROUNDS * n_budgets * self._n["validate"])
        self.calibration = self.bracket + rounds * self.tested
        most = max((n for kind, n, *_ in self._entries if not kind.control), default=0)
        self.stand_ins = most if most > 1 else 0

    def plan(self, n_concepts: int) -> str:
        """Counts what so many concepts will take, at most, and says it."""
        n_budgets, validate, test = (
            len(self._config.kl_budgets),
            self._n["validate"],
            self._n["test"],
        )
        n_plain, n_read = max(self._config.band_texts, validate), (validate + test) * n_concepts
        directions = n_validated = n_tested = n_chosen = 0
        self.asked = 2 * test * n_concepts  # plain text, and again with another luck
        for kind, at_most, n_spoilt, n_places in self._entries:
            if kind.control:
                tested = (at_most + self.stand_ins) * bool(n_concepts)
                steerings = tested * n_places
                validated = steerings * validate * bool(self.stand_ins or self._sweeps)
                n_read += n_budgets * (tested * test + validated) * n_concepts
                n_validated += n_budgets * validated
                n_tested += tested * n_budgets * test
                self.asked += n_budgets * test * n_concepts
            else:
                again = n_spoilt + (self._untrained and kind.reads_dictionary)
                concepts = n_concepts * (1 + again)
                steerings = concepts * at_most * n_places
                is_chosen = at_most > 1 or (self._sweeps and kind.any_hook_point)
                n_validated += steerings * n_budgets * validate * is_chosen
                n_tested += concepts * n_budgets * test
                n_chosen += concepts * n_budgets
                self.asked += concepts * n_budgets * test
            directions += steerings
        n_cells = most_cells(n_concepts) if self._config.battery else 0
        self.texts, self.directions = n_plain + 2 * test + n_validated + n_tested, directions
        self.rows = n_read + n_validated + n_tested
        # text after validate prompts is written while strengths are set, and kept
        self.total = directions * self.calibration + (n_plain + 2 * test) * self.continuation
        self.total += n_tested * self.tested + n_cells * self.cell
        if self._config.questions.path:
            self.total += self._config.questions.items * (1 + n_chosen) * QUESTION
        if self._config.answers.path:
            self.total += 2 * self._config.answers.items * (n_concepts + n_chosen) * QUESTION
        return (
            f"about {self.total:,} tokens for {n_concepts} concepts: strengths of "
            f"{directions:,} directions, at most {self.texts:,} continuations"
        )

    def progress(self, message: str) -> Progress:
        """Where the work stands."""
        speed = self.done / max(time.monotonic() - self._started, 1e-9)
        return Progress(
            self.done, max(self.total, self.done), "tokens", message, {"tokens_per_second": speed}
        )

    def run(
        self, work: Generator[int, None, Result], message: str, each: int
    ) -> Generator[Progress, None, Result]:
        """Runs work that yields how many units it did, of `each` tokens on the way."""
        while True:
            try:
                n = next(work)
            except StopIteration as end:
                return end.value
            self.done += n * each
            yield self.progress(message)
