"""What reading will cost: contexts by formula, seconds by reading a little of the same corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.config import override
from components.corpus.annotations import WordLists
from components.corpus.contract import corpora
from components.corpus.read import ReadConfig, make
from components.device import Execution
from components.store.forecast import Forecast, Foreteller, Timing, lower, watch

PROBE_TOKENS = 12_000
COLUMNS = 3  # token, document and position of every place in a context, int32
TEXT = 5  # bytes a token of text, labels and tables, compressed: 4.4 in the embedded world
DOCUMENT = 120  # tokens, as in the embedded world
MEMORY = 192 * 2**20  # batches of documents, the tables' writers, the tokenizer; contexts go to disk as they come


def formula(config: ReadConfig, inputs: Mapping[str, Any], settings: Execution) -> Forecast:
    """Contexts of all splits, and the counts that later stages are foretold from."""
    wanted = {name: n for name, n in config.splits.model_dump().items() if n}
    # a context begins with a token of its own, and so does each document behind another
    contexts = {name: -(-int(n * (1 + 1 / DOCUMENT)) // (config.context_length - 1)) for name, n in wanted.items()}
    concepts = [*corpora[config.corpus.kind](config.corpus).concepts(), *WordLists(config.word_lists).concepts()]
    facts = {
        "splits": {
            name: {"tokens": n, "contexts": contexts[name], "documents": -(-n // DOCUMENT)}
            for name, n in wanted.items()
        },
        "context_length": config.context_length,
        "n_concepts": len(concepts),
        "inventory": [entry._asdict() for entry in concepts],
        "prompts": {"validate": config.prompts_validate, "test": config.prompts_test},
    }
    n_tokens = sum(wanted.values())
    disk = {
        "contexts": 4 * COLUMNS * config.context_length * sum(contexts.values()),
        "text and labels": TEXT * n_tokens,
    }
    return Forecast({"documents": MEMORY + 2 * n_tokens}, disk, facts=facts)


def probe(config: ReadConfig, inputs: Mapping[str, Any], settings: Execution, seconds: float) -> Timing:
    """Reads a little, with pairs and prompts as they are; what does not grow with the tokens is told apart by time."""
    wanted = sum(config.splits.model_dump().values())
    share = min(1.0, PROBE_TOKENS / max(1, wanted))
    splits = {
        f"splits.{name}": max(config.context_length, round(n * share)) if n else 0
        for name, n in config.splits.model_dump().items()
    }
    small = override(config, splits)
    with tempfile.TemporaryDirectory() as folder:
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


LESS = lower("splits.train")
READ_FORETELLER = Foreteller(formula, probe, for_memory=(LESS,), for_disk=(LESS,))
