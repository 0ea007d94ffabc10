"""Does the explanation tell the tokens on which a latent is active from others? AUROC over windows.

In each window some tokens are marked, and the predictor says how well the marks are those where the
latent is active. Right marks are the tokens of an active window with at least 0.3 of its largest
activation. Wrong marks are of two kinds:

    silent   marks in a window where the latent is silent
    active   marks on other tokens of an active window: is it the token that is found, or the text?

Every window with wrong marks takes number and positions of its marks from one active window, and
each active window gives them at most once to each kind. So whoever looks at nothing but where marks
stand, and how many they are, is at 0.5. The windows are paired such that their lengths differ
least; right marks that no window could take are left out of that kind, and a window with every
token marked asks nothing and is left out of both. The score is the mean of the two kinds, of those
that the latent has. Windows without an answer count half against every window of the other class.
The interval is Newcombe's.

Sources: fuzzing after delphi (arXiv 2410.13928, section 3.2). Deviations: delphi marks as many
random tokens in every silent window, one of them always at the same place, and pools yes-or-no
answers over latents. Pairing: the assignment problem, Crouse (2016), IEEE TAES 52, 1679-1696, as
scipy solves it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.optimize
from jaxtyping import Bool, Int
from pydantic import Field

from components.config import Config
from components.interpretation.contract import LatentRecord, Scorer, scorers
from components.interpretation.sample import TENTHS
from components.interpretation.tiling import ContextsConfig
from components.interpretation.trials import Answer, LatentScore, ScorePart, Shown, Trials, Unit
from components.interpretation.windows import Texts
from components.report.measure import Measure
from components.statistics import auroc_interval, auroc_of_answers


class FuzzingConfig(Config):
    """AUROC over windows with marked tokens."""

    threshold: float = Field(default=0.3, gt=0, le=1)
    """Share of its window's largest activation from which a token is marked."""


@scorers
class Fuzzing(Scorer):
    """AUROC over windows, marked rightly against marked wrongly."""

    config: ClassVar[type[Config]] = FuzzingConfig
    free: ClassVar[bool] = True
    needs: ClassVar[Unit] = "marks"
    chance: ClassVar[float] = 0.5
    measure: ClassVar[Measure] = Measure(
        "fuzzing", "Explained, fuzzing", "AUROC",
        "Chance that rightly marked tokens are given more than wrongly marked ones by a predictor "
        "that sees only the explanation.",
        rank=2, kinds=2, least=0, most=1, short="explanation fuzzing",
    )  # fmt: skip
    strata: ClassVar[tuple[str, ...]] = ("silent", "active")

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> Shown:
        """Every active window with its own marks; these once in a silent window, and once on other
        tokens of an active one."""
        return Shown(3 * TENTHS * contexts.per_tenth)

    def trials(self, record: LatentRecord, generator: np.random.Generator) -> Trials:
        """Active windows marked rightly, silent and active ones marked wrongly, in random order."""
        assert isinstance(self.settings, FuzzingConfig)
        windows = record.test
        active, silent = windows.part(windows.active), windows.part(~windows.active)
        level = self.settings.threshold * active.activations.max(1, initial=0, keepdims=True)
        marks = (active.activations >= level) & active.texts.present
        none = np.zeros(silent.texts.tokens.shape, bool)
        pairs = {
            "silent": (silent.texts, *_paired(marks, active.texts, silent.texts, none, generator)),
            "active": (active.texts, *_paired(marks, active.texts, active.texts, marks, generator)),
        }
        right = np.unique(np.concatenate([givers for _, givers, _ in pairs.values()]))
        tokens, shown = [active.texts.tokens[right]], [marks[right]]
        for texts, givers, takers in pairs.values():
            tokens.append(texts.tokens[takers])
            shown.append(marks[givers])
        kind = np.repeat(["right", *pairs], [len(part) for part in tokens])
        order = generator.permutation(len(kind))
        strata = {}
        for name, (_, givers, _) in pairs.items():
            mask = kind == name
            mask[: len(right)] = np.isin(right, givers)
            if len(givers):
                strata[name] = mask[order]
        texts = Texts(np.concatenate(tokens)[order], windows.texts.vocabulary)
        return Trials(
            texts, (kind == "right")[order], marks=np.concatenate(shown)[order], strata=strata
        )

    def score(
        self, answer: Answer, trials: Trials, generator: np.random.Generator | None
    ) -> LatentScore:
        """Chance that right marks are given more than wrong ones, ties half; the mean over the
        kinds of wrong marks."""
        assert answer.values is not None and answer.values.shape == (len(trials),)
        n_right = int(trials.truth.sum())
        if not n_right:
            return LatentScore(
                self.chance, None, None, len(trials), len(trials), "no window can be marked wrongly"
            )
        masks = trials.strata or {"": np.ones(len(trials), bool)}
        values = {
            name: auroc_of_answers(answer.values[mask], trials.truth[mask])
            for name, mask in masks.items()
        }
        value = float(np.mean(list(values.values())))
        low = high = None
        if generator is not None:
            interval = auroc_interval(value, n_right, max(1, (len(trials) - n_right) // len(masks)))
            low, high = interval.low, interval.high
        n_failed = int(np.isnan(answer.values).sum())
        strata = {
            name: ScorePart(values[name], self.chance, int(mask.sum()))
            for name, mask in trials.strata.items()
        }
        return LatentScore(value, low, high, len(trials), n_failed, answer.reason, strata)


def _paired(
    marks: Bool[np.ndarray, "giver token"],
    giving: Texts,
    taking: Texts,
    taken: Bool[np.ndarray, "taker token"],
    generator: np.random.Generator,
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Windows that give their marks, and beside each the one that takes them; each at most once.

    Args:
        marks: of the giving windows.
        giving: those windows.
        taking: the windows that may take them.
        taken: tokens of these that may not be marked.
        generator: decides among pairs that are equally good.
    """
    width = np.arange(marks.shape[1])
    length, room = giving.present.sum(1), taking.present.sum(1)
    n_marks, last = marks.sum(1), np.where(marks, width, -1).max(1, initial=-1)
    contrast = (n_marks > 0) & (n_marks < length)
    fits = (last[:, None] < room) & (n_marks[:, None] < room) & contrast[:, None]
    fits &= ~(marks.astype(np.int64) @ taken.T.astype(np.int64) > 0)
    cost = np.abs(length[:, None] - room) + generator.random(fits.shape)
    # more than all other pairs together
    never = 2.0 * len(width) * (max(fits.shape, default=0) + 1)
    givers, takers = scipy.optimize.linear_sum_assignment(np.where(fits, cost, never))
    there = fits[givers, takers]
    return givers[there], takers[there]
