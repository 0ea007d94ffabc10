"""Which document goes into which split, and what is said where that cannot be."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from components.corpus.contract import Corpus, Document
from components.corpus.corpora.jsonl import JsonlConfig
from components.corpus.corpora.text import TextConfig
from components.corpus.division import Division, SplitsConfig, refuse_what_is_too_short
from components.errors import ConfigError, CorpusError

USUAL = SplitsConfig()
NAMES = list(USUAL.model_dump())


class Listed(Corpus):
    """A corpus of given texts."""

    def __init__(self, config: Any) -> None:
        self.texts = config

    def documents(self, split: str, seed: int, labels: bool = True) -> Iterator[Document]:
        """The texts."""
        return (Document(text, f"list:{number}") for number, text in enumerate(self.texts))


def divided(texts: list[str], division: Division, seed: int = 0) -> list[tuple[str, str]]:
    """(split, text) of every document; no split is ever full."""
    given = division.stream(Listed(texts), seed, lambda name: True, lambda name: False)
    return [(name, document.text) for name, document, *_ in given]


def test_tokens_are_divided_in_the_proportions_of_the_defaults() -> None:
    division = Division.of(1_000_000, USUAL, knows_splits=False)
    assert division.shares
    assert division.total == 1_000_000
    for name, n in division.wanted.items():
        assert n == pytest.approx(1_000_000 * getattr(USUAL, name) / 2_080_000, abs=1)


def test_a_split_that_is_set_stays_and_one_of_0_is_left_out() -> None:
    division = Division.of(
        100_000, USUAL.model_copy(update={"test": 30_000, "neutral": 0}), knows_splits=False
    )
    assert division.wanted["test"] == 30_000
    assert "neutral" not in division.wanted
    assert division.total == 100_000
    assert division.wanted["train"] == pytest.approx(70_000 * 1_200_000 / 1_860_000, abs=1)


def test_absolute_numbers_are_no_shares_and_nothing_set_is_a_share_of_own_files_only() -> None:
    every = SplitsConfig(**{name: 7 for name in NAMES})
    assert Division.of(None, every, knows_splits=False) == Division(
        dict.fromkeys(NAMES, 7), shares=False
    )
    assert Division.of(10**6, every, knows_splits=False) == Division(
        dict.fromkeys(NAMES, 7), shares=False
    )
    assert Division.of(None, USUAL, knows_splits=False) == Division(USUAL.model_dump(), shares=True)
    assert Division.of(None, USUAL, knows_splits=True) == Division(USUAL.model_dump(), shares=False)


def test_splits_that_leave_nothing_of_the_tokens_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"read.splits wants 90,000 tokens of the 50,000 of read.tokens, which leaves none",
    ):
        Division.of(50_000, USUAL.model_copy(update={"train": 90_000}), knows_splits=False)


@pytest.mark.parametrize("n", [8, 9, 20, 300])
def test_a_small_corpus_is_used_whole_in_its_shares_and_every_split_has_a_document(n: int) -> None:
    texts = [f"{number} " + "word " * (number % 7 + 3) for number in range(n)]
    division = Division.of(None, USUAL, knows_splits=False)
    found = divided([*texts, *texts[:3], " "], division)
    assert sorted(set(found)) == sorted((name, text) for name, text in set(found))
    assert {text for _, text in found} == set(texts), "every document once, and nothing else"
    size = Counter[str]()
    for name, text in set(found):
        size[name] += len(text)
    assert set(size) == set(NAMES)
    longest = max(map(len, texts))
    for name in NAMES:
        assert size[name] == pytest.approx(
            sum(size.values()) * division.wanted[name] / division.total,
            abs=longest * (8 if n < 20 else 1.01),
        )
    assert dict(divided(texts[::-1], division)[::-1]) == dict(divided(texts, division)), (
        "their order does not matter"
    )
    assert found != divided(texts, division, seed=1) or n == 8


def test_a_large_corpus_is_divided_by_digest_as_ever() -> None:
    wanted = Division.of(None, USUAL, knows_splits=False)
    small = dataclasses.replace(
        wanted, wanted={name: 1 + n // 10_000 for name, n in wanted.wanted.items()}
    )
    texts = [f"document {number} " * 4 for number in range(400)]
    assert dict(divided(texts, small)) == dict(
        divided(texts, dataclasses.replace(small, shares=False))
    )


@dataclasses.dataclass
class Got:
    """What a split got."""

    name: str
    wanted: int
    documents: int
    tokens: int

    @property
    def full(self) -> bool:
        """Whether that is enough."""
        return self.tokens >= self.wanted


def said(splits: list[Got], corpus: Any = None, shares: bool = False, **dropped: int) -> str:
    with pytest.raises(CorpusError) as caught:
        refuse_what_is_too_short(
            splits, corpus or TextConfig(), shares, 16, {"empty": 0, "repeated": 0} | dropped
        )
    return str(caught.value)


def test_one_document_that_cannot_be_divided_is_said_to_be_one() -> None:
    given = [Got("train", 1000, 1, 50_000), Got("test", 100, 0, 0)]
    told = said(given)
    assert (
        "read.splits.test wants 100 and got 0 in 0 documents. In all 50,000 tokens came in 1 "
        "document" in told
    )
    assert "set read.corpus.documents=line, or add documents" in told
    assert "%" not in told
    assert "set read.corpus.documents=blank_line (or line)" in said(
        given, TextConfig(documents="file")
    )
    assert "add documents, or divide them" in said(given, JsonlConfig())


def test_repeated_documents_are_counted_in_the_message() -> None:
    given = [Got("train", 1000, 30, 500), Got("test", 100, 10, 60)]
    assert "560 tokens came in 40 documents (1,560 repeated ones left out)" in said(
        given, repeated=1560
    )


def test_the_advice_to_lower_is_below_what_was_asked_and_would_do() -> None:
    told = said([Got("train", 1000, 300, 800), Got("test", 100, 100, 200)])
    assert (
        "lower read.splits (to about 72% of what they are), or leave them out and the corpus is "
        "used whole" in told
    )


def test_shares_of_too_few_documents_are_refused_and_of_few_tokens_are_not() -> None:
    few = [Got("train", 1000, 2, 500), Got("neutral", 10, 0, 0)]
    assert "a document belongs to one split, and none was left for neutral" in said(
        few, shares=True
    )
    refuse_what_is_too_short(
        [Got("train", 1000, 2, 20), Got("test", 10, 1, 5)], TextConfig(), True, 16, {}
    )
