"""What interpretation promises: explainers write a string, predictors see only that string, scorers compare.

What each may know is fixed by types. An explainer gets `Evidence`: windows of the explain split, with activations. A
predictor gets `Question`s: a string, and windows of bare text. A scorer compares its answers with the activations of
the test split. So no weight, no activation and no test text can leak into a score.

All three work on streams and answer in order, so that an entry behind a model or an endpoint may batch as it likes.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from components.config import Config
from components.device import Execution
from components.registry import Registry
from components.spelling import PART, groups, whole
from components.store.artifact import Inputs

LONGEST = 200
"""Characters of an explanation, at most."""

Unit = Literal["windows", "tokens"]
"""What an answer is given for: one number for each window, or one for each token."""


class Vocabulary:
    """Token ids as text. A *word* is a token's text without surrounding space, so that ' sea' and 'sea' are one.

    Attributes:
        texts: the text of each token id.
        words: the distinct words; grows by the characters that neighbouring tokens make together.
        word_of: the word of each token id, and -1 at the end: `word_of[-1]` is what padding is.
        partial: whether each token id holds bytes that are part of a character; padding, at the end, does not.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.words: list[str] = []
        self._ids: dict[str, int] = {}
        self.word_of: Int[np.ndarray, " token_and_padding"] = np.array([*map(self.add, self.texts), -1], dtype=np.int64)
        self.partial: Bool[np.ndarray, " token_and_padding"] = np.array(
            [*(PART.search(text) is not None for text in self.texts), False], dtype=bool
        )

    def add(self, text: str) -> int:
        """The number of the word of a text, a new one where it is new."""
        word = text.strip() or text
        number = self._ids.setdefault(word, len(self.words))
        if number == len(self.words):
            self.words.append(word)
        return number

    def find(self, word: str) -> int:
        """The number of a word, or -2, which no token has, where the vocabulary lacks it."""
        return self._ids.get(word, -2)


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Windows of text and nothing else: all that a predictor sees beside the explanation.

    Attributes:
        tokens: token ids, padded with -1 at the end.
        vocabulary: their text.
    """

    tokens: Int[np.ndarray, "window token"]
    vocabulary: Vocabulary

    @property
    def present(self) -> Bool[np.ndarray, "window token"]:
        """Where there is a token, not padding."""
        return self.tokens >= 0

    @functools.cached_property
    def words(self) -> Int[np.ndarray, "window token"]:
        """The word at each token; -1 for padding. Tokens that make a character together have it as their word."""
        vocabulary = self.vocabulary
        words = vocabulary.word_of[self.tokens]
        for row in np.flatnonzero(vocabulary.partial[self.tokens].any(1)):
            texts = [vocabulary.texts[token] for token in self.tokens[row].tolist() if token >= 0]
            for first, end in groups(texts):
                if end - first > 1:
                    words[row, first:end] = vocabulary.add(whole(texts[first:end]))
        return words

    @functools.cached_property
    def left(self) -> Int[np.ndarray, "window token"]:
        """The word before each token; -1 for the first, whose left neighbour the window does not show."""
        left = np.pad(self.words, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        inside = self.vocabulary.partial[self.tokens]
        for row in np.flatnonzero((inside[:, 1:] & inside[:, :-1]).any(1)):
            texts = [self.vocabulary.texts[token] for token in self.tokens[row].tolist() if token >= 0]
            for first, end in groups(texts):
                left[row, first:end] = left[row, first]  # inside a character, what stands before is before all of it
        return left

    def strings(self) -> list[list[str]]:
        """Each window as the texts of its tokens."""
        return [[self.vocabulary.texts[token] for token in row if token >= 0] for row in self.tokens.tolist()]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one split chosen for one latent, with its activation on every token.

    Attributes:
        texts: what stands there.
        activations: in units of the activations; 0 where silent and in padding.
        document: the document of each window.
        start: position in the document of its first token.
        role: top, quantile, or silent (verified: no activation inside).
        quantile: interval of activation, 0 the strongest; -1 for silent windows.
        stratum: random or same_token for silent windows; "" for the others.
        stands_for: how many windows of the split each stands for, itself included: together all of the split, active
            and silent, at their natural density. 0 for top windows, which were not drawn.
    """

    texts: Texts
    activations: Float[np.ndarray, "window token"]
    document: Int[np.ndarray, " window"]
    start: Int[np.ndarray, " window"]
    role: Shaped[np.ndarray, " window"]
    quantile: Int[np.ndarray, " window"]
    stratum: Shaped[np.ndarray, " window"]
    stands_for: Float[np.ndarray, " window"]

    def __len__(self) -> int:
        return len(self.role)

    @property
    def active(self) -> Bool[np.ndarray, " window"]:
        """Whether the latent is active inside."""
        return self.role != "silent"

    def part(self, kept: Bool[np.ndarray, " window"]) -> Windows:
        """Some of the windows, in their order."""
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        texts = Texts(self.texts.tokens[kept], self.texts.vocabulary)
        return Windows(texts, **{name: column[kept] for name, column in columns.items() if name != "texts"})


@dataclasses.dataclass(frozen=True, eq=False)
class LatentRecord:
    """One sampled latent with its windows, by documents of three splits.

    Attributes:
        latent: index in the dictionary.
        density: share of tokens on which it is active.
        decile: tenth of the alive latents by density, 0 the rarest.
        explain: what explainers see.
        calibrate: for thresholds.
        test: what scores are measured on.
        reason: why it was skipped (too few windows); None when it was not.
    """

    latent: int
    density: float
    decile: int
    explain: Windows
    calibrate: Windows
    test: Windows
    reason: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """All an explainer may know of a latent.

    Attributes:
        latent: index in the dictionary.
        windows: of the explain split.
    """

    latent: int
    windows: Windows


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What an explainer says; at most `LONGEST` characters.

    Attributes:
        text: None when nothing could be written.
        reason: why not.
    """

    text: str | None
    reason: str | None = None

    def __post_init__(self) -> None:
        assert (self.text is None) == (self.reason is not None), "an explanation is a text, or null with a reason"
        assert self.text is None or 0 < len(self.text) <= LONGEST, f"not 1 to {LONGEST} characters: {self.text!r}"


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What a predictor is asked: where does a latent so explained fire?

    Attributes:
        explanation: the string.
        texts: the windows.
    """

    explanation: str
    texts: Texts


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Expected activation, on any scale.

    Attributes:
        values: for each window, or for each token of each window; NaN where there is no answer; None for none at all.
        reason: what failed.
    """

    values: Float[np.ndarray, " window"] | Float[np.ndarray, "window token"] | None
    reason: str | None = None


class Part(NamedTuple):
    """One latent's score over some of its windows.

    Attributes:
        value: the score; chance where it failed.
        chance: what knowing nothing gets.
        n: windows.
    """

    value: float
    chance: float
    n: int


@dataclasses.dataclass(frozen=True)
class Score:
    """One latent's score by one scorer.

    Attributes:
        value: the score; chance where it failed.
        low: 95% interval over windows, lower end; None without one.
        high: upper end.
        n: windows.
        n_failed: windows that failed, counted in n at chance.
        reason: what failed.
        strata: the same over strata of the windows, and at natural density, by name; without those that it has no
            windows of.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    n_failed: int = 0
    reason: str | None = None
    strata: Mapping[str, Part] = dataclasses.field(default_factory=dict)


class _Entry(ABC):
    kind: ClassVar[str]
    version: ClassVar[int] = 1
    config: ClassVar[type[Config]]
    free: ClassVar[bool] = False
    """Whether running it costs nothing but time on this machine: no endpoint, no model. `latentflow plan` runs no other."""

    def __init__(self, config: Config, inputs: Inputs, execution: Execution) -> None:
        """`config` is of the entry's own class; `inputs` are those of the stage, by role."""
        self.settings = config
        self.inputs = inputs
        self.execution = execution


class Explainer(_Entry):
    """Writes explanations. A file in `explainers/` holds one, registered with `@explainers`."""

    @abstractmethod
    def explain(self, evidence: Iterable[Evidence]) -> Iterator[Explanation]:
        """One explanation for each evidence, in order."""


class Predictor(_Entry):
    """Reads explanations. A file in `predictors/` holds one, registered with `@predictors`."""

    gives: ClassVar[frozenset[Unit]]
    """What it can give numbers for."""

    @abstractmethod
    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        """One answer for each question, in order, for windows or for tokens."""


class Scorer(_Entry):
    """Says how well answers foretell the latent. A file in `scorers/` holds one, registered with `@scorers`."""

    needs: ClassVar[Unit]
    """What it asks a predictor for."""
    chance: ClassVar[float]
    """What knowing nothing gets: the value of every failure."""
    range: ClassVar[tuple[float, float]]
    """The least and the most that a score can be."""
    natural: ClassVar[str]
    """What the score at natural density is called."""

    @abstractmethod
    def windows(self, record: LatentRecord) -> Windows:
        """The windows it asks about."""

    @abstractmethod
    def score(self, answer: Answer, windows: Windows, generator: np.random.Generator | None) -> Score:
        """One latent's score; `answer.values` is not None. `generator` is for intervals; None: none is wanted."""

    def over(
        self, answer: Answer, windows: Windows, masks: Mapping[str, Bool[np.ndarray, " window"]]
    ) -> Mapping[str, float]:
        """The value over each of several parts of the windows; `answer.values` is not None."""
        assert answer.values is not None
        parts = {name: dataclasses.replace(answer, values=answer.values[mask]) for name, mask in masks.items()}
        return {name: self.score(part, windows.part(masks[name]), None).value for name, part in parts.items()}

    @abstractmethod
    def at_natural_density(self, answer: Answer, windows: Windows) -> Part:
        """One latent's score with each window counted as often as it stands for; chance without any answer."""


explainers: Registry[type[Explainer]] = Registry("explainer", "components.interpretation.explainers")
predictors: Registry[type[Predictor]] = Registry("predictor", "components.interpretation.predictors")
scorers: Registry[type[Scorer]] = Registry("scorer", "components.interpretation.scorers")
