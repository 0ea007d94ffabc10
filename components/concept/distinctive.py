"""Words that set the texts of a concept apart from other texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"\w+")


def distinctive_words(inside: Sequence[str], outside: Sequence[str], n: int) -> list[str]:
    """The n words, in lower case, by their smoothed log-odds between two sets of texts, each weighed
    by the share of the texts inside that have it; the strongest first, none that is more frequent
    outside."""
    ours, theirs = (
        Counter(word for text in texts for word in {w.lower() for w in WORD.findall(text)})
        for texts in (inside, outside)
    )

    def score(word: str) -> float:
        with_it = (ours[word] + 0.5) / (len(inside) + 1)
        return with_it * math.log(with_it * (len(outside) + 1) / (theirs[word] + 0.5))

    scored = ((score(word), word) for word in ours)
    best = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: (-pair[0], pair[1]))
    return [word for _, word in best[:n]]
