"""Parts that more than one page shows."""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.errors import ServiceError
from components.report.scores import KINDS
from dashboards import charts, views, workflow
from dashboards.markdown import plain, sentence

TALL = 10
"""Concepts beyond which a chart by concept scrolls."""


@st.fragment(run_every=5)
def running() -> None:
    """What Prefect runs at this moment, asked for again every five seconds."""
    try:
        now = workflow.unfinished()
    except ServiceError as error:
        st.caption(f"What is running now is not known: {sentence(error)}.")
        return
    if not now:
        st.caption("Nothing is running now. [Start a run](runs)")
        return
    lines = []
    for run in now[:5]:
        moving = workflow.progress(run.id) if run.state == "RUNNING" else None
        share = f" · {moving[0]:.0f}%" if moving else ""
        lines.append(
            f"**{plain(run.state_name)}** · {plain(run.name)} · {plain(run.flow)}{share} · "
            f"{views.lineage.readable_seconds(run.seconds)} · "
            f"[follow](runs?run={run.id})"
        )
    st.info("  \n".join(lines) + (f"  \nand {len(now) - 5} more" if len(now) > 5 else ""))


def absent(report: pl.DataFrame, told: str) -> None:
    """A sentence in place of what is not there, with the first reason that these rows give for
    it."""
    reasons = report.filter(pl.col("value").is_null())["reason"].drop_nulls()
    st.info(f"{told}: {plain(reasons[0])}." if len(reasons) else f"{told}.")


def steering_by_concept(report: pl.DataFrame) -> pl.DataFrame:
    """The composite by concept at one KL budget, for the kinds of concept that are picked; returns
    what is shown."""
    frame = views.scores.steering(report)
    if frame.is_empty():
        lacking = report.filter(pl.col("stage") == "steer")
        absent(lacking, "This report has no score of steering by concept")
        return frame
    budgets = frame["budget"].drop_nulls().unique().sort().to_list() or [0.0]
    kinds = [kind for kind in KINDS if kind in set(frame["concept_kind"])]
    left, right = st.columns([1, 2])
    budget = (
        left.segmented_control("KL budget, nats a token", budgets, default=budgets[0], key="budget")
        or budgets[0]
    )
    picked = (
        right.pills("Concepts", kinds, default=kinds, selection_mode="multi", key="kinds") or kinds
    )
    at = (pl.col("budget") == budget) | pl.col(
        "budget"
    ).is_null()  # what has no strength stands at every budget
    shown = frame.filter(at, pl.col("concept_kind").is_in(picked))
    n = shown["concept"].n_unique()
    with st.container(height=360 if n > TALL else "content", border=False):
        st.altair_chart(charts.steering(shown, views.scores.methods(report)), width="stretch")
    control = next(iter(shown["control"].drop_nulls()), None)
    failed = shown["n_failed"].sum()
    st.caption(
        f"{n} concepts on test prompts; mean and 95% interval over prompts"
        + (f"; grey bar: {plain(control)}, on that concept" if control else "")
        + (f". {failed} prompts failed and count as nothing gained." if failed else ".")
    )
    return shown
