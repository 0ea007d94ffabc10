"""read: documents, their splits, their labels and their contexts; what comes later reads nothing else of the corpus.

Splits are disjoint by document, and a document is its text: a text that came before (in this corpus, or in what the
model was trained on, when its folder says so) is dropped and counted, and at the end disjointness is asserted on the
digests. Files are divided by digest, in proportion to the tokens wanted, so their order does not matter. Memory is
bounded: contexts, documents and labels go to disk as they come.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from pydantic import Field, NonNegativeInt
from safetensors.numpy import load_file

from components.config import Config, union_of
from components.corpus.alignment import align
from components.corpus.annotations import WordLists
from components.corpus.contract import ConceptEntry, Corpus, Document, content_number, corpora, text_digest
from components.corpus.corpora.world import WorldCorpusConfig
from components.corpus.packing import Packer
from components.corpus.spool import ContextSpool, RowSpool
from components.errors import CorpusError
from components.seeds import derive
from components.store import tables
from components.store.artifact import Inputs, Progress, Stage, Work

if TYPE_CHECKING:
    CorpusChoice = Any
else:
    CorpusChoice = union_of(corpora)
UNLABELLED = ("train",)
PAIRED = ("select", "validate", "test")
BATCH = 512
OPENING_WORDS = 6

with warnings.catch_warnings():  # pydantic's own deprecated `validate` gives way to the split of that name
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


class ReadConfig(Config):
    """Documents, splits, labels and prompts."""

    corpus: CorpusChoice = WorldCorpusConfig()
    """Where documents come from."""
    splits: SplitsConfig = SplitsConfig()
    """How many tokens each split gets; documents of files are divided in these proportions."""
    context_length: int = Field(256, ge=8)
    """Tokens in one context, special tokens included."""
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


@dataclasses.dataclass
class _Split:
    name: str
    wanted: int
    packer: Packer
    contexts: ContextSpool
    pending: list[Document] = dataclasses.field(default_factory=list)
    documents: int = 0
    tokens: int = 0
    nats: float | None = 0.0

    @property
    def full(self) -> bool:
        return self.tokens >= self.wanted

    @property
    def due(self) -> bool:
        """Whether the documents that wait are a batch, or likely fill the split."""
        mean = self.tokens / self.documents if self.documents else 100.0
        return len(self.pending) >= min(BATCH, 8 + (self.wanted - self.tokens) / mean)


def make(folder: Path, config: ReadConfig, inputs: Inputs, settings: Any) -> Work:
    """Writes documents, concepts, labels, pairs, prompts and vocabulary as tables, and `contexts/<split>.safetensors`.

    Raises:
        CorpusError: nothing to read, not text, an unknown column, or too few tokens for a split.
    """
    started, model = time.monotonic(), inputs["model"]
    tokenizer = model.tokenizer()
    corpus, words = corpora[config.corpus.kind](config.corpus), WordLists(config.word_lists)
    encoder = encoder_of(tokenizer)
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    pad = pad if pad is not None else eos if eos is not None else 0
    splits = {
        name: _Split(
            name,
            wanted,
            Packer(bos, eos, pad, config.context_length),
            ContextSpool(folder, name, config.context_length),
        )
        for name, wanted in config.splits.model_dump().items()
        if wanted
    }
    documents, labels = RowSpool(tables.DOCUMENTS, folder), RowSpool(tables.LABELS, folder)
    codes: dict[str, int] = {}
    dropped: Counter[str] = Counter(empty=0, repeated=0, pretraining=0)
    n_lost, openings = 0, {"validate": [], "test": []}
    trained_on = _pretraining(model)
    seen: set[int] = set()

    def take(split: _Split) -> None:
        """Tokenizes, numbers, packs and labels the documents that wait, until the split is full."""
        nonlocal n_lost
        waiting, split.pending = split.pending, []
        labelled = split.name not in UNLABELLED
        encode = encoder.encode_batch if labelled else encoder.encode_batch_fast  # the fast one leaves out offsets
        first, kept, encodings = documents.n_rows, [], []
        for document, encoding in zip(
            waiting, encode([document.text for document in waiting], add_special_tokens=False), strict=True
        ):
            if split.full:
                break
            if not encoding.ids:
                dropped["empty"] += 1
                continue
            split.packer.add(first + len(kept), encoding.ids)
            split.tokens += len(encoding.ids)
            split.nats = None if split.nats is None or document.nats is None else split.nats + document.nats
            kept.append(document)
            encodings.append(encoding)
        split.documents += len(kept)
        split.contexts.add(split.packer.take())
        documents.add(_document_rows(kept, encodings, split.name, first))
        if split.name in openings:
            openings[split.name] += [" ".join(document.text.split()[:OPENING_WORDS]) for document in kept]
        if labelled and kept:
            if config.word_lists:
                kept = [document._replace(labels=[*document.labels, *words.labels(document.text)]) for document in kept]
            rows, lost = align(kept, encodings, codes)
            n_lost += lost
            names = pl.Series(list(codes), dtype=pl.String)
            labels.add(rows.with_columns(names.gather(rows["concept"]).alias("concept"), pl.col("document") + first))

    total = sum(split.wanted for split in splits.values())
    for split, document, number in _stream(corpus, splits, config.seed):
        if number in seen or number in trained_on:
            dropped["repeated" if number in seen else "pretraining"] += 1
            continue
        seen.add(number)
        if not document.text.strip():
            dropped["empty"] += 1
            continue
        split.pending.append(document)
        if split.due:
            take(split)
            done = sum(min(part.tokens, part.wanted) for part in splits.values())
            speed = sum(part.tokens for part in splits.values()) / (time.monotonic() - started)
            yield Progress(done, total, "tokens", split.name, {"tokens_per_second": speed})
    for split in splits.values():
        if not split.full:
            take(split)
    _enough(splits, config)
    for split in splits.values():
        split.contexts.add(split.packer.finish())
        split.contexts.finish()
    documents.finish()
    labels.finish()
    _assert_disjoint(folder, trained_on)
    inventory = _inventory([*corpus.concepts(), *words.concepts()], codes)
    tables.CONCEPTS.write(folder, [entry._asdict() for entry in inventory])
    pairs = tables.PAIRS.write(folder, _pairs(corpus, config))
    prompts = tables.PROMPTS.write(folder, _prompts(corpus, config, openings))
    tables.VOCABULARY.write(folder, _vocabulary(encoder))
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
        "dropped": dict(dropped),
        "n_concepts": len(inventory),
        "n_labels": labels.n_rows,
        "n_labels_lost": n_lost,
        "n_pairs": pairs.height,
        "n_prompts": prompts.height,
        "tokenizer": hashlib.blake2b(encoder.to_str().encode(), digest_size=12).hexdigest(),
        "vocab_size": len(tokenizer),
        "tokens_per_second": sum(split.tokens for split in splits.values()) / (time.monotonic() - started),
    }


def _entries(config: ReadConfig) -> Mapping[str, int]:
    """The corpus and its version; for files also a number for their bytes, so that changed files are read again."""
    kind = config.corpus.kind
    found = {f"corpus.{kind}": corpora.version(kind)}
    files = [*corpora[kind](config.corpus).files(), *WordLists(config.word_lists).files()]
    return found | ({"corpus.bytes": content_number(files)} if files else {})


READ = Stage("read", version=2, make=make, entries=_entries, computes=False)


def encoder_of(tokenizer: Any) -> Any:
    """A copy of the fast tokenizer that neither cuts nor pads.

    Raises:
        CorpusError: the tokenizer has no fast form, so nobody could say which characters a token covers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CorpusError(
            f"reading needs a fast tokenizer (tokenizer.json), and the model's is {type(tokenizer).__name__}; "
            "save it with transformers as a fast tokenizer"
        )
    encoder = type(backend).from_str(backend.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def _stream(corpus: Corpus, splits: Mapping[str, _Split], seed: int) -> Iterator[tuple[_Split, Document, int]]:
    """Documents with their split and digest, until every split is full or the documents end."""
    if corpus.knows_splits:
        for split in splits.values():
            for document in corpus.documents(split.name, seed, labels=split.name not in UNLABELLED):
                if split.full:
                    break
                yield split, document, text_digest(document.text)
        return
    shares = np.cumsum([split.wanted for split in splits.values()])
    places = list(splits.values())
    for document in corpus.documents("", seed):
        if all(split.full for split in places):
            return
        number = text_digest(document.text)
        place = derive(seed, "split", number) % int(shares[-1])
        split = places[int(np.searchsorted(shares, place, side="right"))]
        if not split.full:
            yield split, document, number


def _document_rows(kept: list[Document], encodings: list[Any], split: str, first: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "document": np.arange(first, first + len(kept), dtype=np.int32),
            "split": [split] * len(kept),
            "source": [document.source for document in kept],
            "digest": [f"{text_digest(document.text) % 2**64:016x}" for document in kept],
            "n_tokens": [len(encoding.ids) for encoding in encodings],
            "text": [document.text for document in kept],
        },
        schema=tables.DOCUMENTS.schema,
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


def _enough(splits: Mapping[str, _Split], config: ReadConfig) -> None:
    n_documents = sum(split.documents for split in splits.values())
    n_tokens = sum(split.tokens for split in splits.values())
    came = f"{n_tokens:,} tokens came in {n_documents:,} documents"
    if not n_documents:
        raise CorpusError(
            f"the corpus ({config.corpus.kind}) is empty: no document with text came; look at read.corpus.path"
        )
    if n_tokens < config.context_length:
        raise CorpusError(
            f"the corpus ({config.corpus.kind}) is shorter than one context: {came}, and read.context_length is "
            f"{config.context_length:,}; lower it or add documents"
        )
    short = [split for split in splits.values() if not split.full]
    if short:
        listed = "; ".join(
            f"read.splits.{split.name} wants {split.wanted:,} and got {split.tokens:,} in {split.documents:,} documents"
            for split in short
        )
        wanted = sum(split.wanted for split in splits.values())
        raise CorpusError(
            f"too few tokens: {listed}. In all {came}, and {wanted:,} are wanted; lower read.splits "
            f"(to about {0.9 * n_tokens / wanted:.0%} of what they are), set those to 0 that no stage needs, "
            "or add documents"
        )


def _inventory(entries: list[ConceptEntry], codes: Mapping[str, int]) -> list[ConceptEntry]:
    repeated = [name for name, count in Counter(entry.concept for entry in entries).items() if count > 1]
    if repeated:
        raise CorpusError(f"two sources give the concept {repeated[0]!r}; rename it in read.word_lists")
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


def _prompts(corpus: Corpus, config: ReadConfig, openings: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Prompts of both splits, no text in two; a corpus without any gives first words of the split's documents."""
    wanted = {"validate": config.prompts_validate, "test": config.prompts_test}
    met: dict[str, str] = {}
    for split, n in wanted.items():
        n_met = len(met)
        for text in corpus.prompts(sum(wanted.values()), split, config.seed) or openings[split]:
            if len(met) == n_met + n:
                break
            met.setdefault(text, split)
    return [{"prompt": number, "split": split, "text": text} for number, (text, split) in enumerate(met.items())]


def _vocabulary(encoder: Any) -> list[dict[str, Any]]:
    """Each token as it reads after another one: only then does every kind of tokenizer show the space it carries."""
    size = encoder.get_vocab_size(with_added_tokens=True)
    before = next((token for token in range(size) if encoder.decode([token]).strip().isalpha()), 0)
    alone = encoder.decode([before], skip_special_tokens=False)
    both = encoder.decode_batch([[before, token] for token in range(size)], skip_special_tokens=False)
    added = encoder.get_added_tokens_decoder()
    return [
        {
            "token": token,  # parts of a character, and special tokens, read as they are written in the tokenizer
            "text": encoder.id_to_token(token) if "�" in text or token in added else text.removeprefix(alone),
        }
        for token, text in enumerate(both)
    ]
