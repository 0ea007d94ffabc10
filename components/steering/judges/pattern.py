"""Pattern: whether the text matches a regular expression of the user's own, such as a refusal.

1 where the expression is found anywhere in the continuation, 0 where it is not. Expressions are
those of Python's `re`, searched without regard to case unless they say otherwise ((?-i:...)); one
for each target, or one for all under "*". It counts words that somebody thought of: read it beside
a judge that does not.

Source: the string matching by which refusals are counted (Zou et al. 2023, arXiv:2307.15043; Arditi
et al. 2024, arXiv:2406.11717), with expressions instead of a fixed list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import field_validator

from components.config import Config
from components.errors import ConfigError
from components.report.measure import Measure
from components.steering.contract import Continuation, Judge, Material, Verdicts, judges

ALL = "*"
"""The name of the expression for targets that have none of their own."""


class PatternConfig(Config):
    """Settings of the pattern judge."""

    expressions: dict[str, str] = {}
    """Target -> regular expression; under * that of every target without one of its own."""

    @field_validator("expressions")
    @classmethod
    def _can_be_read(cls, expressions: dict[str, str]) -> dict[str, str]:
        for target, expression in expressions.items():
            try:
                re.compile(expression)
            except re.error as error:
                raise ConfigError(
                    f"the expression of {target!r}, {expression!r}, is no regular expression: "
                    f"{error}"
                ) from error
        return expressions


@judges
class Pattern(Judge):
    """Regular expressions."""

    config = PatternConfig
    measure = Measure(
        "pattern", "Matches the pattern", "share", "That the text matches the expression given for the target.",
        rank=12, kinds=22, least=0, most=1,
    )  # fmt: skip

    def fit(self, material: Material) -> None:
        """Compiles the expressions."""
        super().fit(material)
        given = self.settings.expressions
        of_targets = (given.get(name, given.get(ALL)) for name in material.concepts)
        self._compiled = [
            None if expression is None else re.compile(expression, re.IGNORECASE)
            for expression in of_targets
        ]

    def judge(self, texts: Sequence[Continuation]) -> Verdicts:
        """1 where the expression of the target is found."""
        if why := self.silence():
            return Verdicts.nothing(len(texts), len(self._compiled), why)
        values = np.full((len(texts), len(self._compiled)), np.nan)
        for column, expression in enumerate(self._compiled):
            if expression is not None:
                values[:, column] = [
                    expression.search(each.text or "") is not None for each in texts
                ]
        return Verdicts(values)

    def refusals(self) -> Mapping[str, str]:
        """Targets without an expression."""
        return {
            name: (
                "no expression is given for the target; set "
                f"steer.judge_settings.pattern.expressions.{name}, or that of * for all"
            )
            for name, expression in zip(self.material.concepts, self._compiled, strict=True)
            if expression is None
        }

    def silence(self) -> str | None:
        """That no expression is given."""
        if any(expression is not None for expression in self._compiled):
            return None
        return "no expression is given; set steer.judge_settings.pattern.expressions"
