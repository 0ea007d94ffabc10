"""The stage `interpret`: what sampled latents mean, in words, and how well the words foretell them.

Windows are chosen for a sample of alive latents; each explainer writes a string from the explain windows; each
predictor reads the string against bare test windows; each scorer compares. Beside every explainer stand the floor
(another latent's explanation), a probe, and control dictionaries: as many of their latents, drawn, explained and scored
in the same way with the same seeds.

Rows of `scores.parquet` are named `interpret.<explainer>.<scorer>`, `.over_floor` for the paired difference from the
floor and `.over_untrained` for the difference from the untrained dictionary (independent samples); then
`interpret.shuffled.<scorer>`, `interpret.probe.<scorer>`, `interpret.untrained.<scorer>`. With several explainers the
floors and controls of those after the first are `shuffled.<explainer>`, `untrained.<explainer>`; with several predictors
those after the first are named at the end. Behind them stand the strata (components/interpretation/strata.py).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field, PositiveInt, create_model, model_validator

from components.config import Config, names_of
from components.device import Execution
from components.errors import InputError, MissingArtifactError
from components.interpretation import summary
from components.interpretation.contexts import SPLITS, ContextsConfig, Tiling, choose, cut_splits
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
from components.interpretation.controls import CONTROLS, shuffled
from components.interpretation.probe import Probe
from components.interpretation.protocol import explain, score, score_probe
from components.interpretation.sample import Sample, sample_latents
from components.interpretation.summary import Scored
from components.seeds import numpy_generator
from components.store import tables
from components.store.artifact import Artifact, Inputs, Parent, Progress, Stage, Work
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


T = TypeVar("T")


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
    """Writes contexts, explanations, explanation_scores, explanation_strata, control_scores and scores.

    Args:
        folder: where to.
        config: the section `interpret`.
        inputs: corpus (read), activations (capture), codes (encode); optional, codes of control dictionaries on the same
            activations, by the names of `CONTROLS`: without one, its rows are there with the reason and no value.
        settings: for entries behind a model.

    Raises:
        InputError: a read artifact without a vocabulary, a split that is not there or too short for a window.
    """
    execution = settings or Execution()
    encoded: Artifact = inputs["codes"]
    activations = ActivationShards(inputs["activations"])
    _refuse_missing_splits("activations", activations.splits, "capture.splits and encode.splits")
    _refuse_missing_splits("codes", CodeShards(encoded).splits, "encode.splits")
    cut = cut_splits(activations, _vocabulary(inputs["corpus"]), config.contexts)
    trained = yield from _interpret("", cut, config, inputs, execution, folder)
    controls: dict[str, Interpreted] = {}
    for role in CONTROLS:
        if inputs.get(role) is not None:
            controls[role] = yield from _interpret(
                role, cut, config, {**inputs, "codes": inputs[role]}, execution, None
            )
    explained = {name: sum(said.text is not None for said in every) for name, every in trained.written.items()}
    tables.EXPLANATIONS.write(folder, _explanation_rows(trained))
    tables.EXPLANATION_SCORES.write(folder, _score_rows(trained))
    tables.CONTROL_SCORES.write(folder, itertools.chain.from_iterable(map(_control_rows, controls, controls.values())))
    tables.EXPLANATION_STRATA.write(folder, _strata_rows({None: trained} | controls))

    name, hook_point = encoded.facts["name"], encoded.facts["hook_point"]
    common = {"dictionary": name, "hook_point": hook_point, "split": "test"}
    common |= {"unit_of_replication": "latent", "n_seeds": encoded.facts.get("n_seeds", 1)}
    theirs = {role: controls[role].scored if role in controls else None for role in CONTROLS}
    sample, n_latents = trained.sample, len(trained.sample.latents)
    counted = {"dead": sample.n_dead, "split": sample.split, "skipped": trained.n_skipped, "n": n_latents}
    rows = [*summary.rows(trained.scored, theirs), *summary.shares(d_sae=encoded.facts["d_sae"], **counted)]
    tables.SCORES.write(folder, [common | row for row in rows])
    return {
        "name": name,
        "hook_point": hook_point,
        "latents": n_latents,
        "skipped": trained.n_skipped,
        "dead": sample.n_dead,
        "explained": explained,
        "windows": trained.n_windows,
        "controls": {role: len(control.sample.latents) for role, control in controls.items()},
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Interpreted:
    """One dictionary's sampled latents; their windows are let go.

    Attributes:
        sample: which latents.
        written: explanations by explainer, in the order of the sample.
        read: the same, and those that the floors were read with.
        scored: what they scored.
        n_skipped: latents with too few windows.
        n_windows: windows chosen, all latents together.
    """

    sample: Sample
    written: Mapping[str, Sequence[Explanation]]
    read: Mapping[str, Sequence[Explanation]]
    scored: Scored
    n_skipped: int
    n_windows: int


def _interpret(
    control: str,
    cut: Mapping[str, Tiling],
    config: InterpretConfig,
    inputs: Inputs,
    execution: Execution,
    folder: Path | None,
) -> Generator[Progress, None, Interpreted]:
    """Explains and scores the latents of one dictionary, whose codes are `inputs["codes"]`.

    Args:
        control: which control it is; "" for the dictionary itself, which alone has a probe.
        cut: the splits as windows.
        config: the section `interpret`.
        inputs: of the stage.
        execution: for entries behind a model.
        folder: where the windows are written; None where they are not kept.
    """
    mark = f"{CONTROLS[control]}: " if control else ""
    codes = CodeShards(inputs["codes"])
    sample = sample_latents(tables.LATENTS.read(inputs["codes"]), codes.d_sae, config.latents, config.seed)
    records = yield from _marked(mark, choose(codes, cut, sample, config.seed))
    if folder is not None:
        tables.CONTEXTS.write(folder, _context_rows(records))

    written: dict[str, list[Explanation]] = {}
    for name in config.explainers:
        explainer = explainers[name](getattr(config.explainer_settings, name), inputs, execution)
        written[name] = yield from _marked(mark, explain(name, explainer, records))
    read = dict(written)
    for name, explanations in written.items():
        read[_floor(name, config)] = shuffled(records, explanations, numpy_generator(config.seed, "shuffled", name))

    probes = [None if record.reason or control else Probe.fit(record) for record in records]
    scored: dict[summary.Key, list[Score]] = {}
    for scorer_name in config.scorers:
        scorer = scorers[scorer_name](getattr(config.scorer_settings, scorer_name), inputs, execution)
        for predictor_name in _able(config, scorer_name):
            its_settings = getattr(config.predictor_settings, predictor_name)
            predictor = predictors[predictor_name](its_settings, inputs, execution)
            for name, explanations in read.items():
                asked = score(name, records, explanations, scorer, predictor, config.seed)
                scored[name, scorer_name, predictor_name] = yield from _marked(mark, asked)
        if not control:
            scored["probe", scorer_name, None] = yield from score_probe(records, probes, scorer, config.seed)
    n_skipped = sum(record.reason is not None for record in records)
    n_windows = sum(len(windows) for record in records for windows in _windows(record))
    return Interpreted(sample, written, read, _scored(scored, config), n_skipped, n_windows)


def _marked(mark: str, work: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
    """The same work; its messages say for which control."""
    while True:
        try:
            found = next(work)
        except StopIteration as end:
            return end.value
        yield dataclasses.replace(found, message=mark + found.message)


def _entries(config: InterpretConfig) -> Mapping[str, int]:
    listed = ((explainers, config.explainers), (scorers, config.scorers), (predictors, config.predictors))
    return {f"{registry.noun}.{name}": registry.version(name) for registry, names in listed for name in names}


INTERPRET = Stage(
    "interpret",
    version=2,
    make=make,
    entries=_entries,
    inputs={
        "corpus": Parent("read"),
        "activations": Parent("capture"),
        "codes": Parent("encode"),
        "untrained": Parent("encode", optional=True, untrained=True),
    },
    scored=True,
)


def _scored(scores: Mapping[summary.Key, Sequence[Score]], config: InterpretConfig) -> Scored:
    return Scored(
        scores,
        floor={name: _floor(name, config) for name in config.explainers},
        first={name: _able(config, name)[0] for name in config.scorers},
        scorers={name: scorers[name] for name in config.scorers},
    )


def _able(config: InterpretConfig, scorer: str) -> list[str]:
    """The listed predictors that give what the scorer needs."""
    return [name for name in config.predictors if scorers[scorer].needs in predictors[name].gives]


def _floor(explainer: str, config: InterpretConfig) -> str:
    """What the shuffled control of an explainer is called."""
    return "shuffled" if explainer == config.explainers[0] else f"shuffled.{explainer}"


def _refuse_missing_splits(what: str, there: Sequence[str], setting: str) -> None:
    missing = [split for split in SPLITS if split not in there]
    if missing:
        raise InputError(
            f"interpret reads the splits {', '.join(SPLITS)}, and the {what} hold no {', '.join(missing)}; add to {setting}"
        )


def _vocabulary(corpus: Artifact) -> Vocabulary:
    try:
        texts = dict(tables.VOCABULARY.read(corpus).iter_rows())
    except MissingArtifactError as error:
        raise InputError(f"interpret shows tokens as text and needs the vocabulary of the corpus; {error}") from error
    return Vocabulary([texts.get(token, "") for token in range(max(texts, default=-1) + 1)])


def _windows(record: LatentRecord) -> tuple[Windows, Windows, Windows]:
    return record.explain, record.calibrate, record.test


def _context_rows(records: Sequence[LatentRecord]) -> pl.DataFrame:
    """Built column by column: a table of many thousand windows, whose tokens are never single Python strings."""
    if not records:
        return pl.DataFrame(schema=tables.CONTEXTS.schema)
    every = [windows for record in records for windows in _windows(record)]
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
    found = {name: pl.from_arrow(pa.ListArray.from_arrays(offsets, values)) for name, values in lists.items()}
    unset = [pl.col("quantile").replace(-1, None), pl.col("stratum").replace("", None)]
    return pl.DataFrame(columns | found).with_columns(unset)


def _explanation_rows(found: Interpreted) -> Iterator[dict[str, Any]]:
    for name, explanations in found.written.items():
        for latent, said in zip(found.sample.latents.tolist(), explanations, strict=True):
            yield {"latent": latent, "explainer": name, "explanation": said.text, "reason": said.reason}


def _score_rows(found: Interpreted) -> Iterator[dict[str, Any]]:
    for (name, scorer, predictor), scores in found.scored.scores.items():
        for latent, each in zip(found.sample.latents.tolist(), scores, strict=True):
            key = {"latent": latent, "explainer": name, "scorer": scorer, "predictor": predictor}
            figures = ("value", "low", "high", "n", "n_failed", "reason")
            yield key | {figure: getattr(each, figure) for figure in figures}


def _control_rows(control: str, found: Interpreted) -> Iterator[dict[str, Any]]:
    said = {
        (name, latent): each.text
        for name, explanations in found.read.items()
        for latent, each in zip(found.sample.latents.tolist(), explanations, strict=True)
    }
    for row in _score_rows(found):
        yield {"control": control, "explanation": said[row["explainer"], row["latent"]]} | row


def _strata_rows(found: Mapping[str | None, Interpreted]) -> Iterator[dict[str, Any]]:
    for control, each in found.items():
        for (name, scorer, predictor), scores in each.scored.scores.items():
            for latent, score_of in zip(each.sample.latents.tolist(), scores, strict=True):
                key = {"control": control, "latent": latent, "explainer": name, "scorer": scorer}
                for stratum, part in score_of.strata.items():
                    yield key | {"predictor": predictor, "stratum": stratum} | part._asdict()
