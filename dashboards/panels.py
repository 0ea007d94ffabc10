"""Parts that more than one page shows."""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.store.report import KINDS
from dashboards import charts, views

TALL = 10
"""Concepts beyond which a chart by concept scrolls."""


def steering_by_concept(report: pl.DataFrame) -> pl.DataFrame:
    """Uplift by concept at one KL budget, for the kinds of concept that are picked; returns what is shown."""
    frame = views.uplift(report)
    if frame.is_empty():
        st.info("This report has no score of steering by concept.")
        return frame
    budgets = frame["budget"].unique().sort().to_list()
    kinds = [kind for kind in KINDS if kind in set(frame["concept_kind"])]
    left, right = st.columns([1, 2])
    budget = left.segmented_control("KL budget, nats a token", budgets, default=budgets[0], key="budget") or budgets[0]
    picked = right.pills("Concepts", kinds, default=kinds, selection_mode="multi", key="kinds") or kinds
    shown = frame.filter(pl.col("budget") == budget, pl.col("concept_kind").is_in(picked))
    n = shown["concept"].n_unique()
    with st.container(height=360 if n > TALL else "content", border=False):
        st.altair_chart(charts.uplift(shown), width="stretch")
    control = next(iter(shown["control"].drop_nulls()), None)
    failed = shown["n_failed"].sum()
    st.caption(
        f"{n} concepts on test prompts; mean and 95% interval over prompts"
        + (f"; grey bar: {control}, on that concept" if control else "")
        + (f". {failed} prompts failed and count as no uplift." if failed else ".")
    )
    return shown
