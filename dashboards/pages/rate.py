"""Does this explanation fit, is the target in this text? Explanations without the names of who wrote
them, texts without what steered them, in random order."""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.report.agreement import agreement
from components.report.tables import REPORT
from components.seeds import numpy_generator
from components.store.artifact import Artifact
from components.store.notes import Notes
from components.store.tables import CONTEXTS, EXPLANATION_SCORES, EXPLANATIONS
from dashboards import notes, panels, runs, selection, text_ratings, tokens
from dashboards.app import show
from dashboards.markdown import plain
from dashboards.runs import Experiment

ACTIVE, SILENT = 8, 3
ANSWERS = {"fits": True, "does not fit": False}
SPLIT = "test"
WHAT = {"explanations": "Explanations of latents", "texts": "Steered text"}


def page(shown: Experiment) -> None:
    """Explanations or texts to be judged, as the address says."""
    st.title("Rate blind")
    asked = selection.chosen("what")
    st.session_state["rated"] = asked if asked in WHAT else "explanations"
    st.radio(
        "What is rated",
        list(WHAT),
        format_func=WHAT.__getitem__,
        key="rated",
        horizontal=True,
        label_visibility="collapsed",
        on_change=lambda: selection.choose("what", st.session_state["rated"]),
    )
    if st.session_state["rated"] == "texts":
        text_ratings.section(shown)
    else:
        _explanations(shown)


def _explanations(shown: Experiment) -> None:
    """One latent after the other: its windows, and every explanation of it to be judged."""
    interpret = shown.artifacts.get("interpret")
    if interpret is None or "train" not in shown.artifacts:
        st.info(
            "The interpret artifact of this experiment is not in this store. `latentflow "
            "interpret` makes it."
        )
        return
    written = runs.table(EXPLANATIONS, interpret).filter(pl.col("explanation").is_not_null())
    if written.is_empty():
        measured = runs.table(REPORT, shown.report).filter(pl.col("stage") == "interpret")
        panels.absent(measured, "No explanation was written in this experiment")
        return
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        notes.ask_author()
    kept = notes.of(shown)
    mine = kept.ratings().filter(
        pl.col("interpret") == interpret.key, pl.col("author") == notes.author()
    )
    order = written["latent"].unique().sort().to_list()
    numpy_generator(0, "blind", interpret.key, notes.author()).shuffle(order)
    skipped = st.session_state.setdefault(f"skipped {interpret.key}", set())
    rated = set(mine["latent"])
    waiting = [latent for latent in order if latent not in rated | skipped]
    right.caption(
        f"{len(rated):,} of {len(order):,} latents rated by you ({mine.height:,} explanations). "
        "Latents come in random order, their explanations too, without the names of who wrote "
        "them. Judge whether an explanation says what the marked tokens have in common."
    )
    if waiting:
        _latent(kept, interpret, written, waiting[0], skipped)
    else:
        st.info("Nothing is left to rate.")
    _agreement(kept.ratings(), interpret)


def _latent(
    kept: Notes, interpret: Artifact, written: pl.DataFrame, latent: int, skipped: set[int]
) -> None:
    windows = runs.rows(CONTEXTS, interpret, latent=latent, split=SPLIT)
    active = windows.filter(pl.col("maximum") > 0).sort(
        "maximum", "window", descending=[True, False]
    )
    silent = windows.filter(pl.col("maximum") == 0).head(SILENT)
    # from the strongest to the weakest, evenly: the strongest alone would hide what else it is on
    picks = [round(n * (active.height - 1) / max(1, ACTIVE - 1)) for n in range(ACTIVE)]
    active = active[sorted({pick for pick in picks if 0 <= pick < active.height})]
    largest = max([0.0, *active["maximum"]])
    st.subheader("A latent", anchor=False)
    if active.is_empty():
        st.caption("No window of the test split was chosen for it: skip it.")
    else:
        st.html(tokens.legend(largest))
        st.html(tokens.windows(active, largest) + tokens.windows(silent, largest))
        st.caption("From its strongest windows of the test split to its weakest, then silent ones.")
    of_latent = written.filter(pl.col("latent") == latent)
    texts = of_latent["explanation"].unique().sort().to_list()
    numpy_generator(0, "blind", interpret.key, kept.path.stem, latent).shuffle(texts)
    with st.form(f"rate {latent} {notes.author()}", border=True):
        answers = {}
        for number, text in enumerate(texts):
            said, answer = st.columns([3, 1], vertical_alignment="center")
            said.markdown(plain(text))
            answers[text] = answer.segmented_control(
                f"Explanation {number + 1}",
                list(ANSWERS),
                key=f"rating {latent} {number} {notes.author()}",
                label_visibility="collapsed",
            )
        keep, skip = st.columns([1, 1])
        sent = keep.form_submit_button("Keep and go on", type="primary")
        passed = skip.form_submit_button("Skip this latent")
    if passed:
        skipped.add(latent)
        st.rerun()
    if sent:
        fits = [
            (row["explainer"], row["explanation"], ANSWERS[answers[row["explanation"]]])
            for row in of_latent.iter_rows(named=True)
            if answers[row["explanation"]]
        ]
        if fits:
            kept.rate(interpret.key, latent, fits, notes.author())
            st.rerun()
        st.warning("Say of at least one explanation whether it fits, or skip this latent.")


def _agreement(ratings: pl.DataFrame, interpret: Artifact) -> None:
    told = agreement(ratings, runs.table(EXPLANATION_SCORES, interpret), interpret.key)
    if told.is_empty():
        return
    st.subheader("Agreement with each judge", anchor="agreement")
    figures = {
        name: st.column_config.NumberColumn(format="%.3f")
        for name in ("threshold", "agree", "kappa", "low", "high")
    }
    st.dataframe(
        told.rename({"n": "ratings", "n_latents": "latents"}).with_columns(
            pl.col("author").replace("", "no name"), pl.col("reason").fill_null("")
        ),
        hide_index=True,
        column_config=figures,
    )
    st.caption(
        "Cohen's kappa: 0 is chance, 1 is always alike; the 95% interval is from resampling "
        "latents. A judge says that an explanation fits where its score is above the threshold: "
        "what 95 of 100 explanations of other latents stay below with the same judge "
        "(the floor)."
    )


show(page)
