"""Grammar: what the grammar of the embedded world itself reads in the text.

The world's own productions read the continuation sentence by sentence (`components.world.reading`),
so the judge knows which sentences are sentences of the world and which concepts they carry, exactly.
The value is the share of the continuation's sentences that the grammar can tell, where the concept
is among those that they carry, and 0 where it is not; where several readings tell as many sentences
and differ in the concept, the share of those that have it counts too. Text that is no text of the
world has 0 of everything: no list of words pleases it.

It judges the embedded world alone, and there it is the truth that other judges are held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from components.config import Config
from components.report.measure import Measure
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges
from components.world.reading import Reader

TRIED = 8
"""Prompts that are read to find out whether they are the world's."""


class GrammarConfig(Config):
    """Settings of the grammar judge: it has none."""


@judges
class Grammar(Judge):
    """The grammar as a reader."""

    config = GrammarConfig
    measure = Measure(
        "grammar", "By the grammar", "share",
        "Sentences that the world's grammar can tell, in text that carries the concept.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Looks whether the prompts are openings of the world, and which targets are its
        concepts."""
        super().fit(material)
        self._reader = Reader()
        prompts = list(dict.fromkeys(each.prompt for each in material.unsteered if each.prompt))
        tried = prompts[:TRIED]
        self._is_world = bool(tried) and all(self._reader.read(p, "") is not None for p in tried)
        known = {concept.concept for concept in self._reader.world.concepts()}
        self._unknown = [name for name in material.concepts if name not in known]

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """Share of sentences that can be told, where the concept is in them."""
        names = self.material.concepts
        values = np.full((len(texts), len(names)), np.nan)
        reasons: dict[int, str] = {}
        if why := self.silence():
            return Verdicts.nothing(len(texts), len(names), why)
        unknown = [names.index(name) for name in self._unknown]
        for row, text in enumerate(texts):
            reading = self._reader.read(text.prompt, text.text or "")
            if reading is None:
                reasons[row] = "its prompt is no opening of the world, so nothing can be read on"
                continue
            values[row] = [reading.share * reading.concepts.get(name, 0.0) for name in names]
        values[:, unknown] = np.nan
        return Verdicts(values, reasons)

    def refusals(self) -> Mapping[str, str]:
        """Targets that are no concepts of the world, and all where the prompts are not its."""
        if why := self._foreign():
            return dict.fromkeys(self.material.concepts, why)
        return dict.fromkeys(self._unknown, "the world's grammar has no such concept")

    def silence(self) -> str | None:
        """That the text is not the world's."""
        if why := self._foreign():
            return why
        if len(self._unknown) == len(self.material.concepts):
            return "no target is a concept of the world's grammar"
        return None

    def _foreign(self) -> str | None:
        if self._is_world:
            return None
        return (
            "the prompts are no openings of the embedded world, whose grammar alone can be read; "
            "take grammar out of steer.judges, or set read.corpus.kind to world"
        )
