"""A user's own text without a single label: every stage runs or says why not, and there is a
report."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from components.config import override
from components.report.tables import REPORT
from components.store.artifact import Store
from components.store.tables import DOCUMENTS
from flows.chain import Chain
from flows.parameters import reference
from tests.flows.conftest import TINY

EIGHT = ("train", "select", "explain", "calibrate", "judge", "validate", "neutral", "test")
pytestmark = pytest.mark.timeout(600)


def test_text_without_labels_ends_with_a_report(
    first: dict[str, str], config, tmp_path: Path
) -> None:
    """The text is that of the world's own stories, so the embedded model has something to say of
    it."""
    store = Store(config.execution.store)
    corpus = store.get(
        **store.get(**store.get(**first).manifest["inputs"]["evaluate"]).manifest["inputs"][
            "corpus"
        ]
    )
    stories = DOCUMENTS.read(corpus).filter(pl.col("split") == "train")["text"].to_list()
    (tmp_path / "stories.txt").write_text("\n\n".join(stories))
    mine = override(
        reference(TINY),
        {
            "execution.store": str(tmp_path / "artifacts"),
            "read.corpus.kind": "text",
            "read.corpus.path": str(tmp_path / "stories.txt"),
            "read.splits": {**dict.fromkeys(EIGHT, 800), "train": 3500, "explain": 2000},
            "train.tokens": 3000,
            "interpret.latents": 3,
        },
    )
    with Chain(mine, plain=True) as chain:
        frame = REPORT.read(chain.artifact("report"))
    rows = {row["name"]: row for row in frame.to_dicts()}
    assert (
        rows["evaluate.fvu"]["value"] is not None
        and rows["evaluate.loss_recovered.mean_ablation"]["value"] > 0
    )
    assert rows["interpret.log_odds.simulation"]["n"] == 3
    if not rows["interpret.log_odds.detection"]["n"]:  # a small dictionary is active everywhere
        assert "active in over a third" in rows["interpret.log_odds.detection"]["reason"]
    reason = "the corpus labels no concept, so none can be judged"
    assert rows["steer.gate.passed"]["value"] is None
    assert rows["steer.gate.passed"]["reason"].startswith(reason)
    assert rows["evaluate.concepts_found.latent"]["reason"].startswith(
        "the corpus labels no concept; give read.word_lists"
    )
