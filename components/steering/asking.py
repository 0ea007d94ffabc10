"""Judges that ask a language model, and how their questions are put.

Such a judge stands beside the others: it never measures, so it has no say in any choice, and it sees
text that was written after test prompts alone. Everything that all of them want to know of an
experiment is asked at the end, in one random order, each pair of a text and a target whole: where a
budget ends or a server goes away, what was asked is a sample, and the rest is missing.

What came back is a value or a reason. A refusal, an answer of another form and a server that fails
are failures, which count as 0 as text that failed does; what nobody was asked about has a reason
that begins with `not asked`, and is no part of any mean.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from components.client.client import Client
from components.client.contract import Reply, Request
from components.client.forecast import Most
from components.client.prompt import Prompt, path_in
from components.client.reading import was_not_asked
from components.config import Config, execution
from components.errors import ConfigError
from components.seeds import numpy_generator
from components.steering.contract import (
    Concept,
    Continuation,
    Judge,
    JudgeServices,
    Material,
    Verdicts,
)
from components.store.judgements import NOT_ASKED
from components.store.stage import Progress

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parent / "prompts"
TARGET_TOKENS = 64
"""What a target in words takes of a prompt, at most, as it is foretold."""
NOBODY = (
    "no language model is asked; set steer.client.kind to endpoint (a server) or local (a model on "
    "this machine)"
)


class AskingConfig(Config):
    """What every judge that asks has."""

    reasoning: int = Field(0, ge=0, le=32_768)
    """Tokens that a model which thinks before it answers may take for that."""
    prompts: str = execution("")
    """Folder with prompts of the same names to use instead; their bytes are in the key."""


@dataclasses.dataclass(frozen=True)
class Opinion:
    """What came of the questions about one text and one target.

    Attributes:
        values: by the name of the judge, or of one of its parts, 0 to 1; one that is absent has no
            value.
        reason: why one is absent.
    """

    values: Mapping[str, float]
    reason: str | None = None


class AskingJudge(Judge):
    """Asks a language model about a text and a target.

    Attributes:
        names: of its prompts.
        shows: values that stand in each prompt.
    """

    asks: ClassVar[bool] = True
    names: ClassVar[tuple[str, ...]]
    shows: ClassVar[Mapping[str, tuple[str, ...]]]
    services: JudgeServices

    @classmethod
    def files(cls, settings: Any) -> Sequence[Path]:
        """Its prompts."""
        own = settings.prompts
        return [path_in(FOLDER, name, f"{own}/{name}.txt" if own else "") for name in cls.names]

    @classmethod
    def read(cls, settings: Any) -> dict[str, Prompt]:
        """Its prompts, by name.

        Raises:
            InputError: a prompt that cannot be read or filled.
        """
        return {
            name: Prompt.read(path, cls.shows[name], cls.shows[name])
            for name, path in zip(cls.names, cls.files(settings), strict=True)
        }

    @classmethod
    def shortest(cls, settings: Any) -> list[Request]:
        """Requests that none of its own is shorter than: its prompts with nothing filled in.

        Raises:
            InputError: a prompt that cannot be read.
        """
        return [
            Request(
                prompt.messages(**dict.fromkeys(cls.shows[name], "")),
                1 + settings.reasoning,
                label=f"judge {cls.kind}",
            )
            for name, prompt in cls.read(settings).items()
        ]

    @classmethod
    @abstractmethod
    def most_asked(cls, settings: Any, text: int, prompt: int) -> Most:
        """What it asks about one text and one target, at most.

        Args:
            settings: its settings.
            text: tokens of a text.
            prompt: tokens of the prompt that it was written after.
        """

    @abstractmethod
    def requests(self, text: Continuation, target: str) -> list[Request] | Opinion:
        """What it asks about a text and a target in words; or what it says without asking."""

    @abstractmethod
    def opinion(self, replies: Sequence[Reply]) -> Opinion:
        """What the replies to these requests say; each has been asked for."""

    def fit(self, material: Material) -> None:
        """Reads its prompts.

        Raises:
            InputError: a prompt that cannot be read or filled.
        """
        super().fit(material)
        self.prompts = self.read(self.settings)

    def refusals(self) -> Mapping[str, str]:
        """Latents that nobody has put into words: their number says nothing to a reader."""
        return {
            target.name: "the target has no words; run `interpret` before, or give it a name"
            for target in self.material.targets
            if words_of(target) is None
        }

    def silence(self) -> str | None:
        """That nobody is asked, or that no target has words."""
        client = self.services.client
        return NOBODY if client is None or not client.is_set else self.all_refused()

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """Asks about every text and target, one after the other; the stage asks about fewer
        (`answered`)."""
        targets = self.material.targets
        if why := self.silence():
            return Verdicts.nothing(len(texts), len(targets), why)
        there = [column for column, target in enumerate(targets) if words_of(target) is not None]
        pairs = [Pair(text, column) for text in texts for column in there]
        work = answered({self.kind: self}, pairs, self.services.seed)
        while True:
            try:
                next(work)
            except StopIteration as end:
                opinions: Sequence[Opinion] = end.value[self.kind]
                break
        values = np.full((len(texts), len(targets)), np.nan)
        reasons: dict[int, str] = {}
        for i, opinion in enumerate(opinions):
            row, column = divmod(i, len(there))
            values[row, there[column]] = opinion.values.get(self.kind, np.nan)
            if opinion.reason and np.isnan(values[row]).all():
                reasons[row] = opinion.reason
        return Verdicts(values, reasons)


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A text that is asked about for one target.

    Attributes:
        text: the text, its prompt and the plain text beside it.
        column: of the target.
    """

    text: Continuation
    column: int


def words_of(target: Concept) -> str | None:
    """A target as a question names it: its description, else its name; None for a latent that
    nobody has explained."""
    return target.text or (None if target.latent is not None else target.name)


def answered(
    judges: Mapping[str, AskingJudge], pairs: Sequence[Pair], seed: int
) -> Generator[Progress, None, dict[str, list[Opinion]]]:
    """What each judge says of each pair, in their order.

    All have the same client. All questions go to it in one random order, those of one pair and judge
    beside one another. No server brings about an error: a setting that turns out not to work (a key
    that has run out since the start) leaves the rest unasked, since everything else of the stage is
    made by then.
    """
    opinions: dict[str, dict[int, Opinion]] = {name: {} for name in judges}
    open_: list[tuple[str, int, list[Request]]] = []
    for name, judge in judges.items():
        silent, refused = judge.silence(), judge.refusals()
        for number, pair in enumerate(pairs):
            target = judge.material.targets[pair.column]
            why = pair.text.reason if pair.text.text is None else None
            if why := why or silent or refused.get(target.name):
                opinions[name][number] = Opinion({}, why)
                continue
            asked = judge.requests(pair.text, words_of(target) or target.name)
            if isinstance(asked, Opinion):
                opinions[name][number] = asked
            else:
                open_.append((name, number, asked))
    order = numpy_generator(seed, "asked", "order").permutation(len(open_)).tolist()
    open_ = [open_[i] for i in order]
    if open_:
        client = judges[open_[0][0]].services.client
        assert client is not None, "a judge that has nobody to ask is silent"
        replies = yield from _replies(client, [r for _, _, asked in open_ for r in asked])
        stream = iter(replies)
        for name, number, asked in open_:
            own = [next(stream) for _ in asked]
            unasked = next((reply.reason for reply in own if was_not_asked(reply)), None)
            said = Opinion({}, unasked) if unasked else judges[name].opinion(own)
            opinions[name][number] = said
    return {name: [of[i] for i in range(len(pairs))] for name, of in opinions.items()}


def _replies(
    client: Client, requests: Sequence[Request]
) -> Generator[Progress, None, Sequence[Reply]]:
    try:
        client.refuse_too_long(requests, "judge")
        return (yield from client.asking(requests))
    except ConfigError as error:
        log.warning("steer.client: %s; no judge that asks has a value", error)
        return [Reply(None, f"{NOT_ASKED}: {error}", again=True)] * len(requests)
