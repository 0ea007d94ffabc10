"""A world small enough to train a model on within seconds: short texts of four topics, with every
table of a corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import scipy.sparse
import torch
from safetensors.torch import load_file, save_file

from components.corpus.packing import pack
from components.device import Execution
from components.dictionary.architectures.topk import TopK, TopKConfig
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.steering.contract import (
    Concept,
    Evidence,
    Judge,
    JudgeServices,
    Material,
    MethodServices,
    SteeringMethod,
    judges,
    methods,
)
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.shards import ActivationShards, write_codes
from tests import toys

T = TypeVar("T")
CPU = Execution(device="cpu")
HOOK = "resid_post.0"
LENGTH = 33
SPLITS = {"select": 90, "judge": 240, "calibrate": 60, "validate": 90, "neutral": 24}
NOUNS = {
    "animal": ["cat", "dog"],
    "royal": ["king", "queen"],
    "land": ["tree", "river"],
    "home": ["house", "bird"],
}
VERBS = ["ran", "sat", "saw", "ate"]
OPENINGS = [
    "the",
    "a",
    "then the",
    "and then",
    "it was",
    "he saw",
    "she saw the",
    "and it",
    "it",
    "he",
    "she",
    "then",
]
PROMPTS = {
    "validate": [f"{o} {w}" for o in OPENINGS[:6] for w in ("big", "small")],
    "test": [f"{o} {w}" for o in OPENINGS[6:] for w in ("big", "small")],
}
CONCEPTS = [
    ("topic.animal", "document", "document", "topics"),
    ("topic.royal", "document", "document", "topics"),
    ("topic.land", "document", "document", "topics"),
    ("topic.home", "document", "document", "topics"),
    ("topic.noise", "document", "document", "topics"),
    ("word.cat", "surface", "token", "words"),
    ("word.king", "surface", "token", "words"),
    ("word.blue", "surface", "token", "words"),
    ("animal@verb", "contextual", "token", "contexts"),
]


def story(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A topic and a text of it: an opening that names none, then sentences whose nouns are the
    topic's, mostly."""
    topic = str(rng.choice(list(NOUNS)))
    words = [*str(rng.choice(OPENINGS)).split(), str(rng.choice(["big", "small"]))]
    while len(words) < 24:
        other = rng.random() < 0.15
        noun = rng.choice(NOUNS[str(rng.choice(list(NOUNS))) if other else topic])
        words += ["the", str(noun), str(rng.choice(VERBS)), "."]
    return topic, words


def labels(topic: str, words: list[str], rng: np.random.Generator) -> list[tuple[str, int | None]]:
    """(concept, token or None)."""
    found: list[tuple[str, int | None]] = [(f"topic.{topic}", None)]
    if rng.random() < 0.5:
        found.append(("topic.noise", None))  # a label that nothing in the text tells
    for at, word in enumerate(words):
        if f"word.{word}" in ("word.cat", "word.king"):
            found.append((f"word.{word}", at))
        if topic == "animal" and word in VERBS:
            found.append(("animal@verb", at))
    return found


def corpus(
    store: Store, openings: Mapping[str, list[str]], number: int = 0, drop: str = "", bare: str = ""
) -> Artifact:
    """An artifact of `read`, always of the same documents; `number` tells apart several; `drop`
    leaves out a split, and of the split `bare` no document is left.
    """
    tokenizer = toys.tokenizer()
    documents, rows, contexts, n = [], [], {}, 0
    for split, count in SPLITS.items():
        rng, ids = np.random.default_rng([len(split), count]), []
        for document in range(n, n + count):
            topic, words = story(rng)
            text = " ".join(words)
            ids.append(tokenizer(text)["input_ids"])
            about = {"document": document, "split": split, "source": "toy", "digest": text}
            documents.append(about | {"n_tokens": len(words), "text": text})
            rows += [
                {"concept": c, "document": document, "token": t, "value": 1.0}
                for c, t in labels(topic, words, rng)
            ]
        packed = pack(ids, bos=1, eos=2, pad=0, context_length=LENGTH)
        contexts[split] = {
            "token": torch.from_numpy(packed.token),
            "document": torch.from_numpy(
                np.where(packed.document < 0, -1, packed.document + n)
            ).int(),
            "position": torch.from_numpy(packed.position),
        }
        if split == bare:
            contexts[split] = {name: part[:0] for name, part in contexts[split].items()}
        n += count
    prompts = [
        {"split": split, "text": text} for split, texts in openings.items() for text in texts
    ]

    def write(folder: Path) -> None:
        names = ("concept", "concept_kind", "unit", "family")
        tables.CONCEPTS.write(
            folder, [dict(zip(names, c, strict=True)) | {"description": c[0]} for c in CONCEPTS]
        )
        tables.DOCUMENTS.write(folder, documents)
        tables.LABELS.write(folder, rows)
        tables.PROMPTS.write(folder, [{"prompt": i, **prompt} for i, prompt in enumerate(prompts)])
        tables.VOCABULARY.write(
            folder, [{"token": i, "text": f" {word}"} for i, word in enumerate(toys.WORDS)]
        )
        (folder / "contexts").mkdir()
        for split, parts in contexts.items():
            if split != drop:
                save_file(parts, folder / "contexts" / f"{split}.safetensors")

    return toys.artifact(store, "read", write, {"context_length": LENGTH}, number)


def trained_model(folder: Path, steps: int = 90) -> ModelReference:
    """A tiny Llama trained on stories, as a folder."""
    network = toys.tiny_network(
        "llama", hidden_size=32, initializer_range=0.05, num_hidden_layers=2
    )
    tokenizer, rng = toys.tokenizer(), np.random.default_rng(5)
    ids = [tokenizer(" ".join(story(rng)[1]))["input_ids"] for _ in range(16 * steps)]
    packed = torch.from_numpy(pack(ids, bos=1, eos=2, pad=0, context_length=LENGTH).token).long()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, betas=(0.9, 0.95))
    network.train()
    for tokens in packed.split(16)[:steps]:
        logits = network(input_ids=tokens).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelReference(ModelConfig(path=str(folder)))


def captured(store: Store, read: Artifact, model: LanguageModel) -> Artifact:
    """An artifact of `capture` for select and validate; there is no test split in it at all."""
    splits, provenance = {}, {}
    for split in ("select", "validate"):
        parts = load_file(read.path(f"contexts/{split}.safetensors"))
        kept = parts["document"] >= 0
        splits[split] = {HOOK: model.read(parts["token"], [HOOK])[HOOK][kept]}
        provenance[split] = {name: parts[name][kept] for name in ("token", "document", "position")}
    return toys.activations(store, splits, provenance, rows_per_shard=1000)


def planted(
    store: Store, capture: Artifact, directions: torch.Tensor, d_sae: int = 24, number: int = 0
) -> tuple[Artifact, Artifact]:
    """A dictionary whose first latents are these directions, the others Gaussian, and its codes;
    `number` tells several."""
    shards = ActivationShards(capture)
    d = shards.d_in(HOOK)
    x = shards.rows("select", HOOK, torch.arange(shards.n_rows("select")))
    dictionary = TopK(TopKConfig(d_sae=d_sae, k=6), (HOOK,), (HOOK,), {HOOK: d})
    rows = torch.randn(d_sae, d, generator=torch.Generator().manual_seed(3))
    rows[: len(directions)] = directions
    rows = rows / rows.norm(dim=1, keepdim=True)
    with torch.no_grad():
        dictionary.W_enc.copy_(rows)
        dictionary.W_dec.copy_(rows)
        dictionary.b_dec.copy_(x.mean(0))
    facts = {"name": dictionary.name, "n_seeds": 1, "hook_point": HOOK}
    trained = toys.artifact(store, "train", dictionary.save, facts, number)

    def write(folder: Path) -> None:
        write_codes(folder, "select", 0, dictionary.encode(x))

    facts = {"d_sae": d_sae, "name": dictionary.name, "hook_point": HOOK}
    return trained, toys.artifact(store, "encode", write, facts, number, dictionary=trained)


WIDTH = 6
PAIRS = [
    {
        "concept": concept,
        "pair": number,
        "split": "select",
        "positive": f"the {nouns[0]} {verb} .",
        "negative": f"the {nouns[1]} {verb} .",
    }
    for concept, nouns in (("mark", ("cat", "king")), ("doc", ("dog", "queen")))
    for number, verb in enumerate(VERBS)
]
"""Minimal pairs of the two concepts of `evidence`."""


def evidence(seed: int = 0, **changes: object) -> Evidence:
    """Tokens in 20 documents; concept `mark` shifts coordinate 2, concept `doc` (of documents)
    coordinate 4."""
    rng = np.random.default_rng(seed)
    document = np.repeat(np.arange(20), 10)
    mark, doc = rng.random(200) < 0.2, (np.arange(20) % 2 == 0)
    x = rng.normal(size=(200, WIDTH))
    x[mark, 2] += 5
    x[doc[document], 4] += 5
    codes = scipy.sparse.csr_matrix(np.maximum(x - 1, 0))
    units = {HOOK: 2.0}
    dictionary = TopK(TopKConfig(d_sae=WIDTH, k=2), (HOOK,), (HOOK,), {HOOK: WIDTH})
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.eye(WIDTH) * 3)
    given = Evidence(
        concepts=[Concept("mark", "surface", "token"), Concept("doc", "document", "document")],
        model=toys.tiny_model(),
        hook_point=HOOK,
        units=units,
        labels=scipy.sparse.csc_matrix(np.stack([mark, doc[document]], axis=1)),
        token=np.where(mark, toys.WORDS.index("cat"), toys.WORDS.index("king")),
        document=document,
        document_labels=scipy.sparse.csc_matrix(np.stack([np.zeros(20, bool), doc], axis=1)),
        batches=lambda hook_point: (
            (start, torch.from_numpy(x[start : start + 64])) for start in range(0, 200, 64)
        ),
        contexts={"token": torch.zeros(1, 200, dtype=torch.long)},
        pairs=tables.PAIRS.frame(PAIRS),
        codes=codes,
        dictionary=dictionary,
        d_in=WIDTH,
    )
    return dataclasses.replace(given, **changes)


def method(name: str, seed: int = 0, **settings: Any) -> SteeringMethod:
    """A method with these settings; it may use a tiny model."""
    kind = methods[name]
    return kind(kind.config(**settings), MethodServices(CPU, seed, toys.tiny_model()))


def fitted(
    name: str, material: Material, model: LanguageModel | None = None, **settings: Any
) -> Judge:
    """A judge with these settings, fitted on this material."""
    kind = judges[name]
    given = evidence().dictionary
    assert given is not None
    judge = kind(kind.config(**settings), JudgeServices(CPU, 0, model or toys.tiny_model(), given))
    judge.fit(material)
    return judge


def results(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Texts with their judgements, as `components.store.judgements.judged` gives them, from the
    columns that matter."""
    schema = {
        name: kind for name, kind in tables.GENERATIONS.schema.items() if name != "generation"
    }
    schema |= dict.fromkeys(("target", "uplift", "composite", "fluency"), pl.Float64)
    missing = {name: kind for name, kind in schema.items() if not rows or name not in rows[0]}
    frame = pl.DataFrame(
        rows, schema_overrides={n: k for n, k in schema.items() if n not in missing}
    )
    if not rows:
        return pl.DataFrame(schema=schema)
    return frame.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())


def finish(work: Generator[Any, None, T]) -> tuple[T, list[Any]]:
    """What a generator returns, and what it yielded."""
    yielded = []
    while True:
        try:
            yielded.append(next(work))
        except StopIteration as end:
            return end.value, yielded
