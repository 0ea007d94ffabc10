"""Every continuation with what the judges said of it, as rows of the generations table.

A steered continuation is compared with the plain one of the same prompt and sample; where either has no text there is
no uplift, but a reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from components.steering.choice import Steered
from components.steering.contract import Continuation, Judge
from components.steering.protocol import Job
from components.steering.scores import UNSTEERED
from components.store import tables

Scores = Mapping[str, Float[np.ndarray, "text concept"]]


@dataclasses.dataclass(eq=False)
class Ledger:
    """Rows so far.

    Attributes:
        judges: who judges.
        column: concept -> its column in the judges' scores.
        judged: the concepts that plain and control text are judged for.
    """

    judges: Sequence[Judge]
    column: Mapping[str, int]
    judged: Sequence[str]

    def __post_init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._plain: dict[tuple[int, int], Float[np.ndarray, " concept"]] = {}
        """(prompt, sample) -> what the concept judge says of the plain text; NaN where there is none."""

    def frame(self, split: str | None = None) -> pl.DataFrame:
        """The rows as a table, of one split or of all."""
        frame = tables.GENERATIONS.frame(self._rows)
        return frame if split is None else frame.filter(pl.col("split") == split)

    def add_plain(self, split: str, jobs: Sequence[Job], texts: Sequence[Continuation]) -> None:
        """Enters plain text, judged for every concept."""
        scores = self._scores(texts)
        for i, (job, text) in enumerate(zip(jobs, texts, strict=True)):
            self._plain[job.prompt.number, job.sample] = scores["concept_probability"][i]
            for concept in self.judged:
                self._enter(UNSTEERED, 0, None, split, concept, job, text, i, scores)

    def add_steered(self, split: str, jobs: Sequence[tuple[Steered, Job]], texts: Sequence[Continuation]) -> None:
        """Enters steered text, judged for its concept, or for every concept where it belongs to none."""
        scores = self._scores(texts)
        for i, ((steered, job), text) in enumerate(zip(jobs, texts, strict=True)):
            own = steered.candidate.concept
            for concept in self.judged if own is None else [own]:
                place = (steered.method, steered.candidate.replicate, steered.budget)
                self._enter(*place, split, concept, job, text, i, scores)

    def _scores(self, texts: Sequence[Continuation]) -> Scores:
        return {judge.column: judge.scores(texts) for judge in self.judges}

    def _enter(
        self,
        method: str,
        replicate: int,
        budget: float | None,
        split: str,
        concept: str,
        job: Job,
        text: Continuation,
        number: int,
        scores: Scores,
    ) -> None:
        column = self.column[concept]
        said = {name: _number(score[number, column]) for name, score in scores.items()}
        before = _number(self._plain[job.prompt.number, job.sample][column])
        probability, reason = said["concept_probability"], text.reason
        if reason is None and before is None:
            reason = "the unsteered text of this prompt and sample failed"
        self._rows.append(
            {
                "concept": concept,
                "method": method,
                "replicate": replicate,
                "kl_budget": budget,
                "split": split,
                "prompt": job.prompt.number,
                "sample": job.sample,
                "text": text.text,
                "n_tokens": text.n_tokens,
                **said,
                "uplift": None if probability is None or before is None else probability - before,
                "nll": text.nll,
                "reason": reason,
            }
        )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
