"""What an explainer is shown beside windows: tokens that the direction promotes, and labels of the
explain split alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from components.interpretation.config import InterpretConfig
from components.interpretation.contract import LatentRecord
from components.interpretation.evidence import CorpusLabels, gather
from components.interpretation.interpret import INTERPRET
from components.interpretation.scorers.detection import Detection
from components.interpretation.scorers.simulation import Simulation
from components.store import tables
from components.store.artifact import Artifact, Store
from tests import toys
from tests.interpretation.planted import Planted
from tests.interpretation.windows_of import windows_of

WINDOWS = dataclasses.replace(
    windows_of(["a b c", "d e f", "a b"], [[1, 0, 0], [0, 2, 0], []]),
    document=np.array([0, 0, 2]),
    start=np.array([0, 3, 5]),
)


def corpus(store: Store) -> Artifact:
    """Documents 0 and 2 of explain, 7 of test."""

    def write(folder: Path) -> None:
        rows = [
            ("late", 0, 4),
            ("late", 7, 0),
            ("late", 2, 99),
            ("whole", 2, None),
            ("elsewhere", 7, None),
        ]
        splits = {0: "explain", 2: "explain", 7: "test"}
        tables.DOCUMENTS.write(
            folder, [{"document": n, "split": split} for n, split in splits.items()]
        )
        labels = [
            {"concept": name, "document": n, "token": token, "value": 1.0}
            for name, n, token in rows
        ]
        tables.LABELS.write(
            folder, [*labels, {"concept": "absent", "document": 0, "token": 0, "value": 0.0}]
        )

    return toys.artifact(store, "read", write, {})


def test_labels_mark_the_tokens_that_carry_a_concept(store: Store) -> None:
    labels = CorpusLabels.found(corpus(store), "explain")
    assert labels is not None
    marked = labels.of(WINDOWS)
    assert {name: mask.tolist() for name, mask in marked.items()} == {
        "late": [[False] * 3, [False, True, False], [False] * 3],
        "whole": [[False] * 3, [False] * 3, [True, True, False]],  # not in padding
    }
    bare = toys.artifact(store, "read", lambda folder: None, {}, seed=1)
    assert CorpusLabels.found(bare, "explain") is None


def test_concepts_come_with_their_sentences_where_they_have_some(store: Store) -> None:
    labels = CorpusLabels.found(corpus(store), "explain")
    assert labels is not None and labels.described == {}

    def write(folder: Path) -> None:
        for table in (tables.LABELS, tables.DOCUMENTS):
            (folder / table.file).write_bytes(corpus(store).path(table.file).read_bytes())
        concepts = [
            {"concept": "late", "description": "a late token"},
            {"concept": "whole", "description": None},
        ]
        tables.CONCEPTS.write(folder, concepts)

    labels = CorpusLabels.found(toys.artifact(store, "read", write, {}, seed=2), "explain")
    assert labels is not None and labels.described == {"late": "a late token"}
    record = LatentRecord(9, 0.1, 0, WINDOWS, WINDOWS, WINDOWS)
    statistics = tables.LATENTS.frame(pl.DataFrame({"latent": [9], "split": "explain"}))
    (evidence,) = gather([record], statistics, labels)
    assert evidence.described == {"late": "a late token"}


def test_evidence_is_of_latents_that_were_not_skipped_in_order(store: Store) -> None:
    skipped = LatentRecord(5, 0.1, 0, WINDOWS, WINDOWS, WINDOWS, reason="too few windows")
    records = [dataclasses.replace(skipped, latent=latent, reason=None) for latent in (9, 2)]
    promoted = {"promoted": [[" sea"], None], "suppressed": [[" sky"], None]}
    statistics = tables.LATENTS.frame(
        pl.DataFrame({"latent": [9, 2], "split": "explain"} | promoted)
    )
    labels = CorpusLabels.found(corpus(store), "explain")
    one, other = gather([records[0], skipped, records[1]], statistics, labels)
    assert (one.latent, list(one.promoted), list(one.suppressed)) == (9, [" sea"], [" sky"])
    assert (other.latent, list(other.promoted), list(other.suppressed)) == (2, [], [])
    assert set(one.labels) == {"late", "whole"}
    (alone,) = gather(records[:1], statistics, None)
    assert alone.labels == {}


def test_trials_are_drawn_once_for_each_latent_and_shared(
    planted: Planted, tmp_path: Path, monkeypatch
) -> None:
    drawn: list[tuple[str, int]] = []

    def counted(draw):
        def trials(self, record, generator):
            drawn.append((self.kind, record.latent))
            return draw(self, record, generator)

        return trials

    for scorer in (Detection, Simulation):
        monkeypatch.setattr(scorer, "trials", counted(scorer.trials))
    inputs = {role: artifact for role, artifact in planted.inputs.items() if role != "untrained"}
    made, _ = Store(tmp_path).ensure(INTERPRET, InterpretConfig(latents=4), inputs)
    latents = tables.EXPLANATIONS.read(made)["latent"].unique().to_list()
    roles = {"entry", "control", "floor", "ceiling"}
    assert set(tables.EXPLANATION_SCORES.read(made)["role"]) == roles
    assert sorted(drawn) == sorted(
        (kind, latent) for kind in ("detection", "simulation") for latent in latents
    )
