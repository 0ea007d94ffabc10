"""Asks a language model, tests what it proposes on windows that it was not shown, and asks it to
revise.

In each round the predictor reads the proposal against further windows of the explain split, active
and silent ones; the model then sees those that the proposal missed and those that it took wrongly.
The proposal with the highest AUROC on these windows stands at the end. Windows of calibrate and test
are never looked at. What that same predictor says of these explanations later is no score of theirs
(role `own_judge`): it helped to choose them.

Sources: proposing and testing in rounds after MAIA (arXiv 2404.14394) and Transluce's pipeline
(Choi et al. 2024, Scaling automatic neuron description). Deviations: no tools and no new texts, only
windows of the corpus; a stated number of rounds.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from components.client.contract import Message
from components.client.forecast import Most
from components.client.prompt import Prompt
from components.config import Config, execution
from components.interpretation.contract import LatentEvidence, Predictor, explainers
from components.interpretation.explanation import Explanation
from components.interpretation.prompt import path_of
from components.interpretation.showing import chosen, line, lines_of, numbered
from components.interpretation.tiling import ContextsConfig
from components.interpretation.trials import Question
from components.interpretation.windows import Windows
from components.interpretation.writing import (
    TOGETHER,
    AskingExplainer,
    WriterConfig,
    tokens_of_windows,
)
from components.statistics import auroc_of_answers


class AgentConfig(WriterConfig):
    """Proposes, tests and revises."""

    top: NonNegativeInt = 10
    """Windows with the highest activation that are shown first."""
    by_decile: NonNegativeInt = 10
    """Windows shown from all tenths of the active ones, equally many from each."""
    weighted: NonNegativeInt = 0
    """Windows shown that are drawn with chances in proportion to the square of their largest
    activation, as SAEBench has them; interpret.contexts.weighted draws them."""
    rounds: PositiveInt = 3
    """Proposals, at most."""
    errors: PositiveInt = 5
    """Windows of each kind of error that it is shown before it revises."""
    enough: float = Field(default=0.98, ge=0.5, le=1)
    """AUROC from which nothing is revised."""
    revision: str = execution("")
    """Another prompt for revisions, a text file with a part [user]; its bytes are in the key."""


@dataclasses.dataclass(eq=False)
class _Attempt:
    """One latent's proposals so far."""

    latent: int
    tested: Windows
    messages: list[Message]
    best: Explanation | None = None
    auroc: float = -1.0
    is_over: bool = False


@explainers
class Agent(AskingExplainer):
    """Proposes, tests and revises."""

    config: ClassVar[type[Config]] = AgentConfig
    tests_itself: ClassVar[bool] = True

    @classmethod
    def files(cls, settings: Any) -> Sequence[Path]:
        """Both prompts."""
        own = path_of("agent_revision", settings.revision)
        return [path_of(cls.kind, settings.prompt), own]

    @classmethod
    def _prompt_of(cls, settings: Any) -> Prompt:
        return Prompt.read(cls.files(settings)[0], cls.values, cls.needed)

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> int:
        """The windows shown at first."""
        return tokens_of_windows(settings.top + settings.by_decile + settings.weighted, contexts)

    @classmethod
    def most_asked(cls, settings: Any, contexts: ContextsConfig, longest: int) -> Most:
        """Two calls a round, each with all that was said before."""
        first = super().most_asked(settings, contexts, longest).times(settings.rounds)
        said = tokens_of_windows(2 * settings.errors, contexts) + settings.max_tokens
        earlier = settings.rounds * (settings.rounds - 1) * said
        return first.plus(Most(0, earlier, 0))

    @classmethod
    def most_tests(cls, settings: Any) -> int:
        """One in each round."""
        return settings.rounds

    @functools.cached_property
    def _revision(self) -> Prompt:
        values = ("missed", "wrong", "longest")
        return Prompt.read(self.files(self.settings)[1], values, values[:2])

    def shown(self, evidence: LatentEvidence) -> Mapping[str, str] | str:
        """Windows with marks."""
        return {"windows": numbered(lines_of(evidence.windows.part(self._first(evidence.windows))))}

    def _first(self, windows: Windows) -> np.ndarray:
        of = self.settings
        return chosen(windows, of.top, of.by_decile, of.weighted)

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """The best proposal for each latent."""
        predictor, stream = self.services.predictor, iter(evidence)
        while part := list(itertools.islice(stream, TOGETHER)):
            if predictor is None:
                reason = "it tests what it writes on windows, and no listed predictor takes windows"
                yield from (Explanation(None, reason) for _ in part)
                continue
            attempts = [self._begun(each) for each in part]
            for number in range(self.settings.rounds):
                going = [attempt for attempt in attempts if not attempt.is_over]
                self._round(going, predictor, is_last=number + 1 == self.settings.rounds)
            for attempt in attempts:
                assert attempt.best is not None, "the first round leaves a proposal or a reason"
                yield attempt.best

    def _begun(self, evidence: LatentEvidence) -> _Attempt:
        windows, values = evidence.windows, self.shown(evidence)
        assert not isinstance(values, str)
        rest = windows.part(~self._first(windows))
        # too few windows to keep some apart
        tested = rest if 0 < rest.active.sum() < len(rest) else windows
        messages = self.prompt.messages(longest=str(self.longest), **values)
        return _Attempt(evidence.latent, tested, messages)

    def _round(self, attempts: Sequence[_Attempt], predictor: Predictor, *, is_last: bool) -> None:
        """One proposal for each latent that is not done, tested."""
        asked = [self.request(attempt.messages, attempt.latent) for attempt in attempts]
        proposed: list[tuple[_Attempt, Explanation]] = []
        for attempt, said in zip(attempts, self.written(asked) if asked else (), strict=True):
            if said.text is None:  # what was proposed before stands
                attempt.best, attempt.is_over = attempt.best or said, True
            else:
                proposed.append((attempt, said))
        questions = [Question(said.text or "", attempt.tested.texts) for attempt, said in proposed]
        answers = predictor.predict(questions, "windows")
        for (attempt, said), answer in zip(proposed, answers, strict=True):
            values = answer.values
            if values is None:  # untested: the first proposal stands, and a later one does not
                attempt.best, attempt.is_over = attempt.best or said, True
                continue
            auroc = auroc_of_answers(values, attempt.tested.active)
            if auroc > attempt.auroc:
                attempt.best, attempt.auroc = said, auroc
            attempt.is_over = is_last or auroc >= self.settings.enough
            if not attempt.is_over:
                wish = self._revision.messages(
                    longest=str(self.longest), **self._errors(attempt.tested, values)
                )
                attempt.messages += [Message("assistant", said.text or ""), wish[-1]]

    def _errors(self, windows: Windows, values: np.ndarray) -> Mapping[str, str]:
        """The active windows that were given least, and the silent ones that were given most."""
        known = np.nan_to_num(values, nan=float(np.nanmean(values)) if len(values) else 0.0)
        order, n = np.argsort(known, kind="stable"), self.settings.errors
        active = windows.active
        missed, wrong = order[active[order]][:n], order[~active[order]][::-1][:n]
        strings, lines = windows.texts.strings(), lines_of(windows)
        return {
            "missed": numbered(lines[number] for number in missed),
            "wrong": numbered(line(strings[number]) for number in wrong),
        }
