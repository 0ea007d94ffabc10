"""Latents of which a right explanation is known: concepts themselves, and latents that follow one.

*Planted*: a concept's labels stand in the place of a latent's activations, so the right string is
right by construction. *Matched*: latents of a trained dictionary that `evaluate` chose for a
concept on select; the string is right as far as the latent follows the concept. They are taken at
equal distances over the range of average precisions from `LEAST_AP` on, so that there is something
for a score to agree with between latents; whether a string is right is asked only of those that
`FOLLOWS` on select.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse
import torch

from benchmarks.explainer_setting import finished
from components.concept.labels import concept_names, document_labels, token_labels
from components.config import Config
from components.interpretation.contexts import SPLITS, choose
from components.interpretation.contract import LatentRecord
from components.interpretation.run import Run
from components.interpretation.sample import TENTHS, Sample
from components.interpretation.truth import Known, known, strings
from components.seeds import numpy_generator
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.lineage import source
from components.store.shards import ActivationShards, Codes, CodeShards, write_codes
from components.store.stage import Inputs, Parent, Progress, Stage, Work

LEAST_AP = 0.1
"""On select, from which on a latent has something to do with a concept."""
FOLLOWS = 0.5
"""On select, from which on the concept's string is the right one for the latent."""


class Followed(NamedTuple):
    """A latent with strings of known order.

    Attributes:
        record: its windows.
        concept: what it follows.
        texts: kind of string -> string.
        quality: how well the latent follows the concept: average precision on test; 1 for the
            concept itself.
        follows: whether it follows the concept so well, on select, that its string is right.
    """

    record: LatentRecord
    concept: Known
    texts: Mapping[str, str]
    quality: float | None = 1.0
    follows: bool = True


class PlantedConfig(Config):
    """Every labelled concept as a latent."""


def make(folder: Path, config: PlantedConfig, inputs: Inputs, settings: Any) -> Work:
    """Writes codes whose latents are the concepts, 1 on the tokens that carry it."""
    corpus, activations = inputs["corpus"], ActivationShards(inputs["activations"])
    names = concept_names(corpus)
    for number, split in enumerate(SPLITS):
        matrix = _labels(corpus, activations.provenance(split), split, names)
        codes = Codes(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.ones(matrix.nnz),
            len(names),
        )
        write_codes(folder, split, 0, codes)
        yield Progress(number + 1, len(SPLITS), "splits", "planted")
    hook_point = activations.hook_points[0]
    return {"d_sae": len(names), "name": "planted", "hook_point": hook_point}


PLANTED = Stage(
    "planted",
    version=1,
    make=make,
    entries=lambda config: {},
    inputs={"corpus": Parent("read"), "activations": Parent("capture")},
)


def planted(store: Store, run: Run, activations: Artifact, n: int, seed: int) -> list[Followed]:
    """At most n concepts with strings, as latents; as many of each kind as there are."""
    inputs = {"corpus": run.corpus, "activations": activations}
    artifact, _ = store.ensure(PLANTED, PlantedConfig(), inputs)
    names = concept_names(run.corpus)
    told = _told(run, activations, seed)
    by_kind: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if name in told and len(told[name][1]) > 1:
            by_kind.setdefault(told[name][0].concept_kind, []).append(number)
    chosen: list[int] = []
    generator = numpy_generator(seed, "planted")
    for kind, numbers in sorted(by_kind.items()):
        room = -(-n * len(numbers) // sum(map(len, by_kind.values())))
        del kind
        chosen += generator.permutation(numbers)[:room].tolist()
    return _subjects(run, CodeShards(artifact), {number: told[names[number]] for number in chosen})


def matched(run: Run, codes: Artifact, evaluated: Artifact, n: int, seed: int) -> list[Followed]:
    """At most n latents with the concept of tokens that each ranks best, at equal distances over
    the range of their average precisions on select; each latent once."""
    activations = _activations_of(codes)
    told = _told(run, activations, seed)
    rows = tables.CONCEPTS_FOUND.read(evaluated).filter(
        (pl.col("unit_kind") == "latent")
        & (pl.col("select_ap") >= LEAST_AP)
        & (pl.col("sign") > 0)
        & (pl.col("concept_kind") != "document")
    )
    best = rows.sort("select_ap", "concept", descending=[True, False]).unique(
        "unit", keep="first", maintain_order=True
    )
    usable = [
        row
        for row in best.iter_rows(named=True)
        if len(told.get(row["concept"], (None, ""))[1]) > 1
    ]
    spread = np.unique(np.linspace(0, len(usable) - 1, min(n, len(usable))).round().astype(int))
    taken = {usable[i]["unit"]: usable[i] for i in spread.tolist()}
    subjects = _subjects(
        run, CodeShards(codes), {unit: told[row["concept"]] for unit, row in taken.items()}
    )
    return [
        each._replace(quality=row["ap"], follows=row["select_ap"] >= FOLLOWS)
        for each in subjects
        for row in [taken[each.record.latent]]
    ]


def _activations_of(codes: Artifact) -> Artifact:
    activations = source(codes, "activations")
    assert activations is not None, "the activations that were encoded are in the same store"
    return activations


def _told(run: Run, activations: Artifact, seed: int) -> dict[str, tuple[Known, Mapping[str, str]]]:
    """Concept -> what is known of it, and its strings, from labels of the explain split."""
    provenance = {
        name: np.asarray(column)
        for name, column in ActivationShards(activations).provenance("explain").items()
    }
    vocabulary = run.cut["explain"].tiling.vocabulary
    words = np.array([*vocabulary.words, ""], dtype=object)
    frame = pl.DataFrame(
        {
            "document": provenance["document"].astype(np.int64),
            "token": provenance["position"].astype(np.int64),
            "word": words[vocabulary.word_of[provenance["token"]]].astype(str),
        }
    ).filter(pl.col("document") >= 0)
    left = frame.select("document", pl.col("token") + 1, left="word")
    tokens = frame.join(left, on=["document", "token"], how="left").sort("document", "token")
    labels = (
        tables.LABELS.scan(run.corpus)
        .filter(pl.col("value") > 0)
        .select("concept", pl.col("document").cast(pl.Int64), pl.col("token").cast(pl.Int64))
        .collect()
        .join(frame.select("document").unique(), on="document", how="semi")
    )
    concepts = known(tables.CONCEPTS.read(run.corpus), labels, tokens)
    texts = strings(concepts, numpy_generator(seed, "strings"))
    return {each.concept: (each, texts[each.concept]) for each in concepts if each.concept in texts}


def _labels(
    corpus: Artifact, provenance: Mapping[str, Any], split: str, names: Sequence[str]
) -> scipy.sparse.csr_matrix:
    """Rows of the split by concepts; a concept of documents is on every token of its documents."""
    units = dict(tables.CONCEPTS.read(corpus).select("concept", "unit").iter_rows())
    of_tokens, token_names = token_labels(
        corpus, provenance, split, [name for name in names if units[name] == "token"]
    )
    document_names = [name for name in names if units[name] == "document"]
    numbers, of_documents, _ = document_labels(corpus, split, document_names)
    document = np.asarray(provenance["document"]).astype(np.int64)
    at = np.searchsorted(numbers, np.maximum(document, 0)).clip(max=max(len(numbers) - 1, 0))
    spread = of_documents.tocsr()[at].multiply((numbers[at] == document)[:, None])
    both = scipy.sparse.hstack([of_tokens.astype(np.float32), spread.astype(np.float32)]).tocsc()
    column = {name: number for number, name in enumerate([*token_names, *document_names])}
    matrix = both[:, [column[name] for name in names]].tocsr()
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def _subjects(
    run: Run, codes: CodeShards, told: Mapping[int, tuple[Known, Mapping[str, str]]]
) -> list[Followed]:
    latents = np.array(sorted(told), dtype=np.int64)
    density = np.zeros(len(latents))
    n_rows = 0
    for shard in codes.iterate("explain"):
        density += np.bincount(shard.indices.numpy(), minlength=codes.d_sae)[latents]
        n_rows += shard.n_rows
    density /= max(n_rows, 1)
    decile = np.argsort(np.argsort(density)) * TENTHS // max(1, len(latents))
    sample = Sample(latents, density, decile, 0, "explain")
    chosen = finished(choose(codes, run.cut, sample, run.config.seed))
    return [
        Followed(record, *told[record.latent])
        for record in chosen.records()
        if record.reason is None
    ]
