"""Tokens as HTML: activation as depth of one hue, every token escaped.

One hue (an orange, safe for the colour-blind) laid over the theme's background, never deeper than
keeps the text at a contrast of 4.5 : 1 in light and dark; the strongest token is bold and
underlined besides.

Neighbouring tokens that make one character between them are shown as that character, dotted below,
each with its own share of the shade; a byte that makes no character with its neighbours is shown as
‹E6›.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

import polars as pl

from components.spelling import PART, groups, marked, whole
from components.writing_systems import UNSPACED

_HUE = "230,159,0"
_DEEPEST = 0.6


def plain(token: str) -> str:
    """A token as a reader sees it: markers of a leading space become spaces, line breaks and lone
    bytes become signs."""
    if token[:1] in {"Ġ", "▁"}:
        token = " " + token[1:]
    return marked(token).replace("Ċ", "\n").replace("\n", "↵")


def visible(token: str) -> str:
    """A token for a chart's axis, where a leading space would be lost."""
    shown = plain(token)
    return shown.strip(" ") or "␣"


def whole_at(tokens: Sequence[str], number: int) -> str | None:
    """The characters that one token of a text makes together with its neighbours; None where it
    makes none with them."""
    first, end = next(group for group in groups(tokens) if group[0] <= number < group[1])
    return whole(tokens[first:end]) if end - first > 1 else None


def in_text(tokens: Sequence[str], number: int) -> str:
    """One token of a text for a table: of a part of a character the character, and which bytes of
    it the token is."""
    text = whole_at(tokens, number) if PART.search(tokens[number]) else None
    return visible(tokens[number]) if text is None else f"{visible(text)} {visible(tokens[number])}"


def span(token: str, activation: float, largest: float, peak: bool = False) -> str:
    """One token, shaded by activation / largest, its value as tooltip; the space before it stays
    plain."""
    shown = plain(token)
    if activation <= 0 or largest <= 0:
        return escape(shown)
    return _shaded(shown, f"{activation:.3g}", f"background:{_shade(activation, largest)}", peak)


def line(
    tokens: Sequence[str], activations: Sequence[float], largest: float, spaced: bool = False
) -> str:
    """One window of text.

    Args:
        tokens: their texts.
        activations: on each of them.
        largest: activation of the deepest shade.
        spaced: whether tokens carry their spaces, as those of `read`'s vocabulary do; else
            word-level tokens, which bring none of their own, are parted by spaces.
    """
    shown = [plain(token) for token in tokens]
    carried = spaced or any(
        token[:1] == " " or token[-1:] == " " or _UNSPACED.search(token) for token in shown
    )
    carried = carried or any(PART.search(token) for token in tokens)
    top = max(activations, default=0.0)
    peak = list(activations).index(top) if top > 0 else -1
    parts = []
    for first, end in groups(tokens):
        if end - first == 1:
            parts.append(span(tokens[first], activations[first], largest, first == peak))
        else:
            parts.append(
                _together(tokens[first:end], activations[first:end], largest, first <= peak < end)
            )
    return ("" if carried else " ").join(parts)


_UNSPACED = re.compile(f"[{UNSPACED}]")


def _together(
    tokens: Sequence[str], activations: Sequence[float], largest: float, peak: bool
) -> str:
    """Tokens that make characters together: shades side by side, and every value in the tooltip."""
    shown = plain(whole(tokens))
    values = ", ".join(f"{value:.3g}" for value in activations)
    share = 100 / len(tokens)
    steps = ",".join(
        f"{_shade(value, largest)} {share * number:.4g}% {share * (number + 1):.4g}%"
        for number, value in enumerate(activations)
    )
    shade = (
        f"background:linear-gradient(90deg,{steps});"
        if any(value > 0 for value in activations)
        else ""
    )
    about = f"{len(tokens)} tokens make this together: {values}"
    return _shaded(shown, about, f"{shade}border-bottom:1px dotted currentColor", peak)


def _shade(activation: float, largest: float) -> str:
    depth = _DEEPEST * min(1.0, activation / largest) if activation > 0 and largest > 0 else 0.0
    return f"rgba({_HUE},{depth:.2f})"


def _shaded(shown: str, about: str, style: str, peak: bool) -> str:
    word = shown.lstrip(" ") or shown
    lead, text = shown[: len(shown) - len(word)], escape(word)
    mark = ";font-weight:600;text-decoration:underline;text-underline-offset:3px" if peak else ""
    return f'{lead}<span title="{escape(about)}" style="{style};border-radius:3px;padding:1px 0{mark}">{text}</span>'


def windows(frame: pl.DataFrame, largest: float) -> str:
    """Rows of the contexts table, one line each: the largest activation, the text, where it comes
    from."""
    rows = []
    for row in frame.iter_rows(named=True):
        text = line(row["tokens"], row["activations"], largest, spaced=True)
        rows.append(
            f'<div style="display:flex;gap:.9rem;padding:.28rem 0;border-bottom:1px solid rgba(128,128,128,.18)">'
            f'<span style="flex:0 0 3.2rem;text-align:right;opacity:.75;font-variant-numeric:tabular-nums">'
            f"{row['maximum']:.3g}</span>"
            f'<span style="flex:1;line-height:1.6;white-space:pre-wrap">{text}</span>'
            f'<span style="flex:0 0 auto;opacity:.6;font-size:.85em">{escape(row["split"] or "")} · doc '
            f"{row['document']}</span></div>"
        )
    return "".join(rows)


def passage(
    tokens: Sequence[str], activations: Sequence[float], contexts: Sequence[int], largest: float
) -> str:
    """A whole text; a rule stands where a new context begins, which sees nothing of what is
    above."""
    starts = [i for i in range(len(contexts)) if i == 0 or contexts[i] != contexts[i - 1]]
    parts = [
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.75">'
        f"{line(tokens[first:last], activations[first:last], largest, spaced=True).lstrip(' ')}</div>"
        for first, last in zip(starts, [*starts[1:], len(contexts)], strict=True)
    ]
    return '<hr style="margin:.5rem 0;border:0;border-top:1px dashed rgba(128,128,128,.5)">'.join(
        parts
    )


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
