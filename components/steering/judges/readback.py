"""Readback: how active the target's latent is when the unsteered model reads the text.

For a target that is a latent (`Concept.latent`), and needs no label. a is the mean of the top 5% of
the latent's activations over the tokens of the continuation, read by the unsteered model after its
prompt. The value is clip((a - a_plain) / (a_real - a_plain), 0, 1): 0 for text like plain
continuations (a_plain, their mean), 1 for text like real text that has the target (a_real, the
median), and no more than that for text that has too much of it. All three are read at equal length:
the longer a text, the higher its top tokens.

Real text that has the target: passages that are labelled with it; where fewer than `min_passages`
are, the passages in which the latent is active at all.

The gate: the latent is silent in `silent` of the plain continuations. What is active in most text
tells nothing when it is active.

It reads the same model that is steered, by the same dictionary. A list of the latent's favourite
tokens pleases it, so it counts inside the composite of three alone.

Source: ours. Deviation from how steering by a latent is mostly judged (its activation in the
steered pass): there it is high by construction; here the text has to bring it about again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from pydantic import Field, PositiveInt

from components.config import Config
from components.report.measure import Measure
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges
from components.steering.latent_reading import read_latents

TOP = 0.05
"""Share of a text's tokens whose activations are averaged."""


class ReadbackConfig(Config):
    """Settings of the readback judge."""

    silent: float = Field(0.8, ge=0, le=1)
    """The gate: the share of plain continuations in which the latent must not be active at all."""
    min_passages: PositiveInt = 5
    """Real passages that have the target, at least: fewer give no value of real text."""
    passages: PositiveInt = 1024
    """Real passages that are read, at most."""
    rows: PositiveInt = 64
    """Texts that the model reads at a time."""


@judges
class Readback(Judge):
    """The target's activation in the unsteered model's reading.

    Attributes:
        silent_share: latent -> share of plain continuations in which it is silent.
    """

    config = ReadbackConfig
    from_plain = True
    measure = Measure(
        "readback", "Readback", "0 to 1",
        "How active the target's latent is when the unsteered model reads the text, from plain text "
        "(0) to real text that has it (1).",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Reads plain continuations and real passages."""
        super().fit(material)
        self._latents = sorted({t.latent for t in material.targets if t.latent is not None})
        self._column = {latent: i for i, latent in enumerate(self._latents)}
        self.silent_share: dict[int, float] = {}
        self._refused: dict[str, str] = {}
        self._levels: dict[tuple[str, int], tuple[float, float]] = {}
        for target in material.targets:
            if target.latent is None:
                self._refused[target.name] = (
                    "the target names no latent of the dictionary that could be read; name a "
                    "latent as its target, or take readback out of steer.judges and steer.panel"
                )
        if not self._latents:
            self._plain = self._real = []
            return
        plain = [(each.prompt, each.text) for each in material.unsteered if each.text]
        self._plain = self._read(plain)
        real = material.judge
        openings = real.openings or [""] * len(real.texts)
        n = self.settings.passages
        self._real = self._read(list(zip(openings, real.texts, strict=True))[:n])
        self._labels = real.labels[:n]
        for number, target in enumerate(material.targets):
            if target.latent is not None and (why := self._gate(target.latent, number)):
                self._refused[target.name] = why

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """By the latent's activations over each continuation."""
        targets = self.material.targets
        values = np.full((len(texts), len(targets)), np.nan)
        reasons: dict[int, str] = {}
        if why := self.silence():
            return Verdicts.nothing(len(texts), len(self.material.targets), why)
        read = self._read([(each.prompt, each.text or "") for each in texts])
        for row, activations in enumerate(read):
            if not len(activations):
                reasons[row] = "nothing of the text is left without special tokens"
                continue
            for column, target in enumerate(targets):
                if target.name in self._refused or target.latent is None:
                    continue
                here = _top(activations[:, self._column[target.latent]])
                plain, real = self._level(column, len(activations))
                if real > plain:
                    values[row, column] = np.clip((here - plain) / (real - plain), 0.0, 1.0)
        return Verdicts(values, reasons)

    def refusals(self) -> Mapping[str, str]:
        """Targets that are no latent, latents that plain text has too, and those that no real text
        has."""
        return self._refused

    def silence(self) -> str | None:
        """That no target can be read back."""
        return self.all_refused()

    def top_passage(self, column: int) -> str | None:
        """The real passage in which the target's latent is most active; None where it is active in
        none, or the target is no latent."""
        latent = self.material.targets[column].latent
        if latent is None or not self._real:
            return None
        at = self._column[latent]
        highest = [float(each[:, at].max(initial=0.0)) for each in self._real]
        if max(highest, default=0.0) <= 0:
            return None
        return self.material.judge.texts[int(np.argmax(highest))]

    def _gate(self, latent: int, column: int) -> str | None:
        """Why a latent cannot be read back; None where it can."""
        plain = [not each[:, self._column[latent]].any() for each in self._plain]
        if not plain:
            return "the model wrote nothing after any validate prompt, so no plain text was read"
        self.silent_share[latent] = float(np.mean(plain))
        if self.silent_share[latent] < self.settings.silent:
            return (
                f"latent {latent} is silent in {self.silent_share[latent]:.0%} of {len(plain)} "
                f"plain continuations, wanted {self.settings.silent:.0%}"
            )
        have = self._having(column)
        if len(have) < self.settings.min_passages:
            return (
                f"latent {latent} is active in {len(have)} of {len(self._real)} real passages, "
                f"wanted {self.settings.min_passages}; raise read.splits.judge or "
                "steer.judge_settings.readback.passages"
            )
        longest = max(map(len, self._real))
        below, above = self._level(column, longest)
        if above <= below:
            return f"real text that has the target is no higher at latent {latent} than plain text"
        return None

    def _having(self, column: int) -> list[int]:
        """Real passages that have the target."""
        labelled = np.flatnonzero(self._labels[:, column]).tolist()
        if len(labelled) >= self.settings.min_passages:
            return labelled
        latent = self.material.targets[column].latent
        assert latent is not None, "asked for targets that are latents"
        at = self._column[latent]
        return [row for row, each in enumerate(self._real) if each[:, at].any()]

    def _level(self, column: int, length: int) -> tuple[float, float]:
        """What plain text and real text that has the target reach in so many tokens."""
        target = self.material.targets[column]
        if (target.name, length) not in self._levels:
            assert target.latent is not None, "asked for targets that are latents"
            at = self._column[target.latent]
            plain = [_top(each[:length, at]) for each in self._plain if len(each)]
            real = [_top(self._real[row][:length, at]) for row in self._having(column)]
            self._levels[target.name, length] = float(np.mean(plain)), float(np.median(real))
        return self._levels[target.name, length]

    def _read(self, texts: Sequence[tuple[str, str]]) -> list[Float[np.ndarray, "token latent"]]:
        """Activations of the targets' latents over each text, read after its prompt."""
        model, dictionary = self.services.model, self.services.dictionary
        return read_latents(
            model,
            dictionary,
            self._latents,
            texts,
            self.settings.rows,
            self.services.conversation,
        )


def _top(activations: Float[np.ndarray, " token"]) -> float:
    """The mean of the highest 5%, of one token at least."""
    n = max(1, round(TOP * len(activations)))
    return float(np.partition(activations, -n)[-n:].mean())
