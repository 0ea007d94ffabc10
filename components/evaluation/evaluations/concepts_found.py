"""Which labelled concepts one unit finds, measured by what a probe of all coordinates finds, at
natural density.

For every concept of the inventory and every kind of unit: `latent`, `neuron` (a raw coordinate,
either sign), `untrained` (a latent of the untrained dictionary) and `probe` (a linear probe of all
coordinates, fitted on select).

    gate        on validate the probe decodes the concept (components/concept/gate.py)
    decodable   gate passed, and there the probe's average precision is at least half of the way above the base rate
    choose      the unit of each kind with the highest average precision on select
    share       (AP of the unit - b) / (AP of the probe - b) on test, b the base rate
    found       decodable, and the share is at least 0.8

Test is read once, after gate and choice. A share below 0 counts as 0 and one above 1 as 1 in means.
`found_absolute` asks for a fixed average precision instead (0.8 by the probe on validate, and by
the unit on test), a standard that suits a corpus whose concepts are known to be exact. AUROC stands
beside: on rare concepts it is too kind to tell units apart.

The headline is `concepts_found.latent` over token concepts, because random latents find most
concepts of documents, whose mean activation is read. `concepts_found_normalised` puts the untrained
dictionary at 0 and the probe at 1. Concepts of one family are found or missed together, so
intervals are over families where there are at least five.

The baseline of latents is the untrained dictionary (raw neurons where there is none), that of the
untrained dictionary raw neurons, that of neurons the probe. A concept that cannot be judged (no
positive in a split) is a null with its reason; it counts in n, and as failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from components.concept.gate import ProbeGate, lift
from components.config import Config
from components.evaluation.contract import (
    ABSENT,
    TEST,
    Evaluation,
    Measuring,
    Score,
    Subject,
    evaluations,
)
from components.evaluation.gate import (
    PROBE,
    SELECT,
    VALIDATE,
    SplitScores,
    decodes,
    gate_of,
    missing,
)
from components.evaluation.units import LATENT, NEURON, UNTRAINED, choose, readings, score
from components.report.measure import Measure
from components.statistics import (
    Interval,
    clustered_t_interval,
    clustered_wilson,
    t_interval,
    wilson,
)
from components.store.stage import Progress
from components.store.tables import CONCEPTS, CONCEPTS_FOUND

UNITS = (LATENT, UNTRAINED, NEURON, PROBE)
RIVALS = {LATENT: (UNTRAINED, NEURON), UNTRAINED: (NEURON,), NEURON: (PROBE,), PROBE: ()}
NAMES = {UNTRAINED: "untrained dictionary", NEURON: "raw neurons", PROBE: "linear probe"}
KINDS = ("surface", "contextual", "document")
NOT_DECODED = "the probe decodes no such concept well enough; see concepts_gated, evaluate.settings.concepts_found.gate"
FEWEST_FAMILIES = 5
"""With fewer families an interval over families would say nothing; concepts then count as
independent."""
SHARES = ("found", "found_absolute")
MEANS = ("share", "ap", "auroc")


ROLES = {LATENT: "entry", UNTRAINED: "control", NEURON: "baseline", PROBE: "ceiling"}
_UNITS = (
    "Concepts whose best unit, chosen on select, reaches most of what a probe reaches above the "
    "base rate on test, scored once."
)
MEASURES = (
    Measure(
        "concepts_found", "Concepts found", "share", _UNITS, rank=5, kinds=5, least=0, most=1,
        short="concepts found", over="token",
    ),
    Measure(
        "concepts_gated", "Concepts a probe decodes", "share", "The gate of every score by concept.", "neither",
        rank=10, least=0, most=1,
    ),
    Measure(
        "concepts_decodable", "Concepts decoded well enough to compare", "share", "By a probe, on validate.",
        "neither", rank=11, least=0, most=1,
    ),
    Measure(
        "concepts_found_normalised", "Concepts, between untrained and probe", "share",
        "0 is the untrained dictionary, 1 the probe of all coordinates.", rank=12,
    ),
    Measure(
        "concepts_found_absolute", "Concepts found, fixed precision", "share",
        "An average precision of 0.8 by the probe and by the unit.", rank=13, least=0, most=1,
    ),
    Measure(
        "concepts_share", "Share of the probe's precision", "share", "Above the base rate.", rank=14, least=0, most=1,
    ),
    Measure(
        "concepts_ap", "Mean AP over concepts", "AP", "Natural density, gated concepts.", rank=20, least=0, most=1,
    ),
    Measure("concepts_auroc", "Mean AUROC over concepts", "AUROC", "Gated concepts.", rank=21, least=0, most=1),
)  # fmt: skip


class ConceptsFoundConfig(Config):
    """Concepts that one unit finds, among those that a probe decodes."""

    gate: ProbeGate = ProbeGate()
    """When a probe decodes a concept at all."""
    min_decodable: float = Field(default=0.5, gt=0, le=1)
    """How far the probe's average precision on validate must lie above the base rate, so that units
    are compared with it."""
    min_share: float = Field(default=0.8, gt=0, le=1)
    """Share of the probe's average precision above the base rate at which a unit has found a
    concept."""
    ap_threshold: float = Field(default=0.8, gt=0, le=1)
    """Average precision at which a concept counts as decoded, and as found, by the absolute
    standard."""
    tokens: PositiveInt = 200_000
    """Tokens of each split that are read; all when it has fewer."""


@evaluations
class ConceptsFound(Evaluation):
    """Share of gated concepts that the best unit of each kind finds, by kind of concept."""

    version = 2
    config = ConceptsFoundConfig
    measures = MEASURES

    def measure(self, subject: Subject) -> Measuring:
        """Writes the table of every concept and unit, and returns shares and means over the gated
        concepts."""
        gate = yield from gate_of(subject, self.settings.tokens, self.services.execution)
        rows = gate.found.to_dicts()
        inventory = CONCEPTS.read(subject.corpus)
        for unit in gate.probes:
            rows += yield from self._of(subject, unit, inventory.filter(pl.col("unit") == unit))
        probes = {row["concept"]: row for row in rows if row["unit_kind"] == PROBE}
        for row in rows:
            row.update(self._judged(row, probes[row["concept"]]))
        frame = CONCEPTS_FOUND.write(subject.folder, rows)
        if not rows:
            lacking = missing(subject.activations)
            reason = (
                f"the capture has no {lacking[0]} split; add it to capture.splits"
                if lacking
                else "the corpus labels no concept; give read.word_lists or a column of labels"
            )
            return [
                Score(
                    "concepts_found",
                    ABSENT,
                    "concept",
                    subject=LATENT,
                    concept_kind="all",
                    reason=reason,
                )
            ]
        return _scores(frame, self.settings.ap_threshold)

    def _of(
        self, subject: Subject, unit: str, concepts: pl.DataFrame
    ) -> Generator[Progress, None, list[dict[str, Any]]]:
        """Rows of the latents for the concepts of one unit: select chooses, validate and test are
        scored."""
        names, limit = concepts["concept"].to_list(), self.settings.tokens
        given = readings(subject, SELECT, unit, names, limit)
        chosen = yield from choose(given)
        scores = SplitScores({SELECT: given.n_positive})
        for step, split in enumerate((VALIDATE, TEST), 1):
            given = readings(subject, split, unit, names, limit)
            scores.add(
                split, given, {kind: score(given, kind, choice) for kind, choice in chosen.items()}
            )
            yield Progress(step, 2, "splits", f"scoring {len(names)} {unit} concepts on {split}")
        return [
            scores.row(column, concept, kind, choice)
            for column, concept in enumerate(concepts.iter_rows(named=True))
            for kind, choice in chosen.items()
        ]

    def _judged(self, row: Mapping[str, Any], probe: Mapping[str, Any]) -> dict[str, Any]:
        """Gate and verdicts of one unit for one concept, beside the probe of that concept."""
        settings = self.settings
        gate = decodes(probe, settings.gate)
        decodable = gate and _lift(probe, "validate") >= settings.min_decodable
        absolute = (
            None if probe["validate_ap"] is None else probe["validate_ap"] >= settings.ap_threshold
        )
        share = None
        if decodable and row["ap"] is not None and _lift(probe, "test") > 0:
            share = min(1.0, max(0.0, _lift(row, "test") / _lift(probe, "test")))
        found = None if share is None else share >= settings.min_share
        reached = None if row["ap"] is None else row["ap"] >= settings.ap_threshold
        return {
            "gate": gate,
            "decodable": decodable,
            "share": share,
            "found": found if decodable else decodable,
            "found_absolute": reached if absolute else absolute,
        }


def _lift(row: Mapping[str, Any], split: str) -> float:
    prefix = "" if split == TEST else "validate_"
    return lift(
        row[f"{prefix}ap"],
        row[f"{prefix}n_positive" if not prefix else "validate_positive"] / row[f"{prefix}n"],
    )


def _scores(frame: pl.DataFrame, threshold: float) -> list[Score]:
    """For all concepts, those of tokens and each kind: how many a probe decodes, and of those what
    each unit reaches."""
    # of no family: a family of its own
    frame = frame.with_columns(pl.col("family").fill_null(pl.col("concept")))
    named = frame["concept_kind"].unique().to_list()
    kinds = [kind for kind in KINDS if kind in named] + sorted(set(named) - set(KINDS))
    parts = {"all": frame}
    if any(kind != "document" for kind in kinds):
        parts["token"] = frame.filter(pl.col("concept_kind") != "document")
    parts |= {kind: frame.filter(pl.col("concept_kind") == kind) for kind in kinds}
    scores = []
    for name, column in (("concepts_gated", "gate"), ("concepts_decodable", "decodable")):
        for kind, part in parts.items():
            probes = part.filter(pl.col("unit_kind") == PROBE)
            share = _share(probes.with_columns(pl.col(column).fill_null(False)), column)
            failed = probes[column].null_count()
            scores.append(Score(name, share, "concept", concept_kind=kind, n_failed=failed))
    units = [unit for unit in UNITS if unit in frame["unit_kind"]]
    for measure in (*SHARES, *MEANS):
        for unit in units:
            asked = {kind: _asked(measure, part, threshold) for kind, part in parts.items()}
            scores += [
                _score(measure, unit, units, kind, rows, why)
                for kind, (rows, why) in asked.items()
                if rows.height
                or (unit, kind) == (LATENT, "all")  # of what nobody can be asked, one row says so
            ]
    if UNTRAINED in units:
        asked = {kind: _asked("share", part, threshold) for kind, part in parts.items()}
        scores += [
            _normalised(kind, *rows)
            for kind, rows in asked.items()
            if rows[0].height or kind == "all"
        ]
    return scores


def _asked(measure: str, part: pl.DataFrame, threshold: float) -> tuple[pl.DataFrame, str]:
    """The rows that a measure is over, and why there may be none."""
    if measure == "found_absolute":
        probes = part.filter(pl.col("unit_kind") == PROBE, pl.col("validate_ap") >= threshold)
        why = f"the probe reaches an average precision of {threshold:g} for no such concept"
        return part.filter(pl.col("concept").is_in(probes["concept"].to_list())), why
    column = "decodable" if measure in ("found", "share") else "gate"
    return part.filter(pl.col(column)), NOT_DECODED


def _score(
    measure: str, unit: str, units: list[str], kind: str, asked: pl.DataFrame, why: str
) -> Score:
    """One row."""
    rows = {name: asked.filter(pl.col("unit_kind") == name) for name in units}
    own = rows[unit]
    if measure in SHARES:
        rows = {
            name: frame.with_columns(pl.col(measure).fill_null(False))
            for name, frame in rows.items()
        }
        interval = _share(rows[unit], measure)
    else:  # the mean of what has a value; n counts the rest too, as failed
        interval = dataclasses.replace(
            _mean(own.filter(pl.col(measure).is_not_null()), measure), n=own.height
        )
    rival = next((name for name in RIVALS[unit] if name in units), None)
    baseline: float | None = rows[rival][measure].cast(pl.Float64).mean() if rival else None  # type: ignore[assignment]
    return Score(
        f"concepts_{measure}",
        interval,
        "concept",
        baseline,
        NAMES.get(rival or ""),
        subject=unit,
        role=ROLES[unit],
        concept_kind=kind,
        n_failed=own[measure].null_count(),
        reason=None
        if interval.value is not None
        else f"none of {own.height} concepts has a value"
        if own.height
        else why,
    )


def _normalised(kind: str, asked: pl.DataFrame, why: str) -> Score:
    """Mean share of the latents between that of the untrained dictionary (0) and that of the probe
    (1)."""
    columns = {
        name: asked.filter(pl.col("unit_kind") == name)
        .sort("concept")["share"]
        .fill_null(0.0)
        .to_numpy()
        for name in (LATENT, UNTRAINED)
    }
    families = asked.filter(pl.col("unit_kind") == LATENT).sort("concept")["family"].to_numpy()
    gained, left = columns[LATENT] - columns[UNTRAINED], 1 - columns[UNTRAINED]
    interval = ABSENT
    if len(gained) and left.sum() > 0:
        value = float(gained.sum() / left.sum())  # a ratio of sums; its spread by linearisation
        spread = _mean_of((gained - value * left) / left.mean(), families)
        ends = (None if end is None else min(1.0, value + end) for end in (spread.low, spread.high))
        interval = Interval(value, *ends, len(gained))
    return Score(
        "concepts_found_normalised", interval, "concept", 0.0, "untrained dictionary", LATENT, concept_kind=kind,
        reason=None if interval.value is not None else why if not len(gained) else "the untrained dictionary finds all",
    )  # fmt: skip


def _share(rows: pl.DataFrame, column: str) -> Interval:
    """A share of concepts, over families where there are enough of them."""
    found = rows[column].to_numpy().astype(bool)
    if rows["family"].n_unique() < FEWEST_FAMILIES:
        return wilson(int(found.sum()), len(found))
    return clustered_wilson(found, rows["family"].to_numpy())


def _mean(rows: pl.DataFrame, column: str) -> Interval:
    """A mean over concepts of a value between 0 and 1."""
    interval = _mean_of(rows[column].to_numpy(), rows["family"].to_numpy())
    low, high = (
        None if end is None else min(1.0, max(0.0, end)) for end in (interval.low, interval.high)
    )
    return Interval(interval.value, low, high, rows.height)


def _mean_of(values: np.ndarray, families: np.ndarray) -> Interval:
    if len(np.unique(families)) < FEWEST_FAMILIES:
        return t_interval(values)
    return clustered_t_interval(values, families)
