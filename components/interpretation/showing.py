"""Windows as a language model is shown them: one line each, the tokens that count between << and
>>."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from components.interpretation.windows import Windows
from components.spelling import groups, whole

OPEN, CLOSE = "<<", ">>"
MARKED = 0.3
"""Share of its window's largest activation above which a token is marked."""
TOKENS_OF_A_TOKEN = 2
"""Tokens of a reader's vocabulary that one token of the model's is estimated at, marks included."""


def line(tokens: Sequence[str], marks: Sequence[bool] | None = None) -> str:
    """One window as a line; marks enclose runs of marked tokens, without the space before them.

    A token that shares a character with its neighbour is marked with it.
    """
    runs: list[tuple[str, bool]] = []
    for first, end in groups(tokens):
        text = whole(tokens[first:end])
        is_marked = marks is not None and any(marks[first:end])
        if runs and runs[-1][1] == is_marked:
            runs[-1] = (runs[-1][0] + text, is_marked)
        else:
            runs.append((text, is_marked))
    return "".join(_run(*run) for run in runs).strip().replace("\n", "\\n")


def _run(text: str, is_marked: bool) -> str:
    if not is_marked:
        return text
    start = len(text) - len(text.lstrip())
    return f"{text[:start]}{OPEN}{text[start:]}{CLOSE}"


def numbered(lines: Iterable[str]) -> str:
    """Lines with their numbers before them."""
    return "\n".join(f"{number}. {each}" for number, each in enumerate(lines, 1))


def marks_of(
    activations: Float[np.ndarray, "window token"], share: float = MARKED
) -> Bool[np.ndarray, "window token"]:
    """Which tokens are marked: active ones above that share of their window's maximum."""
    return (activations > 0) & (activations > share * activations.max(1, keepdims=True))


def lines_of(windows: Windows, share: float = MARKED) -> list[str]:
    """Windows with their active tokens marked; silent ones have no marks."""
    marks = marks_of(windows.activations, share).tolist()
    return [line(*row) for row in zip(windows.texts.strings(), marks, strict=True)]


def chosen(
    windows: Windows, top: int, by_decile: int, weighted: int = 0
) -> Bool[np.ndarray, " window"]:
    """Which active windows are shown: the first top ones, the first of those drawn by strength, and
    as many of those drawn from each decile of activation as make `by_decile` together."""
    picked = np.zeros(len(windows), bool)
    picked[np.flatnonzero(windows.role == "top")[:top]] = True
    picked[np.flatnonzero(windows.role == "weighted")[:weighted]] = True
    drawn = np.flatnonzero(windows.role == "quantile")
    deciles = windows.quantile[drawn]
    # place of each within its decile: the first of every decile, then the second of every one
    place = np.array([(deciles[:n] == deciles[n]).sum() for n in range(len(drawn))], dtype=int)
    order = np.lexsort((deciles, place))
    picked[drawn[order[:by_decile]]] = True
    return picked
