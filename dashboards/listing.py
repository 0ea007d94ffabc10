"""The list of every latent of one experiment: read lazily, joined once for each report, then
searched in milliseconds.

Only the columns that the list shows leave the disk, of one split. Where a latent fires most is read
from the chosen windows when a token is first searched for. What one latent's page needs is read row
by row (`runs.rows`).
"""

from __future__ import annotations

import dataclasses
import json

import polars as pl
import streamlit as st

from components.store.artifact import Artifact
from components.store.tables import (
    CONCEPTS_FOUND,
    CONTEXTS,
    EXPLANATION_SCORES,
    EXPLANATIONS,
    LATENTS,
)
from dashboards import runs, views
from dashboards.runs import Experiment

DICTIONARY = "dictionary.json"
DENSITIES = ["0", "1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1"]
"""Steps of a filter by density."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """The list and what its columns are about.

    Attributes:
        frame: one row for each latent (`views.latents.latent_list`), treated as read-only.
        split: whose statistics it shows.
        explainer: whose explanations; None without any.
        scorer: whose scores; None without any.
        explained: latents that have an explanation.
    """

    frame: pl.DataFrame
    split: str
    explainer: str | None
    scorer: str | None
    explained: int


def read(shown: Experiment) -> Listing:
    """Every latent of the experiment.

    Raises:
        KeyError: the experiment has no encode artifact; ask before.
    """
    return _read(shown.key, shown)


def split_of(encode: Artifact) -> str:
    """The split whose statistics are shown: test where it was read, else the last one."""
    measured = encode.facts.get("l0") or encode.facts.get("rows") or ()
    splits = sorted(measured) or runs.distinct(LATENTS, encode, "split")
    return "test" if "test" in splits or not splits else splits[-1]


def tokens(shown: Experiment) -> pl.DataFrame:
    """The tokens that each latent promotes, and those on which it fires most where windows were
    chosen."""
    return _tokens(shown.key, shown)


@st.cache_resource(max_entries=8, show_spinner="Reading the latents …")
def _read(key: str, _shown: Experiment) -> Listing:
    train, encode, interpret, evaluate = (
        _shown.artifacts.get(stage) for stage in ("train", "encode", "interpret", "evaluate")
    )
    assert encode is not None
    split = split_of(encode)
    explainers = runs.distinct(EXPLANATIONS, interpret, "explainer") if interpret else []
    scorers = runs.distinct(EXPLANATION_SCORES, interpret, "scorer") if interpret else []
    explainer = next(iter(explainers), None)
    scorer = "detection" if "detection" in scorers else next(iter(scorers), None)
    has_concepts = evaluate is not None and CONCEPTS_FOUND.file in evaluate.files
    frame = views.latents.latent_list(
        runs.scan(LATENTS, encode),
        runs.scan(EXPLANATIONS, interpret) if interpret and explainer else None,
        runs.scan(EXPLANATION_SCORES, interpret) if interpret and scorer else None,
        runs.scan(CONCEPTS_FOUND, evaluate) if evaluate and has_concepts else None,
        split=split,
        explainer=explainer,
        scorer=scorer,
        names=_names(train) if train else (),
    )
    return Listing(frame, split, explainer, scorer, frame["explanation"].count())


def _names(train: Artifact) -> list[str]:
    """What the dictionary's file calls each latent; the module that reads it whole needs torch."""
    if DICTIONARY not in train.files:
        return []
    return json.loads(train.path(DICTIONARY).read_text(encoding="utf-8")).get("latent_names", [])


@st.cache_resource(max_entries=4, show_spinner="Reading what the latents fire on and promote …")
def _tokens(key: str, _shown: Experiment) -> pl.DataFrame:
    encode, interpret = _shown.artifacts["encode"], _shown.artifacts.get("interpret")
    found = [views.latents.promoted_tokens(runs.scan(LATENTS, encode), split_of(encode))]
    if interpret is not None and CONTEXTS.file in interpret.files:
        found.append(views.latents.peak_tokens(runs.scan(CONTEXTS, interpret)))
    return pl.concat(found)
