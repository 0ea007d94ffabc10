"""Prompts of a corpus that has none of its own: the openings of its documents.

An opening is the first six words. Where words are not parted by spaces, two characters stand for
one word; and whatever the text is (a line of code, an address), an opening has a bounded number of
tokens, so that a continuation fits behind it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from components.corpus.contract import Corpus
from components.corpus.encoding import Encoded
from components.writing_systems import UNSPACED

WORDS = 6
TOKENS = 64
_WORD = re.compile(rf"[{UNSPACED}]{{1,2}}|[^\s{UNSPACED}]+")


def opening(text: str, encoding: Encoded, context_length: int) -> str:
    """The first words of a text, without special tokens; "" where it begins with too long a
    character.

    Args:
        text: the text.
        encoding: of that text, with offsets.
        context_length: tokens of a context; an opening takes half of one at most.
    """
    if encoding.kept is not None:
        for place in np.flatnonzero(~encoding.kept):  # as many spaces, so that offsets stay true
            first, end = encoding.source.offsets[place]
            text = text[:first] + " " * (end - first) + text[end:]
    words = list(islice(_WORD.finditer(text), WORDS))
    end = words[-1].end() if words else 0
    most = min(TOKENS, context_length // 2)
    if len(encoding.ids) > most:
        end = min(end, encoding.offsets[most][0])
    while end < len(text) and end and unicodedata.category(text[end]).startswith("M"):
        end -= 1  # a letter keeps its marks
    return " ".join(text[:end].split())


def prompts(
    corpus: Corpus, wanted: Mapping[str, int], openings: Mapping[str, Sequence[str]], seed: int
) -> list[dict[str, Any]]:
    """Prompts of both splits, no text in two; a corpus without any gives openings of the split's
    documents.

    Args:
        corpus: the source.
        wanted: prompts of each split.
        openings: of the documents of each split.
        seed: of the stage.
    """
    split_of: dict[str, str] = {}
    for split, n in wanted.items():
        n_before = len(split_of)
        for text in corpus.prompts(sum(wanted.values()), split, seed) or openings[split]:
            if len(split_of) == n_before + n:
                break
            if text:
                split_of.setdefault(text, split)
    return [
        {"prompt": number, "split": split, "text": text}
        for number, (text, split) in enumerate(split_of.items())
    ]
