"""The stage `replicate`: one experiment under several training seeds -> every score's mean and
interval over the seeds.

Each seed is an ordinary experiment with a report of its own. What one report holds says how sure it
is of one dictionary; another seed gives another dictionary, and the interval here is Student's over
those. Polars only, no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from components.config import Config
from components.errors import InputError
from components.report.measure import Measures
from components.report.scores import bounded
from components.report.tables import PLACE, REPLICATES, REPORT
from components.statistics import t_interval
from components.store.artifact import Artifact
from components.store.stage import Inputs, Progress, Stage, Work


class ReplicateConfig(Config):
    """Which seeds stand beside one another; their reports are the inputs report.<number>, in this
    order."""

    seeds: tuple[int, ...] = ()
    """Training seeds."""


def make(folder: Path, config: ReplicateConfig, inputs: Inputs, settings: Any) -> Work:
    """Writes replicates.parquet.

    Raises:
        InputError: a seed without a report, or the same report under two seeds.
    """
    reports = {seed: inputs.get(f"report.{number}") for number, seed in enumerate(config.seeds)}
    given = {seed: report for seed, report in reports.items() if report is not None}
    if len(given) < len(config.seeds) or len({report.key for report in given.values()}) < len(
        config.seeds
    ):
        raise InputError(
            f"replicate wants one report for each of the seeds {', '.join(map(str, config.seeds))}"
        )
    measures = Measures.read(*given.values())
    frame = REPLICATES.write(folder, bounded(REPLICATES.frame(over_seeds(given)), measures))
    yield Progress(len(given), len(given), "reports")
    return {
        "seeds": list(config.seeds),
        "n_scores": frame.height,
        "dictionary": next(iter(frame["dictionary"].drop_nulls()), None),
        "reports": [report.key for report in given.values()],
        **measures.facts(),
    }


REPLICATE = Stage("replicate", version=2, make=make, computes=False)


def over_seeds(reports: Mapping[int, Artifact]) -> list[dict[str, Any]]:
    """One row for each score that any of the reports holds, in the order of the first that does.

    A seed without a value counts in n and as failed, and the mean is over the others.
    """
    seeds = list(reports)
    found: dict[tuple, dict[int, dict[str, Any]]] = {}
    for seed, report in reports.items():
        for row in REPORT.read(report).iter_rows(named=True):
            place = tuple(row[column] for column in PLACE if column != "dictionary")
            found.setdefault(place, {})[seed] = row
    rows = []
    for of in found.values():
        first = next(iter(of.values()))
        values = [of[seed]["value"] if seed in of else None for seed in seeds]
        known = pl.Series(values, dtype=pl.Float64).drop_nulls().to_numpy()
        baselines = pl.Series(
            [row["baseline"] for row in of.values()], dtype=pl.Float64
        ).drop_nulls()
        interval = t_interval(known)
        # no seed touches it: an interval without width would claim to be sure
        if len(set(known.tolist())) == 1:
            interval = dataclasses.replace(interval, low=None, high=None)
        reasons = dict.fromkeys(
            row["reason"] for row in of.values() if row["value"] is None and row["reason"]
        )
        rows.append(
            {column: first[column] for column in (*PLACE, "better", "unit_of_replication")}
            | {
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n": len(seeds),
                "n_failed": len(seeds) - len(known),
                "seeds": seeds,
                "values": values,
                "n_items": first["n"],
                "baseline": baselines.mean(),
                "baseline_name": next(
                    (row["baseline_name"] for row in of.values() if row["baseline_name"]), None
                ),
                "reason": "; ".join(reasons) or None,
            }
        )
    return rows
