"""How did the dictionary learn, and which latents are dead?"""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.store.artifact import Artifact
from components.store.tables import CURVE, LATENTS
from dashboards import charts, listing, measures, runs, views
from dashboards.app import show
from dashboards.markdown import plain
from dashboards.runs import Experiment


def page(shown: Experiment) -> None:
    """Curves, then dead latents and densities on text that was not trained on."""
    st.title("Training")
    train, encode = shown.artifacts.get("train"), shown.artifacts.get("encode")
    if train is None:
        st.info(
            "The train artifact of this experiment is not in this store. `latentflow train` makes "
            "it."
        )
    else:
        _figures(train)
        _curves(train)
    if encode is None:
        st.info(
            "The encode artifact of this experiment is not in this store. `latentflow encode` "
            "makes it."
        )
        return
    left, right = st.columns([1.5, 1], gap="large")
    with left:
        _densities(shown, encode)
    with right:
        _dead(encode)


def _figures(train: Artifact) -> None:
    facts, made = train.facts, train.manifest["made"]
    figures = (
        (
            "Tokens",
            f"{facts['tokens'] / 1e6:.3g} M"
            if facts.get("tokens") is not None
            else measures.NOTHING,
            "seen",
        ),
        (
            "Time",
            views.lineage.readable_seconds(made["seconds"]),
            "of this stage, from first token to last byte",
        ),
        (
            "Tokens a second",
            measures.number(facts.get("tokens_per_second")),
            "while training; null where the dictionary was made elsewhere",
        ),
        (
            "Peak memory",
            views.lineage.readable_bytes(made["peak_memory_bytes"])
            if made.get("peak_memory_bytes")
            else measures.NOTHING,
            "resident, of the whole process",
        ),
        (
            "FVU, held out",
            measures.number(facts.get("fvu")),
            f"share, on {plain(facts.get('held_out', 'held-out text'))}",
        ),
        ("Dead, held out", measures.number(facts.get("dead_share")), "share of latents"),
    )
    for column, (label, value, about) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(label, value, help=about)
    if sentence := facts.get("convergence"):
        told = {True: st.success, False: st.warning, None: st.info}[facts.get("converged")]
        told(sentence[0].upper() + sentence[1:] + ".")
    if facts.get("lr"):
        tried = ", ".join(
            f"{trial['lr']:.2g}: {measures.number(trial['objective'])}"
            for trial in facts.get("rates_tried", [])
        )
        searched = f"; short runs tried (rate: objective on held-out rows) {tried}" if tried else ""
        st.caption(
            f"Learning rate {facts['lr']:.3g}, {facts['steps']:,} updates of "
            f"{facts['batch_size']:,} tokens{searched}."
        )


def _curves(train: Artifact) -> None:
    st.subheader("Curves", anchor="curves")
    if CURVE.file not in train.files:
        st.info("No training curve here: the dictionary was made elsewhere.")
        return
    panels = views.training.panels(runs.table(CURVE, train))
    if not panels:
        st.info(
            "The curve is empty: this dictionary has nothing learnt in it (a baseline, or "
            "`train.tokens=0`)."
        )
        return
    columns = st.columns(3)
    for position, (name, panel) in enumerate(panels.items()):
        columns[position % 3].altair_chart(charts.curve(panel, name), width="stretch")
    st.caption(
        "Measured on training batches; at most 400 points of each series are drawn, the whole "
        "series is in the store."
    )


def _densities(shown: Experiment, encode: Artifact) -> None:
    st.subheader("Densities of the latents", anchor="densities")
    split = listing.split_of(encode)
    frames = [_density(encode, split, encode.facts.get("name", "trained"))]
    if shown.control is not None:
        frames.append(_density(shown.control, split, "untrained, equal size"))
    frame = pl.concat(frames)
    if frame.is_empty():
        st.caption("Every latent is dead on this split.")
        return
    st.altair_chart(charts.densities(frame), width="stretch")
    st.caption(
        f"Latents by the share of tokens of {plain(split)} on which they are active, five bins to "
        "a factor of ten."
    )


def _density(encode: Artifact, split: str, name: str) -> pl.DataFrame:
    binned = views.training.densities(runs.scan(LATENTS, encode), split)
    return binned.select(pl.lit(name).alias("dictionary"), pl.all())


def _dead(encode: Artifact) -> None:
    st.subheader("Dead latents", anchor="dead")
    frame = views.training.dead(encode.facts)
    if frame.is_empty():
        st.caption("These codes carry no counts of dead latents.")
        return
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "tokens": st.column_config.NumberColumn(format="localized"),
            "share": st.column_config.NumberColumn(format="percent"),
            "L0": st.column_config.NumberColumn(format="%.4g", help="active latents a token"),
        },
    )
    everywhere = encode.facts.get("dead_latents_everywhere")
    if everywhere is not None:
        st.caption(
            f"{everywhere:,} of {encode.facts['d_sae']:,} latents are active on no token of any "
            "split."
        )


show(page)
