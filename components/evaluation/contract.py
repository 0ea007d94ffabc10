"""What an evaluation promises: it reads a subject and returns scores; whatever it could not measure
it says why.

A file in `evaluations/` holds one evaluation, registered with `@evaluations`. The subject is one
dictionary and what there is of it: its codes, the activations and the text they come from, and,
where there is one, an untrained dictionary of equal size. Choices are made on select and validate;
test is read to report.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from components.concept.probe import Probe
from components.dictionary.contract import Dictionary
from components.dictionary.encode import Encoded
from components.model.reference import ModelReference
from components.registry import Entry, Registry, Services
from components.report.measure import Measure
from components.statistics import Interval
from components.store.artifact import Artifact
from components.store.rows import Rows
from components.store.shards import ActivationShards
from components.store.stage import Progress

TEST = "test"
MEAN_FROM = "select"
"""The split whose mean activation stands in the place of activations that are ablated."""
ABSENT = Interval(None, None, None, 0)
NOT_REBUILT = "its latents are not meant to add up to an activation"
"""Why nothing is said of a reconstruction that nobody meant to be one (`Dictionary.rebuilds`)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Control:
    """An untrained dictionary of equal size.

    Attributes:
        codes: its codes of the same activations.
        dictionary: itself; None when only its codes are at hand.
    """

    codes: Encoded
    dictionary: Dictionary | None


@dataclasses.dataclass(frozen=True, eq=False)
class Gate:
    """What the activations themselves hold of the concepts, whatever the dictionary.

    Attributes:
        tokens: of each split that were read, at most.
        found: rows of the table concepts_found for neurons and probe, without a threshold.
        probes: unit (token, document) -> the probes of its concepts.
    """

    tokens: int
    found: pl.DataFrame
    probes: Mapping[str, Probe]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated, and all it came from.

    Attributes:
        name: of the dictionary, as topk-1536-k16.
        n_seeds: training seeds behind it.
        dictionary: the dictionary.
        codes: its codes.
        activations: what was encoded; row i of a split is row i of its codes.
        read: the artifact of `read` (contexts, labels, the inventory of concepts); None without
            text.
        untrained: the control; None when none was given.
        folder: where tables go.
        gate: what the activations hold of the concepts, measured once for all dictionaries; None
            when it was not given.
        memory: what one evaluation has read and another will read again, by whatever names it; let
            go with the subject.
    """

    name: str
    n_seeds: int
    dictionary: Dictionary
    codes: Encoded
    activations: ActivationShards
    read: Artifact | None
    untrained: Control | None
    folder: Path
    gate: Gate | None = None
    memory: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def corpus(self) -> Artifact:
        """The artifact of `read`: for evaluations that read text, which are not run without."""
        assert self.read is not None, "an evaluation that says `reads_text = False` asks for text"
        return self.read

    @property
    def hook_point(self) -> str:
        """Where the dictionary reads."""
        return self.dictionary.hook_point

    def n_rows(self, split: str) -> int:
        """Tokens of a split; 0 where the capture has no such split."""
        return self.activations.n_rows(split) if split in self.activations.splits else 0

    def mean(self, split: str, hook_point: str) -> Float64[Tensor, " d_in"]:
        """Mean activation over a split, in one pass with bounded memory."""
        total = torch.zeros(self.activations.d_in(hook_point), dtype=torch.float64)
        for batch in Rows(self.activations, split, [hook_point]).in_order(8192):
            total += batch[hook_point].double().sum(0)
        return total / self.n_rows(split)


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of the scores table, as an evaluation states it.

    Attributes:
        measure: what was measured, as the evaluation declares it.
        interval: value, 95% interval and n.
        unit_of_replication: what one replicate is.
        baseline: what a named trivial or competing method gets.
        baseline_name: its name.
        subject: which of several was measured (latent, neuron, untrained, probe); None for the
            dictionary itself.
        role: what that is to the reader.
        k: units that a probe may use; None where there is no such number.
        concept_kind: all or a kind; None where no concept is meant.
        hook_point: where it was measured; None for where the dictionary reads.
        n_failed: replicates that failed, counted in n.
        reason: why the value is absent, or a caveat.
    """

    measure: str
    interval: Interval
    unit_of_replication: str
    baseline: float | None = None
    baseline_name: str | None = None
    subject: str | None = None
    role: Literal["entry", "floor", "ceiling", "control", "baseline"] = "entry"
    k: int | None = None
    concept_kind: str | None = None
    hook_point: str | None = None
    n_failed: int = 0
    reason: str | None = None

    def row(self, entry: str, subject: Subject) -> dict[str, Any]:
        """As a row of the scores table, of the evaluation called `entry`."""
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        columns |= dataclasses.asdict(columns.pop("interval"))
        columns["baseline_name"] = None if self.baseline is None else self.baseline_name
        columns["hook_point"] = self.hook_point or subject.hook_point
        return columns | {
            "entry": entry,
            "dictionary": subject.name,
            "n_seeds": subject.n_seeds,
            "split": TEST,
        }


Measuring = Generator[Progress, None, list[Score]]


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationServices(Services):
    """What an evaluation may use.

    Attributes:
        model: the model whose activations these are, loaded by whoever needs it; None where there
            is none.
    """

    model: ModelReference | None = None


class Evaluation(Entry):
    """Measures one side of a dictionary."""

    services: EvaluationServices
    measures: ClassVar[tuple[Measure, ...]]
    """What it measures; every score is of one of them."""
    in_sweeps: ClassVar[bool] = True
    """Whether a sweep that names no evaluations measures it; False for what few models can be
    asked."""
    reads_text: ClassVar[bool] = True
    """Whether it reads the corpus; without one, its first measure is absent with the reason."""
    reads_shards: ClassVar[bool] = True
    """Whether it reads activations or codes by the row; where none are stored, its first measure is
    absent with the reason. What only goes through activations in order has them from the running
    model too."""

    @abstractmethod
    def measure(self, subject: Subject) -> Measuring:
        """Yields progress, writes tables of its own into the subject's folder, returns the
        scores."""


evaluations: Registry[type[Evaluation]] = Registry(
    "evaluation", "components.evaluation.evaluations"
)
