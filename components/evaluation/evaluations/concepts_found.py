"""Which labelled concepts one unit finds: average precision 0.8 over all tokens (or documents) at natural density.

For every concept of the inventory and every kind of unit: `latent`, `neuron` (a raw coordinate, either sign),
`untrained` (a latent of the untrained dictionary) and `probe` (a linear probe of all coordinates, fitted on select).

    gate     a probe reaches the threshold on validate: the model does represent the concept
    choose   the unit of each kind with the highest average precision on select
    found    the gate passed, and that unit reaches the threshold on test, which is read once, after both

AUROC stands beside: on rare concepts it is too kind to tell units apart. The baseline of latents and of the untrained
dictionary are raw neurons, that of neurons is the probe. A concept that cannot be judged (no positive in a split) is a
null with its reason; it counts in n, and as failed.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import polars as pl
from pydantic import Field, PositiveInt

from components.config import Config
from components.evaluation.contract import ABSENT, TEST, Evaluation, Measuring, Score, Subject, evaluations
from components.evaluation.gate import PROBE, SELECT, VALIDATE, gate_of, missing, scored, unit_of
from components.evaluation.units import LATENT, NEURON, UNTRAINED, choose, readings, score
from components.seeds import numpy_generator
from components.statistics import bootstrap_mean, wilson
from components.store.artifact import Progress
from components.store.tables import CONCEPTS, CONCEPTS_FOUND

BASELINES = {
    LATENT: (NEURON, "raw neurons"),
    UNTRAINED: (NEURON, "raw neurons"),
    NEURON: (PROBE, "linear probe"),
    PROBE: (None, None),
}
KINDS = ("surface", "contextual", "document")
MEASURES = ("found", "ap", "auroc")
UNGATED = "no concept passed the gate"


class ConceptsFoundConfig(Config):
    """Concepts that one unit finds, among those that a probe decodes."""

    ap_threshold: float = Field(default=0.8, gt=0, le=1)
    """Average precision at which a concept counts as decoded, and as found."""
    tokens: PositiveInt = 200_000
    """Tokens of each split that are read; all when it has fewer."""


@evaluations
class ConceptsFound(Evaluation):
    """Share of gated concepts that the best unit of each kind finds, by kind of concept."""

    config = ConceptsFoundConfig

    def measure(self, subject: Subject) -> Measuring:
        """Writes the table of every concept and unit, and returns shares and means over the gated concepts."""
        gate = yield from gate_of(subject, self.settings.tokens)
        rows = gate.found.to_dicts()
        inventory = CONCEPTS.read(subject.corpus)
        for unit in gate.probes:
            rows += yield from self._of(subject, unit, inventory.filter(pl.col("unit") == unit))
        passed = {row["concept"]: self._reaches(row["validate_ap"]) for row in rows if row["unit_kind"] == PROBE}
        for row in rows:
            row["gate"] = passed[row["concept"]]
            row["found"] = self._reaches(row["ap"]) if row["gate"] else row["gate"]
        frame = CONCEPTS_FOUND.write(subject.folder, rows)
        if not rows:
            lacking = missing(subject.activations)
            reason = f"the capture has no {lacking[0]} split" if lacking else "the corpus labels no concept"
            return [Score("concepts_found.latent", ABSENT, "concept", "higher", concept_kind="all", reason=reason)]
        return _scores(subject, frame)

    def _of(
        self, subject: Subject, unit: str, concepts: pl.DataFrame
    ) -> Generator[Progress, None, list[dict[str, Any]]]:
        """Rows of the latents for the concepts of one unit: select chooses, validate and test are scored."""
        names, limit = concepts["concept"].to_list(), self.settings.tokens
        given = readings(subject, SELECT, unit, names, limit)
        chosen = yield from choose(given)
        rankings, n_positive = {}, {SELECT: given.n_positive}
        for step, split in enumerate((VALIDATE, TEST), 1):
            given = readings(subject, split, unit, names, limit)
            rankings[split] = {kind: score(given, kind, choice) for kind, choice in chosen.items()}
            n_positive[split] = given.n_positive
            yield Progress(step, 2, "splits", f"scoring {len(names)} {unit} concepts on {split}")
        rows = []
        for column, concept in enumerate(concepts.iter_rows(named=True)):
            lacking = [split for split, count in n_positive.items() if not count[column]]
            for kind, choice in chosen.items():
                rows.append(
                    {
                        "concept": concept["concept"],
                        "concept_kind": concept["concept_kind"],
                        "n_positive": int(n_positive[TEST][column]),
                        "n": given.n,
                        "unit_kind": kind,
                        **unit_of(choice, column),
                        **scored(rankings[VALIDATE][kind][column], rankings[TEST][kind][column]),
                        "reason": f"no {unit} of {' and '.join(lacking)} has it" if lacking else None,
                    }
                )
        return rows

    def _reaches(self, ap: float | None) -> bool | None:
        return None if ap is None else ap >= self.settings.ap_threshold


def _scores(subject: Subject, frame: pl.DataFrame) -> list[Score]:
    """For all concepts together and for each kind: how many a probe decodes, and of those what each unit reaches."""
    named = frame["concept_kind"].unique().to_list()
    kinds = [kind for kind in KINDS if kind in named] + sorted(set(named) - set(KINDS))
    parts = {"all": frame, **{kind: frame.filter(pl.col("concept_kind") == kind) for kind in kinds}}
    scores = []
    for kind, part in parts.items():
        gate = part.filter(pl.col("unit_kind") == PROBE)["gate"]
        share, failed = wilson(int(gate.sum()), len(gate)), gate.null_count()
        scores.append(Score("concepts_gated", share, "concept", "neither", concept_kind=kind, n_failed=failed))
    for measure in MEASURES:
        for unit in (unit for unit in BASELINES if unit in frame["unit_kind"]):
            scores += [
                _score(subject, measure, unit, kind, part.filter(pl.col("gate"))) for kind, part in parts.items()
            ]
    return scores


def _score(subject: Subject, measure: str, unit: str, kind: str, gated: pl.DataFrame) -> Score:
    """One row; `gated` holds every kind of unit for each concept that passed the gate."""
    values = {name: gated.filter(pl.col("unit_kind") == name)[measure] for name in BASELINES}
    own, n = values[unit], len(values[unit])
    if measure == "found":
        values = {name: column.fill_null(False).cast(pl.Float64) for name, column in values.items()}
        interval = wilson(int(values[unit].sum()), n)
    else:
        draw = numpy_generator(subject.seed, "concepts_found", measure, unit, kind)
        interval = bootstrap_mean(own.drop_nulls().to_numpy(), draw)  # n counts what has a value; n_failed, the rest
    rival, rival_name = BASELINES[unit]
    return Score(
        f"concepts_{measure}.{unit}",
        interval,
        "concept",
        "higher",
        values[rival].mean() if rival else None,  # type: ignore[arg-type]
        rival_name,
        concept_kind=kind,
        n_failed=own.null_count(),
        reason=None if interval.value is not None else f"none of {n} gated concepts has a value" if n else UNGATED,
    )
