"""Does steering bring the concept into the text, at what cost, and against which baselines?"""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.store.tables import CONCEPTS_FOUND, GENERATIONS, REPORT, STRENGTHS
from dashboards import charts, runs, selection, tokens, views
from dashboards.app import show
from dashboards.runs import Experiment

PAIRS = 20


def page(shown: Experiment) -> None:
    """Every concept's uplift, then one concept's texts side by side."""
    st.title("Steering")
    steer = shown.artifacts.get("steer")
    if steer is None:
        st.info("The steer artifact of this experiment is not in this store. `latentflow steer` makes it.")
        return
    generations, strengths = runs.table(GENERATIONS, steer), runs.table(STRENGTHS, steer)
    budgets = generations["kl_budget"].drop_nulls().unique().sort().to_list()
    if not budgets:
        st.info("No steered text in this experiment.")
        return
    kinds = {}
    if "evaluate" in shown.artifacts:
        kinds = dict(
            runs.table(CONCEPTS_FOUND, shown.artifacts["evaluate"]).select("concept", "concept_kind").iter_rows()
        )
    budget = st.segmented_control("KL budget, nats a token", budgets, default=budgets[0]) or budgets[0]
    frame = views.uplift(generations, budget, kinds)
    left, right = st.columns([1.3, 1], gap="large")
    with left:
        st.subheader("By concept", anchor="concepts")
        st.altair_chart(charts.uplift(frame), width="stretch")
        st.caption("Test prompts; mean and 95% interval over prompts. Grey: the largest of the random directions.")
    with right:
        st.subheader("Means", anchor="means")
        rows = runs.table(REPORT, shown.report).filter(pl.col("name").str.starts_with("steer."))
        columns = ["measure", "concepts", "value", "95% interval", "baseline", "baseline is", "n", "failed"]
        st.dataframe(views.scores(rows, True).select(columns), hide_index=True)
    _texts(generations, strengths, frame, budget)


def _texts(generations: pl.DataFrame, strengths: pl.DataFrame, frame: pl.DataFrame, budget: float) -> None:
    st.subheader("Texts side by side", anchor="texts")
    concepts = frame["concept"].unique(maintain_order=True).to_list()
    if not concepts:
        st.info("No concept was steered on the test prompts at this budget.")
        return
    asked = selection.chosen("concept")
    st.session_state["concept"] = asked if asked in concepts else concepts[0]
    left, right = st.columns(2)
    concept = left.selectbox(
        "Concept", concepts, key="concept", on_change=lambda: selection.choose("concept", st.session_state["concept"])
    )
    of = generations.filter(pl.col("concept") == concept)
    methods = sorted(set(of["method"]) - {views.UNSTEERED})
    method = str(right.selectbox("Method", methods))
    used = strengths.filter(
        pl.col("concept").eq_missing(concept) | pl.col("concept").is_null(),
        pl.col("method") == method,
        (pl.col("kl_budget") - budget).abs() < 1e-9,
    )
    for row in used.head(1).iter_rows(named=True):
        latent = f" · latent {row['latent']}" if row["latent"] is not None else ""
        st.caption(
            f"strength {views.number(row['coefficient'])} of the mean activation norm · KL "
            f"{views.number(row['kl'])} nats a token{latent}" + (f" · {row['reason']}" if row["reason"] else "")
        )
    pairs = views.side_by_side(of, method, budget).head(PAIRS)
    st.html(tokens.pairs(pairs))


show(page)
