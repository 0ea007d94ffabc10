"""Labelled concepts of the corpus: word lists, columns of documents, or the labels of the world.

When to use it: where labels say what is meant. Which of them, say `steer.concepts` and
`steer.max_concepts_per_family`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import NonNegativeInt

from components.concept.gate import ProbeGate
from components.config import Config
from components.seeds import derive
from components.steering.concepts import limit, pick_concepts
from components.steering.contract import Concept, Evidence
from components.steering.evidence import read_evidence
from components.steering.gate import Split, probe_refusals
from components.steering.passages import Cut, cut, row_labels
from components.steering.targeting import Ground, Targeted, Targets, targets
from components.store import tables
from components.store.artifact import Artifact

if TYPE_CHECKING:
    from components.steering.config import SteerConfig


class LabelsConfig(Config):
    """Labelled concepts of the corpus."""

    kind: Literal["labels"] = "labels"
    """Labelled concepts; `steer.concepts` says which."""
    n: NonNegativeInt = 0
    """Of them so many at most, drawn by the seed, each kind in turn; 0 takes all."""


@targets
class Labels(Targets):
    """Labelled concepts."""

    config = LabelsConfig

    def obstacle(self, corpus: Artifact, config: SteerConfig) -> str | None:
        """That the corpus has no labels."""
        if tables.CONCEPTS.read(corpus).height:
            return None
        return (
            "the corpus labels no concept, so none can be judged; label some (read.word_lists), or "
            "steer towards latents (steer.targets.kind=latents)"
        )

    def at_most(self, inventory: Sequence[Mapping[str, Any]], config: SteerConfig) -> int:
        """Exactly those that are picked."""
        if not inventory:
            return 0
        picked = pick_concepts(pl.DataFrame(inventory), config)
        return len(some_of(picked, self.settings.n, config.seed))

    def find(self, ground: Ground) -> Labelled:
        """Those that match."""
        return Labelled(ground, n=self.settings.n)


def some_of(concepts: Sequence[Concept], n: int, seed: int) -> list[Concept]:
    """So many of these, drawn by a hash of seed and name, each kind in turn, in their order; all
    where `n` is 0."""
    drawn: dict[str, list[Concept]] = {}
    for concept in sorted(concepts, key=lambda concept: derive(seed, "target", concept.name)):
        drawn.setdefault(concept.kind, []).append(concept)
    turns = itertools.zip_longest(*drawn.values())
    taken = {c.name for c in [c for turn in turns for c in turn if c][: n or None]}
    return [concept for concept in concepts if concept.name in taken]


class Labelled(Targeted):
    """Labelled concepts, and where the corpus has them."""

    def __init__(
        self, ground: Ground, concepts: Sequence[Concept] | None = None, n: int = 0
    ) -> None:
        """
        Args:
            ground: where they are.
            concepts: which; those that the section picks, where absent.
            n: of those that it picks so many at most; 0 for all.
        """
        self._ground, subject = ground, ground.subject
        inventory = tables.CONCEPTS.read(subject.corpus)
        picked = pick_concepts(inventory, ground.config) if concepts is None else concepts
        self.concepts = some_of(picked, n, ground.config.seed)
        self.limit = limit(ground.config, inventory, picked)
        if len(self.concepts) < len(picked):
            drawn = f"{len(self.concepts)} of {len(picked)} that match were drawn (steer.targets.n)"
            self.limit = "; ".join(filter(None, (self.limit, drawn)))
        self._select, self._validate = (
            Split(subject.corpus, subject.activations, split, subject.hook_point, self.concepts)
            for split in ("select", "validate")
        )

    def refusals(self, gate: ProbeGate) -> Mapping[str, str]:
        """Those that a probe does not decode."""
        return probe_refusals(self._select, self._validate, gate)

    def cut(self, split: str, opening: int, length: int) -> Cut:
        """Passages of the corpus with its labels."""
        corpus = self._ground.subject.corpus

        def labelled(provenance: Mapping[str, Any]) -> Any:
            return row_labels(corpus, provenance, split, self.concepts)

        return cut(corpus, split, labelled, opening, length)

    def evidence(self, columns: Sequence[int], stand_ins: int) -> Evidence:
        """Captured tokens with their labels."""
        ground = self._ground
        return read_evidence(
            ground.subject, ground.model, self._select, columns, ground.codes, stand_ins
        )

    def told(self, column: int) -> Mapping[str, Any]:
        """Tokens of select with the concept, and without."""
        n_rows, n_with = self._select.labels.get_shape()[0], self._select.labels[:, column].nnz
        return {"n_with": n_with, "n_without": n_rows - n_with, "counted": "tokens"}
