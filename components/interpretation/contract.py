"""What interpretation promises: explainers write a string, predictors see only that string, scorers
compare.

What each may know is fixed by types. An explainer gets `LatentEvidence`: windows of the explain
split, with activations. A predictor gets `Question`s: a string, and windows of bare text. A scorer
draws `Trials` from the windows of the test split and compares the predictor's answers with what is
true of them. So no weight, no activation and no test text can leak into a score.

Trials are drawn once for each latent: every explainer, predictor and control answers the same ones.

Explainers and predictors work on streams and answer in order, so that an entry behind a model or an
endpoint may batch as it likes.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from components.client.client import Client
from components.device import resolve
from components.dictionary.contract import Dictionary
from components.dictionary.encode import RESIDUAL_WRITERS
from components.interpretation.tiling import ContextsConfig, Tiling
from components.interpretation.windows import Pool, Texts, Windows
from components.model.language_model import LanguageModel
from components.model.latent_semantics import LatentSemantics
from components.model.reference import ModelReference
from components.model.text_encoder import TextEncoder, TextEncoderReference
from components.registry import Entry, Registry, Services
from components.report.measure import Measure
from components.store.artifact import Artifact
from components.store.stage import Progress

LONGEST = 200
"""Characters of an explanation, at most, unless `interpret.longest` says otherwise."""
LONGEST_OF_ALL = 512
"""Characters of any explanation, at most: what `interpret.longest` may be, and what the explainer
`given` takes."""

UBIQUITOUS = 1 / 3
"""Share of windows from which a latent is so common that telling windows with it from windows
without it says nothing."""

Unit = Literal["windows", "tokens", "marks", "choice"]
"""What an answer has one number for: each window; each token; each window, for how well its marked
tokens are those where the latent is active; each window, to be compared with the others of its
group, of which one is right."""


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
        lacks: active or silent: of which windows there are too few.
        share: of the windows of the test split, the share in which it is active.
        pool: unselected windows of the test split, the same for every latent; None where none are
            asked for.
    """

    latent: int
    density: float
    decile: int
    explain: Windows
    calibrate: Windows
    test: Windows
    reason: str | None = None
    lacks: str | None = None
    share: float = 0.0
    pool: Pool | None = None

    @property
    def ubiquitous(self) -> bool:
        """Whether it is active in over a third of the windows: no text is without it."""
        return self.share > UBIQUITOUS


@dataclasses.dataclass(frozen=True, eq=False)
class LatentEvidence:
    """All an explainer may know of a latent.

    Attributes:
        latent: index in the dictionary.
        windows: of the explain split.
        promoted: tokens whose logits the decoder direction raises most, the most raised first;
            empty where there is no model with logits, or the direction is not written to its
            residual stream.
        suppressed: tokens whose logits it lowers most, likewise.
        label: reads the labels of windows of the explain split; None where the corpus has none.
        described: concept -> one sentence, of the labelled concepts that have one.
    """

    latent: int
    windows: Windows
    promoted: Sequence[str] = ()
    suppressed: Sequence[str] = ()
    label: Callable[[Windows], Mapping[str, Bool[np.ndarray, "window token"]]] | None = None
    described: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def labels(self) -> Mapping[str, Bool[np.ndarray, "window token"]]:
        """Concept -> the tokens of the windows that carry it; only concepts that occur there."""
        return self.label(self.windows) if self.label else {}


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What an explainer says; at most `LONGEST_OF_ALL` characters.

    Attributes:
        text: None when nothing could be written.
        reason: why not.
        is_missing: whether nobody was asked (a budget that is spent, an endpoint that went away):
            such a latent is left out of means, and does not stand at chance.
        call: key of the request that it answers, in the cache of answers and the table of calls.
        served: the model that wrote it, with its fingerprint; None where none did.
    """

    text: str | None
    reason: str | None = None
    is_missing: bool = False
    call: str | None = None
    served: str | None = None

    def __post_init__(self) -> None:
        assert (self.text is None) == (self.reason is not None), (
            "an explanation is a text, or null with a reason"
        )
        fits = self.text is None or 0 < len(self.text) <= LONGEST_OF_ALL
        assert fits, f"not 1 to {LONGEST_OF_ALL} characters: {self.text!r}"

    @classmethod
    def of(cls, text: str, longest: int = LONGEST) -> Explanation:
        """Whatever somebody wrote, a language model above all; refused with the reason where it
        cannot stand.

        Control characters and lone surrogates become spaces, runs of spaces one space. A text of
        more than `longest` characters is refused, never cut: half a sentence may say the opposite.
        Nothing is raised.
        """
        spaced = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
        shown = " ".join(spaced.split())
        if not any(c.isprintable() and not c.isspace() for c in shown):
            return cls(None, f"nothing that can be read was written ({len(text):,} characters)")
        if len(shown) > longest:
            return cls(None, too_long(len(shown), longest))
        return cls(shown)


def too_long(n: int, longest: int) -> str:
    """Why an explanation of n characters is refused."""
    limit = f"{longest} characters (interpret.longest; {LONGEST_OF_ALL} where it was given)"
    return f"it has {n:,} characters, wanted at most {limit}"


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What a predictor is asked: where is a latent so explained active?

    Attributes:
        explanation: the string.
        texts: the windows.
        marks: for the unit marks, the tokens that are marked; else None.
        group: for the unit choice, the group of each window; else None.
    """

    explanation: str
    texts: Texts
    marks: Bool[np.ndarray, "window token"] | None = None
    group: Int[np.ndarray, " window"] | None = None

    def marked(self, values: Float[np.ndarray, "window token"]) -> Float[np.ndarray, " window"]:
        """An answer for marks from one for tokens: the mean over marked tokens less that over the
        window's others."""
        assert self.marks is not None, "a question of the unit marks has marks"
        inside, outside = self.marks & self.texts.present, ~self.marks & self.texts.present
        means = [
            np.where(part, values, 0).sum(1) / np.maximum(1, part.sum(1))
            for part in (inside, outside)
        ]
        return means[0] - means[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Expected activation, on any scale.

    Attributes:
        values: for each window, or where tokens are asked for each token of each window; NaN where
            there is no answer; None for none at all.
        reason: what failed.
        is_missing: whether nobody was asked: the latent is left out of means, and does not stand
            at chance.
    """

    values: Float[np.ndarray, " window"] | Float[np.ndarray, "window token"] | None
    reason: str | None = None
    is_missing: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """What one scorer asks of one latent, and what is true. Drawn once, and answered by everybody.

    Attributes:
        texts: the windows that are shown.
        truth: the activation of each token where tokens are asked for; else a number for each
            window: whether the latent is active in it, the marked tokens are those where it is, or
            the window is the right one of its group.
        marks: for the unit marks, the tokens that are marked; else None.
        group: for the unit choice, the group of each window; else None.
        strata: name -> the windows over which the score is told once more.
        stands_for: how many windows of the split each stands for, where the score is told at
            natural density too.
        natural_chance: what knowing nothing gets at natural density.
        chances: what knowing nothing gets in a stratum, where that is not the scorer's chance.
        reason: why there is nothing to ask about this latent; None where there is.
        pool: unselected windows on which the score is told at natural density; None for none.
        kinds: the kinds of silent windows that every latent has, over which the macro mean is
            taken; None before all trials are drawn.
        null: why there is no score of this latent at all; None where there is one.
    """

    texts: Texts
    truth: (
        Float[np.ndarray, " window"]
        | Float[np.ndarray, "window token"]
        | Bool[np.ndarray, " window"]
    )
    marks: Bool[np.ndarray, "window token"] | None = None
    group: Int[np.ndarray, " window"] | None = None
    strata: Mapping[str, Bool[np.ndarray, " window"]] = dataclasses.field(default_factory=dict)
    stands_for: Float[np.ndarray, " window"] | None = None
    natural_chance: float = 0.0
    chances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reason: str | None = None
    pool: Pool | None = None
    kinds: tuple[str, ...] | None = None
    null: str | None = None

    def __len__(self) -> int:
        """Windows, or groups of windows of which one is chosen."""
        return len(self.texts.tokens) if self.group is None else len(np.unique(self.group))

    def part(self, mask: Bool[np.ndarray, " window"]) -> Trials:
        """Some of the windows, in their order, without strata and natural density of their own."""
        texts = Texts(self.texts.tokens[mask], self.texts.vocabulary)
        marks, group = (
            None if column is None else column[mask] for column in (self.marks, self.group)
        )
        return Trials(texts, self.truth[mask], marks, group)

    def question(self, explanation: str) -> Question:
        """What a predictor sees of it."""
        return Question(explanation, self.texts, self.marks, self.group)


class ScorePart(NamedTuple):
    """One latent's score over some of its windows.

    Attributes:
        value: the score; chance where it failed.
        chance: what knowing nothing gets.
        n: windows.
    """

    value: float
    chance: float
    n: int


class Pooled(NamedTuple):
    """What was answered about some windows of the pool, to be told of all latents together.

    Attributes:
        values: expected activation; NaN where there is no answer.
        active: whether the latent is active inside.
    """

    values: Float[np.ndarray, " window"]
    active: Bool[np.ndarray, " window"]


@dataclasses.dataclass(frozen=True)
class LatentScore:
    """One latent's score by one scorer.

    Attributes:
        value: the score; chance where it failed; None where there is none of this latent, with the
            reason, for whoever answers.
        low: 95% interval over windows, lower end; None without one.
        high: upper end.
        n: windows, or groups of which one is chosen.
        n_failed: those that failed, counted in n at chance.
        reason: what failed.
        strata: the same over strata of the windows, and at natural density, by name; without those
            that it has no windows of.
        pooled: where answers are too dear to ask about the pool for every latent: those about a
            few of its windows.
        is_missing: whether nobody was asked; the value then is NaN and counts nowhere.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_failed: int = 0
    reason: str | None = None
    strata: Mapping[str, ScorePart] = dataclasses.field(default_factory=dict)
    pooled: Pooled | None = None
    is_missing: bool = False


class Most(NamedTuple):
    """What is asked of a client, at most."""

    calls: int
    """Requests."""
    input_tokens: int
    """Tokens of their prompts, estimated."""
    output_tokens: int
    """Tokens of their answers."""

    def times(self, n: int) -> Most:
        """So many times as much."""
        return Most(*(n * each for each in self))

    def plus(self, other: Most) -> Most:
        """Both together."""
        return Most(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))


NOTHING = Most(0, 0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class ReaderServices(Services):
    """What explainers and predictors alike may use.

    Attributes:
        text_encoder: gives texts vectors; None where no listed entry asks for it (`embeds`).
        client: answers prompts: of an explainer `interpret.client`, of a predictor
            `interpret.judge`; None where no listed entry asks (`asks`).
        texts: gives texts of the explain split, for an encoder that is fitted on them.
    """

    text_encoder: TextEncoderReference | None = None
    client: Client | None = None
    texts: Callable[[], Sequence[str]] = tuple

    @functools.cached_property
    def encoder(self) -> TextEncoder | LatentSemantics:
        """The text encoder itself, loaded when it is first asked for."""
        assert self.text_encoder is not None, (
            "an entry that uses the text encoder says so: embeds = True"
        )
        if self.text_encoder.is_fitted_here:
            return LatentSemantics(self.texts(), self.seed)
        return self.text_encoder.load_encoder(self.execution)


@dataclasses.dataclass(frozen=True, eq=False)
class PredictorServices(ReaderServices):
    """What a predictor may use.

    Attributes:
        model: the model that is looked into; None where the activations came without one.
    """

    model: ModelReference | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ExplainerServices(ReaderServices):
    """What an explainer may use.

    Attributes:
        predictor: the first of the listed that is asked about windows, for an explainer that tests
            what it wrote; None where there is none.
        longest: characters of an explanation, at most.
    """

    predictor: Predictor | None = None
    longest: int = LONGEST


@dataclasses.dataclass(frozen=True, eq=False)
class ScorerServices(Services):
    """What a scorer may use.

    Attributes:
        model: the model that is looked into; None where the activations came without one.
        trained: the artifact of the dictionary whose latents are scored; None where only its codes
            are here.
        explain: the explain split, for beginnings of documents that a model reads or goes on from.
    """

    model: ModelReference | None = None
    trained: Artifact | None = None
    explain: Tiling | None = None

    @functools.cached_property
    def dictionary(self) -> Dictionary | None:
        """The dictionary itself, loaded when it is first asked for."""
        return (
            Dictionary.load(self.trained, resolve(self.execution.device)) if self.trained else None
        )

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The model itself, loaded when it is first asked for."""
        assert self.model is not None, "ask `obstacle` first"
        return self.model.load(self.execution)

    def obstacle(self, capability: str) -> str | None:
        """Why latents cannot be pushed inside the model; None where they can.

        Args:
            capability: what the model must be able to do (`LanguageModel.obstacle`).
        """
        if self.model is None:
            return "there is no model: the activations came without one"
        if self.dictionary is None or self.explain is None:
            return "only codes are here, neither the dictionary nor text that the model could read"
        hook_point = next(iter(self.dictionary.writes), "")
        if hook_point.partition(".")[0] not in RESIDUAL_WRITERS:
            return (
                f"the dictionary writes to {hook_point or 'no hook point'}, which is not added to "
                "the residual stream"
            )
        return self.language_model.obstacle(capability)


class _Reader(Entry):
    free: ClassVar[bool] = False
    """Whether running it costs nothing but time on this machine: no endpoint, no model. `latentflow
    plan` runs no other."""
    embeds: ClassVar[bool] = False
    """Whether it uses `services.encoder`."""
    asks: ClassVar[bool] = False
    """Whether it asks `services.client`. Latents then come in random order, so that what was asked
    before a budget was spent is a sample."""

    @classmethod
    def files(cls, settings: Any) -> Sequence[Path]:
        """The files that it reads with these settings; their bytes become part of the artifact's
        key."""
        return ()


class Explainer(_Reader):
    """Writes explanations. A file in `explainers/` holds one, registered with `@explainers`."""

    services: ExplainerServices
    role: ClassVar[Literal["entry", "control"]] = "entry"
    """control: what every explanation is to beat. It is scored like the others and never ranked
    among them."""
    tests_itself: ClassVar[bool] = False
    """Whether it tests what it writes with `services.predictor`: what that one says of its
    explanations is then no score of theirs (the role `own_judge`), and is not ranked."""
    any_dictionary: ClassVar[bool] = True
    """Whether it can explain latents of a control dictionary too; not where its explanations are of
    one dictionary."""

    reads_logits: ClassVar[bool] = False
    """Whether it reads the tokens that a decoder direction promotes or suppresses."""

    @property
    def longest(self) -> int:
        """Characters of its explanations, at most; what is longer becomes a null with the
        reason."""
        return self.services.longest

    @classmethod
    def most_asked(cls, settings: Any, contexts: ContextsConfig, longest: int) -> Most:
        """What it asks its client for one latent, at most.

        Args:
            settings: its own.
            contexts: which windows it will see.
            longest: characters of an explanation, at most.
        """
        return NOTHING

    @classmethod
    def most_tests(cls, settings: Any) -> int:
        """How often it asks `services.predictor` about a latent, at most."""
        return 0

    @abstractmethod
    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """One explanation for each evidence, in order."""


class Predictor(_Reader):
    """Reads explanations. A file in `predictors/` holds one, registered with `@predictors`."""

    services: PredictorServices
    reads_pool: ClassVar[bool] = False
    """Whether each answer is so cheap that it can be asked about thousands of windows for every
    latent; no language model's is. Who is dearer is asked about a few of them for each latent."""
    gives: ClassVar[frozenset[Unit]]
    """What it can give numbers for. Who gives tokens can be asked for marks too: `Question.marked`
    makes them."""

    @abstractmethod
    def predict(self, questions: Iterable[Question], unit: Unit) -> Iterator[Answer]:
        """One answer for each question, in order, in that unit."""

    @classmethod
    def most_asked(cls, settings: Any, contexts: ContextsConfig, unit: Unit) -> Most:
        """What it asks its client for one question in that unit, at most."""
        return NOTHING

    @classmethod
    def answers(cls, unit: Unit) -> bool:
        """Whether a scorer that needs this unit can ask it."""
        return unit in cls.gives or (unit == "marks" and "tokens" in cls.gives)


class Scorer(_Reader):
    """Says how well answers foretell the latent. A file in `scorers/` holds one, registered with
    `@scorers`."""

    services: ScorerServices
    needs: ClassVar[Unit]
    """What it asks a predictor for."""
    chance: ClassVar[float]
    """What knowing nothing gets: the value of every failure."""
    measure: ClassVar[Measure]
    """The score itself, as a reader meets it; its name is the scorer's, and it has a least and a
    greatest value."""
    strata: ClassVar[tuple[str, ...]] = ()
    """Names of the strata that its trials may have; components/interpretation/strata.py has the
    usual ones."""
    natural: ClassVar[str | None] = None
    """What the score at natural density is called; None where it has none. Where trials have a
    pool, it is the average precision there."""

    def obstacle(self) -> str | None:
        """Why it can score no latent of this dictionary at all: its rows have this reason and no
        value. None where it can."""
        return None

    def prepare(self, records: Sequence[LatentRecord]) -> Generator[Progress, None, None]:
        """What is made for all latents together; called once, before the first trials."""
        yield from ()

    @abstractmethod
    def trials(self, record: LatentRecord, generator: np.random.Generator) -> Trials:
        """What it asks of a latent, drawn from the windows of the test split."""

    @abstractmethod
    def score(
        self, answer: Answer, trials: Trials, generator: np.random.Generator | None
    ) -> LatentScore:
        """One latent's score; `answer.values` is not None.

        The score at natural density is among the strata, where trials have `stands_for`. A stratum
        that is left out is scored by asking again for its part of the trials.

        Args:
            answer: to all of the trials.
            trials: what was asked, or a part of it.
            generator: for intervals; None: none is wanted.
        """


explainers: Registry[type[Explainer]] = Registry(
    "explainer", "components.interpretation.explainers"
)
predictors: Registry[type[Predictor]] = Registry(
    "predictor", "components.interpretation.predictors"
)
scorers: Registry[type[Scorer]] = Registry("scorer", "components.interpretation.scorers")
