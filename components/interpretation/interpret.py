"""The stage `interpret`: what sampled latents mean, in words, and how well the words foretell them.

Windows are chosen for a sample of alive latents; each explainer writes a string from the explain windows; each
predictor reads the string against bare test windows; each scorer compares. Beside every explainer stand the floor
(another latent's explanation) and a probe.

Rows of `scores.parquet` are named `interpret.<explainer>.<scorer>`, and `.over_floor` for the paired difference from
the floor, `interpret.shuffled.<scorer>`, `interpret.probe.<scorer>`. With several explainers the floors of those after
the first are `shuffled.<explainer>`; with several predictors those after the first are named at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field, PositiveInt, create_model, model_validator

from components.config import Config, names_of
from components.device import Execution
from components.errors import InputError, MissingArtifactError
from components.interpretation.contexts import SPLITS, ContextsConfig, Sample, choose, sample_latents
from components.interpretation.contract import (
    Explanation,
    LatentRecord,
    Score,
    Vocabulary,
    Windows,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.controls import Probe, shuffled
from components.interpretation.protocol import difference_row, explain, mean, mean_row, score, score_probe
from components.seeds import numpy_generator
from components.statistics import wilson
from components.store import tables
from components.store.artifact import Artifact, Inputs, Stage, Work
from components.store.shards import ActivationShards, CodeShards

if TYPE_CHECKING:
    ExplainerName = ScorerName = PredictorName = str
    ExplainerSettings = ScorerSettings = PredictorSettings = Config
else:
    ExplainerName, ScorerName, PredictorName = names_of(explainers), names_of(scorers), names_of(predictors)
    ExplainerSettings, ScorerSettings, PredictorSettings = (
        create_model(
            f"{registry.noun.title()}Settings",
            __base__=Config,
            __doc__=f"Settings of each {registry.noun}, by its name.",
            **{
                name: (entry.config, Field(entry.config(), description=entry.config.__doc__))
                for name, entry in registry.items()
            },
        )
        for registry in (explainers, scorers, predictors)
    )


class InterpretConfig(Config):
    """Explanations of latents and their scores."""

    latents: PositiveInt = 100
    """Alive latents that are explained, equally many from each tenth by density."""
    explainers: list[ExplainerName] = Field(default=["log_odds"], min_length=1)
    """Who writes explanations."""
    scorers: list[ScorerName] = Field(default=["detection", "simulation"], min_length=1)
    """What is measured."""
    predictors: list[PredictorName] = Field(default=["lexical"], min_length=1)
    """Who reads explanations."""
    explainer_settings: ExplainerSettings = ExplainerSettings()
    """Settings of each explainer, by its name."""
    scorer_settings: ScorerSettings = ScorerSettings()
    """Settings of each scorer, by its name."""
    predictor_settings: PredictorSettings = PredictorSettings()
    """Settings of each predictor, by its name."""
    contexts: ContextsConfig = ContextsConfig()
    """Which windows stand for a latent."""
    seed: int = 0
    """Draws the latents, the windows, the shuffled explanations and the resamples."""

    @model_validator(mode="after")
    def _fits(self) -> InterpretConfig:
        for names in (self.explainers, self.scorers, self.predictors):
            if len(set(names)) < len(names):
                raise ValueError(f"each entry once, not {', '.join(names)}")
        for name in self.scorers:
            if not _able(self, name):
                wanted = f"scorer {name!r} needs a predictor that gives {scorers[name].needs}"
                raise ValueError(f"{wanted}; predictors listed: {', '.join(self.predictors)}")
        return self


def make(folder: Path, config: InterpretConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes contexts, explanations, explanation_scores and scores.

    Args:
        folder: where to.
        config: the section `interpret`.
        inputs: corpus (read), activations (capture), codes (encode).
        settings: for entries behind a model.

    Raises:
        InputError: a read artifact without a vocabulary, or a split too short for a window.
    """
    execution = settings or Execution()
    encoded: Artifact = inputs["codes"]
    codes, activations = CodeShards(encoded), ActivationShards(inputs["activations"])
    sample = sample_latents(tables.LATENTS.read(encoded), codes.d_sae, config.latents, config.seed)
    vocabulary = _vocabulary(inputs["corpus"])
    records = yield from choose(codes, activations, sample, vocabulary, config.contexts, config.seed)
    tables.CONTEXTS.write(folder, _context_rows(records))

    written: dict[str, list[Explanation]] = {}
    for name in config.explainers:
        explainer = explainers[name](getattr(config.explainer_settings, name), inputs, execution)
        written[name] = yield from explain(name, explainer, records)
    tables.EXPLANATIONS.write(folder, _explanation_rows(records, written))
    said = dict(written)
    for name, explanations in written.items():
        said[_floor(name, config)] = shuffled(records, explanations, numpy_generator(config.seed, "shuffled", name))

    probes = [None if record.reason else Probe.fit(record) for record in records]
    scored: Scored = {}
    for scorer_name in config.scorers:
        scorer = scorers[scorer_name](getattr(config.scorer_settings, scorer_name), inputs, execution)
        for predictor_name in _able(config, scorer_name):
            its_settings = getattr(config.predictor_settings, predictor_name)
            predictor = predictors[predictor_name](its_settings, inputs, execution)
            for name, explanations in said.items():
                scores = yield from score(name, records, explanations, scorer, predictor, config.seed)
                scored[name, scorer_name, predictor_name] = scores
        scored["probe", scorer_name, None] = yield from score_probe(records, probes, scorer, config.seed)
    tables.EXPLANATION_SCORES.write(folder, _score_rows(records, scored))

    name, hook_point = encoded.facts["name"], encoded.facts["hook_point"]
    common = {"dictionary": name, "hook_point": hook_point, "split": "test"}
    common |= {"unit_of_replication": "latent", "n_seeds": encoded.facts.get("n_seeds", 1)}
    rows = [*_means(scored, config), *_shares(records, sample, codes.d_sae)]
    tables.SCORES.write(folder, [common | row for row in rows])
    return {
        "name": name,
        "hook_point": hook_point,
        "latents": len(records),
        "skipped": _n_skipped(records),
        "dead": sample.n_dead,
        "explained": {name: sum(e.text is not None for e in explanations) for name, explanations in written.items()},
        "windows": sum(len(windows) for record in records for windows in _windows(record)),
    }


def _entries(config: InterpretConfig) -> Mapping[str, int]:
    listed = ((explainers, config.explainers), (scorers, config.scorers), (predictors, config.predictors))
    return {f"{registry.noun}.{name}": registry.version(name) for registry, names in listed for name in names}


INTERPRET = Stage("interpret", version=1, make=make, entries=_entries)

Scored = dict[tuple[str, str, str | None], list[Score]]
"""Scores in the order of the records, by (explainer or control, scorer, predictor or None for the probe)."""


def _able(config: InterpretConfig, scorer: str) -> list[str]:
    """The listed predictors that give what the scorer needs."""
    return [name for name in config.predictors if scorers[scorer].needs in predictors[name].gives]


def _floor(explainer: str, config: InterpretConfig) -> str:
    """What the shuffled control of an explainer is called."""
    return "shuffled" if explainer == config.explainers[0] else f"shuffled.{explainer}"


def _vocabulary(corpus: Artifact) -> Vocabulary:
    try:
        texts = dict(tables.VOCABULARY.read(corpus).iter_rows())
    except MissingArtifactError as error:
        raise InputError(f"interpret shows tokens as text and needs the vocabulary of the corpus; {error}") from error
    return Vocabulary([texts.get(token, "") for token in range(max(texts, default=-1) + 1)])


def _means(scored: Scored, config: InterpretConfig) -> Iterator[dict[str, Any]]:
    """Every explainer with its floor as baseline and the difference from it, every floor, and the probe."""
    for (name, scorer, predictor), scores in scored.items():
        first = _able(config, scorer)[0]
        label = f"interpret.{name}.{scorer}" + ("" if predictor in (None, first) else f".{predictor}")
        generator = numpy_generator(config.seed, "mean", label)
        if name.partition(".")[0] == "shuffled":
            yield mean_row(label, scores, scorers[scorer].chance, "chance", generator)
            continue
        explainer = config.explainers[0] if name == "probe" else name
        floor = scored[_floor(explainer, config), scorer, predictor or first]
        yield mean_row(label, scores, mean(floor), "shuffled explanations", generator)
        yield difference_row(f"{label}.over_floor", scores, floor, generator)


def _shares(records: Sequence[LatentRecord], sample: Sample, d_sae: int) -> Iterator[dict[str, Any]]:
    """Who is not explained: of the dictionary the dead, of the sample those with too few windows."""
    for name, split, n_found, n, reason in (
        ("dead", sample.split, sample.n_dead, d_sae, "never active on this split; none is sampled"),
        ("skipped", "test", _n_skipped(records), len(records), "too few windows on explain or test; at chance"),
    ):
        share = wilson(n_found, n)
        ends = {"value": share.value, "low": share.low, "high": share.high, "n": n, "n_failed": 0}
        yield ends | {"name": f"interpret.{name}_share", "split": split, "better": "lower", "reason": reason}


def _n_skipped(records: Sequence[LatentRecord]) -> int:
    return sum(record.reason is not None for record in records)


def _windows(record: LatentRecord) -> tuple[Windows, Windows, Windows]:
    return record.explain, record.calibrate, record.test


def _context_rows(records: Sequence[LatentRecord]) -> pl.DataFrame:
    """Built column by column: a table of many thousand windows, whose tokens are never single Python strings."""
    parts = []
    for record in records:
        n = 0
        for split, windows in zip(SPLITS, _windows(record), strict=True):
            present = windows.texts.present
            offsets = pa.array(np.append(0, present.sum(1).cumsum()), pa.int32())
            tokens = pa.array(windows.texts.vocabulary.texts).take(pa.array(windows.texts.tokens[present]))
            lists = {"tokens": tokens, "activations": pa.array(windows.activations[present])}
            columns = {
                "window": np.arange(n, n + len(windows)),
                "role": windows.role,
                "quantile": windows.quantile,
                "stratum": windows.stratum,
                "document": windows.document,
                "start": windows.start,
                "maximum": windows.activations.max(1, initial=0),
            }
            lists = {name: pl.from_arrow(pa.ListArray.from_arrays(offsets, values)) for name, values in lists.items()}
            said = [pl.lit(record.latent).alias("latent"), pl.lit(split).alias("split")]
            parts.append(pl.DataFrame(columns | lists).with_columns(said))
            n += len(windows)
    if not parts:
        return pl.DataFrame(schema=tables.CONTEXTS.schema)
    unset = [pl.col("quantile").replace(-1, None), pl.col("stratum").replace("", None)]
    return pl.concat(parts, how="vertical_relaxed").with_columns(unset)


def _explanation_rows(
    records: Sequence[LatentRecord], written: Mapping[str, Sequence[Explanation]]
) -> Iterator[dict[str, Any]]:
    for name, explanations in written.items():
        for record, said in zip(records, explanations, strict=True):
            yield {"latent": record.latent, "explainer": name, "explanation": said.text, "reason": said.reason}


def _score_rows(records: Sequence[LatentRecord], scored: Scored) -> Iterator[dict[str, Any]]:
    for (name, scorer, predictor), scores in scored.items():
        for record, found in zip(records, scores, strict=True):
            key = {"latent": record.latent, "explainer": name, "scorer": scorer, "predictor": predictor}
            yield key | dataclasses.asdict(found)
