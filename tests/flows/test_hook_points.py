"""A hook point sweep through the whole chain: captured at two places, told in the report, planned."""

from __future__ import annotations

import io
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from components.config import override
from components.experiment import ExperimentConfig
from components.report.tables import REPORT
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.lineage import source
from flows import plan
from flows.report import show

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]
TRIED = ["resid_post.1", "resid_post.2"]


@pytest.fixture(scope="module")
def swept(config: ExperimentConfig) -> ExperimentConfig:
    """The tiny experiment, captured at two hook points, both of them in the sweep."""
    return override(
        config,
        {
            "capture.hook_points": ["resid_post.2", "resid_post.1"],
            "steer.hook_point_sweep": TRIED,
            "steer.method_settings.random_direction.n_directions": 4,
        },
    )


@pytest.fixture(scope="module")
def report(swept: ExperimentConfig, servers: None) -> Artifact:
    from flows.experiment import experiment

    return Store(swept.execution.store).get(**experiment(swept))


def test_an_experiment_sweeps_and_its_report_tells_the_curve(report: Artifact) -> None:
    steer = source(report, "steer")
    assert steer is not None
    rows = tables.HOOK_POINTS.read(steer)
    assert set(rows["hook_point"]) == set(TRIED)
    assert set(rows["method"]) == {"mean_difference", "random_direction"}
    chosen = steer.facts["hook_point_sweep"]["chosen"]
    own = rows.filter(pl.col("chosen"), method="mean_difference")
    assert own["hook_point"].unique().to_list() == [chosen["mean_difference"]]
    assert (own["n"] == steer.facts["passed"]).all()
    frame = REPORT.read(report).filter(measure="hook_point_sweep")
    assert set(frame["name"]) == {
        "steer.mean_difference.hook_point_sweep",
        "steer.random_direction.hook_point_sweep",
    }
    assert set(frame["split"]) == {"validate"}
    curve = f"{chosen['mean_difference']} was chosen among 2 hook points by the mean composite on "
    for text in (report.path("report.md").read_text("utf-8"), _shown(report)):
        assert curve in " ".join(text.split())


def _shown(report: Artifact) -> str:
    console = Console(file=io.StringIO(), width=400)
    show(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_plan_counts_the_sweep(config: ExperimentConfig, swept: ExperimentConfig) -> None:
    def work(of: Any) -> float:
        (step,) = (step for step in plan.plan(of, seconds=0) if step.label == "steer")
        assert step.estimate.work is not None
        return step.estimate.work[0]

    # neither is made: the plan takes them from the settings alone
    fresh = {"execution.store": config.execution.store + "-fresh"}
    with_sweep = override(swept, fresh)
    without = override(with_sweep, {"steer.hook_point_sweep": []})
    one = override(with_sweep, {"steer.hook_point_sweep": TRIED[:1]})
    assert work(one) == work(without) < work(with_sweep)
