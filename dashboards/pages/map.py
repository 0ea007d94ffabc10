"""Where do the latents lie? Decoder directions in the plane in which they differ most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import streamlit as st

from components.store import maps
from dashboards import charts, listing, questions, runs, selection, views
from dashboards.app import show
from dashboards.markdown import plain
from dashboards.runs import Experiment

NAME = "map"
ROWS = 100
COLOURS = ("density", "score", "concept")


def page(shown: Experiment) -> None:
    """The map, made by the live worker when somebody first looks."""
    st.title("Map of the dictionary")
    if "encode" not in shown.artifacts or "train" not in shown.artifacts:
        st.info(
            "The encode artifact of this experiment is not in this store. `latentflow encode` "
            "makes it."
        )
        return
    key = shown.artifacts["train"].key
    points = _points(key, str(maps.place(runs.store(), key)), shown.key)
    if points is None:
        st.caption(
            "Nobody has looked at the map of this dictionary yet. The live worker draws it, in "
            "seconds, and keeps it beside the artifacts."
        )
        if st.button("Draw the map", type="primary"):
            questions.ask(NAME, "map", shown.key, {"train": key})
        questions.show(NAME, lambda answer, about: st.rerun())
        return
    _draw(shown, points)


def _points(key: str, path: str, report: str) -> pl.DataFrame | None:
    return _read(key, path, report) if Path(path).exists() else None


@st.cache_resource(max_entries=4, show_spinner="Reading the map …")
def _read(key: str, path: str, report: str) -> pl.DataFrame | None:
    return maps.read(runs.store(), key)


def _draw(shown: Experiment, points: pl.DataFrame) -> None:
    known = listing.read(shown)
    left, middle, right = st.columns([1.6, 1.6, 3])
    colour = left.segmented_control(
        "Colour", COLOURS, default=COLOURS[0], key="colour", bind="query-params"
    )
    colour = colour or COLOURS[0]
    only = middle.toggle("Explained latents only", key="explained only")
    text = right.text_input(
        "Search", key="map words", placeholder="explanation or concept: only these are drawn"
    )
    frame = points.join(known.frame, on="latent", how="left", maintain_order="left")
    if only:
        frame = frame.filter(pl.col("explanation").is_not_null())
    for word in text.lower().split():
        frame = frame.filter(pl.col("words").str.contains(word, literal=True))
    if frame.is_empty():
        st.info("No latent passes these filters.")
        return
    coloured, legend = views.plane.coloured(frame, colour)
    st.html(views.plane.legend(legend))
    _picture(frame, coloured, f"{colour} {only} {text} {shown.key}")
    x, y = (points[name][0] for name in ("share_x", "share_y"))
    st.caption(
        f"{frame.height:,} of {points.height:,} latents. Decoder directions of norm 1 on their two "
        f"principal components, which hold {x:.1%} and {y:.1%} of the variance: the rest is not "
        "seen here, so points that lie together need not be near. The nearest by cosine stand on "
        "the page of a latent."
        + (
            f" Score: {plain(known.scorer)} of {plain(known.explainer)}."
            if colour == "score" and known.scorer
            else ""
        )
        + " Draw a box to see what lies inside."
    )


def _picture(frame: pl.DataFrame, coloured: pl.DataFrame, where: str) -> None:
    """The points as one picture, since a browser without a graphics card takes seconds to draw
    many of them, and what lies in the box that is drawn on it."""
    slot = f"box {where}"
    box = st.session_state.get(slot) or views.plane.whole(frame)
    event: Any = st.altair_chart(
        charts.raster(views.plane.raster(coloured, box), box),
        width="stretch",
        on_select="rerun",
        key=f"picture {where} {box}",
    )
    chosen = (event.selection or {}).get("box") or {}
    if st.session_state.get(slot) and st.button("Whole map"):
        del st.session_state[slot]
        st.rerun()
    if not {"x", "y"} <= set(chosen):
        return
    part = (*sorted(chosen["x"]), *sorted(chosen["y"]))
    found = views.plane.inside(frame, part).sort(
        "score", "latent", descending=[True, False], nulls_last=True
    )
    told, button = st.columns([5, 1], vertical_alignment="center")
    told.markdown(f"**{found.height:,} latents in the box**")
    if button.button("Come nearer", width="stretch"):
        st.session_state[slot] = part
        st.rerun()
    rows = found.head(ROWS)
    chosen_row = st.dataframe(
        views.latents.readable(
            rows.select("latent", "explanation", "concept", "score", "density", "promoted")
        ),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"inside {where} {part}",
    )
    if chosen_row.selection.rows:
        selection.choose("latent", int(rows["latent"][chosen_row.selection.rows[0]]))
        st.switch_page(Path(__file__).with_name("latents.py"))


show(page)
