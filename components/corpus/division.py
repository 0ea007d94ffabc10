"""Which document goes into which split: absolute numbers of tokens, or shares of what there is.

A corpus that knows its splits gives each its own documents. Files are divided by the digest of the
text, in proportion to the tokens wanted, so their order does not matter. Where shares are wanted
and the corpus is smaller than what is asked for, it is used whole: its documents, in the order of
their digests, are cut where the shares end, so that even a few documents give every split its part.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Real
from pydantic import NonNegativeInt

from components.config import Config
from components.corpus.contract import Corpus, Document, sound, text_digest
from components.errors import ConfigError, CorpusError
from components.seeds import derive

CHARACTERS = 16
"""Characters of one token, at most, as texts go: a corpus with more of them than that for each
token wanted is large."""

# pydantic's own deprecated `validate` gives way to the split of that name
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", 'Field name "validate"')

    class SplitsConfig(Config):
        """Tokens wanted of each split, special tokens not counted; 0 leaves a split out."""

        train: NonNegativeInt = 1_200_000
        """Trains dictionaries."""
        select: NonNegativeInt = 200_000
        """Fits probes, and chooses which latent or unit stands for a concept."""
        explain: NonNegativeInt = 150_000
        """Is shown to explainers."""
        calibrate: NonNegativeInt = 60_000
        """Sets thresholds."""
        judge: NonNegativeInt = 150_000
        """Trains the concept judge."""
        validate: NonNegativeInt = 100_000  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        """Gates, strengths and every other choice."""
        neutral: NonNegativeInt = 20_000
        """Measures the side effects of steering."""
        test: NonNegativeInt = 200_000
        """Is reported, once."""


@runtime_checkable
class Reached(Protocol):
    """What became of one split: its name, the tokens wanted, and the documents and tokens that it
    got."""

    name: str
    wanted: int
    documents: int
    tokens: int

    @property
    def full(self) -> bool:
        """Whether it got the tokens wanted."""
        ...


@dataclasses.dataclass(frozen=True)
class Division:
    """Tokens wanted of each split.

    Attributes:
        wanted: by split, without those of 0.
        shares: whether they are shares, so that a smaller corpus is used whole.
    """

    wanted: Mapping[str, int]
    shares: bool

    @classmethod
    def of(cls, tokens: int | None, splits: SplitsConfig, knows_splits: bool) -> Division:
        """From the settings.

        Args:
            tokens: of all splits together; None for the numbers of `splits`.
            splits: tokens of each. With `tokens`, a number that is not the default stays, and the
                others share the rest in the proportions of the defaults.
            knows_splits: of the corpus. Files whose splits nobody set are divided by shares too.

        Raises:
            ConfigError: splits that were set leave nothing of `tokens` for the others.
        """
        usual, settings = SplitsConfig().model_dump(), splits.model_dump()
        free = [name for name in usual if settings[name] == usual[name]]
        if tokens is None or not free:
            return cls(_positive(settings), not knows_splits and len(free) == len(usual))
        rest = tokens - sum(n for name, n in settings.items() if name not in free)
        whole = sum(usual[name] for name in free)
        if rest < len(free):
            raise ConfigError(
                f"read.splits wants {tokens - rest:,} tokens of the {tokens:,} of read.tokens, "
                f"which leaves none for {', '.join(free)}; raise read.tokens, lower read.splits, "
                "or set those to 0 that no stage needs"
            )
        ends = np.cumsum([0, *(usual[name] for name in free)]) * rest // whole
        return cls(_positive(settings | dict(zip(free, np.diff(ends).tolist(), strict=True))), True)

    @property
    def total(self) -> int:
        """Tokens of all splits."""
        return sum(self.wanted.values())

    def stream(
        self,
        corpus: Corpus,
        seed: int,
        labelled: Callable[[str], bool],
        full: Callable[[str], bool],
        known: Collection[int] = (),
    ) -> Iterator[tuple[str, Document, int, int]]:
        """Documents with split, digest and number of characters that were replaced, until every
        split is full or the documents end.

        Args:
            corpus: the source.
            seed: of the stories and of the division.
            labelled: whether labels are wanted of a split.
            full: whether a split has its tokens.
            known: digests of documents that will be left out.
        """
        if corpus.knows_splits:
            for name in self.wanted:
                for document, number, n_replaced in _sound(
                    corpus.documents(name, seed, labels=labelled(name))
                ):
                    if full(name):
                        break
                    yield name, document, number, n_replaced
            return
        small = Extent.of(corpus, self.total, known) if self.shares else None
        place = self._ranked(small, seed) if small else self._drawn(seed)
        for document, number, n_replaced in _sound(corpus.documents("", seed)):
            if all(full(name) for name in self.wanted):
                return
            name = place(number)
            if name is not None and not full(name):
                yield name, document, number, n_replaced

    def _drawn(self, seed: int) -> Callable[[int], str | None]:
        names, ends = list(self.wanted), np.cumsum(list(self.wanted.values()))
        return lambda number: names[
            int(np.searchsorted(ends, derive(seed, "split", number) % int(ends[-1]), side="right"))
        ]

    def _ranked(self, extent: Extent, seed: int) -> Callable[[int], str | None]:
        """Cuts the documents in the order of their digests where the shares of the text end; no
        split stays empty."""
        names, known = list(self.wanted), extent.characters
        order = sorted(known, key=lambda number: derive(seed, "split", number))
        split = cut(
            np.array([known[number] for number in order], np.float64), list(self.wanted.values())
        )
        name_of = {
            number: names[place] for number, place in zip(order, split.tolist(), strict=True)
        }
        return name_of.get


def cut(sizes: Real[np.ndarray, " item"], shares: Sequence[int]) -> Int[np.ndarray, " item"]:
    """Cuts items that stand in an order into as many runs as there are shares; no run stays empty.

    Args:
        sizes: of each item.
        shares: of each run, in any unit.

    Returns:
        The number of the run that each item is in.
    """
    middle = np.cumsum(sizes) - sizes / 2
    cuts = [0]
    for after, end in enumerate(np.cumsum(shares)[:-1] / sum(shares) * sizes.sum(), 1):
        fits = int(np.searchsorted(middle, end))
        cuts.append(max(0, min(max(fits, cuts[-1] + 1), len(sizes) - len(shares) + after)))
    return np.searchsorted(cuts, np.arange(len(sizes)), side="right") - 1


@dataclasses.dataclass(frozen=True)
class Extent:
    """A corpus that is small enough to be looked through first.

    Attributes:
        characters: of each different document, by its digest.
    """

    characters: Mapping[int, int]

    @classmethod
    def of(cls, corpus: Corpus, tokens: int, known: Collection[int] = ()) -> Extent | None:
        """What there is beside the known documents; None where that is plainly more than so many
        tokens."""
        characters: dict[int, int] = {}
        total = 0
        for document, number, _ in _sound(corpus.documents("", 0)):
            if number not in characters and number not in known and document.text.strip():
                characters[number] = len(document.text)
                total += len(document.text)
            if total > CHARACTERS * tokens:
                return None
        return cls(characters)


def refuse_what_is_too_short(
    splits: Sequence[Reached],
    corpus: Any,
    shares: bool,
    context_length: int,
    dropped: Mapping[str, int],
) -> None:
    """Says what came and what to do where a split did not get what it needs.

    Args:
        splits: what became of them.
        corpus: the section read.corpus.
        shares: whether less than wanted is enough.
        context_length: tokens of one context.
        dropped: documents that were left out, by reason.

    Raises:
        CorpusError: nothing came, or too little.
    """
    n_documents, n_tokens = (
        sum(split.documents for split in splits),
        sum(split.tokens for split in splits),
    )
    left_out = ", ".join(f"{n:,} {_LEFT_OUT[reason]}" for reason, n in dropped.items() if n)
    came = f"{n_tokens:,} tokens came in {_count(n_documents)}" + (
        f" ({left_out})" if left_out else ""
    )
    if not n_documents:
        look = "; look at read.corpus.path" if hasattr(corpus, "path") else ""
        raise CorpusError(
            f"the corpus ({corpus.kind}) is empty: no document with text "
            f"came{look}{f' ({left_out})' * bool(left_out)}"
        )
    if n_tokens < context_length:
        raise CorpusError(
            f"the corpus ({corpus.kind}) is shorter than one context: {came}, and "
            f"read.context_length is {context_length:,}; lower it or add documents"
        )
    empty = [split.name for split in splits if not split.documents]
    if shares and empty:
        raise CorpusError(
            f"too few documents: {came}, a document belongs to one split, and none was left for "
            f"{', '.join(empty)}; {_smaller(corpus)}, or set read.splits.<name>=0 for those that "
            "no stage needs"
        )
    short = [split for split in splits if not split.full]
    if shares or not short:
        return
    listed = "; ".join(
        f"read.splits.{split.name} wants {split.wanted:,} and got {split.tokens:,} in "
        f"{_count(split.documents)}"
        for split in short
    )
    wanted = sum(split.wanted for split in splits)
    summary = f"too few tokens: {listed}. In all {came}, and {wanted:,} are wanted"
    # a document is never cut in two, so smaller numbers may change nothing
    if n_documents < FEW * len(splits):
        raise CorpusError(f"{summary}. A document belongs to one split, and these are few for {len(splits)}: "
                          f"{_smaller(corpus)}, or lower read.splits")  # fmt: skip
    part = min(0.9 * split.tokens / split.wanted for split in short)
    lower = f" (to about {part:.0%} of what they are)" if part >= 0.01 else ""
    raise CorpusError(
        f"{summary}; lower read.splits{lower}, or leave them out and the corpus is used whole, or "
        "add documents"
    )


FEW = 10
"""Documents for each split below which it is their number that matters, not their tokens."""
_LEFT_OUT = {
    "empty": "without text left out",
    "repeated": "repeated ones left out",
    "pretraining": "left out because the model was trained on them",
}


def _smaller(corpus: Any) -> str:
    """How more documents come from the same text."""
    unit = getattr(corpus, "documents", "")
    finer = {"file": "blank_line (or line)", "blank_line": "line"}.get(unit)
    return (
        f"set read.corpus.documents={finer}, or add documents"
        if finer
        else "add documents, or divide them"
    )


def _count(n: int) -> str:
    return f"{n:,} document{'' if n == 1 else 's'}"


def _positive(wanted: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in wanted.items() if n}


def _sound(documents: Iterator[Document]) -> Iterator[tuple[Document, int, int]]:
    """Documents as they can be read and kept, their digests, and how many of their characters were
    replaced."""
    for document in documents:
        text, n_replaced = sound(document.text), 0
        if text != document.text:
            n_replaced = sum(
                before != after for before, after in zip(document.text, text, strict=True)
            )
        yield document._replace(text=text), text_digest(text), n_replaced
