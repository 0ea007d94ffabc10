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
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool

from components.client.forecast import NOTHING, Most
from components.interpretation.explanation import Explanation
from components.interpretation.services import (
    ExplainerServices,
    PredictorServices,
    ScorerServices,
)
from components.interpretation.tiling import ContextsConfig
from components.interpretation.trials import Answer, LatentScore, Question, Shown, Trials, Unit
from components.interpretation.windows import Pool, Windows
from components.registry import Entry, Registry
from components.report.measure import Measure
from components.store.stage import Progress

UBIQUITOUS = 1 / 3
"""Share of windows from which a latent is so common that telling windows with it from windows
without it says nothing."""


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

    @property
    def at_most(self) -> int | None:
        """Latents whose explanations it reads, at most: drawn at random, the others are missing.
        None for all."""
        return None

    @classmethod
    def most_asked(cls, settings: Any, contexts: ContextsConfig, unit: Unit, shown: Shown) -> Most:
        """What it asks its client for one question in that unit, at most.

        Args:
            settings: its own.
            contexts: how long windows are.
            unit: of the question.
            shown: the windows of the question; its pool is asked about apart.
        """
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

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> Shown:
        """The windows that its trials show of one latent, at most: all of the test split unless it
        says otherwise.

        Args:
            settings: its own.
            contexts: which windows are drawn.
        """
        return Shown(contexts.windows)

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
