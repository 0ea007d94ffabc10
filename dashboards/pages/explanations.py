"""How well do the explanations foretell their latents?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import streamlit as st

from components.live import Meaning
from components.report import worth
from components.report.tables import REPORT
from components.store.tables import CONTROL_SCORES, EXPLANATION_SCORES, EXPLANATIONS
from dashboards import charts, listing, panels, questions, runs, selection, views
from dashboards.app import show
from dashboards.markdown import plain
from dashboards.runs import Experiment

ROWS = 500
NEAREST = 50
MEANING = "meaning"
FIGURES: dict[str, Any] = {
    "explanation": st.column_config.TextColumn(width="large"),
    "density": st.column_config.NumberColumn(format="%.3g"),
    **{
        name: st.column_config.NumberColumn(format="%.3f")
        for name in ("score", "low", "high", "floor", "ceiling", "cosine")
    },
}


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
        measured.filter((pl.col("scorer") == scorer) | (pl.col("scorer").is_null())), shown.measures
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
        columns = ["measure", "value", "95% interval", "baseline", "baseline is", "n", "failed"]
        if measured["predictor"].drop_nulls().n_unique() > 1:
            readers = measured.select("name", pl.col("predictor").fill_null("").alias("read by"))
            report = report.join(readers, on="name", how="left", maintain_order="left")
            columns.insert(1, "read by")
        st.dataframe(views.scores.greyed(report, columns), hide_index=True)
        if grey := worth.sentences(measured):
            st.caption(f"Grey: {plain('; '.join(grey))}")
    _list(shown, said, scores, scorer)
    _meaning(shown, said, scores, scorer)


def _list(shown: Experiment, said: pl.DataFrame, scores: pl.DataFrame, scorer: str) -> None:
    st.subheader("Every explanation", anchor="list")
    every = views.scores.explained(said, scores, scorer)
    if "encode" in shown.artifacts:
        densities = listing.read(shown).frame.select("latent", "density")
        every = every.join(densities, on="latent", how="left", maintain_order="left")
    words, who, between, density = st.columns([2.2, 2.2, 1.8, 1.8])
    text = words.text_input(
        "Search", placeholder="words of an explanation", key="said", bind="query-params"
    )
    explainers = said["explainer"].unique().sort().to_list()
    wanted = who.multiselect("Explainers", explainers, placeholder="all", key="explainers")
    least, most = between.slider(
        "Score",
        *_ends(every["score"]),
        value=_ends(every["score"]),
        step=0.01,
        key=f"score {scorer}",
    )
    range_ = None
    if "density" in every.columns:
        range_ = density.select_slider(
            "Density", listing.DENSITIES, value=("0", "1"), key="explained density"
        )
    worst = st.toggle("worst first")
    frame = views.scores.narrowed(
        every,
        text=text,
        explainers=wanted,
        score=(least, most) if (least, most) != _ends(every["score"]) else None,
        density=(float(range_[0]), float(range_[1])) if range_ else None,
    ).sort("score", "latent", "explainer", descending=[not worst, False, False], nulls_last=True)
    if frame.is_empty():
        st.info(f"None of the {every.height:,} rows passes these filters.")
        return
    unexplained = frame["explanation"].null_count()
    rows = frame.head(ROWS)
    picked = st.dataframe(
        rows.with_columns(pl.col("explanation", "reason").fill_null("")),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"explanations {scorer} {worst} {text} {wanted} {least} {most} {range_}",
        column_config=FIGURES,
    )
    st.caption(
        f"{min(frame.height, ROWS):,} of {frame.height:,}"
        + (f" that pass the filters, of {every.height:,}" if frame.height < every.height else "")
        + f"; {unexplained:,} without an explanation, each with its reason. Floor: another "
        "latent's explanation by the same explainer, read the same way. Ceiling: the probe. Click "
        "the box at the left of a row to open that latent."
    )
    _open(picked, rows)


def _ends(scores: pl.Series) -> tuple[float, float]:
    """The ends of the slider of scores: whole hundredths outside of them all."""
    values = scores.drop_nulls()
    if values.is_empty():
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    low, high = math.floor(low * 100) / 100, math.ceil(high * 100) / 100
    return low, max(high, round(low + 0.01, 2))


def _meaning(shown: Experiment, said: pl.DataFrame, scores: pl.DataFrame, scorer: str) -> None:
    """Explanations near a text in meaning: the live worker compares vectors."""
    st.subheader("By meaning", anchor="meaning")
    with st.form(MEANING, border=False):
        field, button = st.columns([5, 1], vertical_alignment="bottom")
        text = field.text_input(
            "Meaning",
            key="meaning words",
            placeholder="what a latent should be about, in any words",
        )
        sent = button.form_submit_button("Find", width="stretch")
    if sent and text.strip():
        questions.ask(
            MEANING,
            "meaning",
            shown.key,
            {"text": text, "report": shown.key},
            text=text,
            top=NEAREST,
        )
    elif sent:
        questions.forget(MEANING)
        st.info("Write what you look for first: a word is enough.")
    before = questions.asked(MEANING)
    if before and before.about["report"] == shown.key:
        of = views.scores.explained(said, scores, scorer)
        questions.show(MEANING, lambda answer, about: _near(answer, about, of))


def _near(answer: Meaning, about: Mapping[str, Any], of: pl.DataFrame) -> None:
    found = pl.DataFrame(
        [match.model_dump() for match in answer.matches],
        schema={"latent": pl.Int32, "explainer": pl.String, "explanation": pl.String, "cosine": pl.Float64},
    )  # fmt: skip
    if found.is_empty():
        st.caption("No explanation was written, so there is nothing to compare with.")
        return
    rows = found.join(
        of.select("latent", "explainer", "score", "floor", "ceiling"),
        on=["latent", "explainer"],
        how="left",
        maintain_order="left",
    ).select("latent", "explanation", "cosine", "score", "floor", "ceiling", "explainer")
    picked = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"meaning {about['text']}",
        column_config=FIGURES,
    )
    st.caption(
        f"The {rows.height:,} of {answer.n:,} explanations nearest to “{plain(about['text'])}” by "
        f"cosine of the vectors of {plain(answer.encoder)}."
    )
    _open(picked, rows)


def _open(picked: Any, rows: pl.DataFrame) -> None:
    if picked.selection.rows:
        selection.choose("latent", int(rows["latent"][picked.selection.rows[0]]))
        st.switch_page(Path(__file__).with_name("latents.py"))


show(page)
