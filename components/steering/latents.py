"""Which latents a method steers with: one setting, shared by all methods that steer through a
dictionary.

    average_precision   of the concept's tokens at natural density (over documents, by mean code, for
                        document concepts), rows of equal code tied
    auroc               chance that a token with the concept has the larger code, ties half
    mean_difference     mean code with the concept minus without
    output_score        of the best by average precision, those first whose own tokens the model says
                        when they are pushed
    explanation         cosine of the target in words and the latent's explanation (of `interpret`)

A latent that is the target itself is taken as it is. `least_output_score` is a filter on whatever
ranks: latents that read a concept need not write it.

Source: output score and its filter after Arad, Mueller & Belinkov (2025), arXiv:2505.20063 (see
components/interpretation/latent_scorers/output_score.py for the deviations).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt

from components.concept.pooling import pooling
from components.concept.ranking import precision_of_codes
from components.config import Config
from components.model.language_model import LanguageModel
from components.model.lens import set_size, written_when_pushed
from components.steering.contract import Candidate, Concept, Evidence, Steering

RankBy: TypeAlias = Literal[
    "average_precision", "auroc", "mean_difference", "output_score", "explanation"
]
SHORTLIST = 4
"""Latents whose output score is measured, for each that is wanted: each costs passes."""
OPENINGS, OPENING, PUSH, WRITTEN = 16, 8, 10.0, 0.001
"""Of the output score: openings, tokens of each, the push in units of the largest activation of any
latent there, and the share of the vocabulary that a direction writes."""
NO_DICTIONARY = "no dictionary at this hook point"
NO_EXPLANATIONS = (
    "latents are ranked by their explanations, and there are none: let the experiment have the stage "
    "interpret, or choose another rank_by"
)


class LatentsConfig(Config):
    """Which latents are steered with."""

    rank_by: RankBy = "average_precision"
    """What ranks them: average_precision, auroc or mean_difference on the labels; output_score;
    explanation, by its meaning."""
    least_output_score: float = Field(0.0, ge=0, le=1)
    """Latents with a lower output score (reciprocal rank of their likeliest own token when they are
    pushed) are left out; 0 leaves out none."""
    explainer: str = ""
    """Whose explanations rank, by rank_by explanation; empty: the first in the table."""

    @property
    def reads_explanations(self) -> bool:
        """Whether explanations are needed."""
        return self.rank_by == "explanation"


class CandidatesConfig(LatentsConfig):
    """Which latents are steered with, one at a time."""

    n_candidates: PositiveInt = 4
    """Latents for each concept, best first, among which the validate prompts choose."""


class Latents:
    """Ranks the latents of a dictionary for each concept of the evidence.

    Args:
        settings: what ranks.
        evidence: of the select split; it has a dictionary.
        model: the model that is steered.
    """

    def __init__(self, settings: LatentsConfig, evidence: Evidence, model: LanguageModel) -> None:
        assert evidence.codes is not None and evidence.dictionary is not None
        self._settings, self._evidence, self._model = settings, evidence, model
        self._codes = scipy.sparse.csc_matrix(evidence.codes)
        self._output_scores: dict[int, float] = {}

    def best(self, column: int, n: int) -> list[tuple[int, float | None]] | str:
        """The best n latents for a concept with what ranks them, or why there are none.

        A latent that is the target is the only one, and nothing ranks it.
        """
        latent = self._evidence.concepts[column].latent
        return self.several(column, n) if latent is None else [(latent, None)]

    def several(self, column: int, n: int) -> list[tuple[int, float | None]] | str:
        """The best n latents for a concept, one that is the target itself ranked like others."""
        concept = self._evidence.concepts[column]
        by = self._settings.rank_by
        ranked = self._scores("average_precision" if by == "output_score" else by, column, concept)
        if isinstance(ranked, str):
            return ranked
        order = np.argsort(-np.nan_to_num(ranked, nan=-np.inf), kind="stable")
        # nothing ranks a latent that nobody explained
        order = order[np.isfinite(ranked[order])].tolist()
        least = self._settings.least_output_score
        if by != "output_score" and not least:
            return [(latent, float(ranked[latent])) for latent in order[:n]]
        if reason := self._unpushable():
            return reason
        short = order[: SHORTLIST * n]
        written = self._written(short)
        kept = [latent for latent in short if written[latent] >= least]
        if not kept:
            return (
                f"none of the {len(short)} latents that rank best has an output score of {least:g} "
                f"(the largest: {max(written.values()):.3g}); lower least_output_score"
            )
        if by == "output_score":
            kept.sort(key=lambda latent: -written[latent])
            return [(latent, written[latent]) for latent in kept[:n]]
        return [(latent, float(ranked[latent])) for latent in kept[:n]]

    def _scores(self, by: str, column: int, concept: Concept) -> Float[np.ndarray, " d_sae"] | str:
        if by == "explanation":
            return self._meanings(concept)
        scores = self._by_labels(by, concept.unit == "document")[:, column]
        if np.isnan(scores).all():
            none = f"no {concept.unit} of the select split has the concept"
            return none if by == "average_precision" else self._evidence.one_sided(column) or none
        return scores

    @functools.cache  # noqa: B019 (lives as long as one call of `candidates`)
    def _by_labels(self, by: str, whole: bool) -> Float[np.ndarray, "d_sae concept"]:
        codes, labels = self._codes, scipy.sparse.csr_matrix(self._evidence.labels)
        if whole:
            pool, _ = pooling(self._evidence.document)
            codes = scipy.sparse.csc_matrix(pool @ self._evidence.codes)
            labels = scipy.sparse.csr_matrix(self._evidence.document_labels)
        if by == "average_precision":
            return np.stack(list(precision_of_codes(codes, labels)))
        return auroc_of_codes(codes, labels) if by == "auroc" else mean_difference(codes, labels)

    def _meanings(self, concept: Concept) -> Float[np.ndarray, " d_sae"] | str:
        meanings = self._evidence.meanings
        if meanings is None:
            return self._evidence.unexplained or NO_EXPLANATIONS
        told = meanings.of(self._settings.explainer)
        if not told:
            whose = self._settings.explainer or "any explainer"
            return f"{NO_EXPLANATIONS} (none by {whose})"
        latents = list(told)
        said = meanings.vectors(self._settings.explainer)
        likeness = torch.nn.functional.cosine_similarity(
            meanings.embed([concept.words]), said
        ).numpy()
        scores = np.full(self._codes.get_shape()[1], np.nan)
        scores[latents] = likeness
        return scores

    def _unpushable(self) -> str | None:
        dictionary = self._evidence.dictionary
        assert dictionary is not None
        unread = [name for name in dictionary.reads if name.startswith(("gradient:", "error:"))]
        if unread:
            return f"no output score: the dictionary reads {unread[0]}, which no pass gives"
        return None

    def _written(self, latents: Sequence[int]) -> dict[int, float]:
        """The output score of each, measured once."""
        new = [latent for latent in latents if latent not in self._output_scores]
        if new:
            dictionary, model, place = (
                self._evidence.dictionary,
                self._model,
                self._evidence.hook_point,
            )
            assert dictionary is not None
            tokens = self._evidence.contexts["token"][:OPENINGS, : OPENING + 1].long()
            read = model.read(tokens, dictionary.reads)
            codes = dictionary.encode({name: x[:, -1].float() for name, x in read.items()})
            largest = codes.dense().max(dim=1).values.cpu()
            largest = largest.where(largest > 0, largest.max().clamp(min=1e-6))
            directions = dictionary.decoder_directions(place).float().cpu()[new]
            size = set_size(model, WRITTEN)
            rank, _ = written_when_pushed(model, tokens, directions, PUSH * largest, place, size)
            self._output_scores |= dict(zip(new, rank.mean(1).tolist(), strict=True))
        return {latent: self._output_scores[latent] for latent in latents}


def of_each_latent(
    settings: CandidatesConfig,
    evidence: Evidence,
    model: LanguageModel,
    steer: Callable[[int], Steering | str],
    sign: int = 1,
) -> Iterator[Candidate]:
    """The best few latents of each concept as candidates; one that serves several concepts is one
    steering, so that its text is written once.

    Args:
        settings: which latents, and how many.
        evidence: of the select split.
        model: the model that is steered.
        steer: latent -> its steering, or why there is none.
        sign: +1 when more of the steering is meant to give more of the concept.
    """
    if evidence.codes is None or evidence.dictionary is None:
        for concept in evidence.concepts:
            yield Candidate(concept.name, 0, None, reason=NO_DICTIONARY)
        return
    latents = Latents(settings, evidence, model)
    steerings: dict[int, Steering | str] = {}
    for column, concept in enumerate(evidence.concepts):
        best = latents.best(column, settings.n_candidates)
        if isinstance(best, str):
            yield Candidate(concept.name, 0, None, reason=best)
            continue
        for replicate, (latent, score) in enumerate(best):
            if latent not in steerings:
                steerings[latent] = steer(latent)
            found = steerings[latent]
            steering, reason = (None, found) if isinstance(found, str) else (found, None)
            yield Candidate(concept.name, replicate, steering, latent, sign, score, reason)


def mean_difference(
    codes: scipy.sparse.csc_matrix, labels: scipy.sparse.csr_matrix
) -> Float[np.ndarray, "d_sae concept"]:
    """Mean code of rows with the concept minus mean of the others; NaN without one of either."""
    total = np.asarray(codes.sum(0, np.float64)).ravel()
    inside = np.asarray((codes.astype(np.float64).T @ labels.astype(np.float64)).todense())
    n_rows, n = codes.get_shape()[0], np.asarray(labels.sum(0)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing over nothing is NaN, on purpose
        return inside / n - (total[:, None] - inside) / (n_rows - n)


def auroc_of_codes(
    codes: scipy.sparse.csc_matrix, labels: scipy.sparse.csr_matrix
) -> Float[np.ndarray, "d_sae concept"]:
    """Chance that a row with the concept has a larger code than one without, ties half; NaN without
    one of either.

    Only active rows are sorted: all silent rows are one tied group below them.
    """
    starts, rows, values = (np.asarray(x) for x in (codes.indptr, codes.indices, codes.data))
    n_rows, n_concepts = labels.get_shape()
    n = np.asarray(labels.sum(0)).ravel().astype(np.float64)
    found = np.empty((len(starts) - 1, n_concepts))
    for latent, (first, last) in enumerate(itertools.pairwise(starts)):
        _, group = np.unique(values[first:last], return_inverse=True)
        with_it = np.asarray(labels[rows[first:last]].todense(), np.float64)
        shape = (int(group.max(initial=-1)) + 1, n_concepts)
        inside, outside = np.zeros(shape), np.zeros(shape)
        np.add.at(inside, group, with_it)
        np.add.at(outside, group, 1 - with_it)
        silent_in, silent_out = n - inside.sum(0), (n_rows - n) - outside.sum(0)
        below = silent_out + outside.cumsum(0) - outside
        found[latent] = (inside * (below + outside / 2)).sum(0) + silent_in * silent_out / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return found / (n * (n_rows - n))
