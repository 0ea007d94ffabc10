"""What was found out about the latents of one dictionary, and the rows of the tables that say
it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from components.interpretation.contexts import SPLITS
from components.interpretation.contract import LatentRecord
from components.interpretation.dictionary_contract import DictionaryScores
from components.interpretation.explanation import Explanation
from components.interpretation.key import OWN_JUDGE
from components.interpretation.latent_summary import LatentScores, latent_rows
from components.interpretation.sample import Sample
from components.interpretation.summary import Scored
from components.interpretation.tiling import ContextsConfig
from components.interpretation.windows import SILENT, Windows
from components.store import tables


@dataclasses.dataclass(frozen=True)
class Counted:
    """How many of the sampled latents are no usual case; none of them is dropped.

    Attributes:
        windows: windows chosen, all latents together.
        skipped: latents with too few windows, of either class.
        rare: of these, latents with too few active windows.
        ubiquitous: latents that are active in over a third of the windows of the test split.
        unfilled: by kind of silent windows, latents that have fewer of it on the test split than
            were asked for.
    """

    windows: int
    skipped: int
    rare: int
    ubiquitous: int
    unfilled: Mapping[str, int]

    @classmethod
    def of(cls, records: Sequence[LatentRecord], config: ContextsConfig) -> Counted:
        """Counts them."""
        return cls(
            sum(len(windows) for record in records for windows in windows_of(record)),
            sum(record.reason is not None for record in records),
            sum(record.lacks == "active" for record in records),
            sum(record.ubiquitous for record in records),
            {
                kind: sum(
                    int((record.test.stratum == kind).sum()) < config.per_stratum
                    for record in records
                )
                for kind in SILENT
            },
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Interpreted:
    """What was found out about one dictionary's sampled latents; their windows are no longer held.

    Attributes:
        sample: which latents.
        written: explanations by explainer, in the order of the sample.
        read: by role and explainer: the same, and those of other latents that the floors were read
            with.
        scored: what all of these scored.
        counted: the latents that are no usual case.
        of_latents: scores of latents themselves, scorer by scorer.
        of_dictionary: scores of the whole dictionary, scorer by scorer.
        absent: scorers of explanations that could score no latent, and why.
    """

    sample: Sample
    written: Mapping[str, Sequence[Explanation]]
    read: Mapping[tuple[str, str], Sequence[Explanation]]
    scored: Scored
    counted: Counted
    of_latents: Sequence[LatentScores] = ()
    of_dictionary: Sequence[DictionaryScores] = ()
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)


def windows_of(record: LatentRecord) -> tuple[Windows, Windows, Windows]:
    """The windows of its splits, in the order of `SPLITS`."""
    return record.explain, record.calibrate, record.test


def context_rows(records: Sequence[LatentRecord]) -> pl.DataFrame:
    """Rows of the table of windows: built column by column, so that many thousand windows never
    become single strings."""
    if not records:
        return pl.DataFrame(schema=tables.CONTEXTS.schema)
    every = [windows for record in records for windows in windows_of(record)]
    sizes = [len(windows) for windows in every]
    of_record = [sum(sizes[n : n + len(SPLITS)]) for n in range(0, len(sizes), len(SPLITS))]
    present = np.concatenate([windows.texts.present for windows in every])
    token = np.concatenate([windows.texts.tokens for windows in every])[present]
    activations = np.concatenate([windows.activations for windows in every])
    offsets = pa.array(np.append(0, present.sum(1).cumsum()), pa.int32())
    lists = {"tokens": pa.array(every[0].texts.vocabulary.texts).take(pa.array(token))}
    lists["activations"] = pa.array(activations[present])
    columns = {
        name: np.concatenate([getattr(windows, name) for windows in every])
        for name in ("role", "quantile", "stratum", "document", "start")
    }
    columns["latent"] = np.repeat([record.latent for record in records], of_record)
    columns["split"] = np.repeat(SPLITS * len(records), sizes)
    columns["window"] = np.concatenate([np.arange(n) for n in of_record])
    columns["maximum"] = activations.max(1, initial=0)
    of_lists = {
        name: pl.from_arrow(pa.ListArray.from_arrays(offsets, values))
        for name, values in lists.items()
    }
    unset = [pl.col("quantile").replace(-1, None), pl.col("stratum").replace("", None)]
    return pl.DataFrame(columns | of_lists).with_columns(unset)


def explanation_rows(interpreted: Interpreted) -> Iterator[dict[str, Any]]:
    """Rows of the table of explanations."""
    for name, explanations in interpreted.written.items():
        for latent, each in zip(interpreted.sample.latents.tolist(), explanations, strict=True):
            yield {
                "latent": latent,
                "explainer": name,
                "explanation": each.text,
                "reason": each.reason,
            }


def writer_rows(interpreted: Interpreted) -> Iterator[dict[str, Any]]:
    """Rows of the table that says which language model wrote an explanation, and in which call."""
    for name, explanations in interpreted.written.items():
        for latent, each in zip(interpreted.sample.latents.tolist(), explanations, strict=True):
            if each.call is not None:
                whose = {"latent": latent, "explainer": name}
                yield whose | {"served": each.served, "call": each.call}


def score_rows(interpreted: Interpreted) -> Iterator[dict[str, Any]]:
    """Rows of the table of the scores of each latent."""
    for key, scores in interpreted.scored.scores.items():
        for latent, each in zip(interpreted.sample.latents.tolist(), scores, strict=True):
            figures = ("low", "high", "n", "n_failed", "reason")
            yield {
                "latent": latent,
                **key._asdict(),
                "value": None if each.is_missing else each.value,
                **{figure: getattr(each, figure) for figure in figures},
            }


def control_rows(control: str, interpreted: Interpreted) -> Iterator[dict[str, Any]]:
    """Rows of the same table for the latents of a control dictionary, each with what was read."""
    texts = {
        (*whose, latent): each.text
        for whose, explanations in interpreted.read.items()
        for latent, each in zip(interpreted.sample.latents.tolist(), explanations, strict=True)
    }
    for row in score_rows(interpreted):
        role = "entry" if row["role"] == OWN_JUDGE else row["role"]
        yield {
            "control": control,
            "explanation": texts[role, row["explainer"], row["latent"]],
        } | row


def strata_rows(by_control: Mapping[str | None, Interpreted]) -> Iterator[dict[str, Any]]:
    """Rows of the table of strata, of the dictionary itself (None) and of its controls."""
    for control, each in by_control.items():
        for key, scores in each.scored.scores.items():
            for latent, score_of in zip(each.sample.latents.tolist(), scores, strict=True):
                for stratum, part in score_of.strata.items():
                    yield {
                        "control": control,
                        "latent": latent,
                        **key._asdict(),
                        "stratum": stratum,
                    } | part._asdict()


def latent_score_rows(by_control: Mapping[str | None, Interpreted]) -> Iterator[dict[str, Any]]:
    """Rows of the table of scores of latents themselves, of the dictionary (None) and of its
    controls."""
    for control, each in by_control.items():
        yield from latent_rows(control, each.sample.latents.tolist(), each.of_latents)
