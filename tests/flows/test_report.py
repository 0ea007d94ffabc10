"""The report in a terminal: what has a value, at most thirty rows, and data that is never
markup."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from components.report import tables
from components.report.report import REPORT, ReportConfig
from components.store.artifact import Artifact, Store
from flows.report import show
from tests.report.rows import found, score, scored, steered

KINDS = ("all", "surface", "contextual", "document")


@pytest.fixture
def report(tmp_path: Path) -> Artifact:
    """A report of many scores, absent ones and concepts whose names are markup."""
    store = Store(tmp_path / "store")
    rows = [
        found(
            0.1 + 0.01 * number, unit, f"concepts_{measure}", concept_kind=kind, low=0.05, high=0.3
        )
        for measure in ("found", "ap", "auroc")
        for unit in ("latent", "neuron", "untrained", "probe")
        for number, kind in enumerate(KINDS)
    ]
    rows += [score("sparse_probing", 0.5, k=k) for k in range(20)]
    rows += [score("fvu", None, reason="all activations of the [test] split are equal")]
    evaluate = scored(store, "evaluate", *rows)
    about = {
        "low": 0.1,
        "high": 0.3,
        "baseline_name": "largest [/b] of 5",
        "concept_kind": "document",
    }
    single = [
        steered(0.2, "composite", concept=concept, baseline=0.5, **about)
        for concept in ("[/b] _g_", "[link=x]y[/link]", "[red]")
    ]
    steer = scored(store, "steer", steered(0.2, "composite", baseline=0.5, **about), *single)
    return store.ensure(REPORT, ReportConfig(), {"evaluate": evaluate, "steer": steer})[0]


def printed(report: Artifact, everything: bool = False) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=150), everything)
    return out.getvalue()


def table_of(text: str) -> list[str]:
    return [
        line for line in text.splitlines() if line.startswith("│") and line.split("│")[1].strip()
    ]


def test_the_terminal_shows_thirty_rows_and_all_of_them_when_asked(report: Artifact) -> None:
    n = tables.REPORT.read(report)["value"].count()
    short, whole = printed(report), printed(report, everything=True)
    assert len(table_of(short)) == 30 and len(table_of(whole)) == n
    assert f"{n - 30} more rows: latentflow report --all" in short
    assert "more rows" not in whole


def test_no_row_is_a_row_of_dashes_and_the_reason_is_told(report: Artifact) -> None:
    for text in (printed(report), printed(report, everything=True)):
        assert not any("evaluate.fvu" in line for line in table_of(text))
        assert "not measured: evaluate.fvu: all activations of the [test] split are equal" in text


def test_a_name_of_the_users_is_no_markup(report: Artifact) -> None:
    whole = printed(report, everything=True)
    for concept in ("[/b] _g_", "[link=x]y[/link]", "[red]"):
        assert f"steer.add_direction.kl_0.1.composite.concept.{concept} " in whole
    assert "largest [/b] of 5 0.5" in " ".join(whole.split())
