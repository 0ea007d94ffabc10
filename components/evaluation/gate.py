"""The stage `gate`: which concepts the activations hold at all, once for every dictionary of the
same activations.

For each labelled concept a linear probe of all coordinates, fitted on select, and the best raw
coordinate, chosen on select; both are scored on validate (the gate is read there) and on test. None
of it depends on a dictionary, and it costs more than measuring one: `evaluate` takes this artifact
as its input `gate`, or does the same itself without it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import PositiveInt

from components.concept import probe
from components.concept.gate import ProbeGate, refusal
from components.concept.probe import Probe, fit_probe
from components.concept.ranking import Ranking, ranking
from components.config import Config
from components.device import Execution, resolve
from components.evaluation.contract import TEST, Gate, Subject
from components.evaluation.units import Choice, Readings, choose, read, score
from components.store.artifact import Artifact
from components.store.shards import ActivationShards
from components.store.stage import Inputs, Parent, Progress, Stage, Work
from components.store.tables import CONCEPTS, CONCEPTS_FOUND

SELECT, VALIDATE = "select", "validate"
UNITS = ("token", "document")
PROBE = "probe"
AT_ONCE = 32


class GateConfig(Config):
    """What the activations hold of the labelled concepts."""

    hook_point: str = ""
    """Which captured hook point to read; empty takes the first."""
    tokens: PositiveInt = 200_000
    """Tokens of each split that are read; all when it has fewer."""


def make(folder: Path, config: GateConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes `concepts_found.parquet` (neurons and probe, without a threshold) and
    `probe.<unit>.safetensors`."""
    activations = ActivationShards(inputs["activations"])
    hook_point = config.hook_point or activations.hook_points[0]
    device = str(resolve((settings or Execution()).device))
    gate = yield from measure(activations, inputs["corpus"], hook_point, config.tokens, device)
    CONCEPTS_FOUND.write(folder, gate.found)
    for unit, fitted in gate.probes.items():
        fitted.save(folder / _file(unit))
    return {
        "hook_point": hook_point,
        "tokens": config.tokens,
        "n_concepts": gate.found["concept"].n_unique(),
    }


GATE = Stage(
    "gate",
    version=2,
    make=make,
    entries=lambda config: {"probe": probe.VERSION},
    inputs={"activations": Parent("capture"), "corpus": Parent("read")},
)


def load(artifact: Artifact) -> Gate:
    """What the stage wrote."""
    probes = {
        unit: Probe.load(artifact.path(_file(unit)))
        for unit in UNITS
        if _file(unit) in artifact.files
    }
    return Gate(artifact.facts["tokens"], CONCEPTS_FOUND.read(artifact), probes)


def gate_of(subject: Subject, tokens: int, execution: Execution) -> Generator[Progress, None, Gate]:
    """The subject's gate; where none of so many tokens was given, measured here, once for all
    evaluations."""
    if subject.gate and subject.gate.tokens == tokens:
        return subject.gate
    if ("gate", tokens) not in subject.memory:
        device = str(resolve(execution.device))
        measured = yield from measure(
            subject.activations, subject.corpus, subject.hook_point, tokens, device
        )
        subject.memory["gate", tokens] = measured
    return subject.memory["gate", tokens]


def passed(gate: Gate, thresholds: ProbeGate, unit: str | None = None) -> pl.DataFrame:
    """The probe's rows of the concepts that it decodes on validate, of one unit or of both."""
    rows = gate.found.filter(pl.col("unit_kind") == PROBE)
    decoded = [row["concept"] for row in rows.iter_rows(named=True) if decodes(row, thresholds)]
    rows = rows.filter(pl.col("concept").is_in(decoded))
    return (
        rows if unit is None else rows.filter(pl.col("concept").is_in(gate.probes[unit].concepts))
    )


def decodes(row: dict[str, Any], thresholds: ProbeGate) -> bool | None:
    """Whether the probe of this row passes on validate; None where nothing can be said."""
    if row["validate_ap"] is None or row["validate_auroc"] is None:
        return None
    found = Ranking(row["validate_ap"], row["validate_auroc"])
    return refusal(found, row["validate_positive"], row["validate_n"], thresholds) is None


def missing(activations: ActivationShards) -> list[str]:
    """Splits that choosing, gating and scoring need and the capture lacks."""
    return [
        split
        for split in (SELECT, VALIDATE, TEST)
        if split not in activations.splits or not activations.n_rows(split)
    ]


def measure(
    activations: ActivationShards, corpus: Artifact, hook_point: str, tokens: int, device: str
) -> Generator[Progress, None, Gate]:
    """Probe and best raw coordinate of every concept; nothing where a split is missing."""
    inventory = CONCEPTS.read(corpus)
    rows: list[dict[str, Any]] = []
    probes: dict[str, Probe] = {}
    for unit in () if missing(activations) else UNITS:
        concepts = inventory.filter(pl.col("unit") == unit)
        if not concepts.height:
            continue
        names = concepts["concept"].to_list()
        given = {SELECT: read(activations, corpus, hook_point, SELECT, unit, names, tokens)}
        chosen = yield from choose(given[SELECT])
        fitted = given[SELECT].n_positive > 0
        x = torch.from_numpy(given[SELECT].x).to(device)
        probes[unit] = fit_probe(x, given[SELECT].labels, names)
        scores = SplitScores({SELECT: given.pop(SELECT).n_positive})
        del x
        for step, split in enumerate((VALIDATE, TEST), 1):
            here = read(activations, corpus, hook_point, split, unit, names, tokens)
            ranked = {kind: score(here, kind, choice) for kind, choice in chosen.items()}
            scores.add(split, here, {**ranked, PROBE: _read(probes[unit], here, fitted)})
            yield Progress(step, 2, "splits", f"probing {len(names)} {unit} concepts on {split}")
        for column, concept in enumerate(concepts.iter_rows(named=True)):
            for kind in scores.rankings[TEST]:
                row = scores.row(column, concept, kind, chosen.get(kind))
                fitted_here = None if kind in chosen else f"fitted on {SELECT}, so not scored there"
                rows.append({**row, "reason": row["reason"] or fitted_here})
    return Gate(tokens, CONCEPTS_FOUND.frame(rows), probes)


@dataclass
class SplitScores:
    """How the chosen units rank the concepts of one kind of unit, split by split.

    Attributes:
        n_positive: split -> rows that have each concept.
        n: split -> rows read.
        rankings: split -> kind of unit -> one ranking a concept.
    """

    n_positive: dict[str, np.ndarray]
    n: dict[str, int] = field(default_factory=dict)
    rankings: dict[str, dict[str, list[Ranking]]] = field(default_factory=dict)

    def add(self, split: str, here: Readings, ranked: dict[str, list[Ranking]]) -> None:
        """What one split says."""
        self.n_positive[split], self.n[split], self.rankings[split] = (
            here.n_positive,
            here.n,
            ranked,
        )

    def row(
        self, column: int, concept: dict[str, Any], kind: str, choice: Choice | None
    ) -> dict[str, Any]:
        """One row of the table CONCEPTS_FOUND; its reason where a split has no row with the
        concept."""
        lacking = [split for split, count in self.n_positive.items() if not count[column]]
        return {
            "concept": concept["concept"],
            "concept_kind": concept["concept_kind"],
            "family": concept["family"],
            "n_positive": int(self.n_positive[TEST][column]),
            "n": self.n[TEST],
            "validate_positive": int(self.n_positive[VALIDATE][column]),
            "validate_n": self.n[VALIDATE],
            "unit_kind": kind,
            **unit_of(choice, column),
            **scored(self.rankings[VALIDATE][kind][column], self.rankings[TEST][kind][column]),
            "reason": f"no {concept['unit']} of {' and '.join(lacking)} has it"
            if lacking
            else None,
        }


def unit_of(choice: Choice | None, concept: int) -> dict[str, Any]:
    """Columns of the unit that was chosen for one concept; none where there is none."""
    if choice is None or choice.unit[concept] < 0:
        return {}
    columns = {"unit": choice.unit, "sign": choice.sign, "select_ap": choice.ap}
    return {name: values[concept].item() for name, values in columns.items()}


def scored(validate: Ranking, test: Ranking) -> dict[str, Any]:
    """Columns of how it ranks the concept."""
    return {
        "validate_ap": validate.ap,
        "validate_auroc": validate.auroc,
        "ap": test.ap,
        "auroc": test.auroc,
    }


def _file(unit: str) -> str:
    return f"probe.{unit}.safetensors"


def _read(fit: Probe, given: Readings, fitted: np.ndarray) -> list[Ranking]:
    """How the probe ranks each concept that it could be fitted on; a few concepts at a time, so
    memory is bounded."""
    found, x = [], torch.from_numpy(given.x)
    for start in range(0, len(fitted), AT_ONCE):
        few = slice(start, start + AT_ONCE)
        scores = Probe(fit.weight[few], fit.bias[few]).scores(x).cpu().T.contiguous().numpy()
        found += [ranking(column, given.positive(start + i)) for i, column in enumerate(scores)]
    return [
        ranks if has else Ranking(None, None)
        for ranks, has in zip(found, fitted.tolist(), strict=True)
    ]
