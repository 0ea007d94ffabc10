"""Tokens as HTML: activation as depth of one hue, every token escaped.

One hue (an orange, safe for the colour-blind) laid over the theme's background, never deeper
than keeps the text at a contrast of 4.5 : 1 in light and dark; the strongest token is bold and underlined besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import polars as pl

_HUE = "230,159,0"
_DEEPEST = 0.6


def plain(token: str) -> str:
    """A token as a reader sees it: markers of a leading space become spaces, line breaks become a sign."""
    if token[:1] in {"Ġ", "▁"}:
        token = " " + token[1:]
    return token.replace("Ċ", "\n").replace("\n", "↵")


def visible(token: str) -> str:
    """A token for a chart's axis, where a leading space would be lost."""
    shown = plain(token)
    return shown.strip(" ") or "␣"


def span(token: str, activation: float, largest: float, peak: bool = False) -> str:
    """One token, shaded by activation / largest, its value as tooltip; the space before it stays plain."""
    shown = plain(token)
    if activation <= 0 or largest <= 0:
        return escape(shown)
    word = shown.lstrip(" ") or shown
    lead, text = shown[: len(shown) - len(word)], escape(word)
    depth = _DEEPEST * min(1.0, activation / largest)
    mark = ";font-weight:600;text-decoration:underline;text-underline-offset:3px" if peak else ""
    style = f"background:rgba({_HUE},{depth:.2f});border-radius:3px;padding:1px 0{mark}"
    return f'{lead}<span title="{activation:.3g}" style="{style}">{text}</span>'


def line(tokens: Sequence[str], activations: Sequence[float], largest: float) -> str:
    """One window of text. Tokens that bring no spaces of their own (word-level) are parted by spaces."""
    shown = [plain(token) for token in tokens]
    gap = "" if any(token[:1] == " " or token[-1:] == " " for token in shown) else " "
    top = max(activations, default=0.0)
    peak = list(activations).index(top) if top > 0 else -1
    pairs = zip(tokens, activations, strict=True)
    return gap.join(span(token, value, largest, number == peak) for number, (token, value) in enumerate(pairs))


def windows(frame: pl.DataFrame, largest: float) -> str:
    """Rows of the contexts table, one line each: the largest activation, the text, where it comes from."""
    rows = []
    for row in frame.iter_rows(named=True):
        text = line(row["tokens"], row["activations"], largest)
        rows.append(
            f'<div style="display:flex;gap:.9rem;padding:.28rem 0;border-bottom:1px solid rgba(128,128,128,.18)">'
            f'<span style="flex:0 0 3.2rem;text-align:right;opacity:.75;font-variant-numeric:tabular-nums">'
            f"{row['maximum']:.3g}</span>"
            f'<span style="flex:1;line-height:1.6;white-space:pre-wrap">{text}</span>'
            f'<span style="flex:0 0 auto;opacity:.6;font-size:.85em">{escape(row["split"] or "")} · doc '
            f"{row['document']}</span></div>"
        )
    return "".join(rows)


def passage(tokens: Sequence[str], activations: Sequence[float], contexts: Sequence[int], largest: float) -> str:
    """A whole text; a rule stands where a new context begins, which sees nothing of what is above."""
    starts = [i for i in range(len(contexts)) if i == 0 or contexts[i] != contexts[i - 1]]
    parts = [
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.75">'
        f"{line(tokens[first:last], activations[first:last], largest).lstrip(' ')}</div>"
        for first, last in zip(starts, [*starts[1:], len(contexts)], strict=True)
    ]
    return '<hr style="margin:.5rem 0;border:0;border-top:1px dashed rgba(128,128,128,.5)">'.join(parts)


def legend(largest: float) -> str:
    """What the shades mean."""
    steps = "".join(
        f'<span style="background:rgba({_HUE},{_DEEPEST * part / 5:.2f});padding:0 .7rem">&nbsp;</span>'
        for part in range(1, 6)
    )
    return (
        f'<div style="font-size:.85em;opacity:.85">activation 0 {steps} {largest:.3g}; point at a token for its value, '
        "the strongest of each line is underlined</div>"
    )


def pairs(frame: pl.DataFrame) -> str:
    """Steered beside unsteered text: columns unsteered, steered, composite, uplift, fluency, reason."""
    cell = "padding:.45rem .6rem;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.25);text-align:left"
    head = "".join(
        f'<th style="{cell}">{title}</th>' for title in ("composite", "uplift", "fluency", "unsteered", "steered")
    )
    body = ""
    for row in frame.iter_rows(named=True):
        uplift = "failed" if row["uplift"] is None else _signed(row["uplift"])
        composite, fluency = ("–" if row[of] is None else f"{row[of]:.2f}" for of in ("composite", "fluency"))
        steered = escape(row["steered"] or f"no text: {row['reason'] or 'no reason was given'}")
        cells = (composite, uplift, fluency, escape(row["unsteered"] or "–"), steered)
        body += "<tr>" + "".join(f'<td style="{cell}">{text}</td>' for text in cells) + "</tr>"
    return f'<table style="width:100%;border-collapse:collapse;line-height:1.5"><tr>{head}</tr>{body}</table>'


def written(prompt: str, columns: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Continuations of one prompt side by side: (title, samples with text, n_tokens, nll, reason) for each column."""
    opening = f'<div style="opacity:.6;white-space:pre-wrap">{escape(prompt) or "<i>no prompt</i>"}</div>'
    body = ""
    for title, samples in columns:
        texts = ""
        for sample in samples:
            text = sample["text"]
            loss = "" if sample["nll"] is None else f" · {sample['nll']:.2f} nats a token under the plain model"
            said = (
                f"<i>no text: {escape(sample['reason'] or 'no reason was given')}</i>" if text is None else escape(text)
            )
            texts += (
                f'<div style="padding:.55rem 0;border-top:1px solid rgba(128,128,128,.25)">{opening}'
                f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{said}</div>'
                f'<div style="opacity:.65;font-size:.8em">{sample["n_tokens"]} tokens{loss}</div></div>'
            )
        body += f'<div><div style="font-weight:600;padding-bottom:.3rem">{escape(title)}</div>{texts}</div>'
    grid = "display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:0 2.5rem;line-height:1.6"
    return f'<div style="{grid}">{body}</div>'


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")
