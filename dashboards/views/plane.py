"""Points of a map with their colours, and what the colours mean. Pure functions of tables, without
Streamlit."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from html import escape

import numpy as np
import polars as pl
from PIL import Image

ABSENT = (128, 128, 128)
SCALE = np.array(
    [(125, 80, 190), (50, 110, 180), (25, 145, 140), (90, 180, 70), (225, 165, 0)], dtype=float
)
"""Five steps in the order of viridis, its ends drawn in so that they are seen on white and on
black."""
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
Legend = Sequence[tuple[str, tuple[int, ...]]]
Box = tuple[float, float, float, float]
"""Part of the plane: x from and to, y from and to."""


def coloured(frame: pl.DataFrame, by: str) -> tuple[pl.DataFrame, Legend]:
    """Points with their colours: latent, x, y, r, g, b; and the legend.

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
    points = frame.select(
        "latent",
        "x",
        "y",
        *(pl.Series(name, colours[:, n], pl.UInt8) for n, name in enumerate("rgb")),
    )
    # what has no value is drawn first, so that it hides nothing
    grey = (pl.col("r") == pl.col("g")) & (pl.col("g") == pl.col("b"))
    return points.sort(~grey, maintain_order=True), legend


def whole(points: pl.DataFrame) -> Box:
    """The part of the plane in which all points lie, with a margin."""
    ends = []
    for name in ("x", "y"):
        low, high = float(points[name].min()), float(points[name].max())  # type: ignore[arg-type]
        margin = 0.03 * (high - low) or 1.0
        ends += [low - margin, high + margin]
    return ends[0], ends[1], ends[2], ends[3]


def inside(frame: pl.DataFrame, box: Box) -> pl.DataFrame:
    """The points of a part of the plane."""
    return frame.filter(pl.col("x").is_between(*box[:2]), pl.col("y").is_between(*box[2:]))


def raster(points: pl.DataFrame, box: Box, width: int = 1200, height: int = 640) -> bytes:
    """A part of the map as a PNG without background: 100,000 points are one small picture.

    Args:
        points: `coloured`; what stands later hides what stands before.
        box: which part.
        width: pixels.
        height: pixels.
    """
    drawn = inside(points, box)
    dot = 2 if drawn.height > 20_000 else 4 if drawn.height > 2_000 else 6
    across = (drawn["x"].to_numpy() - box[0]) / (box[1] - box[0]) * (width - dot)
    down = (box[3] - drawn["y"].to_numpy()) / (box[3] - box[2]) * (height - dot)
    pixels = np.zeros((height, width, 4), np.uint8)
    colours = drawn.select("r", "g", "b").to_numpy()
    for row, column in itertools.product(range(dot), repeat=2):
        at = (down.astype(int) + row, across.astype(int) + column)
        pixels[(*at, slice(0, 3))] = colours
        pixels[(*at, 3)] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


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
