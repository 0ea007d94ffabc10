"""Every continuation as a row of the generations table, and what the judges said of it as rows of
the judgements table.

What judges say that ask a language model is entered at the end, of test text alone
(`components.steering.asking`). Of a text that belongs to no concept they are asked for every
concept, but of the directions of a control for one direction a prompt, drawn.

A text that is steered towards a concept is judged for it (and its values for the other concepts
stand in one list); plain text, and the text of a control, is judged for every concept. The
composites are entered as further judges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from components.seeds import numpy_generator
from components.steering.asking import Opinion, Pair, answered
from components.steering.choice import Steered
from components.steering.composite import FLUENCY, RELEVANCE, composite
from components.steering.contract import Continuation, Verdicts
from components.steering.panel import Panel
from components.steering.writer import Job
from components.store import tables
from components.store.judgements import (
    AGAIN,
    COMPOSITE,
    NOT_ASKED,
    OF_FALL,
    PANEL,
    UNPAIRED,
    UNSTEERED,
    judged,
)
from components.store.stage import Progress

ONE_DIRECTION = f"{NOT_ASKED}: of the directions of a control one a prompt is asked about"
Place = tuple[str, str | None, int, float | None]
"""Method, concept, replicate and budget of a text."""


@dataclasses.dataclass(eq=False)
class Ledger:
    """Rows so far.

    Attributes:
        panel: who judges.
        column: concept -> its column in what judges say.
        judged: the concepts that plain and control text are judged for, in the order of
            `off_target`.
        has_falls: whether a method lowers its target, so that text which belongs to no concept has
            composites of the fall, too.
    """

    panel: Panel
    column: Mapping[str, int]
    judged: Sequence[str]
    has_falls: bool = False

    def __post_init__(self) -> None:
        self._texts: list[pl.DataFrame] = []
        self._judgements: list[pl.DataFrame] = []
        self._plain: dict[tuple[int, int], dict[str, Float[np.ndarray, " concept"]]] = {}
        """(prompt, sample) -> what each judge of the target says of the plain text; NaN where there
        is none."""
        self._tested: list[tuple[int, Place, Job, Continuation]] = []
        """Test texts with their numbers, where a judge asks about them."""
        self._unfit = {name: judge.refusals() for name, judge in self.panel.judges.items()}

    def generations(self) -> pl.DataFrame:
        """The texts as a table."""
        return tables.GENERATIONS.frame(pl.concat(self._texts) if self._texts else [])

    def judgements(self) -> pl.DataFrame:
        """What was said of them as a table."""
        return tables.JUDGEMENTS.frame(pl.concat(self._judgements) if self._judgements else [])

    def results(self) -> pl.DataFrame:
        """Texts with what was said of them (`components.store.judgements.judged`)."""
        return judged(self.generations(), self.judgements(), self.panel.measure)

    def add_plain(self, split: str, jobs: Sequence[Job], texts: Sequence[Continuation]) -> None:
        """Enters plain text, judged for every concept."""
        verdicts = self.panel.verdicts(texts)
        for i, job in enumerate(jobs):
            self._plain[job.prompt.number, job.sample] = {
                name: verdicts[name].values[i] for name in self.panel.deciding
            }
        self._enter(split, [(UNSTEERED, None, 0, None)] * len(jobs), jobs, texts, verdicts)

    def add_again(self, split: str, jobs: Sequence[Job], texts: Sequence[Continuation]) -> None:
        """Enters plain text from other seeds as if something had steered it: `jobs` are those of
        the plain text that it stands beside."""
        places: list[Place] = [(AGAIN, None, 0, None)] * len(jobs)
        self._enter(split, places, jobs, texts, self.panel.verdicts(texts))

    def add_steered(
        self, split: str, jobs: Sequence[tuple[Steered, Job]], texts: Sequence[Continuation]
    ) -> None:
        """Enters steered text, judged for its concept, or for every concept where it belongs to
        none. Text after validate prompts only chooses, so nobody reads it but the judges that
        do."""
        places = [(s.method, s.candidate.concept, s.candidate.replicate, s.budget) for s, _ in jobs]
        judges = self.panel.choosing if split == "validate" else None
        verdicts = self.panel.verdicts(texts, judges)
        lowers = [s.candidate.lowers for s, _ in jobs]
        self._enter(split, places, [job for _, job in jobs], texts, verdicts, lowers)

    def add_asked(self, seed: int) -> Generator[Progress, None, None]:
        """Asks the judges that ask, and enters what they say of test text."""
        asking = self.panel.asking
        if not (asking and self._tested):
            return
        every = list(self._rows(seed))
        rows = [row for row in every if row[2] is not None]
        left = [row for row in every if row[2] is None]
        pairs = [pair for _, _, pair in rows if pair is not None]
        opinions = yield from answered(asking, pairs, seed)
        shared = {
            "generation": np.array([number for number, _, _ in (*rows, *left)]),
            "concept": [concept for _, concept, _ in (*rows, *left)],
        }
        none = Opinion({}, ONE_DIRECTION)
        for name, judge in asking.items():
            said = [*opinions[name], *[none] * len(left)]
            for part in (judge.measure.name, *(measure.name for measure in judge.parts)):
                values = np.array([each.values.get(part, np.nan) for each in said])
                reasons = [None if part in each.values else each.reason for each in said]
                self._judge(part, shared, values, reasons, [None] * len(said))

    def _rows(self, seed: int) -> Iterator[tuple[int, str, Pair | None]]:
        """Number of a test text, concept, and what is asked about; None where nothing is."""
        plain = {
            (job.prompt.number, job.sample): text.text
            for _, (method, *_), job, text in self._tested
            if method == UNSTEERED
        }
        alike: dict[tuple, list[int]] = {}
        for number, (method, concept, _, budget), job, _ in self._tested:
            if concept is None:
                at = (method, budget, job.prompt.number, job.sample)
                alike.setdefault(at, []).append(number)
        drawn = {
            at: numpy_generator(seed, "asked", *map(str, at))
            .choice(numbers, len(self.judged))
            .tolist()
            for at, numbers in alike.items()
        }
        for number, (method, own, _, budget), job, text in self._tested:
            at = (job.prompt.number, job.sample)
            beside = dataclasses.replace(text, plain=plain.get(at))
            for i, concept in enumerate(self.judged if own is None else [own]):
                is_asked = own is not None or drawn[method, budget, *at][i] == number
                pair = Pair(beside, self.column[concept]) if is_asked else None
                yield number, concept, pair

    def _enter(
        self,
        split: str,
        places: Sequence[Place],
        jobs: Sequence[Job],
        texts: Sequence[Continuation],
        verdicts: Mapping[str, Verdicts],
        lowers: Sequence[bool] | None = None,
    ) -> None:
        """One row for each text; for each judge one for each text and concept that it is judged
        for. `lowers`: of which texts less of their own target is wanted; None: of none."""
        if not texts:
            return
        number = sum(part.height for part in self._texts) + np.arange(len(texts))
        if split == "test" and self.panel.asking:
            self._tested += zip(number.tolist(), places, jobs, texts, strict=True)
        self._texts.append(_texts(split, number, places, jobs, texts))
        owned = [concept is not None for _, concept, _, _ in places]
        concepts = [
            [concept] if concept is not None else list(self.judged) for _, concept, _, _ in places
        ]
        names = [name for own in concepts for name in own]
        if not names:
            return
        text: Int[np.ndarray, " row"] = np.repeat(
            np.arange(len(texts)), [len(own) for own in concepts]
        )
        column = np.array([self.column[name] for name in names])
        plain = [self._plain[job.prompt.number, job.sample] for job in jobs]
        before = {
            name: np.array([of[name] for of in plain])[text, column] for name in self.panel.deciding
        }
        values = {name: verdict.values[text, column] for name, verdict in verdicts.items()}
        others = [self.column[name] for name in self.judged]
        shared = {"generation": number[text], "concept": names}
        for name, verdict in verdicts.items():
            lists = [
                row.tolist() if own else None
                for row, own in zip(verdict.values[:, others], owned, strict=True)
            ]
            reasons = [
                verdict.reasons.get(i) or (self._unfit[name].get(concept) if gone else None)
                for i, concept, gone in zip(
                    text.tolist(), names, np.isnan(values[name]).tolist(), strict=True
                )
            ]
            self._judge(name, shared, values[name], reasons, [lists[i] for i in text.tolist()])
        less = np.zeros(len(text), bool) if lowers is None else np.array(lowers)[text]
        missing = [
            UNPAIRED if gone else None for gone in np.isnan(before[self.panel.measure]).tolist()
        ]
        reasons = [texts[i].reason or why for i, why in zip(text.tolist(), missing, strict=True)]
        told = {COMPOSITE: reasons}
        if self.panel.has_panel and RELEVANCE in verdicts:
            parts = [*self.panel.of_target, RELEVANCE, FLUENCY]
            told[PANEL] = [
                why or _absent(parts, {name: values[name][row] for name in parts})
                for row, why in enumerate(reasons)
            ]
        for name, value in self._composites(values, before, less, told).items():
            self._judge(name, shared, value, told[name], [None] * len(text))
        free = np.flatnonzero(~np.array(owned)[text])
        if self.has_falls and len(free):
            rows = {name: np.array(of)[free].tolist() for name, of in shared.items()}
            falls = self._composites(values, before, np.ones(len(text), bool), told)
            for name, value in falls.items():
                why = [told[name][row] for row in free.tolist()]
                self._judge(OF_FALL[name], rows, value[free], why, [None] * len(free))

    def _composites(
        self,
        values: Mapping[str, Float[np.ndarray, " row"]],
        before: Mapping[str, Float[np.ndarray, " row"]],
        lowers: Bool[np.ndarray, " row"],
        names: Collection[str],
    ) -> dict[str, Float[np.ndarray, " row"]]:
        """The composites of these names."""
        measure = self.panel.measure
        fluency = values.get(FLUENCY, np.full(len(lowers), np.nan))
        found = {COMPOSITE: composite(values[measure], before[measure], fluency, lowers)}
        if PANEL in names:
            found[PANEL] = self.panel.of_three(values, before, lowers)
        return found

    def _judge(
        self,
        name: str,
        shared: Mapping[str, object],
        values: Float[np.ndarray, " row"],
        reasons: Sequence[str | None],
        off_target: Sequence[list[float] | None],
    ) -> None:
        schema = tables.JUDGEMENTS.schema
        columns = {**shared, "value": values, "off_target": off_target, "reason": reasons}
        frame = pl.DataFrame(columns, schema_overrides={name: schema[name] for name in columns})
        nothing = pl.col("off_target").list.eval(pl.element().fill_nan(None))
        frame = frame.with_columns(
            pl.lit(name).alias("judge"), pl.col("value").fill_nan(None), nothing
        )
        self._judgements.append(tables.JUDGEMENTS.frame(frame))


def _absent(parts: Sequence[str], values: Mapping[str, float]) -> str | None:
    """Which part of the composite of three a text has no value of, where it lacks one."""
    lacking = [name for name in parts if np.isnan(values[name])]
    return f"no value of the judge {', '.join(lacking)}" if lacking else None


def _texts(
    split: str,
    number: Int[np.ndarray, " text"],
    places: Sequence[Place],
    jobs: Sequence[Job],
    texts: Sequence[Continuation],
) -> pl.DataFrame:
    methods, concepts, replicates, budgets = zip(*places, strict=True)
    columns = {
        "generation": number,
        "concept": concepts,
        "method": methods,
        "replicate": replicates,
        "kl_budget": budgets,
        "split": [split] * len(texts),
        "prompt": [job.prompt.number for job in jobs],
        "sample": [job.sample for job in jobs],
    }
    for name in ("text", "n_tokens", "nll", "kl", "kl_reverse", "reason"):
        columns[name] = [getattr(continuation, name) for continuation in texts]
    schema = {name: tables.GENERATIONS.schema[name] for name in columns}
    return tables.GENERATIONS.frame(pl.DataFrame(columns, schema_overrides=schema))
