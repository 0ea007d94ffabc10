"""Meaning: does the text mean what the target says in words, more than what other targets say?

A sentence encoder gives vectors to the words of every target (`Concept.text`: an explanation, a
sentence) and to windows of the continuation (`window` words, each beginning half a window behind the
one before), because a target may stand in one sentence of a text. A text is as similar to a target
as its most similar window is. R is the share of the other targets (distractors)
whose words are less similar to the continuation (cosine) than the target's own, ties half; text
that has nothing to do with any of them has 0.5. So the value is clip((R - 0.5) / 0.5, 0, 1): 0 at
chance, 1 where the target's words fit best.

The gate: on validate passages, those that have the target are told from the others by this value
with an AUROC of `min_auroc`. A passage has the target where it is labelled with it; of a target that
is a latent, where fewer than `min_passages` are, where the latent is active. A target that no
passage is known to have passes untried.

Distractors are those targets whose words differ. Text alone is read, without its prompt. The
encoder is that of the section `text_encoder`; where it is fitted on text (lsa), on the passages of
the judge split.

Source: ours, after the embedding score of delphi (arXiv:2410.13928, section 3.2), which asks the
same of contexts and explanations. A rank, because the cosines of two encoders, or of two targets,
cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import Field, PositiveInt

from components.config import Config
from components.report.measure import Measure
from components.statistics import auroc
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges
from components.steering.latent_reading import read_latents

FEWEST = 3
"""Other targets that a comparison needs at least."""


class MeaningConfig(Config):
    """Settings of the meaning judge."""

    min_distractors: int = Field(FEWEST, ge=1)
    """Other targets with words of their own that a target is compared with, at least."""
    window: PositiveInt = 8
    """Words of a text that get a vector together."""
    min_auroc: float = Field(0.6, ge=0, le=1)
    """The gate: what it must reach on validate passages to judge a target."""
    min_passages: PositiveInt = 5
    """Validate passages with the target, and without, that the gate needs to try it."""
    passages: PositiveInt = 512
    """Validate passages that the gate reads, at most."""


@judges
class Meaning(Judge):
    """The target's words among those of other targets, by a sentence encoder."""

    config = MeaningConfig
    embeds = True
    measure = Measure(
        "meaning", "Meaning", "0 to 1",
        "Share of other targets whose words fit the text less than the target's own, from chance "
        "(0) to all (1).",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Gives the targets' words their vectors."""
        super().fit(material)
        words = [(target.text or "").strip() for target in material.targets]
        self._given = [column for column, text in enumerate(words) if text]
        self._words = [words[column] for column in self._given]
        self._refused = {
            material.targets[column].name: (
                "the target has no words to compare with; give it a text, or take meaning out of "
                "steer.judges and steer.panel"
            )
            for column, text in enumerate(words)
            if not text
        }
        wanted = self.settings.min_distractors
        for column, text in zip(self._given, self._words, strict=True):
            n = sum(other != text for other in self._words)
            if n < wanted:
                self._refused[material.targets[column].name] = (
                    f"{n} other targets have words of their own, wanted at least {wanted}; steer "
                    "towards more targets, or lower "
                    "steer.judge_settings.meaning.min_distractors"
                )
        if self.silence():
            return
        self._encoder = self.services.encoder([*material.judge.texts, *self._words])
        self._targets = self._embedded(self._words)
        self._refused |= self._untold(material)

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """By the rank of each target's words."""
        values = np.full((len(texts), len(self.material.targets)), np.nan)
        if why := self.silence():
            return Verdicts.nothing(len(texts), len(self.material.targets), why)
        if not texts:
            return Verdicts(values)
        windows = [self._windows(each.text or "") for each in texts]
        vectors = self._embedded([window for of_text in windows for window in of_text])
        similar = (vectors @ self._targets.T).numpy().astype(np.float64)
        begins = np.cumsum([0, *map(len, windows)])[:-1]
        cosine = np.maximum.reduceat(similar, begins, axis=0)
        words = np.array(self._words)
        for place, column in enumerate(self._given):
            if self.material.targets[column].name in self._refused:
                continue
            others = cosine[:, words != words[place]]
            own = cosine[:, place : place + 1]
            above = (others < own).mean(axis=1) + 0.5 * (others == own).mean(axis=1)
            values[:, column] = np.maximum(0.0, (above - 0.5) / 0.5)
        return Verdicts(values)

    def _untold(self, material: Material) -> dict[str, str]:
        """Targets that it does not tell on validate passages."""
        real, n = material.validate, self.settings.passages
        texts, labels = real.texts[:n], real.labels[:n].copy()
        openings = real.openings[:n] or [""] * len(texts)
        few = labels.sum(0) < self.settings.min_passages
        read = {
            column: target.latent
            for column, target in enumerate(material.targets)
            if few[column] and target.latent is not None
        }
        if read and texts:
            model, dictionary = self.services.model, self.services.dictionary
            latents = sorted(set(read.values()))
            pairs = list(zip(openings, texts, strict=True))
            active = np.array(
                [
                    each.any(axis=0)
                    for each in read_latents(
                        model, dictionary, latents, pairs, conversation=self.services.conversation
                    )
                ]
            )
            for column, latent in read.items():
                labels[:, column] = active[:, latents.index(latent)]
        said = self.judge([Continuation(text, 0, None) for text in texts]).values
        untold = {}
        for column in self._given:
            name, has = material.targets[column].name, labels[:, column]
            if name in self._refused or min(has.sum(), (~has).sum()) < self.settings.min_passages:
                continue
            reached = auroc(said[:, column], has)
            if reached is not None and reached < self.settings.min_auroc:
                untold[name] = (
                    f"AUROC {reached:.2f} on {len(texts)} validate passages, wanted "
                    f"{self.settings.min_auroc:g}: its words do not tell text that has it"
                )
        return untold

    def refusals(self) -> Mapping[str, str]:
        """Targets without words, or with too few others to compare with."""
        return self._refused

    def silence(self) -> str | None:
        """That no target can be judged."""
        return self.all_refused()

    def _windows(self, text: str) -> list[str]:
        words, size = text.split(), self.settings.window
        step = max(1, size // 2)
        last = max(1, len(words) - step)
        # white space alone has no token in some encoders
        return [" ".join(words[start : start + size]) or "." for start in range(0, last, step)]

    def _embedded(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(self._encoder.embed(texts).float(), dim=1)
