"""Strings whose order is known, to ask whether a score can tell a right explanation from a wrong
one.

Where a corpus labels a concept, and a latent follows that concept, five strings say more or less
of the truth about it:

    right      the concept: its name and its words, or its sentence where no words tell it
    broader    the same and a relative together: all of the truth, and as much beside it
    narrower   a part: one of its words; of a single word, that word after its commonest neighbour
    sibling    another concept of the same family
    shuffled   a concept of another family

`right` is better than each of the others; `broader` and `narrower` are better than `shuffled`.
Nothing is said of the other pairs. The share of pairs that a score puts in this order is asked
within a latent, so that latents which are easy for every string do not count for a score: chance is
0.5, a tie counts half.

Source: ours. Comparing explanations of one latent instead of one explanation over latents is what a
user of explanations does; between latents a score may follow density alone.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from components.interpretation import phrase
from components.interpretation.explanation import LONGEST
from components.interpretation.phrase import Term

KINDS = ("right", "broader", "narrower", "sibling", "shuffled")
ORDER = (
    *(("right", worse) for worse in KINDS[1:]),
    ("broader", "shuffled"),
    ("narrower", "shuffled"),
)
"""Pairs of strings, the better one first."""
MOST_WORDS = 12
CLEAR = 0.5
"""A word stands for a concept where at least this share of its tokens carry it."""


class Known(NamedTuple):
    """A labelled concept, as strings are made of it.

    Attributes:
        concept: its dotted name.
        concept_kind: readable off the token (surface), from its context, or of a whole document.
        family: the concepts that it is a sibling of share it.
        description: one sentence; empty where there is none.
        words: words that stand for it, the most frequent first; none where no word does.
        left: the commonest word before its first word; None where nothing stands there.
    """

    concept: str
    concept_kind: str
    family: str
    description: str
    words: tuple[str, ...] = ()
    left: str | None = None

    @property
    def name(self) -> str:
        """The last part of the dotted name, for a reader."""
        return self.concept.partition("@")[0].rpartition(".")[2].replace("_", " ")


def known(inventory: pl.DataFrame, labels: pl.DataFrame, tokens: pl.DataFrame) -> list[Known]:
    """The concepts of a corpus with the words that stand for them, in the order of their names.

    Args:
        inventory: the table of concepts.
        labels: concept, document, token (null: the whole document), of one split.
        tokens: document, token (position), word, left: every token of that split.
    """
    counts = _counts(labels, tokens)
    concepts = []
    for row in inventory.sort("concept").iter_rows(named=True):
        mine = counts.filter(pl.col("concept") == row["concept"])
        facts = (row["concept"], row["concept_kind"], row["family"], row["description"] or "")
        words = tuple(mine["word"].to_list())
        concepts.append(Known(*facts, words, mine["left"][0] if words else None))
    return concepts


def strings(concepts: Sequence[Known], generator: np.random.Generator) -> dict[str, dict[str, str]]:
    """Concept -> kind of string -> string; a kind that cannot be made is left out.

    Args:
        concepts: all of a corpus.
        generator: draws relatives and strangers.
    """
    made = {}
    for concept in concepts:
        alike = [c for c in concepts if _form(c) == _form(concept) and c.concept != concept.concept]
        relatives = [
            c for c in alike if c.family == concept.family and not set(c.words) & set(concept.words)
        ]
        strangers = [c for c in alike if c.family != concept.family]
        texts = {"right": _right(concept)}
        if relatives:
            relative = relatives[generator.integers(len(relatives))]
            texts["sibling"] = _right(relative)
            if concept.words:
                texts["broader"] = _of_words(
                    f"{concept.name} or {relative.name}",
                    _alternating(concept.words, relative.words),
                )
        if strangers:
            texts["shuffled"] = _right(strangers[generator.integers(len(strangers))])
        if narrower := _narrower(concept):
            texts["narrower"] = narrower
        texts = {kind: text for kind, text in texts.items() if text}
        if len(set(texts.values())) == len(texts) and "right" in texts:
            made[concept.concept] = texts
    return made


def ordered(scores: Mapping[str, float | None]) -> tuple[float, int]:
    """The share of known pairs that scores put in their order, ties half, and how many pairs there
    are; a pair without one of its scores is no pair.

    Args:
        scores: kind of string -> its score on the same trials; higher is better.
    """
    pairs = [(scores.get(better), scores.get(worse)) for better, worse in ORDER]
    right = [
        float(a > b) + 0.5 * float(a == b) for a, b in pairs if a is not None and b is not None
    ]
    return (float(np.mean(right)) if right else 0.5), len(right)


def _counts(labels: pl.DataFrame, tokens: pl.DataFrame) -> pl.DataFrame:
    """concept, word, left: words that stand for each concept, at most `MOST_WORDS`, in order."""
    whole = tokens.group_by("word").agg(there=pl.len())
    of_tokens = labels.drop_nulls("token").join(tokens, on=["document", "token"])
    of_tokens = of_tokens.group_by("concept", "word").agg(
        n=pl.len(), left=pl.col("left").drop_nulls().mode().sort().first()
    )
    clear = of_tokens.join(whole, on="word").filter(pl.col("n") >= CLEAR * pl.col("there"))
    clear = clear.with_columns(rank=pl.col("n").cast(pl.Float64))
    columns = ["concept", "word", "left", "rank"]
    both = pl.concat([clear.select(columns), _of_documents(labels, tokens, whole).select(columns)])
    ranked = both.filter(pl.col("word").str.contains(r"\w")).sort(
        "concept", "rank", "word", descending=[False, True, False]
    )
    return ranked.group_by("concept", maintain_order=True).head(MOST_WORDS)


def _of_documents(labels: pl.DataFrame, tokens: pl.DataFrame, whole: pl.DataFrame) -> pl.DataFrame:
    """The same for concepts of whole documents: words most of whose tokens stand in documents that
    have it, weighed by how many do."""
    of_documents = labels.filter(pl.col("token").is_null()).select("concept", "document")
    by_word = tokens.group_by("document", "word").agg(n=pl.len())
    inside = (
        of_documents.join(by_word, on="document").group_by("concept", "word").agg(pl.col("n").sum())
    )
    shares = inside.join(whole, on="word").with_columns(share=pl.col("n") / pl.col("there"))
    clear = shares.filter((pl.col("share") >= 0.8) & (pl.col("there") >= 10))
    return clear.with_columns(rank=pl.col("n").cast(pl.Float64), left=pl.lit(None, pl.String))


def _form(concept: Known) -> tuple[str, bool]:
    """Concepts whose strings look alike: otherwise the form of a string would tell its kind."""
    return concept.concept_kind, bool(concept.words)


def _right(concept: Known) -> str:
    return _of_words(concept.name, concept.words) if concept.words else concept.description


def _narrower(concept: Known) -> str | None:
    if len(concept.words) > 1:
        return f"a part of {concept.name}: {phrase.write([Term(concept.words[-1])])}"
    if concept.words and concept.left:
        term = Term(concept.words[0], left=concept.left)
        return f"{concept.name}: {phrase.write([term])}"
    return None


def _alternating(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """Of both in turn, so that a cut at the end leaves some of each."""
    pairs = itertools.zip_longest(words, others)
    return [word for pair in pairs for word in pair if word is not None]


def _of_words(name: str, words: Sequence[str]) -> str:
    """A name and as many words as fit."""
    n = len(words)
    while n:
        text = f"{name}: {phrase.write(Term(word) for word in words[:n])}"
        if len(text) <= LONGEST:
            return text
        n -= 1
    return json.dumps(name)
