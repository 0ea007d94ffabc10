"""What a person reads in a terminal: data is never markup, and what a terminal cannot show ends no
command.

Everything is printed through these two. Style is given as `rich.text.Text`; a plain string is shown
as it is, whatever brackets, names of emoji or control characters stand in it.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Sequence

from rich.console import Console

WIDTH = 150
"""Columns of a table that goes into a file."""
PLAINER = str.maketrans({"↑": "^", "↓": "v", "–": "-", "−": "-", "…": "...", "·": "*", "×": "x", "≥": ">=", "≤": "<="})  # fmt: skip
"""What a terminal without Unicode is shown instead of our own signs; letters become escapes."""

console = Console(markup=False, emoji=False, highlight=False)
aside = Console(stderr=True, markup=False, emoji=False, highlight=False)
"""For what is not the answer: standard error."""


def for_tables(to: Console = console) -> Console:
    """Where a table is printed: as wide as the terminal, and wide where there is none."""
    return (
        to
        if to.is_terminal
        else Console(width=WIDTH, file=to.file, markup=False, emoji=False, highlight=False)
    )


def is_unicode() -> bool:
    """Whether what is printed may hold any letter."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def visible(text: str) -> str:
    """Text without control characters, which a terminal would obey: they are shown as escapes."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def speak_any_encoding() -> None:
    """Lets a locale without UTF-8 print and take any text: signs become plainer, letters escapes,
    arguments are UTF-8."""
    codecs.register_error("plainer", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plainer")
    sys.argv[1:] = decoded(sys.argv[1:])


def decoded(arguments: Sequence[str]) -> list[str]:
    """Arguments that the locale could not read, read as UTF-8."""
    return [os.fsencode(each).decode("utf-8", "surrogateescape") for each in arguments]


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end].translate(PLAINER)
    return part.encode("ascii", "backslashreplace").decode(), error.end
