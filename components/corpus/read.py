"""read: documents, their splits, their labels and their contexts; what comes later reads nothing
else of the corpus.

Splits are disjoint by document, and a document is its text: a text that came before (in this
corpus, or in what the model was trained on, when its folder says so) is dropped and counted, and at
the end disjointness is asserted on the digests; `components/corpus/division.py` says which document
goes where. Memory is bounded: contexts, documents and labels go to disk as they come.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt
from safetensors.numpy import load_file

from components.config import Config, union_of
from components.corpus.annotations import WordLists
from components.corpus.contract import ConceptEntry, Corpus, corpora
from components.corpus.corpora.world import WorldCorpusConfig
from components.corpus.division import Division, Extent, SplitsConfig, refuse_what_is_too_short
from components.corpus.encoding import Encoder
from components.corpus.intake import UNLABELLED, Intake
from components.corpus.openings import prompts
from components.device import Execution
from components.errors import CorpusError
from components.seeds import derive
from components.store import tables
from components.store.artifact import content_number
from components.store.estimate import Estimate, Estimator, lower
from components.store.stage import Inputs, Parent, Progress, Stage, Work

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    CorpusChoice = Any
else:
    CorpusChoice = union_of(corpora)
PAIRED = ("select", "validate", "test")
OWN_TEXT = 2
"""Version of how a user's own text is read; raised when that changes and the embedded world's
reading does not."""
COLUMNS = 3  # token, document and position of every place in a context, int32
TEXT = 5  # bytes a token of text, labels and tables, compressed: 4.4 in the embedded world
DOCUMENT = 120  # tokens, as in the embedded world
SAMPLE = 200  # documents whose tokens are counted
# batches of documents, the tables' writers, the tokenizer; contexts go to disk as they come
MEMORY = 192 * 2**20
# seconds for vocabulary, pairs and prompts, and for a token, on one core of a server
ONCE, BY_TOKEN = (1.0, 2e-5)


class ReadConfig(Config):
    """Documents, splits, labels and prompts."""

    corpus: CorpusChoice = WorldCorpusConfig()
    """Where documents come from."""
    tokens: PositiveInt | None = None
    """Tokens of all splits together, divided in the proportions of the defaults of `splits`; a
    smaller corpus is used whole."""
    splits: SplitsConfig = SplitsConfig()
    """Tokens of each split. What is set here stays; what is not is a share of `tokens`, or of the
    whole of your own files."""
    context_length: int = Field(256, ge=8)
    """Tokens in one context, special tokens included."""
    contexts: Literal["packed", "padded"] = "packed"
    """packed: short documents share a context, which wastes little and suits causal models, which
    never see a later one; padded: each document has contexts of its own, as a model needs whose
    attention looks both ways."""
    word_lists: dict[str, str | list[str]] = {}
    """Concepts of your own: a name, and its words or a file with one word on each line."""
    pairs: NonNegativeInt = 4
    """Minimal pairs for each concept, in each of the splits select, validate and test."""
    prompts_validate: NonNegativeInt = 24
    """Openings for steered generation that choose."""
    prompts_test: NonNegativeInt = 48
    """Openings for steered generation that are reported."""
    seed: int = 0
    """Of the stories and of the division into splits."""


def make(folder: Path, config: ReadConfig, inputs: Inputs, settings: Any) -> Work:
    """Writes documents, concepts, labels, pairs, prompts and vocabulary as tables, and
    `contexts/<split>.safetensors`.

    A file of contexts holds `token`, `document` and `position`, int32 [context, column]; padded
    ones also hold `mask`.

    Raises:
        CorpusError: nothing to read, not text, an unknown column, or too few tokens for a split.
    """
    started, model = time.monotonic(), inputs["model"]
    corpus, words = corpora[config.corpus.kind](config.corpus), WordLists(config.word_lists)
    shape = getattr(model, "shape", None)
    encoder = Encoder(model.tokenizer(), shape.vocab_size if shape else None)
    division = Division.of(config.tokens, config.splits, corpus.knows_splits)
    intake = Intake(
        folder,
        encoder,
        words if config.word_lists else None,
        division.wanted,
        config.context_length,
        padded=config.contexts == "padded",
    )
    splits, dropped, n_replaced = intake.splits, intake.dropped, 0
    trained_on = _pretraining(model)
    seen: set[int] = set()
    stream = division.stream(
        corpus,
        config.seed,
        lambda name: name not in UNLABELLED,
        lambda name: splits[name].full,
        trained_on,
    )
    for name, document, number, n_replaced_here in stream:
        if number in seen or number in trained_on:
            dropped["repeated" if number in seen else "pretraining"] += 1
            continue
        seen.add(number)
        if not document.text.strip():
            dropped["empty"] += 1
            continue
        n_replaced += n_replaced_here
        split = splits[name]
        split.pending.append(document)
        if split.due:
            intake.take(split)
            done = sum(min(part.tokens, part.wanted) for part in splits.values())
            speed = sum(part.tokens for part in splits.values()) / (time.monotonic() - started)
            yield Progress(done, division.total, "tokens", split.name, {"tokens_per_second": speed})
    for split in splits.values():
        if not split.full:
            intake.take(split)
    refuse_what_is_too_short(
        list(splits.values()), config.corpus, division.shares, config.context_length, dropped
    )
    intake.finish()
    _assert_disjoint(folder, trained_on)
    silent = sorted(name for name in config.word_lists if not intake.n_labels[name])
    inventory = _inventory([*corpus.concepts(), *words.concepts(silent)], intake.codes)
    tables.CONCEPTS.write(folder, [entry._asdict() for entry in inventory])
    pairs = tables.PAIRS.write(folder, _pairs(corpus, config))
    wanted = {"validate": config.prompts_validate, "test": config.prompts_test}
    prompts_read = tables.PROMPTS.write(
        folder, prompts(corpus, wanted, intake.openings, config.seed)
    )
    tables.VOCABULARY.write(folder, encoder.vocabulary())
    n_tokens = sum(split.tokens for split in splits.values())
    notes = list(_notes(n_tokens, division, intake, n_replaced, silent))
    for note in notes:
        log.warning("read: %s", note)
    return {
        "splits": {
            split.name: {
                "documents": split.documents,
                "tokens": split.tokens,
                "contexts": split.contexts.n_contexts,
                "nats": split.nats,
            }
            for split in splits.values()
        },
        "context_length": config.context_length,
        "corpus": corpus.kind,
        "tokens": n_tokens,
        "tokens_wanted": division.total,
        "dropped": dict(dropped),
        "n_special": intake.n_special,
        "n_replaced": n_replaced,
        "n_concepts": len(inventory),
        "unlabelled_lists": silent,
        "n_labels": intake.labels.n_rows,
        "n_labels_lost": intake.n_lost,
        "n_pairs": pairs.height,
        "n_prompts": prompts_read.height,
        "notes": notes,
        "tokenizer": hashlib.blake2b(encoder.backend.to_str().encode(), digest_size=12).hexdigest(),
        "vocab_size": len(encoder.tokenizer),
        "tokens_per_second": n_tokens / (time.monotonic() - started),
    }


def _notes(
    n_tokens: int, division: Division, intake: Intake, n_replaced: int, silent: Sequence[str]
) -> Iterator[str]:
    """What a reader of the corpus should know, one sentence each; none for most corpora."""
    if n_tokens < division.total:
        yield (
            f"the corpus has {n_tokens:,} tokens in {intake.documents.n_rows:,} documents, fewer "
            f"than the {division.total:,} that were asked for: it is used whole, in the same "
            "shares"
        )
    if intake.n_special:
        yield (
            f"{intake.n_special:,} special tokens stood in the text as words: the model reads "
            "them, but they are no part of a document"
        )
    if n_replaced:
        yield f"{n_replaced:,} lone surrogates in the text were replaced by U+FFFD"
    for name in silent:
        yield (
            f"the word list {name!r} labels nothing: none of its words stands in the labelled "
            f"splits; look at their spelling in read.word_lists.{name}"
        )


def _entries(config: ReadConfig) -> Mapping[str, int]:
    """The corpus and its version; for files also a number for their bytes, so that changed files
    are read again."""
    kind = config.corpus.kind
    entries = {f"corpus.{kind}": corpora.version(kind)}
    files = [*corpora[kind](config.corpus).files(), *WordLists(config.word_lists).files()]
    if config.word_lists:
        entries["word_lists"] = WordLists.version
    if not corpora[kind].knows_splits:
        # The embedded world's text has no special token, no character of several tokens and no
        # script without spaces, so what changed in how such texts are read changes nothing there.
        entries["own_text"] = OWN_TEXT
    return entries | ({"corpus.bytes": content_number(files)} if files else {})


def formula(config: ReadConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """Contexts of all splits, and the counts that later stages are estimated from."""
    corpus, padded = corpora[config.corpus.kind](config.corpus), config.contexts == "padded"
    wanted, documents = _expected(config, corpus, inputs["model"])
    # Packed, a context begins with a token of its own, and so does each document behind another.
    # Padded, a document has at least one context, and as many more as it is long.
    contexts = {
        name: documents[name] * padded + -(-(n + documents[name]) // (config.context_length - 1))
        for name, n in wanted.items()
    }
    concepts = [*corpus.concepts(), *WordLists(config.word_lists).concepts()]
    facts = {
        "splits": {
            name: {"tokens": n, "contexts": contexts[name], "documents": documents[name]}
            for name, n in wanted.items()
        },
        "context_length": config.context_length,
        "n_concepts": len(concepts),
        "inventory": [entry._asdict() for entry in concepts],
        "prompts_validate": config.prompts_validate,
        "prompts_test": config.prompts_test,
    }
    n_tokens = sum(wanted.values())
    disk = {
        "contexts": 4 * (COLUMNS + padded) * config.context_length * sum(contexts.values()),
        "text and labels": TEXT * n_tokens,
    }
    alike = (config.corpus.kind, padded, inputs["model"].key)
    memory = {"documents": MEMORY + 2 * n_tokens}
    seconds = ONCE + BY_TOKEN * n_tokens, "as long as on a core elsewhere"
    return Estimate(memory, disk, {}, facts, (n_tokens, "tokens"), alike, lambda _: seconds)


def _expected(
    config: ReadConfig, corpus: Corpus, model: Any
) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens and documents of each split: what is wanted, or its share of a corpus that has
    less."""
    division = Division.of(config.tokens, config.splits, corpus.knows_splits)
    wanted, there = dict(division.wanted), None
    if division.shares and not corpus.knows_splits:
        about = (
            config.corpus.model_dump_json(),
            content_number(corpus.files()),
            division.total,
            config.seed,
            model.key,
        )
        # a setting that fits is searched by asking again and again
        if about not in _looked_through:
            _looked_through[about] = _look_through(corpus, division.total, config.seed, model)
        there = _looked_through[about]
    if there is None:
        return wanted, {name: -(-n // DOCUMENT) for name, n in wanted.items()}
    n_documents, n_tokens = (n / division.total for n in there)
    return (
        {name: max(1, min(n, round(n_tokens * n))) for name, n in wanted.items()},
        {name: max(1, round(n_documents * n)) for name, n in wanted.items()},
    )


def _look_through(corpus: Corpus, tokens: int, seed: int, model: Any) -> tuple[int, int] | None:
    """Documents and tokens of a small corpus: its characters, at the rate of its first documents;
    None for a large one."""
    extent = Extent.of(corpus, tokens)
    if extent is None or not extent.characters:
        return None
    texts = [document.text for document in islice(corpus.documents("", seed), SAMPLE)]
    n_tokens = sum(
        len(encoded.ids) for encoded in Encoder(model.tokenizer()).encode(texts, offsets=False)
    )
    return len(extent.characters), round(
        n_tokens / max(1, sum(map(len, texts))) * sum(extent.characters.values())
    )


_looked_through: dict[tuple[Any, ...], tuple[int, int] | None] = {}


READ = Stage(
    "read",
    version=2,
    make=make,
    entries=_entries,
    inputs={"model": Parent("model")},
    computes=False,
    estimator=Estimator(formula, for_memory=lower("splits.train"), for_disk=lower("splits.train")),
)


def _pretraining(model: Any) -> set[int]:
    """Digests of the documents that the model was trained on, where its folder lists them."""
    listed = Path(getattr(model, "folder", "")) / "pretrain_documents.safetensors"
    if not listed.is_file():
        return set()
    return {int(number) for tensor in load_file(listed).values() for number in tensor.reshape(-1)}


def _assert_disjoint(folder: Path, trained_on: set[int]) -> None:
    digests = pl.read_parquet(folder / tables.DOCUMENTS.file, columns=["digest"])["digest"]
    assert digests.n_unique() == len(digests), "a document is in two splits, or twice in one"
    held = {f"{number % 2**64:016x}" for number in trained_on}
    assert held.isdisjoint(digests), "a document was part of the model's training"


def _inventory(entries: list[ConceptEntry], codes: Mapping[str, int]) -> list[ConceptEntry]:
    repeated = [
        name for name, count in Counter(entry.concept for entry in entries).items() if count > 1
    ]
    if repeated:
        raise CorpusError(
            f"two sources give the concept {repeated[0]!r}; rename it in read.word_lists"
        )
    unknown = set(codes) - {entry.concept for entry in entries}
    assert not unknown, f"labels of concepts that no inventory lists: {sorted(unknown)[:5]}"
    return entries


def _pairs(corpus: Corpus, config: ReadConfig) -> list[dict[str, Any]]:
    rows, count, met = [], Counter[str](), dict[tuple[str, str], str]()
    for split in PAIRED if config.pairs else ():
        for pair in corpus.pairs(config.pairs, derive(config.seed, "pairs", split)):
            if met.setdefault((pair.concept, pair.positive), split) == split:
                rows.append({**pair._asdict(), "pair": count[pair.concept], "split": split})
                count[pair.concept] += 1
    return rows
