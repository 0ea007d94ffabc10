"""A corpus of random words and latents that were planted in it, as real artifacts.

Words are drawn at random (Zipf), so nothing but the rule of a latent tells where it is active. All
but one latent are silent in two thirds of the windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch

from components.seeds import numpy_generator
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.shards import Codes, write_codes
from tests import toys

T = TypeVar("T")
N_WORDS, D_IN = 300, 16
SPLITS = {"explain": 300, "calibrate": 120, "test": 300}
"""Documents by split."""
SETS = 12
"""Latents 0 to 11 fire on three words each, of their own."""
BIGRAM, AFTER, SENSE, RARE, DEAD, EVERYWHERE, NOISE = range(SETS, SETS + 7)
D_SAE = SETS + 7
MORE = 6
"""Further latents of three words each, from D_SAE on, for who asks for them."""
WORDS = [
    f"{a}{b}{c}"
    for a in "bdfgklmnpr"
    for b in ("ar", "el", "io", "on", "us")
    for c in ("da", "ket", "lo", "ma", "nic", "ter")
]


def finished(work: Generator[Any, None, T]) -> T:
    """What a generator returns, once it has been run to its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@dataclasses.dataclass(frozen=True)
class Planted:
    """Artifacts by role, and what was planted."""

    inputs: dict[str, Artifact]
    phrases: dict[int, str]
    tokens: dict[str, np.ndarray]
    documents: dict[str, np.ndarray]


def set_words(latent: int) -> list[int]:
    first = 100 + 3 * (latent if latent < SETS else latent - D_SAE + SETS)
    return [first, first + 1, first + 2]


def rules(
    token: np.ndarray, position: np.ndarray, random: np.random.Generator, more: int = 0
) -> np.ndarray:
    """Activations [row, latent] by the planted rules."""
    n = len(token)
    before = np.where(position > 0, np.roll(token, 1), -1)
    x = np.zeros((n, D_SAE + more), np.float32)
    for latent in (*range(SETS), *range(D_SAE, D_SAE + more)):
        x[:, latent] = np.isin(token, set_words(latent))
    x[:, BIGRAM] = (token == 5) & (before == 4)
    x[:, AFTER] = before == 30
    for back in range(1, 7):
        x[:, SENSE] += (token == 3) & (np.roll(token, back) == 12) & (position >= back)
    x[:, SENSE] = x[:, SENSE] > 0
    x[:, NOISE] = random.random(n) < 0.01
    x[np.flatnonzero(token == 200)[:3], RARE] = 1
    x[:, EVERYWHERE] = random.random(n) < 0.5
    return x * random.uniform(1, 2, x.shape).astype(np.float32)


def _of_set(latent: int) -> str:
    return "the words " + " and ".join(f'"{WORDS[word]}"' for word in set_words(latent))


PHRASES = {latent: _of_set(latent) for latent in range(SETS)} | {
    BIGRAM: f'the word "{WORDS[5]}" after "{WORDS[4]}"',
    AFTER: f'after "{WORDS[30]}"',
    SENSE: f'the word "{WORDS[3]}" in text with "{WORDS[12]}"',
}  # fmt: skip
PHRASES_OF_MORE = {latent: _of_set(latent) for latent in range(D_SAE, D_SAE + MORE)}


def plant(
    store: Store, seed: int = 0, n_documents: Mapping[str, int] = SPLITS, more: int = 0
) -> Planted:
    """Three splits of random text with planted latents; `n_documents` is by split, `more` further
    latents are of those in `PHRASES_OF_MORE`."""
    d_sae = D_SAE + more
    random = numpy_generator(seed, "planted")
    chances = 1 / (np.arange(N_WORDS) + 8)
    chances /= chances.sum()
    provenance, codes, document = {}, {}, 0
    for split, n_of_split in n_documents.items():
        lengths = random.integers(30, 90, n_of_split)
        ends = np.cumsum(lengths)
        n = int(ends[-1])
        starts = np.repeat(ends - lengths, lengths)
        token = random.choice(N_WORDS, n, p=chances)
        # planted pairs, which chance would seldom give
        for row in np.flatnonzero(random.random(n - 1) < 0.01):
            token[row : row + 2] = 4, 5
        for row in np.flatnonzero(random.random(n - 4) < 0.01):
            token[row : row + 4 : 3] = 12, 3
        position = np.arange(n) - starts
        number = np.repeat(np.arange(document, document + n_of_split), lengths)
        document += n_of_split
        context = (number - number[0]) // 2
        offset = np.arange(n) - np.repeat(
            np.flatnonzero(np.diff(context, prepend=-1)), np.bincount(context)
        )
        columns = {
            "token": token,
            "document": number,
            "position": position,
            "context": context,
            "offset": offset,
        }
        provenance[split] = {name: torch.from_numpy(column) for name, column in columns.items()}
        codes[split] = Codes.from_dense(torch.from_numpy(rules(token, position, random, more)))

    def write_read(folder: Path) -> None:
        rows = [{"token": i, "text": f" {word}"} for i, word in enumerate(WORDS[:N_WORDS])]
        tables.VOCABULARY.write(folder, rows)

    def write_encode(folder: Path) -> None:
        rows = []
        for split, found in codes.items():
            half = found.n_rows // 2
            write_codes(folder, split, 0, found.rows(0, half))
            write_codes(folder, split, 1, found.rows(half, found.n_rows))
            n_active = np.bincount(found.indices.numpy(), minlength=d_sae)
            rows.append(
                pl.DataFrame(
                    {
                        "latent": np.arange(d_sae),
                        "n_active": n_active,
                        "density": n_active / found.n_rows,
                    }
                )
                .with_columns(split=pl.lit(split))
                .pipe(tables.LATENTS.frame)
            )
        tables.LATENTS.write(folder, pl.concat(rows))
        nearest = [
            {
                "latent": latent,
                "rank": rank,
                "neighbour": (latent + rank + 1) % d_sae,
                "cosine": 0.5,
            }
            for latent in range(d_sae)
            for rank in range(5)
        ]
        tables.NEIGHBOURS.write(folder, nearest)

    facts = {"name": f"planted-{d_sae}", "hook_point": "resid_post.0", "d_sae": d_sae}
    # what stands for a token, with what stood before it: other windows are near in it than in codes
    direction = numpy_generator(seed, "directions").normal(size=(N_WORDS, D_IN))
    x = {}
    for split, columns in provenance.items():
        vectors = torch.from_numpy(direction).float()[columns["token"]]
        x[split] = {"resid_post.0": vectors + 0.3 * vectors.roll(1, 0)}
    inputs = {
        "corpus": toys.artifact(store, "read", write_read, {}, seed),
        "activations": toys.activations(store, x, provenance, rows_per_shard=5000, seed=seed),
        "codes": toys.artifact(store, "encode", write_encode, facts, seed),
    }
    for (
        split,
        found,
        # what nothing was planted in: an untrained dictionary stands for it in a chain
    ) in codes.items():
        noise = random.random((found.n_rows, d_sae)) < 0.01
        codes[split] = Codes.from_dense(
            torch.from_numpy(noise * random.uniform(1, 2, noise.shape)).float()
        )
    inputs["untrained"] = toys.artifact(store, "encode", write_encode, facts, seed + 1)
    tokens = {split: columns["token"].numpy() for split, columns in provenance.items()}
    documents = {split: columns["document"].numpy() for split, columns in provenance.items()}
    phrases = PHRASES | {n: PHRASES_OF_MORE[n] for n in range(D_SAE, d_sae)}
    return Planted(inputs, phrases, tokens, documents)
