"""Scores over training seeds: mean, Student's interval over the seeds, and every seed's own
value."""

from __future__ import annotations

import numpy as np
import pytest

from components.errors import InputError
from components.report.replicates import REPLICATE, ReplicateConfig
from components.report.report import REPORT, ReportConfig
from components.report.tables import REPLICATES
from components.statistics import t_interval
from components.store.artifact import Artifact, Store
from tests.report.rows import found, score, scored


def report(store: Store, *rows: dict) -> Artifact:
    return store.ensure(REPORT, ReportConfig(), {"evaluate": scored(store, "evaluate", *rows)})[0]


def over(store: Store, *reports: Artifact) -> dict[str, dict]:
    config = ReplicateConfig(seeds=tuple(range(len(reports))))
    made, _ = store.ensure(
        REPLICATE, config, {f"report.{n}": given for n, given in enumerate(reports)}
    )
    assert made.facts["reports"] == [given.key for given in reports]
    return {row["name"]: row for row in REPLICATES.read(made).to_dicts()}


def test_the_interval_is_over_seeds_and_every_seed_is_shown(store: Store) -> None:
    values = [0.20, 0.23, 0.21]
    rows = [
        [score("fvu", value, low=0.1, high=0.3, baseline=0.5 + value, baseline_name="b")]
        for value in values
    ]
    means = over(store, *(report(store, *each) for each in rows))["evaluate.fvu"]
    wanted = t_interval(np.array(values))
    assert (means["value"], means["low"], means["high"]) == pytest.approx(
        (wanted.value, wanted.low, wanted.high)
    )
    assert (
        means["values"] == values
        and means["seeds"] == [0, 1, 2]
        and (means["n"], means["n_failed"]) == (3, 0)
    )
    assert means["n_items"] == 10 and means["unit_of_replication"] == "document"
    assert means["baseline"] == pytest.approx(0.5 + sum(values) / 3)


def test_no_interval_over_seeds_leaves_the_range_of_its_score(store: Store) -> None:
    reports = [report(store, found(value)) for value in (0.7, 1.0, 0.6)]
    assert over(store, *reports)["evaluate.concepts_found.latent"]["high"] == 1.0


def test_a_seed_without_a_value_is_counted_and_its_reason_kept(store: Store) -> None:
    first = report(store, score("fvu", 0.2), score("l0", 4.0))
    second = report(store, score("fvu", None, reason="no tokens"), score("l0", 4.0))
    means = over(store, first, second)
    assert (means["evaluate.fvu"]["n"], means["evaluate.fvu"]["n_failed"]) == (2, 1)
    assert (
        means["evaluate.fvu"]["values"] == [0.2, None]
        and means["evaluate.fvu"]["reason"] == "no tokens"
    )
    assert means["evaluate.fvu"]["low"] is None
    same = means["evaluate.l0"]  # no seed touches it
    assert (same["value"], same["low"], same["high"]) == (4.0, None, None)


def test_each_seed_has_a_report_of_its_own(store: Store) -> None:
    one = report(store, score("fvu", 0.2))
    for given in ({"report.0": one}, {"report.0": one, "report.1": one}):
        with pytest.raises(InputError, match="one report for each of the seeds 0, 1"):
            store.ensure(REPLICATE, ReplicateConfig(seeds=(0, 1)), given)
