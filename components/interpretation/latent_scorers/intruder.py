"""Do the windows of a latent look alike? Which of several windows is not this latent's.

A trial shows so many windows less one from one fifth of the latent's activations, and one in which
it is silent. A window is shown as its most active token with a few tokens around it; the silent one
as what stands at the place of the most active token of a further window of that fifth, so that
neither place nor length tells it. The reader takes the window that is least like the others. Where
several are equally unlike, each counts its share, so a reader that sees no difference is at chance
exactly.

Readers: `lexical` compares words, each weighed by how rare it is (TF-IDF cosine); `text_encoder`
meanings; `client` is a language model (`interpret.judge`), which is shown the windows of a trial in
one prompt, the intruder at a place that is drawn, and says the number of the one that does not
belong. An answer that is none counts as a guess, at chance, with its reason. Where nobody was asked
about some trial, the latent is missing.

Source: the intruder score of delphi, there answered by a language model; word intrusion is Chang
et al. (2009), Reading tea leaves, NeurIPS. Deviations: fifths of activation in place of tenths,
because a tenth has no more windows than a trial shows; no token is marked; the wording of the
prompt is ours (prompts/intruder.txt).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from components.client.contract import CHARACTERS_PER_TOKEN, Reply, Request
from components.client.forecast import NOTHING, Most
from components.client.prompt import Prompt
from components.config import Config, execution
from components.interpretation.contract import LatentRecord
from components.interpretation.latent_contract import LatentScorer, LatentValue, latent_scorers
from components.interpretation.prompt import path_of
from components.interpretation.showing import TOKENS_OF_A_TOKEN, line, numbered
from components.interpretation.windows import Texts, Vocabulary
from components.interpretation.writing import was_not_asked
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.spelling import whole

NAME = "intruder.accuracy"
FIFTHS = 5
VALUES = ("windows", "n")
TOGETHER = 16
"""Latents that are asked about together."""
LONGEST_ANSWER = 24
"""Tokens of an answer, without thoughts before it."""


class Choice(BaseModel):
    """The number of the piece that does not belong."""

    model_config = ConfigDict(extra="forbid")
    answer: int


class IntruderConfig(Config):
    """Which of several windows is not this latent's."""

    windows: int = Field(default=5, ge=3, le=10)
    """Windows of a trial, the intruder among them; chance is one over this."""
    trials: PositiveInt = 20
    """Trials of a latent."""
    around: PositiveInt = 4
    """Tokens that are shown on either side of the most active one."""
    reader: Literal["lexical", "text_encoder", "client"] = "lexical"
    """Who says which window is least like the others; client: the language model of
    interpret.judge."""
    reasoning: int = Field(default=0, ge=0, le=32_768)
    """Tokens that a language model which thinks before it answers may take for that."""
    prompt: str = execution("")
    """Another prompt for it, a text file with the parts [system] and [user]; its bytes are in the
    key."""


@latent_scorers
class Intruder(LatentScorer):
    """Which of several windows is not this latent's."""

    config: ClassVar[type[Config]] = IntruderConfig
    settings: IntruderConfig
    free: ClassVar[bool] = True
    null: ClassVar[str] = "chance"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(
            NAME, "Intruder found", "share of trials",
            "Trials in which the window without the latent is the one least like the others.",
            rank=11, kinds=11, least=0, most=1, short="intruder",
        ),
    )  # fmt: skip

    @classmethod
    def embeds(cls, config: Config) -> bool:
        """Where the text encoder reads."""
        assert isinstance(config, IntruderConfig)
        return config.reader == "text_encoder"

    @classmethod
    def asks(cls, config: Config) -> bool:
        """Where a language model reads."""
        assert isinstance(config, IntruderConfig)
        return config.reader == "client"

    @classmethod
    def files(cls, config: Config) -> Sequence[Path]:
        """The prompt, where a language model reads."""
        assert isinstance(config, IntruderConfig)
        return [path_of(cls.kind, config.prompt)] if cls.asks(config) else []

    @classmethod
    def most_asked(cls, config: Config) -> Most:
        """One call for each trial."""
        assert isinstance(config, IntruderConfig)
        if not cls.asks(config):
            return NOTHING
        n, shown = config.trials, TOKENS_OF_A_TOKEN * (2 * config.around + 1)
        prompt = cls._prompt_of(config).tokens + config.windows * (CHARACTERS_PER_TOKEN + shown)
        return Most(n, n * prompt, n * (LONGEST_ANSWER + config.reasoning))

    @classmethod
    def _prompt_of(cls, config: IntruderConfig) -> Prompt:
        return Prompt.read(*cls.files(config), VALUES, ("windows",))

    @functools.cached_property
    def _prompt(self) -> Prompt:
        return self._prompt_of(self.settings)

    @property
    def reader(self) -> str | None:
        """Who compares."""
        return self.settings.reader

    def score(self, records: Sequence[LatentRecord]) -> Iterator[Mapping[str, LatentValue]]:
        """The share of trials for each record; windows of the test split."""
        if self.asks(self.settings):
            yield from self._by_client(records)
            return
        rarity = _rarity([record.test.texts for record in records])
        for record in records:
            generator = numpy_generator(self.services.seed, "intruder", record.latent)
            shown = self._trials(record, generator)
            if isinstance(shown, str):
                yield {NAME: self._failed(shown)}
                continue
            vocabulary = record.test.texts.vocabulary
            vectors = self._vectors(shown.reshape(-1, shown.shape[2]), vocabulary, rarity)
            cosines = np.einsum("twd,tvd->twv", *[vectors.reshape(*shown.shape[:2], -1)] * 2)
            likeness = np.round(cosines.sum(axis=2) - np.einsum("tww->tw", cosines), 9)
            least = likeness == likeness.min(axis=1, keepdims=True)
            # the intruder is the last
            value = float((least[:, -1] / least.sum(axis=1)).mean())
            yield {NAME: LatentValue(value, 1 / self.settings.windows, len(shown))}

    def _failed(self, reason: str) -> LatentValue:
        n = self.settings.trials
        return LatentValue(None, None, n, n, reason)

    def _by_client(self, records: Sequence[LatentRecord]) -> Iterator[Mapping[str, LatentValue]]:
        """The same by a language model, which is asked about several latents together."""
        assert self.services.client is not None, "an entry that asks says so"
        stream = iter(records)
        while part := list(itertools.islice(stream, TOGETHER)):
            asked = [self._asked(record) for record in part]
            wanted = [each for each in asked if not isinstance(each, str)]
            every = [request for requests, _ in wanted for request in requests]
            self.services.client.refuse_too_long(every, "intruder")
            replies = iter(self.services.client.ask(every))
            for each in asked:
                if isinstance(each, str):
                    yield {NAME: self._failed(each)}
                else:
                    own = [next(replies) for _ in each[0]]
                    yield {NAME: self._value(own, each[1])}

    def _asked(
        self, record: LatentRecord
    ) -> tuple[Sequence[Request], Int[np.ndarray, " trial"]] | str:
        """A request for each trial, and the number of the intruder in it; why there is none."""
        seed, n = self.services.seed, self.settings.windows
        shown = self._trials(record, numpy_generator(seed, "intruder", record.latent))
        if isinstance(shown, str):
            return shown
        places = numpy_generator(seed, "intruder places", record.latent).integers(
            n, size=len(shown)
        )
        texts, requests = record.test.texts.vocabulary.texts, []
        for trial, place in zip(shown, places.tolist(), strict=True):
            *others, intruder = [line([texts[t] for t in row if t >= 0]) for row in trial.tolist()]
            lines = [*others[:place], intruder, *others[place:]]
            messages = self._prompt.messages(windows=numbered(lines), n=str(n))
            room = LONGEST_ANSWER + self.settings.reasoning
            label = f"intruder, latent {record.latent}"
            requests.append(Request(messages, room, schema=Choice, label=label))
        return requests, places + 1

    def _value(self, replies: Sequence[Reply], places: Int[np.ndarray, " trial"]) -> LatentValue:
        """The share of trials in which the intruder was named; an answer that is none is a
        guess."""
        n, chance = len(replies), 1 / self.settings.windows
        for reply in replies:
            if was_not_asked(reply):
                return LatentValue(None, None, 0, 0, reply.reason, is_missing=True)
        read = [_number(reply, self.settings.windows) for reply in replies]
        failed = [number for number in read if isinstance(number, str)]
        if len(failed) == n:
            return self._failed(failed[0])
        points = [
            chance if isinstance(number, str) else float(number == place)
            for number, place in zip(read, places.tolist(), strict=True)
        ]
        return LatentValue(float(np.mean(points)), chance, n, len(failed), next(iter(failed), None))

    def _trials(
        self, record: LatentRecord, generator: np.random.Generator
    ) -> Int[np.ndarray, "trial window token"] | str:
        """What is shown, the intruder last; why there is nothing to show."""
        if record.reason:
            return record.reason
        windows, n = record.test, self.settings.windows
        active, silent = windows.part(windows.active), windows.part(~windows.active)
        silent = silent.part(silent.stratum == "random")
        fifth = active.quantile // 2
        enough = [part for part in range(FIFTHS) if (fifth == part).sum() >= n]
        if not enough or not len(silent):
            few = f"no fifth of its activations has {n} windows"
            return few if len(silent) else "no silent window was drawn at random"
        peaks = active.activations.argmax(axis=1)
        length = silent.texts.present.sum(axis=1)
        trials = []
        for _ in range(self.settings.trials):
            inside = np.flatnonzero(fifth == generator.choice(enough))
            *shown, left_out = generator.choice(inside, n, replace=False)
            intruder = generator.integers(len(silent))
            at = np.append(peaks[shown], min(peaks[left_out], length[intruder] - 1))
            rows = [*active.texts.tokens[shown], silent.texts.tokens[intruder]]
            trials.append(
                [self._around(row, place) for row, place in zip(rows, at.tolist(), strict=True)]
            )
        return np.array(trials)

    def _around(self, row: Int[np.ndarray, " token"], place: int) -> Int[np.ndarray, " shown"]:
        """The tokens around a place; -1 beyond the ends of the window."""
        reach = self.settings.around
        padded = np.pad(row, reach, constant_values=-1)
        return padded[place : place + 2 * reach + 1]

    def _vectors(
        self,
        shown: Int[np.ndarray, "window token"],
        vocabulary: Vocabulary,
        rarity: Float[np.ndarray, " word"],
    ) -> Float[np.ndarray, "window d"]:
        """A vector of length 1 for each window; of zeros where nothing of it counts."""
        if self.settings.reader == "text_encoder":
            pieces = [[vocabulary.texts[t] for t in row if t >= 0] for row in shown.tolist()]
            texts = [whole(row).strip() or "." for row in pieces]
            distinct = list(dict.fromkeys(texts))
            embedded = self.services.encoder.embed(distinct)
            unit = torch.nn.functional.normalize(embedded, dim=1).double().numpy()
            place = {text: number for number, text in enumerate(distinct)}
            return unit[[place[text] for text in texts]]
        words = vocabulary.word_of[shown]
        known, column = np.unique(words, return_inverse=True)
        vectors = np.zeros((len(shown), len(known)))
        vectors[np.arange(len(shown))[:, None], column.reshape(words.shape)] = 1
        vectors *= np.where(known >= 0, rarity[known], 0)
        norm = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(norm > 0, norm, 1)


def _rarity(texts: Sequence[Texts]) -> Float[np.ndarray, " word"]:
    """The logarithm of how many windows there are to each that holds the word."""
    if not texts:
        return np.zeros(0)
    vocabulary = texts[0].vocabulary
    holding = np.zeros(len(vocabulary.words))
    n = 0
    for each in texts:
        words = np.sort(vocabulary.word_of[each.tokens], axis=1)
        first = (np.diff(words, axis=1, prepend=-1) != 0) & (words >= 0)
        holding += np.bincount(words[first], minlength=len(holding))
        n += len(words)
    return np.log((1 + n) / (1 + holding))


def _number(reply: Reply, most: int) -> int | str:
    """The number that a reply says; why it is none."""
    if reply.value is None:
        return reply.reason or "not as asked: no number"
    number = reply.value.answer
    if not 1 <= number <= most:
        return f"not as asked: wanted a number from 1 to {most}, got {number}"
    return number
