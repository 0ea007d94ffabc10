"""The judges of an experiment together: fitted once, asked about texts, and what they cannot
judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from components.steering.composite import FLUENCY
from components.steering.config import SteerConfig
from components.steering.contract import (
    Continuation,
    Judge,
    JudgeServices,
    Material,
    Verdicts,
    judges,
)
from components.store.judgements import COMPOSITE


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """Fitted judges.

    Attributes:
        judges: by name.
        measure: the one whose difference to unsteered text is the uplift.
        n_concepts: columns of what they say.
    """

    judges: Mapping[str, Judge]
    measure: str
    n_concepts: int

    @classmethod
    def fitted(cls, config: SteerConfig, material: Material, services: JudgeServices) -> Panel:
        """The judges that are listed, fitted on the material."""
        panel = {
            name: judges[name](getattr(config.judge_settings, name), services)
            for name in config.judges
        }
        for judge in panel.values():
            judge.fit(material)
        return cls(panel, config.measure, len(material.concepts))

    def refusals(self) -> dict[str, str]:
        """Concept -> why a judge cannot judge it; the first judge's reason where several cannot."""
        return {
            concept: f"{name} judge: {why}"
            for name, judge in reversed(self.judges.items())
            for concept, why in judge.refusals().items()
        }

    def silence(self) -> dict[str, str]:
        """Measures that no text has, with the reason: a judge's own, and the composite without its
        parts."""
        silent = {name: why for name, judge in self.judges.items() if (why := judge.silence())}
        if FLUENCY not in self.judges:
            silent[FLUENCY] = f"steer.judges does not list {FLUENCY}"
        if why := silent.get(FLUENCY) or silent.get(self.measure):
            silent[COMPOSITE] = why
        return silent

    def verdicts(self, texts: Sequence[Continuation]) -> dict[str, Verdicts]:
        """What each judge says; of what is no text nothing, with the reason."""
        there = [i for i, continuation in enumerate(texts) if continuation.text is not None]
        absent = {i: c.reason or "no text" for i, c in enumerate(texts) if c.text is None}
        verdicts = {}
        for name, judge in self.judges.items():
            values = np.full((len(texts), self.n_concepts), np.nan)
            said = judge.judge([texts[i] for i in there])
            values[there] = said.values
            reasons = {there[i]: reason for i, reason in said.reasons.items()}
            verdicts[name] = Verdicts(values, absent | reasons)
        return verdicts
