"""Latents of the dictionary as targets, judged without labels.

What has the target is the latent's top contexts: the windows of the select split in which it is
most active. What has it not is windows in which it was seen to be silent on every token. Everything
else is neither, and counts on no side.

A passage of another split has the target when the latent is active inside, as the unsteered model
and the dictionary read it.

Source: contexts of a latent as the two sides of a contrast, after AxBench (Wu et al. 2025,
arXiv:2501.17148), where a language model writes them; here they are real text.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from components.concept.gate import ProbeGate
from components.config import Config
from components.corpus.encoding import Encoder
from components.errors import InputError
from components.model.language_model import LanguageModel
from components.seeds import numpy_generator
from components.spelling import PART
from components.steering.contract import Concept, Evidence
from components.steering.passages import Cut, contexts, cut
from components.steering.subject import SteeredSubject
from components.steering.targeting import Ground, Targeted
from components.steering.words import LONGEST, Words
from components.store import tables
from components.store.readers import read_by_all
from components.store.rows import Rows
from components.store.shards import CodeShards

ROWS = 8192
KIND = "latent"
WORDS = 8
"""Words that are told of a latent."""


class WindowsConfig(Config):
    """Which text has a latent, and which has not."""

    width: PositiveInt = 24
    """Tokens of a window of the select split, at most; documents are cut into them."""
    windows: PositiveInt = 48
    """Top contexts of a latent, and as many windows in which it is silent."""
    fewest: int = Field(12, ge=2)
    """A latent with fewer windows on either side is no target."""
    max_density: float = Field(0.003, gt=0, le=1)
    """A latent that is active on a larger share of tokens is no target: plain text has it
    already."""


class Latents(Targeted):
    """Some latents, with the text that has them and the text that has not."""

    def __init__(
        self,
        ground: Ground,
        windows: Windows,
        latents: Sequence[int],
        texts: Sequence[str | None],
        columns: Sequence[Mapping[str, Any]],
    ) -> None:
        """
        Args:
            ground: where they were found.
            windows: the select split.
            latents: which.
            texts: what each is about; None where nobody said.
            columns: further columns of the TARGETS table for each.
        """
        self._ground, self._windows, self._columns = ground, windows, columns
        self._latents = list(latents)
        self.concepts = [
            Concept(f"{KIND}.{latent}", KIND, "document", latent, text)
            for latent, text in zip(latents, texts, strict=True)
        ]
        self._drawn = [windows.draw(latent, ground.config.seed) for latent in self._latents]

    def refusals(self, gate: ProbeGate) -> Mapping[str, str]:
        """Those with too little text on one side; no probe is asked, because the model has the
        latent."""
        refused = {}
        fewest = self._windows.settings.fewest
        for concept, sides in zip(self.concepts, self._drawn, strict=True):
            for side, there in zip(
                ("in which it is active", "in which it is silent"), sides, strict=True
            ):
                if len(there) < fewest:
                    refused[concept.name] = (
                        f"text: {len(there)} windows of the select split {side}, wanted at least "
                        f"{fewest} (steer.targets.windows.fewest)"
                    )
                    break
        return refused

    def cut(self, split: str, opening: int, length: int) -> Cut:
        """Passages of the corpus; those in which a latent is active have it."""
        return cut(self._ground.subject.corpus, split, self._active(split), opening, length)

    def evidence(self, columns: Sequence[int], stand_ins: int) -> Evidence:
        """All windows of these latents, each once; what lies between them is left out."""
        subject, select = self._ground.subject, self._windows
        sides = [[select.rows(self._drawn[column][side]) for column in columns] for side in (0, 1)]
        kept = np.unique(np.concatenate([rows for side in sides for rows in side] or [np.zeros(0)]))
        kept = kept.astype(np.int64)
        marks = [
            _marked([np.searchsorted(kept, rows) for rows in side], len(kept)) for side in sides
        ]
        window = np.unique(select.window[kept], return_inverse=True)[1]
        n_windows = int(window.max(initial=-1)) + 1
        rows = torch.from_numpy(kept)
        read = Rows(subject.activations, "select", list(subject.units))

        @functools.cache
        def taken() -> dict[str, Tensor]:
            return read.take(rows)

        def batches(hook_point: str) -> Iterator[tuple[int, Tensor]]:
            x = taken()[hook_point] if hook_point in subject.units else None
            if x is None:
                x = Rows(subject.activations, "select", [hook_point]).take(rows)[hook_point]
            for start in range(0, len(x), ROWS):
                yield start, x[start : start + ROWS]

        return Evidence(
            concepts=[self.concepts[column] for column in columns],
            model=self._ground.model,
            hook_point=subject.hook_point,
            units=subject.units,
            labels=marks[0],
            token=select.token[kept],
            document=window,
            document_labels=scipy.sparse.csc_matrix((n_windows, len(columns)), dtype=bool),
            batches=batches,
            contexts=contexts(subject.corpus, "select"),
            pairs=tables.PAIRS.frame([]),
            codes=select.codes[kept],
            dictionary=subject.dictionary,
            d_in=subject.dictionary.widths[subject.hook_point],
            stand_ins=stand_ins,
            without=marks[1],
            select_rows=kept,
        )

    def told(self, column: int) -> Mapping[str, Any]:
        """Windows on both sides, and what else is known of the latent."""
        n_with, n_without = map(len, self._drawn[column])
        counts = {"n_with": n_with, "n_without": n_without, "counted": "windows"}
        return counts | dict(self._columns[column])

    def _active(self, split: str) -> Any:
        """(document and position of rows) -> on which of them each latent is active."""
        parts = contexts(self._ground.subject.corpus, split)
        kept = parts["document"] >= 0
        place = _place({name: parts[name][kept] for name in ("document", "position")})
        active = active_rows(
            self._ground.model, self._ground.subject, parts["token"].long(), kept, self._latents
        )
        order = np.argsort(place)

        def labelled(provenance: Mapping[str, Tensor]) -> scipy.sparse.csr_matrix:
            at = np.searchsorted(place[order], _place(provenance))
            return active[order[at]]

        return labelled


def _place(provenance: Mapping[str, Tensor]) -> Int[np.ndarray, " row"]:
    """One number for document and position."""
    document, position = (
        provenance[name].numpy().astype(np.int64) for name in ("document", "position")
    )
    return (document << 32) + position


def _marked(rows: Sequence[Int[np.ndarray, " _"]], n_rows: int) -> scipy.sparse.csc_matrix:
    """These rows of each column."""
    offsets = np.cumsum([0, *map(len, rows)])
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return scipy.sparse.csc_matrix(
        (np.ones(len(indices), bool), indices, offsets), shape=(n_rows, len(rows))
    )


def active_rows(
    model: LanguageModel,
    subject: SteeredSubject,
    tokens: Int[Tensor, "context position"],
    kept: Tensor,
    latents: Sequence[int],
) -> scipy.sparse.csr_matrix:
    """On which kept tokens each latent is active [row, latent], read by the unsteered model."""
    dictionary = subject.dictionary
    at_once = max(1, ROWS // max(1, tokens.shape[1]))
    parts = []
    for start in range(0, len(tokens), at_once):
        mask = kept[start : start + at_once]
        read = model.read(tokens[start : start + at_once], list(dictionary.reads))
        batch = {name: read[name].float().cpu()[mask] for name in dictionary.reads}
        parts.append(dictionary.encode(batch).matrix()[:, list(latents)] > 0)
    if not parts:
        return scipy.sparse.csr_matrix((0, len(latents)), dtype=bool)
    return scipy.sparse.csr_matrix(scipy.sparse.vstack(parts, format="csr"))


class Windows:
    """The select split cut into windows, with the codes of all latents.

    Attributes:
        settings: the section.
        codes: of the split.
        token: token id of each row.
        window: the window of each row.
        n: windows.
    """

    def __init__(self, ground: Ground, settings: WindowsConfig) -> None:
        """
        Raises:
            InputError: codes of other activations.
        """
        shards, self.settings = CodeShards(ground.codes), settings
        provenance = ground.subject.activations.provenance("select")
        document, position = (provenance[name].numpy() for name in ("document", "position"))
        self.token, self._document = provenance["token"].numpy(), document
        if shards.n_rows("select") != len(document):
            raise InputError(
                f"artifact {ground.codes.stage}/{ground.codes.key} has codes of "
                f"{shards.n_rows('select'):,} select tokens, and {len(document):,} were captured; "
                "encode these activations"
            )
        self.codes = shards.codes("select").matrix()
        goes_on = np.zeros(len(document), bool)
        goes_on[1:] = (document[1:] == document[:-1]) & (np.diff(position) == 1)
        run = np.flatnonzero(~goes_on)
        self._run = np.cumsum(~goes_on)
        inside = np.arange(len(document)) - np.repeat(run, np.diff([*run, len(document)]))
        self.window = np.cumsum(~goes_on | (inside % settings.width == 0)) - 1
        self.n = int(self.window.max(initial=-1)) + 1
        self._first = np.searchsorted(self.window, np.arange(self.n + 1))
        # a window of two tokens tells little
        self._whole = np.diff(self._first) >= settings.width / 2
        self._columns = self.codes.tocsc()
        self._model = ground.model

    @property
    def density(self) -> Float[np.ndarray, " latent"]:
        """Share of tokens on which each latent is active."""
        return np.diff(self._columns.indptr) / max(1, self.codes.shape[0])

    @functools.cached_property
    def _words(self) -> Words:
        # rows on both sides of a gap are two words, as rows of two documents are
        return Words.of(self._model, self.token, self._run)

    @functools.cached_property
    def _whole_words(self) -> Bool[np.ndarray, " word"]:
        """Which words have a letter or a digit, and are not cut off, do not end within a character
        and hold no special token."""
        added = Encoder.of(self._model).backend.get_added_tokens_decoder()
        special = {token for token, about in added.items() if about.special}
        whole = [
            len(spelt) < LONGEST and special.isdisjoint(spelt) and not PART.search(text)
            for spelt, text in zip(self._words.spelt, self._words.texts, strict=True)
        ]
        return self._words.sayable & np.array(whole, bool)

    @functools.cached_property
    def active(self) -> Int[np.ndarray, " latent"]:
        """In how many windows each latent is active."""
        member = scipy.sparse.csr_matrix(
            (np.ones(len(self.window)), (self.window, np.arange(len(self.window)))),
            shape=(self.n, len(self.window)),
        )
        there = scipy.sparse.csr_matrix(member @ (self.codes > 0))[self._whole]
        return np.diff(scipy.sparse.csc_matrix(there).indptr)

    def eligible(self) -> Int[np.ndarray, " _"]:
        """Latents that are not too dense and have windows enough."""
        enough = (self.active >= self.settings.fewest) & (
            self._whole.sum() - self.active >= self.settings.fewest
        )
        return np.flatnonzero(enough & (self.density <= self.settings.max_density))

    def draw(self, latent: int, seed: int) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        """The windows in which it is most active, the strongest first, and as many drawn from those
        in which it is silent."""
        low, high = self._columns.indptr[latent : latent + 2]
        maximum = np.zeros(self.n)
        np.maximum.at(
            maximum, self.window[self._columns.indices[low:high]], self._columns.data[low:high]
        )
        there = np.flatnonzero((maximum > 0) & self._whole)
        top = there[np.argsort(-maximum[there], kind="stable")][: self.settings.windows]
        silent = np.flatnonzero((maximum == 0) & self._whole)
        drawn = numpy_generator(seed, "silent", latent).permutation(silent)
        return top, drawn[: self.settings.windows]

    def active_words(self, latent: int) -> str | None:
        """The whole words on which a latent is most active, by the sum of its activations over
        their tokens, in lower case; None where it is active on no word."""
        low, high = self._columns.indptr[latent : latent + 2]
        values = np.zeros(len(self.token))
        values[self._columns.indices[low:high]] = self._columns.data[low:high]
        by_word, sums = self._words.sums(np.maximum(values, 0)), Counter[str]()
        for number in np.flatnonzero(self._whole_words & (by_word > 0)):
            sums[self._words.texts[number].lower()] += by_word[number]
        most = sorted(sums, key=lambda word: (-sums[word], word))[:WORDS]
        return ", ".join(most) or None

    def rows(self, windows: Int[np.ndarray, " _"]) -> Int[np.ndarray, " row"]:
        """The rows of these windows, ascending."""
        spans = [np.arange(self._first[w], self._first[w + 1]) for w in np.sort(windows).tolist()]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)


EXPLAINED = {"explanation": pl.String, "output_score": pl.Float64, "explanation_score": pl.Float64}


def explained(ground: Ground) -> pl.DataFrame:
    """Latents that `interpret` looked at: `latent`, its best explanation (that with the largest
    mean score), `explanation_score` (that mean) and `output_score` (mass; null where it was not
    measured). Empty without that artifact.
    """
    schema = {"latent": pl.Int32, **EXPLAINED}
    if ground.interpreted is None:
        return pl.DataFrame(schema=schema)
    said = tables.EXPLANATIONS.read(ground.interpreted).drop_nulls("explanation")
    scores = (
        read_by_all(tables.EXPLANATION_SCORES.read(ground.interpreted))
        .filter(pl.col("role").is_in(["entry", "control", "own_judge"]))
        .group_by("latent", "explainer")
        .agg(pl.col("value").mean().alias("explanation_score"))
    )
    best = (
        said.join(scores, on=["latent", "explainer"], how="left")
        .sort(
            "latent",
            "explanation_score",
            "explainer",
            descending=[False, True, False],
            nulls_last=True,
        )
        .unique("latent", keep="first", maintain_order=True)
    )
    output = tables.LATENT_SCORES.read(ground.interpreted).filter(
        pl.col("measure") == "output_score.mass", pl.col("control").is_null()
    )
    output = output.select("latent", pl.col("value").alias("output_score"))
    joined = best.join(output, on="latent", how="left").select(list(schema))
    return pl.DataFrame(joined, schema_overrides=schema)
