"""What steering methods may know: the select split of one dictionary, trained or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import polars as pl
import torch

from components.dictionary.contract import Dictionary
from components.errors import InputError
from components.model.language_model import LanguageModel
from components.steering.contract import Concept, Evidence
from components.steering.gate import Split
from components.steering.passages import contexts
from components.steering.subject import SteeredSubject
from components.store import tables
from components.store.artifact import Artifact
from components.store.lineage import inputs, source
from components.store.shards import CodeShards


def read_evidence(
    subject: SteeredSubject,
    model: LanguageModel,
    select: Split,
    columns: Sequence[int],
    codes: Artifact,
    stand_ins: int,
) -> Evidence:
    """What methods may know of the concepts in these columns.

    Raises:
        InputError: codes of other activations.
    """
    shards = CodeShards(codes)
    if shards.n_rows("select") != len(select.document):
        raise InputError(
            f"artifact {codes.stage}/{codes.key} has codes of {shards.n_rows('select'):,} select "
            f"tokens, and {len(select.document):,} were captured; encode these activations"
        )
    concepts = [select.concepts[column] for column in columns]
    return Evidence(
        concepts=concepts,
        model=model,
        hook_point=subject.hook_point,
        units=subject.units,
        labels=select.labels[:, columns],
        token=select.token,
        document=select.document,
        document_labels=select.document_labels[:, columns],
        batches=select.batches,
        contexts=contexts(subject.corpus, "select"),
        pairs=_pairs(subject.corpus, concepts),
        codes=shards.codes("select").matrix(),
        dictionary=subject.dictionary,
        d_in=subject.dictionary.widths[subject.hook_point],
        stand_ins=stand_ins,
    )


def of_untrained(evidence: Evidence, codes: Artifact | None) -> tuple[Evidence | None, str | None]:
    """The evidence with the untrained dictionary in the place of the trained one, or why there is
    none. A target that is a latent of the trained one is none of its latents, and nobody explained
    those: it goes by the labels.

    Codes name the dictionary that made them; it lies in the same store, unless only they were
    copied.
    """
    if codes is None:
        return None, "no codes of an untrained dictionary were given (the input untrained)"
    key, artifact = inputs(codes.manifest)["dictionary"][1], source(codes, "dictionary")
    if artifact is None:
        return None, f"the untrained dictionary {key} is not in the store of its codes {codes.key}"
    dictionary, shards = Dictionary.load(artifact), CodeShards(codes)
    rows, n_rows = evidence.select_rows, shards.n_rows("select")
    same_rows = n_rows == len(evidence.document) if rows is None else rows.max(initial=-1) < n_rows
    if evidence.hook_point not in dictionary.writes or not (same_rows or evidence.is_foreign):
        return None, f"the untrained dictionary {key} is of other activations"
    if evidence.is_foreign:
        x = {
            name: torch.cat([block.float() for _, block in evidence.batches(name)])
            for name in dictionary.reads
        }
        matrix = dictionary.encode(x).matrix()
    else:
        matrix = shards.codes("select").matrix()
    return dataclasses.replace(
        evidence,
        # a latent of the trained dictionary has no counterpart here: one is looked for
        concepts=[dataclasses.replace(each, latent=None) for each in evidence.concepts],
        codes=matrix if rows is None else matrix[rows],
        dictionary=dictionary,
        meanings=None,
        unexplained="nobody explained the latents of the untrained dictionary, so none is ranked by "
        "explanations",
    ), None


def _pairs(corpus: Artifact, concepts: Sequence[Concept]) -> pl.DataFrame:
    """Minimal pairs of the select split that differ in one of these concepts; none where the corpus
    has no pairs."""
    if tables.PAIRS.file not in corpus.files:
        return tables.PAIRS.frame([])
    names = [concept.name for concept in concepts]
    return tables.PAIRS.read(corpus).filter(
        pl.col("split") == "select", pl.col("concept").is_in(names)
    )
