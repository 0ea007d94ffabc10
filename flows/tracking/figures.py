"""Charts of an experiment as pictures, for MLflow, which shows images without a network: tables ->
matplotlib figure.

Drawn without any window or global state. Colours are near Okabe and Ito's, shapes say the same;
every interval that a score has is drawn. A function returns None where its table holds nothing to
draw.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from components.report import frontiers
from components.report.measure import Measures
from components.report.scores import KINDS, SINGLE, whole

BLUE, ORANGE, GREY, GREEN, PURPLE = "#2b83ba", "#e08a00", "#8f8f8f", "#00a37a", "#c2669b"
UNITS = {"latent": BLUE, "neuron": ORANGE, "untrained": GREY, "probe": GREEN}
METHODS = (BLUE, ORANGE, GREEN, PURPLE)
MARKS = "osD^v"
PER_DECADE = 5
CURVES = {
    "fvu": "variance unexplained (FVU)",
    "l0": "active latents a token (L0)",
    "dead_share": "dead latents, share",
    "loss": "loss",
}


def training(curve: pl.DataFrame) -> Figure | None:
    """The training curves against millions of tokens, each in its own panel."""
    names = [name for name in CURVES if name in set(curve["name"])]
    if not names:
        return None
    figure = _figure(3.2 * len(names))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        series = curve.filter(pl.col("name") == name).sort("step")
        axes.plot(series["tokens"] / 1e6, series["value"], color=BLUE)
        lowest = series["value"].min()
        if isinstance(lowest, float) and 0 < lowest < series["value"].max() / 20:  # type: ignore[operator]
            axes.set_yscale("log")
        axes.set_title(CURVES[name], fontsize=10)
        axes.set_xlabel("million tokens seen")
    return figure


def densities(latents: pl.DataFrame, split: str) -> Figure | None:
    """How many latents are active on which share of the tokens of one split."""
    alive = (
        latents.filter(pl.col("split") == split, pl.col("density") > 0)["density"]
        .log10()
        .to_numpy()
    )
    if not len(alive):
        return None
    figure = _figure(5)
    axes = figure.subplots()
    edges = np.arange(
        np.floor(alive.min()), np.ceil(alive.max()) + 1e-9 + 1 / PER_DECADE, 1 / PER_DECADE
    )
    axes.hist(10**alive, bins=10**edges, color=BLUE)  # type: ignore[arg-type]
    axes.set_xscale("log")
    axes.set_xlabel(f"density, share of tokens of {split}")
    axes.set_ylabel("latents")
    return figure


def frontier(comparison: pl.DataFrame, measures: Measures, title: str) -> Figure | None:
    """One measure against L0 for every label of a sweep, intervals over seeds."""
    rows = frontiers.points(comparison, measures, title)
    if rows.is_empty():
        return None
    figure = _figure(7)
    axes = figure.subplots()
    for number, ((label, d_sae, single), part) in enumerate(
        rows.group_by(["label", "d_sae", "is_baseline"], maintain_order=True)
    ):
        value, low, high = (
            part[column].fill_null(part["value"]).to_numpy() for column in ("value", "low", "high")
        )
        axes.errorbar(
            part["l0"].to_numpy(), value, yerr=[value - low, high - value], label=f"{label} {d_sae}", capsize=2,
            color=frontiers.COLOURS[number % len(frontiers.COLOURS)], marker="D" if single else "o",
            linestyle="" if single else "-",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("active latents a token (L0)")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)
    return figure


def concepts(scores: pl.DataFrame) -> Figure | None:
    """Concepts found by kind of concept and of unit."""
    measured = _measured(scores, "evaluate").filter(pl.col("measure") == "concepts_found")
    shares = {
        (row["subject"], row["concept_kind"] or "all"): row
        for row in measured.iter_rows(named=True)
    }
    kinds = [kind for kind in KINDS if any(key[1] == kind for key in shares)]
    if not kinds:
        return None
    figure = _figure(7)
    axes = figure.subplots()
    for number, (unit, colour) in enumerate(UNITS.items()):
        rows = {
            place: shares[unit, kind] for place, kind in enumerate(kinds) if (unit, kind) in shares
        }
        if rows:
            at = [place + 0.2 * (number - 1.5) for place in rows]
            values = [row["value"] for row in rows.values()]
            axes.bar(
                at,
                values,
                width=0.18,
                color=colour,
                label=unit,
                yerr=_errors(rows),
                ecolor="#555555",
                capsize=2,
            )
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("share of concepts found")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.12), fontsize=9)
    return figure


def explanations(scores: pl.DataFrame) -> Figure | None:
    """Every explanation score with its interval, controls in grey, beside the baseline; strata are
    in the table only."""
    shown = _measured(scores, "interpret").filter(pl.col("measure") == pl.col("scorer"))
    return _rows(shown, lambda row: BLUE if row["role"] == "entry" else GREY, "score")


def steering(scores: pl.DataFrame) -> Figure | None:
    """Composite of gain and fluency of every method at every KL budget, over all concepts or the
    one kind there is."""
    shown = whole(_measured(scores, "steer").filter(pl.col("measure") == "composite"), Measures({}))
    methods = sorted({row["subject"] or row["entry"] for row in shown.iter_rows(named=True)})
    colours = {method: METHODS[number % len(METHODS)] for number, method in enumerate(methods)}
    return _rows(
        shown,
        lambda row: colours[row["subject"] or row["entry"]],
        "composite of concept gained and fluency",
    )


def _rows(shown: pl.DataFrame, colour_of, label: str) -> Figure | None:
    if shown.is_empty():
        return None
    figure = _figure(7, 1.2 + 0.36 * shown.height)
    axes = figure.subplots()
    for place, row in enumerate(shown.iter_rows(named=True)):
        error = _errors({0: row})
        colour = colour_of(row)
        axes.errorbar([row["value"]], [place], xerr=error, fmt=MARKS[0], color=colour, capsize=2)
        if row["baseline"] is not None:
            axes.plot(
                [row["baseline"]],
                [place],
                marker="|",
                markersize=12,
                color="#555555",
                linestyle="none",
            )
    names = [row["name"].removeprefix(f"{row['stage']}.") for row in shown.iter_rows(named=True)]
    axes.set_yticks(range(shown.height), names, fontsize=9)
    axes.set_ylim(shown.height - 0.4, -0.6)  # the first on top
    axes.set_xlabel(label)
    axes.set_title("bars: 95% intervals; upright strokes: baselines", fontsize=8, loc="right")
    axes.axvline(0, color="#cccccc", linewidth=1, zorder=0)
    return figure


def _measured(scores: pl.DataFrame, stage: str) -> pl.DataFrame:
    return scores.filter(pl.col("stage") == stage, pl.col("value").is_not_null(), ~SINGLE)


def _errors(rows: Mapping[int, Mapping]) -> np.ndarray:
    """[2, n]: distances from value down to low and up to high; none where there is no interval."""
    down = [
        row["value"] - (row["value"] if row["low"] is None else row["low"]) for row in rows.values()
    ]
    up = [
        (row["value"] if row["high"] is None else row["high"]) - row["value"]
        for row in rows.values()
    ]
    return np.maximum(0, np.array([down, up]))


def _figure(width: float, height: float = 3.2) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", dpi=110)
