"""The judges of an experiment together: fitted once, asked about texts, and what they cannot
judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from components.steering.asking import AskingJudge
from components.steering.composite import FLUENCY, RELEVANCE, gain
from components.steering.composite import panel as composite_of_three
from components.steering.config import SteerConfig
from components.steering.contract import (
    Continuation,
    Judge,
    JudgeServices,
    Material,
    Verdicts,
    judges,
)
from components.store.judgements import COMPOSITE, PANEL


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """Fitted judges.

    Attributes:
        judges: by name.
        measure: the one whose difference to unsteered text is the uplift.
        n_concepts: columns of what they say.
        of_target: those that the composite of three asks about the target.
        has_panel: whether there is a composite of three.
    """

    judges: Mapping[str, Judge]
    measure: str
    n_concepts: int
    of_target: Sequence[str] = ()
    has_panel: bool = False

    @classmethod
    def fitted(cls, config: SteerConfig, material: Material, services: JudgeServices) -> Panel:
        """The judges that are listed, fitted on the material."""
        panel: dict[str, Judge] = {
            name: judges[name](getattr(config.judge_settings, name), services)
            for name in config.judges
        }
        for judge in panel.values():
            judge.fit(material)
        n_concepts = len(material.concepts)
        return cls(panel, config.measure, n_concepts, config.of_target, config.has_panel)

    @property
    def deciding(self) -> list[str]:
        """The judges whose refusals keep a concept out: the one that measures, and those of the
        target in the composite of three."""
        of_target = self.of_target if self.has_panel else ()
        return list(dict.fromkeys([self.measure, *of_target]))

    @property
    def choosing(self) -> list[str]:
        """The judges whose values choose among candidates on validate prompts: those of the
        composite of two."""
        return [name for name in self.judges if name in (self.measure, FLUENCY)]

    @property
    def asking(self) -> dict[str, AskingJudge]:
        """The judges that ask a language model, which read texts later than the others."""
        return {n: judge for n, judge in self.judges.items() if isinstance(judge, AskingJudge)}

    def of_three(
        self,
        values: Mapping[str, Float[np.ndarray, " row"]],
        before: Mapping[str, Float[np.ndarray, " row"]],
        lowers: Bool[np.ndarray, " row"] | bool = False,
    ) -> Float[np.ndarray, " row"]:
        """The composite of three.

        Args:
            values: by judge, what it says of each row.
            before: by judge of the target, the same of the plain text of the row's prompt and
                sample.
            lowers: whether less of the target is wanted.
        """
        gains = [
            # what is measured from plain text already is a gain, but no fall
            np.where(lowers, gain(values[name], before[name], True), values[name])
            if self.judges[name].from_plain
            else gain(values[name], before[name], lowers)
            for name in self.of_target
        ]
        return composite_of_three(gains, values[RELEVANCE], values[FLUENCY])

    def refusals(self) -> dict[str, str]:
        """Concept -> why a judge that decides (`deciding`) cannot judge it; the first judge's
        reason where several cannot. What others cannot judge has no value by them."""
        return {
            concept: f"{name} judge: {why}"
            for name in reversed(self.deciding)
            for concept, why in self.judges[name].refusals().items()
        }

    def silence(self) -> dict[str, str]:
        """Measures that no text has, with the reason: a judge's own, and the composite without its
        parts."""
        silent = {
            measure.name: why
            for judge in self.judges.values()
            if (why := judge.silence())
            for measure in (judge.measure, *judge.parts)
        }
        if FLUENCY not in self.judges:
            silent[FLUENCY] = f"steer.judges does not list {FLUENCY}"
        if why := silent.get(FLUENCY) or silent.get(self.measure):
            silent[COMPOSITE] = why
        if self.has_panel:
            parts = [*self.of_target, RELEVANCE, FLUENCY]
            if why := next((silent[name] for name in parts if name in silent), None):
                silent[PANEL] = why
        return silent

    def verdicts(
        self, texts: Sequence[Continuation], names: Collection[str] | None = None
    ) -> dict[str, Verdicts]:
        """What each judge says, but for those that ask; of what is no text nothing, with the
        reason.

        Args:
            texts: what is judged.
            names: the judges that read it; None for all.
        """
        there = [i for i, continuation in enumerate(texts) if continuation.text is not None]
        absent = {i: c.reason or "no text" for i, c in enumerate(texts) if c.text is None}
        verdicts = {}
        for name, judge in self.judges.items():
            if judge.asks or (names is not None and name not in names):
                continue
            values = np.full((len(texts), self.n_concepts), np.nan)
            said = judge.judge([texts[i] for i in there])
            values[there] = said.values
            reasons = {there[i]: reason for i, reason in said.reasons.items()}
            verdicts[name] = Verdicts(values, absent | reasons)
        return verdicts
