"""Texts as HTML, everything escaped: heat maps of tokens (`components/export/heat.py`, which exported
pages share), and steered beside unsteered text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import polars as pl

from components.export.heat import (
    in_text,
    legend,
    line,
    passage,
    plain,
    span,
    visible,
    whole_at,
    windows,
)
from components.live import Written

__all__ = [
    "continued",
    "escape",
    "in_text",
    "legend",
    "line",
    "pairs",
    "passage",
    "plain",
    "span",
    "visible",
    "whole_at",
    "windows",
    "written",
]


def pairs(frame: pl.DataFrame) -> str:
    """Steered beside unsteered text: columns unsteered, steered and reason; every other one is a
    judgement."""
    cell = "padding:.45rem .6rem;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.25);text-align:left"
    measures = [name for name in frame.columns if name not in ("unsteered", "steered", "reason")]
    titles = (*measures, "unsteered", "steered")
    head = "".join(f'<th style="{cell}">{escape(title)}</th>' for title in titles)
    body = ""
    for row in frame.iter_rows(named=True):
        judged = ["–" if row[name] is None else f"{row[name]:.2f}" for name in measures]
        if "uplift" in measures:
            judged[measures.index("uplift")] = (
                "failed" if row["uplift"] is None else _signed(row["uplift"])
            )
        steered = escape(row["steered"] or f"no text: {row['reason'] or 'no reason was given'}")
        cells = (*judged, escape(row["unsteered"] or "–"), steered)
        body += "<tr>" + "".join(f'<td style="{cell}">{text}</td>' for text in cells) + "</tr>"
    return f'<table style="width:100%;border-collapse:collapse;line-height:1.5"><tr>{head}</tr>{body}</table>'


def continued(prompt: str, text: str) -> str:
    """A text below the beginning that it goes on from, which is paler."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6;max-width:52rem"
    opening = f'<div style="opacity:.6">{escape(prompt) or "<i>no prompt</i>"}</div>'
    return f'<div style="{style}">{opening}<div>{escape(text)}</div></div>'


def written(prompt: str, columns: Sequence[tuple[str, Sequence[Written]]]) -> str:
    """Continuations of one prompt side by side: (title, samples) for each column."""
    opening = (
        f'<div style="opacity:.6;white-space:pre-wrap">{escape(prompt) or "<i>no prompt</i>"}</div>'
    )
    body = ""
    for title, samples in columns:
        texts = ""
        for sample in samples:
            text = sample.text
            loss = (
                ""
                if sample.nll is None
                else f" · {sample.nll:.2f} nats a token under the plain model"
            )
            said = (
                f"<i>no text: {escape(sample.reason or 'no reason was given')}</i>"
                if text is None
                else escape(text)
            )
            texts += (
                f'<div style="padding:.55rem 0;border-top:1px solid rgba(128,128,128,.25)">{opening}'
                f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{said}</div>'
                f'<div style="opacity:.65;font-size:.8em">{sample.n_tokens} tokens{loss}</div></div>'
            )
        body += f'<div><div style="font-weight:600;padding-bottom:.3rem">{escape(title)}</div>{texts}</div>'
    grid = "display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:0 2.5rem;line-height:1.6"
    return f'<div style="{grid}">{body}</div>'


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")
