"""Points of a map with their colours, and what the colours mean. Pure functions of tables, without
Streamlit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import polars as pl

ABSENT = (128, 128, 128)
SCALE = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float
)
"""Five steps of viridis: even to the eye, also of the colour-blind and in grey."""
NAMED = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
"""Okabe and Ito's colours, for concepts."""
OTHER = (150, 150, 150)
TEXT = 80
"""Characters of an explanation that a point carries."""
Legend = Sequence[tuple[str, tuple[int, ...]]]


def coloured(frame: pl.DataFrame, by: str) -> tuple[pl.DataFrame, Legend]:
    """Points with their colours: n (latent), x, y, r, g, b, t (what a tooltip says); and the
    legend.

    Args:
        frame: `map` joined with `views.latents.latent_list`.
        by: density (its logarithm), score, or concept (the families that most latents are best
            for).
    """
    if by == "concept":
        colours, legend = _families(frame["concept"])
    else:
        values = frame[by].cast(pl.Float64).fill_nan(None).to_numpy()
        values = np.array([math.nan if v is None else v for v in values], dtype=float)
        if by == "density":
            values = np.log10(np.where(values > 0, values, math.nan))
        colours, legend = _steps(values, by)
    text = pl.col("explanation").fill_null("").str.slice(0, TEXT)
    points = frame.select(
        pl.col("latent").alias("n"),
        pl.col("x").round(4),
        pl.col("y").round(4),
        *(pl.Series(name, colours[:, n], pl.UInt8) for n, name in enumerate("rgb")),
        text.alias("t"),
    )
    # what has no value is drawn first, so that it hides nothing
    grey = (pl.col("r") == pl.col("g")) & (pl.col("g") == pl.col("b"))
    return points.sort(~grey, maintain_order=True), legend


def legend(steps: Legend) -> str:
    """The legend as HTML."""
    parts = [
        f'<span style="white-space:nowrap;margin-right:1rem"><span style="display:inline-block;'
        f"width:.8em;height:.8em;border-radius:50%;background:rgb{tuple(colour)};"
        f'margin-right:.35em"></span>{escape(name)}</span>'
        for name, colour in steps
    ]
    return f'<div style="font-size:.88em;opacity:.9">{"".join(parts)}</div>'


def _steps(values: np.ndarray, by: str) -> tuple[np.ndarray, Legend]:
    known = ~np.isnan(values)
    colours = np.tile(np.array(ABSENT), (len(values), 1))
    if not known.any():
        return colours, [(f"no {by}", ABSENT)]
    # the outer hundredths would leave all others one colour
    low, high = np.quantile(values[known], (0.01, 0.99))
    places = np.clip((values[known] - low) / (high - low if high > low else 1.0), 0, 1)
    at = np.linspace(0, 1, len(SCALE))
    colours[known] = np.stack([np.interp(places, at, SCALE[:, n]) for n in range(3)], 1).round()
    shown = [low + place * (high - low) for place in at]
    named = [f"{10**value:.2g}" if by == "density" else f"{value:.2f}" for value in shown]
    steps = [
        (text, tuple(int(c) for c in colour)) for text, colour in zip(named, SCALE, strict=True)
    ]
    if high <= low:
        steps = steps[:1]
    if not known.all():
        steps.append(("never active" if by == "density" else f"no {by}", ABSENT))
    return colours, steps


def _families(concepts: pl.Series) -> tuple[np.ndarray, Legend]:
    """A colour for each of the commonest families of concepts (what stands before the first dot)."""
    family = concepts.str.split(", ").list.first().str.split(".").list.first()
    counts = family.drop_nulls().value_counts(sort=True)
    top = sorted(counts.rows(), key=lambda row: (-row[1], row[0]))[: len(NAMED)]
    of = {name: NAMED[number] for number, (name, _) in enumerate(top)}
    colours = np.array(
        [ABSENT if name is None else of.get(name, OTHER) for name in family], dtype=int
    ).reshape(-1, 3)
    steps = [(f"{name} ({n})", of[name]) for name, n in top]
    if len(counts) > len(top):
        steps.append(("other", OTHER))
    return colours, [*steps, ("best for none", ABSENT)]
