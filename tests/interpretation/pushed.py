"""A tiny model, text, and a dictionary in which the first latents write one token each: their
decoder directions are rows of the unembedding. The others are Gaussian."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import torch

from components.dictionary.architectures.topk import TopK, TopKConfig
from components.interpretation.latent_contract import LatentScorerServices
from components.interpretation.tiling import ContextsConfig, Tiling
from components.interpretation.windows import Vocabulary
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.shards import CodeShards, write_codes
from tests import toys
from tests.interpretation.windows_of import CPU

HOOK = "resid_post.1"
SPLITS = {"explain": 80, "calibrate": 40, "test": 80}
"""Documents by split."""
LENGTH = 32
D_SAE = 48
SAID = (
    "cat",
    "king",
    "river",
    "blue",
    "ran",
    "house",
    "three",
    "bird",
    "queen",
    "tree",
    "sat",
    "two",
)
"""What the first latents write."""
VOCABULARY = Vocabulary([f" {word}" for word in toys.WORDS])


@dataclasses.dataclass(frozen=True, eq=False)
class Pushed:
    """Artifacts by role, and what entries are made with."""

    inputs: dict[str, object]
    services: LatentScorerServices


def push(store: Store, folder: Path, hook_point: str = HOOK) -> Pushed:
    """Random text, read by a random model, encoded by the dictionary."""
    reference = toys.tiny_reference(folder, initializer_range=0.3, hidden_size=32)
    model = reference.load(CPU)
    random = np.random.default_rng(0)
    n, splits, provenance, document = len(toys.WORDS), {}, {}, 0
    for split, n_documents in SPLITS.items():
        token = random.integers(4, n, (n_documents, LENGTH))
        number = np.arange(document, document + n_documents)
        rows = np.concatenate([np.ones((n_documents, 1), np.int64), token], axis=1)
        x = model.read(torch.from_numpy(rows), [hook_point])[hook_point][:, 1:]
        splits[split] = {hook_point: x.flatten(0, 1)}
        columns = {
            "token": token,
            "document": np.repeat(number[:, None], LENGTH, axis=1),
            "position": np.tile(np.arange(LENGTH), (n_documents, 1)),
            "context": np.repeat(np.arange(n_documents)[:, None], LENGTH, axis=1),
            "offset": np.tile(np.arange(1, LENGTH + 1), (n_documents, 1)),
        }
        provenance[split] = {name: torch.from_numpy(c.ravel()) for name, c in columns.items()}
        document += n_documents
    trained = dictionary(store, model, splits["explain"][hook_point], hook_point)
    other = dictionary(store, model, splits["explain"][hook_point], hook_point, planted=False)
    inputs = {
        "model": reference,
        "corpus": toys.artifact(store, "read", _write_vocabulary, {}, 7),
        "activations": toys.activations(store, splits, provenance, rows_per_shard=5000, seed=7),
        "codes": _codes(store, trained, splits, hook_point),
        "untrained": _codes(store, other, splits, hook_point),
    }
    tiling = Tiling.cut(provenance["explain"], VOCABULARY, "explain", ContextsConfig())
    services = LatentScorerServices(CPU, 0, model=reference, trained=trained, explain=tiling)
    return Pushed(inputs, services)


def dictionary(
    store: Store, model, x: torch.Tensor, hook_point: str, planted: bool = True
) -> Artifact:
    """The artifact of a dictionary; a latent of the first ones writes its word, where planted."""
    d = x.shape[1]
    made = TopK(TopKConfig(d_sae=D_SAE, k=1), (hook_point,), (hook_point,), {hook_point: d})
    generator = torch.Generator().manual_seed(5 + planted)
    rows = torch.randn(D_SAE, d, generator=generator)
    if planted and model.d_model == d:
        ids = [toys.WORDS.index(word) for word in SAID]
        rows[: len(ids)] = model.network.get_output_embeddings().weight[ids].detach()
    with torch.no_grad():
        rows = torch.nn.functional.normalize(rows, dim=1)
        made.W_enc.copy_(rows)
        made.W_dec.copy_(rows)
        made.b_dec.copy_(x.mean(0))
    facts = {"name": made.name, "n_seeds": 1, "hook_point": hook_point}
    return toys.artifact(store, "train", made.save, facts, 7 + planted)


def _codes(store: Store, trained: Artifact, splits, hook_point: str) -> Artifact:
    from components.dictionary.contract import Dictionary

    made = Dictionary.load(trained)

    def write(folder: Path) -> None:
        rows = []
        for split, x in splits.items():
            codes = made.encode(x[hook_point])
            write_codes(folder, split, 0, codes)
            n_active = np.bincount(codes.indices.numpy(), minlength=D_SAE)
            columns = {"latent": np.arange(D_SAE), "n_active": n_active}
            frame = pl.DataFrame(columns | {"density": n_active / codes.n_rows})
            rows.append(frame.with_columns(split=pl.lit(split)).pipe(tables.LATENTS.frame))
        tables.LATENTS.write(folder, pl.concat(rows))

    facts = {"name": made.name, "hook_point": hook_point, "d_sae": D_SAE}
    artifact = toys.artifact(store, "encode", write, facts, 7, dictionary=trained)
    assert CodeShards(artifact).d_sae == D_SAE
    return artifact


def _write_vocabulary(folder: Path) -> None:
    rows = [{"token": i, "text": text} for i, text in enumerate(VOCABULARY.texts)]
    tables.VOCABULARY.write(folder, rows)
