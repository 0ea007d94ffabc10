"""Data inside Streamlit's markdown: titles, captions, labels, tooltips, messages and the values of
metrics all are markdown.

Whatever came from outside (a name, a concept, a reason, an address) goes through one of these.
`plain` and `code` show exactly what they are given; `sentence` is for messages of this program,
which quote commands in code marks.
"""

from __future__ import annotations

import re

_MARKS = re.compile(
    r"([\\*_`\[\]<>$~|]"  # emphasis, code, links, HTML, mathematics, strikethrough, tables
    r"|&(?=\w+;|#)"  # &amp;
    # where a line begins: headings, rules and lists
    r"|^[#+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]|(?<=^\d\d\d)[.)])"
)
_COLONS = re.compile(r"(?::[\w+-]+)+:|:(?=[A-Za-z])")  # :smile:, :red[...]
_REPLACED = re.compile(
    r"(?<!\S)([<>~-])(?=[>=-]+(?!\S))"  # arrows and the like
    r"|(:)(?=material/|//)|(\bwww)(?=\.)|(\w)(?=@)"  # icons, addresses, e-mail
)
_JOINER = "\N{WORD JOINER}"
"""Invisible and without width. Streamlit draws arrows, icons and links after the escapes are read,
so a backslash does not stop it: this, in their middle, does."""


def plain(text: object) -> str:
    """Text of unknown origin: nothing in it is emphasis, code, a link, mathematics, HTML, an icon
    or a list."""
    line = _REPLACED.sub(rf"\g<0>{_JOINER}", " ".join(str(text).split()))
    return _COLONS.sub(lambda found: found[0].replace(":", r"\:"), _MARKS.sub(r"\\\1", line))


def code(text: object) -> str:
    """Text of unknown origin in code marks, with as many of them as it takes."""
    line = " ".join(str(text).split()).replace(":material/", f":{_JOINER}material/")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    room = " " if not line or line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def sentence(text: object) -> str:
    """A message of this program, which may quote data: only its code marks and addresses keep their
    meaning."""
    parts = re.split(r"(`[^`]+`|https?://[\w.:/-]+)", str(text))
    return "".join(
        _kept(part) if number % 2 else _spaced(part) for number, part in enumerate(parts)
    )


def _kept(part: str) -> str:
    return code(part[1:-1]) if part.startswith("`") else part


def _spaced(part: str) -> str:
    """`plain`, with the spaces kept that part it from what stands beside it."""
    return (
        f"{' ' * part[:1].isspace()}{plain(part)}{' ' * part[-1:].isspace()}"
        if part.strip()
        else " " * bool(part)
    )
