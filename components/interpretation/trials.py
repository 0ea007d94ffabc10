"""What is asked of a latent, what is answered, and what that scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from components.interpretation.windows import Pool, Texts

Unit = Literal["windows", "tokens", "marks", "choice"]
"""What an answer has one number for: each window; each token; each window, for how well its marked
tokens are those where the latent is active; each window, to be compared with the others of its
group, of which one is right."""


class Shown(NamedTuple):
    """Windows that a predictor is shown about one latent, at most; for the forecast of calls.

    Attributes:
        windows: of the trials.
        groups: for the unit choice, the groups that these make; else 0.
        pool: unselected windows, at natural density: for each latent, or in parts for all of them
            together (components/interpretation/natural_density.py); 0 for none.
    """

    windows: int
    groups: int = 0
    pool: int = 0


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
            few of its windows; about none where nobody was asked.
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
