"""How well do the explanations foretell their latents?"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import streamlit as st

from components.report.tables import REPORT
from components.store.tables import CONTROL_SCORES, EXPLANATION_SCORES, EXPLANATIONS
from dashboards import charts, panels, runs, selection, views
from dashboards.app import show
from dashboards.markdown import plain
from dashboards.runs import Experiment

ROWS = 500


def page(shown: Experiment) -> None:
    """Explanations against floor, ceiling and control, then every explanation with its score."""
    st.title("Explanations")
    interpret = shown.artifacts.get("interpret")
    if interpret is None:
        st.info(
            "The interpret artifact of this experiment is not in this store. `latentflow "
            "interpret` makes it."
        )
        return
    scores, said = runs.table(EXPLANATION_SCORES, interpret), runs.table(EXPLANATIONS, interpret)
    measured = runs.table(REPORT, shown.report).filter(pl.col("stage") == "interpret")
    report = views.scores.scores(measured, shown.measures, everything=True)
    scorers = scores["scorer"].unique().sort().to_list()
    if not scorers:
        panels.absent(measured, "No explanation was scored in this experiment")
        return
    scorer = (
        st.segmented_control("Scorer", scorers, default=scorers[0], format_func=plain) or scorers[0]
    )
    for label, said_of_it, apart in views.scores.differences_from_controls(
        measured, shown.measures
    ):
        verdict = {
            True: ", apart from the control",
            False: ", not told from the control",
            None: "",
        }[apart]
        st.text(f"{label}: {said_of_it}{verdict}")
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("All latents", anchor="distribution")
        theirs = (
            runs.table(CONTROL_SCORES, interpret)
            if CONTROL_SCORES.file in interpret.files
            else None
        )
        bins = views.scores.distribution(scores, scorer, control_scores=theirs)
        st.altair_chart(charts.distribution(bins), width="stretch")
        control = (
            ""
            if theirs is None or theirs.is_empty()
            else " Untrained: latents of a dictionary that learnt nothing."
        )
        st.caption(
            "Latents by score. Floor: another latent's explanation (shuffled). Ceiling: a "
            f"probe.{control}"
        )
    with right:
        st.subheader("Means", anchor="means")
        st.dataframe(
            report.select(
                "measure", "value", "95% interval", "baseline", "baseline is", "n", "failed"
            ),
            hide_index=True,
        )
    _list(said, scores, scorer)


def _list(said: pl.DataFrame, scores: pl.DataFrame, scorer: str) -> None:
    st.subheader("Every explanation", anchor="list")
    worst = st.toggle("worst first")
    frame = views.scores.explained(said, scores, scorer).sort(
        "score", descending=not worst, nulls_last=True
    )
    unexplained = frame["explanation"].null_count()
    rows = frame.head(ROWS)
    picked = st.dataframe(
        rows.with_columns(pl.col("explanation", "reason").fill_null("")),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"explanations {scorer} {worst}",
        column_config={
            "explanation": st.column_config.TextColumn(width="large"),
            **{
                name: st.column_config.NumberColumn(format="%.3f")
                for name in ("score", "low", "high", "floor", "ceiling")
            },
        },
    )
    st.caption(
        f"{min(frame.height, ROWS):,} of {frame.height:,}; {unexplained:,} without an "
        "explanation, each with its reason. Click the box at the left of a row to open that "
        "latent."
    )
    if picked.selection.rows:
        selection.choose("latent", int(rows["latent"][picked.selection.rows[0]]))
        st.switch_page(Path(__file__).with_name("latents.py"))


show(page)
