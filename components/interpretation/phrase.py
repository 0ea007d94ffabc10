"""The small language of offline explanations: readable to a person, and read back exactly.

    the words "harbor" and "sailor"; after "the"; the word "bank" in text with "river" or "water"

A phrase is a list of clauses; any one of them is enough. A clause is up to three conditions that
hold together: the word itself, the word before it (`after`), and a word at or before it in the same
text (`in text with`). Quoted words are JSON strings, so any token can be written. Reading asks
little of the form: it looks for quoted words, `after` and `in text with`, and is therefore also
fair to what other explainers write.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from components.spelling import PART

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|;|\bafter\b|\bin text with\b')
_LONG_WORD = re.compile(r"\w{4,}")


class Term(NamedTuple):
    """Conditions on a token that hold together; None is no condition.

    Attributes:
        word: the token's own word.
        left: the word right before it.
        near: a word at or before it in the same window.
    """

    word: str | None = None
    left: str | None = None
    near: str | None = None

    def readable(self) -> bool:
        """Whether a reader can see each of its words: no control characters, no bytes of a broken
        character."""
        return all(_readable(word) for word in self if word is not None)


def write(terms: Iterable[Term]) -> str:
    """Terms as a phrase, in their order; terms of one shape that share their conditions share a
    clause."""
    clauses: dict[tuple[object, ...], list[list[str]]] = {}
    for term in terms:
        shape = (term.word is not None, term.left is not None, term.near is not None)
        shared = {  # which condition is shared by a clause, by the shape of its terms
            (True, True, False): ("after", term.left),
            (True, False, True): ("the word", term.word),
            (False, True, True): ("after", term.left),
            (True, True, True): ("all", term),
        }.get(shape)
        parts = clauses.setdefault((*shape, shared), [[], [], []])
        for part, word in zip(parts, term, strict=True):
            if word is not None and word not in part:
                part.append(word)
    return "; ".join(_clause(*parts) for parts in clauses.values())


def read(phrase: str) -> list[Term]:
    """The terms of a phrase, in order. Without a quoted word, every word of four or more letters is
    a term."""
    terms: list[Term] = []
    parts: tuple[list[str], ...] = ([], [], [])
    part = 0
    for match in itertools.chain(_PIECE.finditer(phrase), [None]):
        piece = match[0] if match else ";"
        if piece == ";":
            if any(parts):
                terms += [
                    Term(*words)
                    for words in itertools.product(*[words or [None] for words in parts])
                ]
            parts, part = ([], [], []), 0
        elif piece[0] == '"':
            if word := _unquoted(piece):
                parts[part].append(word)
        else:
            part = 1 if piece == "after" else 2
    if not terms and '"' not in phrase:
        terms = [Term(word) for word in _LONG_WORD.findall(phrase)]
    return list(dict.fromkeys(terms))


def _clause(words: Sequence[str], left: Sequence[str], near: Sequence[str]) -> str:
    conditions = []
    if words:
        conditions.append(f"the word{'s' if len(words) > 1 else ''} {_listed(words, 'and')}")
    if left:
        conditions.append(f"after {_listed(left, 'or')}")
    if near:
        conditions.append(f"in text with {_listed(near, 'or')}")
    return " ".join(conditions)


def _listed(words: Sequence[str], last: str) -> str:
    quoted = [json.dumps(word, ensure_ascii=False) for word in words]
    return f" {last} ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _unquoted(piece: str) -> str:
    try:
        return json.loads(piece, strict=False)
    except json.JSONDecodeError:  # a backslash in somebody else's string is a backslash
        return piece[1:-1]


def _readable(word: str) -> bool:
    broken = PART.search(word) or "\N{REPLACEMENT CHARACTER}" in word
    return bool(word.strip()) and word.isprintable() and not broken
