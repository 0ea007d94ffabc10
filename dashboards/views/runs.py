"""Several experiments side by side. Pure functions of tables, without Streamlit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from components.report.measure import Measure, Measures, label
from components.report.order import ordered
from components.report.scores import SINGLE, whole
from components.report.tables import REPORT
from dashboards.measures import NOTHING, estimate
from dashboards.views.lineage import parameters
from dashboards.views.scores import headlines


def compared(reports: Mapping[str, pl.DataFrame], measures: Measures) -> pl.DataFrame:
    """The scores of several experiments in one long frame, `run` (its label) in front; single
    concepts left out."""
    frames = [
        ordered(report, measures).filter(~SINGLE).select(pl.lit(run).alias("run"), pl.all())
        for run, report in reports.items()
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema={"run": pl.String, **REPORT.schema})


def side_by_run(scores: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """One row for each measure, one column for each run: value and 95% interval as text, a dash
    where not measured."""
    rows: dict[tuple[str, str | None], dict[str, str]] = {}
    for row in scores.iter_rows(named=True):
        known = measures.of(row)
        called = label(known, row) + (f", {known.unit}" if known.unit else "")
        value, interval = estimate(row["value"], row["low"], row["high"])
        cells = rows.setdefault((row["name"], row["concept_kind"]), {"measure": called})
        cells["concepts"] = row["concept_kind"] or NOTHING
        cells["better"] = row["better"] or NOTHING
        cells[row["run"]] = value if NOTHING in (value, interval) else f"{value} ({interval})"
    labels = scores["run"].unique(maintain_order=True).to_list()
    columns = ("measure", "concepts", "better", *labels)
    return pl.DataFrame(
        [{name: cells.get(name, NOTHING) for name in columns} for cells in rows.values()],
        schema={name: pl.String for name in columns},
    )


def run_list(scores: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """One row for each run and the headline measures as numbers, so that a click on a column sorts
    the runs."""
    rows: dict[str, dict[str, Any]] = {}
    for run in scores["run"].unique(maintain_order=True).to_list():
        rows[run] = {"run": run}
        for row in headlines(scores.filter(pl.col("run") == run).drop("run"), measures):
            rows[run].setdefault(row["label"], row["value"])
    return pl.DataFrame(list(rows.values()), infer_schema_length=None)


def frontier(scores: pl.DataFrame, measures: Measures, measure: Measure) -> pl.DataFrame:
    """One measure of the dictionaries against L0, with both intervals, for every run that measured
    both.

    Returns:
        run, dictionary, architecture, hook_point, l0, l0_low, l0_high, value, low, high, n; sorted
            by L0.
    """
    key = ["run", "dictionary", "hook_point", "split"]
    ours = whole(scores.filter(pl.col("role") == "entry", pl.col("value").is_not_null()), measures)
    l0 = ours.filter(pl.col("stage") == "evaluate", pl.col("measure") == "l0").select(
        *key,
        pl.col("value").alias("l0"),
        pl.col("low").alias("l0_low"),
        pl.col("high").alias("l0_high"),
    )
    return (
        ours.filter(pl.col("stage") == "evaluate", pl.col("measure") == measure.name)
        .select(*key, "value", "low", "high", "n")
        .join(l0, on=key, nulls_equal=True)
        .with_columns(
            pl.col("dictionary").fill_null("").str.split("-").list.first().alias("architecture")
        )
        .sort("l0", "run")
    )


def differences(configs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pl.DataFrame:
    """The parameters that are not the same in every run: parameter, then a column for each run.

    Args:
        configs: run -> stage -> config.
    """
    frames = [parameters(stages).rename({"value": run}) for run, stages in configs.items()]
    if not frames:
        return pl.DataFrame(schema={"parameter": pl.String})
    wide = frames[0]
    for frame in frames[1:]:
        wide = wide.join(frame, on="parameter", how="full", coalesce=True)
    wide = wide.with_columns(pl.exclude("parameter").fill_null(NOTHING))
    differ = pl.concat_list(pl.exclude("parameter")).list.n_unique() > 1
    return wide.filter(differ).sort("parameter")
