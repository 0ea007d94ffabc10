"""What reading will cost: contexts by formula, seconds by reading a little of the same corpus."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from components.config import override
from components.corpus import read
from components.corpus.annotations import WordLists
from components.corpus.contract import Corpus, content_number, corpora
from components.corpus.division import Division, Extent, SplitsConfig
from components.corpus.encoding import Encoder
from components.corpus.read import ReadConfig, make
from components.device import Execution
from components.store.forecast import Forecast, Foreteller, Timing, lower, watch

PROBE_TOKENS = 12_000
COLUMNS = 3  # token, document and position of every place in a context, int32
TEXT = 5  # bytes a token of text, labels and tables, compressed: 4.4 in the embedded world
DOCUMENT = 120  # tokens, as in the embedded world
SAMPLE = 200  # documents whose tokens are counted
MEMORY = 192 * 2**20  # batches of documents, the tables' writers, the tokenizer; contexts go to disk as they come


def formula(config: ReadConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """Contexts of all splits, and the counts that later stages are foretold from."""
    wanted, documents = _expected(config, inputs["model"])
    padded = config.contexts == "padded"
    # Packed, a context begins with a token of its own, and so does each document behind another. Padded, a document has
    # at least one context, and as many more as it is long.
    contexts = {
        name: documents[name] * padded + -(-(n + documents[name]) // (config.context_length - 1))
        for name, n in wanted.items()
    }
    concepts = [*corpora[config.corpus.kind](config.corpus).concepts(), *WordLists(config.word_lists).concepts()]
    facts = {
        "splits": {
            name: {"tokens": n, "contexts": contexts[name], "documents": documents[name]} for name, n in wanted.items()
        },
        "context_length": config.context_length,
        "n_concepts": len(concepts),
        "inventory": [entry._asdict() for entry in concepts],
        "prompts": {"validate": config.prompts_validate, "test": config.prompts_test},
    }
    n_tokens = sum(wanted.values())
    disk = {
        "contexts": 4 * (COLUMNS + padded) * config.context_length * sum(contexts.values()),
        "text and labels": TEXT * n_tokens,
    }
    return Forecast({"documents": MEMORY + 2 * n_tokens}, disk, facts=facts)


def probe(config: ReadConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """Reads a little, with pairs and prompts as they are; what does not grow with the tokens is told apart by time."""
    expected, _ = _expected(config, inputs["model"])
    wanted = sum(expected.values())
    share = min(1.0, PROBE_TOKENS / max(1, wanted))
    if _division(config).shares:
        fewer: dict[str, Any] = {"tokens": max(1, round(wanted * share))}
        fewer |= {f"splits.{name}": n for name, n in SplitsConfig().model_dump().items() if name in expected}
    else:
        fewer = {f"splits.{name}": max(config.context_length, round(n * share)) for name, n in expected.items()}
    small = override(config, fewer)
    with tempfile.TemporaryDirectory() as folder, _unsaid():
        seen = [
            (elapsed, 0 if progress is None else progress.done)
            for elapsed, progress in watch(make(Path(folder), small, inputs, settings), seconds)
        ]
    first, last = seen[0], [at for at in seen if at[1]][-1]
    rate = (last[1] - first[1]) / max(last[0] - first[0], 1e-9) if last[1] > first[1] else last[1] / last[0]
    fixed = max(0.0, seen[-1][0] - last[1] / rate)
    return Timing(
        fixed + wanted / rate,
        f"read {last[1]:,} tokens at {rate:,.0f} a second",
        f"in proportion to {wanted:,} tokens, and {fixed:.1f} s once for vocabulary, pairs and prompts",
    )


def _division(config: ReadConfig) -> Division:
    return Division.of(config.tokens, config.splits, corpora[config.corpus.kind].knows_splits)


def _expected(config: ReadConfig, model: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens and documents of each split: what is wanted, or its share of a corpus that has less."""
    corpus, division = corpora[config.corpus.kind](config.corpus), _division(config)
    documents = {name: -(-n // DOCUMENT) for name, n in division.wanted.items()}
    if corpus.knows_splits or not division.shares:
        return dict(division.wanted), documents
    about = (config.corpus.model_dump_json(), content_number(corpus.files()), division.total, config.seed, model.key)
    if about not in _looked_through:
        _looked_through[about] = _look_through(corpus, division.total, config.seed, model)
    counts = _looked_through[about]
    if counts is None:
        return dict(division.wanted), documents
    n_documents, n_tokens = counts
    shares = {name: n / division.total for name, n in division.wanted.items()}
    return (
        {name: max(1, min(division.wanted[name], round(n_tokens * share))) for name, share in shares.items()},
        {name: max(1, round(n_documents * share)) for name, share in shares.items()},
    )


def _look_through(corpus: Corpus, tokens: int, seed: int, model: Any) -> tuple[int, int] | None:
    """Documents and tokens of a small corpus: its characters, at the rate of its first documents; None for a large one."""
    extent = Extent.of(corpus, tokens)
    if extent is None or not extent.characters:
        return None
    texts = [document.text for document in islice(corpus.documents("", seed), SAMPLE)]
    n_tokens = sum(len(encoded.ids) for encoded in Encoder(model.tokenizer()).encode(texts, offsets=False))
    return len(extent.characters), round(n_tokens / max(1, sum(map(len, texts))) * sum(extent.characters.values()))


_looked_through: dict[tuple[Any, ...], tuple[int, int] | None] = {}
"""By corpus and model: a setting that fits is searched by asking again and again."""


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """What reading would say of a corpus is not said of the little that is tried."""
    read.log.disabled = True
    try:
        yield
    finally:
        read.log.disabled = False


LESS = lower("splits.train")
READ_FORETELLER = Foreteller(formula, probe, for_memory=(LESS,), for_disk=(LESS,))
