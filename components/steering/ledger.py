"""Every continuation with what the judges said of it, as rows of the generations table.

A steered continuation is compared with the plain one of the same prompt and sample; where either has no text there is
no uplift, but a reason. Rows are kept as columns: a control's text is judged for every concept, which makes many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from components.steering.by_concept import UNSTEERED
from components.steering.choice import Steered
from components.steering.composite import composite
from components.steering.contract import Continuation, Judge
from components.steering.protocol import Job
from components.store import tables

UNPAIRED = "the unsteered text of this prompt and sample failed"


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
        self._parts: list[pl.DataFrame] = []
        self._plain: dict[tuple[int, int], Float[np.ndarray, " concept"]] = {}
        """(prompt, sample) -> what the concept judge says of the plain text; NaN where there is none."""

    def frame(self) -> pl.DataFrame:
        """The rows as a table."""
        return tables.GENERATIONS.frame(pl.concat(self._parts) if self._parts else [])

    def add_plain(self, split: str, jobs: Sequence[Job], texts: Sequence[Continuation]) -> None:
        """Enters plain text, judged for every concept."""
        scores = self._scores(texts)
        for job, said in zip(jobs, scores["concept_probability"], strict=True):
            self._plain[job.prompt.number, job.sample] = said
        everywhere = [self.judged] * len(jobs)
        self._enter(split, [(UNSTEERED, 0, None)] * len(jobs), jobs, texts, scores, everywhere)

    def add_steered(self, split: str, jobs: Sequence[tuple[Steered, Job]], texts: Sequence[Continuation]) -> None:
        """Enters steered text, judged for its concept, or for every concept where it belongs to none."""
        places = [(s.method, s.candidate.replicate, s.budget) for s, _ in jobs]
        owners = [self.judged if s.candidate.concept is None else [s.candidate.concept] for s, _ in jobs]
        self._enter(split, places, [job for _, job in jobs], texts, self._scores(texts), owners)

    def _scores(self, texts: Sequence[Continuation]) -> Mapping[str, Float[np.ndarray, "text concept"]]:
        return {judge.column: judge.scores(texts) for judge in self.judges}

    def _enter(
        self,
        split: str,
        places: Sequence[tuple[str, int, float | None]],
        jobs: Sequence[Job],
        texts: Sequence[Continuation],
        scores: Mapping[str, Float[np.ndarray, "text concept"]],
        concepts: Sequence[Sequence[str]],
    ) -> None:
        """One row for each text and each concept that it is judged for."""
        names = [name for own in concepts for name in own]
        text: Int[np.ndarray, " row"] = np.repeat(np.arange(len(texts)), [len(own) for own in concepts])
        if not names:
            return
        column = np.array([self.column[name] for name in names])
        said = {name: score[text, column] for name, score in scores.items()}
        before = np.array([self._plain[job.prompt.number, job.sample] for job in jobs])[text, column]
        probability = said["concept_probability"]
        whole = composite(probability, before, said.get("fluency", np.full(len(text), np.nan)))
        written = pl.DataFrame(
            {
                "method": [method for method, _, _ in places],
                "replicate": [replicate for _, replicate, _ in places],
                "kl_budget": [budget for _, _, budget in places],
                "split": split,
                "prompt": [job.prompt.number for job in jobs],
                "sample": [job.sample for job in jobs],
                "text": [found.text for found in texts],
                "n_tokens": [found.n_tokens for found in texts],
                "nll": [found.nll for found in texts],
                "kl": [found.kl for found in texts],
                "kl_reverse": [found.kl_reverse for found in texts],
                "reason": [found.reason for found in texts],
            },
            schema_overrides={name: tables.GENERATIONS.schema[name] for name in _NULLABLE},
        )
        judged = {"concept": names, **said, "uplift": probability - before, "composite": whole}
        unpaired = pl.col("reason").is_null() & pl.lit(pl.Series(np.isnan(before)))
        rows = written[text].with_columns(pl.when(unpaired).then(pl.lit(UNPAIRED)).otherwise("reason").alias("reason"))
        numbers = pl.DataFrame(judged).with_columns(pl.col(pl.Float64).fill_nan(None))
        self._parts.append(tables.GENERATIONS.frame(pl.concat([rows, numbers], how="horizontal")))


_NULLABLE = ("kl_budget", "text", "nll", "kl", "kl_reverse", "reason")
"""Columns that may hold nothing at all, whose type their values do not tell."""
