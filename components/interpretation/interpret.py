"""The stage `interpret`: what sampled latents mean, in words, and how well the words foretell them.

Windows are chosen for a sample of alive latents; each explainer writes a string from the explain
windows; each predictor reads the string against bare test windows; each scorer compares. Beside
every explainer stand the floor (another latent's explanation), a probe, and control dictionaries:
as many of their latents, drawn, explained and scored in the same way with the same seeds.
Explainers that are controls (`token_lookup`, `constant`) stand beside the others as rivals, and
explain no control dictionary.

Measures are each scorer's own, `<scorer>.over_floor` for the paired difference from the floor,
`<scorer>.over_untrained` for the difference from the untrained dictionary (independent samples),
and the strata (components/interpretation/strata.py).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from components.capture.arrays import NO_TEXT
from components.config import Config, names_of, refuse_unused, settings_of
from components.corpus.contract import content_number
from components.device import Execution
from components.errors import InputError, MissingArtifactError
from components.interpretation import interpreted, summary
from components.interpretation.contexts import SPLITS, ContextsConfig, choose, cut_splits
from components.interpretation.contract import (
    LONGEST,
    LONGEST_OF_ALL,
    Explainer,
    ExplainerServices,
    Explanation,
    LatentScore,
    Predictor,
    PredictorServices,
    Scorer,
    ScorerServices,
    explainers,
    predictors,
    scorers,
)
from components.interpretation.controls import CONTROLS, shuffled
from components.interpretation.evidence import CorpusLabels, gather
from components.interpretation.interpreted import Interpreted, windows_of
from components.interpretation.probe import NgramProbe
from components.interpretation.protocol import draw, explain, score, score_probe
from components.interpretation.sample import sample_latents
from components.interpretation.summary import Key, Scored
from components.interpretation.tiling import Tiling
from components.interpretation.windows import Vocabulary
from components.model.reference import ModelReference
from components.model.text_encoder import TextEncoderReference
from components.report.scores import write
from components.seeds import numpy_generator
from components.store import tables
from components.store.artifact import Artifact
from components.store.estimate import Estimate, Estimator
from components.store.lineage import source
from components.store.shards import ActivationShards, CodeShards
from components.store.stage import Facts, Inputs, Parent, Progress, Stage, Work

if TYPE_CHECKING:
    ExplainerName = ScorerName = PredictorName = str
    ExplainerSettings = ScorerSettings = PredictorSettings = Config
else:
    ExplainerName, ScorerName, PredictorName = (
        names_of(explainers),
        names_of(scorers),
        names_of(predictors),
    )
    ExplainerSettings, ScorerSettings, PredictorSettings = map(
        settings_of, (explainers, scorers, predictors)
    )

T = TypeVar("T")
TABLES = (
    tables.CONTEXTS,
    tables.EXPLANATIONS,
    tables.EXPLANATION_SCORES,
    tables.CONTROL_SCORES,
    tables.EXPLANATION_STRATA,
)
"""What is written beside the scores."""

WINDOWS = 300  # of one latent, all roles together
WINDOW = 32 * 80  # bytes of one in memory, its rows of the tables included
ONCE, BY_LATENT = 1.5, 0.03  # seconds, on one core of a server


class InterpretConfig(Config):
    """Explanations of latents and their scores."""

    latents: PositiveInt = 100
    """Alive latents that are explained, equally many from each tenth by density."""
    explainers: list[ExplainerName] = Field(default=["log_odds"], min_length=1)
    """Who writes explanations."""
    scorers: Annotated[list[ScorerName], AfterValidator(sorted)] = Field(
        default=["detection", "simulation"], min_length=1
    )
    """What is measured; their order has no meaning."""
    predictors: list[PredictorName] = Field(default=["lexical"], min_length=1)
    """Who reads explanations."""
    longest: int = Field(default=LONGEST, ge=40, le=LONGEST_OF_ALL)
    """Characters of an explanation, at most; a longer one is refused with the reason, never cut.
    512 where it was given."""
    explainer_settings: ExplainerSettings = ExplainerSettings()
    """Settings of each explainer, by its name."""
    scorer_settings: ScorerSettings = ScorerSettings()
    """Settings of each scorer, by its name."""
    predictor_settings: PredictorSettings = PredictorSettings()
    """Settings of each predictor, by its name."""
    contexts: ContextsConfig = ContextsConfig()
    """Which windows stand for a latent."""
    seed: int = 0
    """Draws the latents, the windows, the trials, the shuffled explanations and the resamples."""

    @model_validator(mode="after")
    def _fits(self) -> InterpretConfig:
        refuse_unused(explainers, self.explainers, self.explainer_settings)
        refuse_unused(scorers, self.scorers, self.scorer_settings)
        refuse_unused(predictors, self.predictors, self.predictor_settings)
        for name in self.scorers:
            if not _able(self, name):
                wanted = f"scorer {name!r} needs a predictor that gives {scorers[name].needs}"
                raise ValueError(f"{wanted}; predictors listed: {', '.join(self.predictors)}")
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """What all dictionaries of one run share.

    Attributes:
        config: the section `interpret`.
        execution: where to run.
        corpus: artifact of `read`.
        model: the model that is looked into; None where none was given.
        text_encoder: for entries that embed texts; None where none is listed.
        cut: the splits as windows.
    """

    config: InterpretConfig
    execution: Execution
    corpus: Artifact
    model: ModelReference | None
    text_encoder: TextEncoderReference | None
    cut: Mapping[str, Tiling]

    def predictors(self) -> dict[str, Predictor]:
        """The listed predictors, by name."""
        config = self.config
        services = PredictorServices(self.execution, config.seed, self.text_encoder, self.model)
        return {
            n: predictors[n](getattr(config.predictor_settings, n), services)
            for n in config.predictors
        }

    def explainers(self, predictor: Predictor, of_control: bool) -> dict[str, Explainer]:
        """The listed explainers, which may test what they write with this predictor.

        Of a control dictionary only those that it is to be compared with.
        """
        config = self.config
        services = ExplainerServices(
            self.execution, config.seed, self.text_encoder, predictor, config.longest
        )
        names = [
            name
            for name in config.explainers
            if not of_control or summary.beside_controls(explainers[name])
        ]
        return {
            name: explainers[name](getattr(config.explainer_settings, name), services)
            for name in names
        }

    def scorers(self, codes: Artifact) -> dict[str, Scorer]:
        """The listed scorers, for the dictionary that made these codes."""
        config = self.config
        services = ScorerServices(
            self.execution, config.seed, self.model, source(codes, "dictionary")
        )
        return {n: scorers[n](getattr(config.scorer_settings, n), services) for n in config.scorers}


def make(folder: Path, config: InterpretConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes contexts, explanations, explanation_scores, explanation_strata, control_scores and
    scores.

    Args:
        folder: where to.
        config: the section `interpret`.
        inputs: activations (capture), codes (encode); optional, the corpus (read), without which
            tables are empty and scores absent, the model and a text encoder, for entries that use
            them, and codes of control dictionaries on the same activations, by the names of
            `CONTROLS`: without one, its rows are there with the reason and no value.
        settings: for entries behind a model.

    Raises:
        InputError: a read artifact without a vocabulary, a split that is not there or too short for
            a window.
    """
    encoded: Artifact = inputs["codes"]
    if inputs.get("corpus") is None:
        return (yield from _nothing(folder, config, encoded))
    activations, corpus = ActivationShards(inputs["activations"]), inputs["corpus"]
    _refuse_missing_splits("activations", activations.splits, "capture.splits and encode.splits")
    _refuse_missing_splits("codes", CodeShards(encoded).splits, "encode.splits")
    cut = cut_splits(activations, _vocabulary(corpus), config.contexts)
    run = _Run(
        config,
        settings or Execution(),
        corpus,
        inputs.get("model"),
        inputs.get("text_encoder"),
        cut,
    )
    trained = yield from _interpret(run, "", encoded, folder)
    controls: dict[str, Interpreted] = {}
    for role in CONTROLS:
        if inputs.get(role) is not None:
            controls[role] = yield from _interpret(run, role, inputs[role], None)
    explained = {
        name: sum(each.text is not None for each in texts)
        for name, texts in trained.written.items()
    }
    tables.EXPLANATIONS.write(folder, interpreted.explanation_rows(trained))
    tables.EXPLANATION_SCORES.write(folder, interpreted.score_rows(trained))
    by_control = (interpreted.control_rows(role, control) for role, control in controls.items())
    tables.CONTROL_SCORES.write(folder, itertools.chain.from_iterable(by_control))
    tables.EXPLANATION_STRATA.write(folder, interpreted.strata_rows({None: trained} | controls))

    theirs = {role: controls[role].scored if role in controls else None for role in CONTROLS}
    sample, n_latents = trained.sample, len(trained.sample.latents)
    counted = {
        "dead": sample.n_dead,
        "split": sample.split,
        "skipped": trained.n_skipped,
        "n": n_latents,
    }
    rows = [
        *summary.rows(trained.scored, theirs),
        *summary.shares(d_sae=encoded.facts["d_sae"], **counted),
    ]
    return _scores(folder, config, encoded, rows) | {
        "latents": n_latents,
        "skipped": trained.n_skipped,
        "dead": sample.n_dead,
        "explained": explained,
        "windows": trained.n_windows,
        "controls": {role: len(control.sample.latents) for role, control in controls.items()},
    }


def _scores(
    folder: Path, config: InterpretConfig, encoded: Artifact, rows: Sequence[summary.Row]
) -> Facts:
    """Writes the table of scores; returns the facts that say whose they are."""
    named = {"name": encoded.facts["name"], "hook_point": encoded.facts["hook_point"]}
    common = {"dictionary": named["name"], "hook_point": named["hook_point"], "split": "test"}
    common |= {"unit_of_replication": "latent", "n_seeds": encoded.facts.get("n_seeds", 1)}
    measures = summary.measures(scorers[scorer] for scorer in config.scorers)
    write(folder, INTERPRET.name, [common | row for row in rows], measures)
    return named | measures.facts()


def _nothing(folder: Path, config: InterpretConfig, encoded: Artifact) -> Work:
    """Empty tables, and a score of each scorer that is absent: there is no text."""
    yield Progress(0, 0, "latents", f"nothing to interpret: {NO_TEXT}")
    for table in TABLES:
        table.write(folder, [])
    explainer = config.explainers[0]
    keys = [Key("entry", explainer, name, _able(config, name)[0]) for name in config.scorers]
    facts = _scores(folder, config, encoded, [key.row() | {"reason": NO_TEXT} for key in keys])
    counts = dict.fromkeys(("latents", "skipped", "dead", "windows"), 0)
    return facts | counts | {"explained": {}, "controls": {}}


def _interpret(
    run: _Run, control: str, encoded: Artifact, folder: Path | None
) -> Generator[Progress, None, Interpreted]:
    """Explains and scores the latents of one dictionary.

    Args:
        run: what all dictionaries share.
        control: which control it is; "" for the dictionary itself, which alone has a probe.
        encoded: its codes.
        folder: where its windows are written; None where they are not wanted.
    """
    config, seed = run.config, run.config.seed
    mark = f"{CONTROLS[control]}: " if control else ""
    codes, statistics = CodeShards(encoded), tables.LATENTS.read(encoded)
    sample = sample_latents(statistics, codes.d_sae, config.latents, seed)
    records = yield from _marked(mark, choose(codes, run.cut, sample, seed))
    if folder is not None:
        tables.CONTEXTS.write(folder, interpreted.context_rows(records))

    readers = run.predictors()
    labels = CorpusLabels.found(run.corpus, "explain")
    written: dict[str, list[Explanation]] = {}
    for name, explainer in run.explainers(readers[config.predictors[0]], bool(control)).items():
        evidence = gather(records, statistics, labels)
        written[name] = yield from _marked(mark, explain(name, explainer, records, evidence))
    read: dict[tuple[str, str], Sequence[Explanation]]
    read = {(explainers[name].role, name): each for name, each in written.items()}
    for name, explanations in written.items():
        read["floor", name] = shuffled(
            records, explanations, numpy_generator(seed, "shuffled", name)
        )

    probes = [None if record.reason or control else NgramProbe.fit(record) for record in records]
    scored: dict[Key, list[LatentScore]] = {}
    for scorer_name, scorer in run.scorers(encoded).items():
        trials = draw(scorer, records, seed)
        for predictor_name in _able(config, scorer_name):
            predictor = readers[predictor_name]
            for (role, name), explanations in read.items():
                called = _floor(name, config) if role == "floor" else name
                work = score(called, records, trials, explanations, scorer, predictor, seed)
                scored[Key(role, name, scorer_name, predictor_name)] = yield from _marked(
                    mark, work
                )
        if not control:
            work = score_probe(records, trials, probes, scorer, seed)
            scored[Key("ceiling", None, scorer_name, None)] = yield from work
    n_skipped = sum(record.reason is not None for record in records)
    n_windows = sum(len(windows) for record in records for windows in windows_of(record))
    return Interpreted(sample, written, read, _scored(scored, config), n_skipped, n_windows)


def _marked(mark: str, work: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
    """The same work; its messages say for which control."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            return end.value
        yield dataclasses.replace(progress, message=mark + progress.message)


def _entries(config: InterpretConfig) -> Mapping[str, int]:
    listed = (
        (explainers, config.explainers),
        (scorers, config.scorers),
        (predictors, config.predictors),
    )
    used = {
        f"{registry.noun}.{name}": registry.version(name)
        for registry, names in listed
        for name in names
    }
    for name in config.explainers:  # other bytes under the same path are other explanations
        if files := explainers[name].files(getattr(config.explainer_settings, name)):
            used[f"explainer.{name}.bytes"] = content_number(files)
    return used


def _embeds(config: InterpretConfig) -> bool:
    """Whether a listed entry uses the text encoder."""
    readers = [explainers[name] for name in config.explainers] + [
        predictors[name] for name in config.predictors
    ]
    return any(reader.embeds for reader in readers)


def formula(config: InterpretConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """Codes of three splits in memory by rows and by latents, and the windows of the sample.

    Dictionaries are read one after the other, and the windows of a control are not written.
    """
    if inputs.get("corpus") is None:
        return Estimate(
            {}, {"tables": 30_000}, probe=lambda _: (0.0, f"nothing is interpreted: {NO_TEXT}")
        )
    read = [inputs[role].facts for role in ("codes", *CONTROLS) if inputs.get(role) is not None]
    rows = sum(min(read[0]["rows"].get(split, 0), config.contexts.rows) for split in SPLITS)
    entries = max(
        round(sum(f["rows"].get(split, 0) * f["l0"].get(split, 0.0) for split in SPLITS))
        for f in read
    )
    windows, n_latents = WINDOWS * config.latents, len(read) * config.latents
    memory = {"codes": 32 * entries, "tokens": 100 * rows, "windows": windows * WINDOW}
    disk = {"windows": 40 * windows, "tables": 450 * n_latents + 30_000}
    listed = (
        (explainers, config.explainers),
        (scorers, config.scorers),
        (predictors, config.predictors),
    )
    # its own word, never an inherited one: who builds upon a free entry may ask an endpoint on top
    costly = [
        f"{of.noun} {name}"
        for of, names in listed
        for name in names
        if not vars(of[name]).get("free", False)
    ]
    told = "as long as on a core elsewhere"
    told += (
        f"; without {', '.join(costly)}, which a plan does not run: not declared free"
        if costly
        else ""
    )
    work, alike = (n_latents, "latents, those of controls included"), [names for _, names in listed]
    return Estimate(
        memory, disk, {}, {}, work, (alike,), lambda _: (ONCE + BY_LATENT * n_latents, told)
    )


INTERPRET = Stage(
    "interpret",
    version=3,
    make=make,
    entries=_entries,
    inputs={
        "corpus": Parent("read", optional=True),
        "activations": Parent("capture"),
        "codes": Parent("encode"),
        "untrained": Parent("encode", optional=True, untrained=True),
        "model": Parent("model", optional=True),
        "text_encoder": Parent("text_encoder", wanted=_embeds),
    },
    scored=True,
    estimator=Estimator(formula),
)


def _scored(scores: Mapping[Key, Sequence[LatentScore]], config: InterpretConfig) -> Scored:
    return Scored(
        scores,
        first=(config.explainers[0], {name: _able(config, name)[0] for name in config.scorers}),
        scorers={name: scorers[name] for name in config.scorers},
    )


def _able(config: InterpretConfig, scorer: str) -> list[str]:
    """The listed predictors that give what the scorer needs."""
    return [name for name in config.predictors if predictors[name].answers(scorers[scorer].needs)]


def _floor(explainer: str, config: InterpretConfig) -> str:
    """What the floor of an explainer is called in messages and in the names of draws."""
    return "shuffled" if explainer == config.explainers[0] else f"shuffled.{explainer}"


def _refuse_missing_splits(what: str, there: Sequence[str], setting: str) -> None:
    missing = [split for split in SPLITS if split not in there]
    if missing:
        raise InputError(
            f"interpret reads the splits {', '.join(SPLITS)}, and the {what} hold no "
            f"{', '.join(missing)}; add to {setting}"
        )


def _vocabulary(corpus: Artifact) -> Vocabulary:
    try:
        texts = dict(tables.VOCABULARY.read(corpus).iter_rows())
    except MissingArtifactError as error:
        raise InputError(
            f"interpret shows tokens as text and needs the vocabulary of the corpus; {error}"
        ) from error
    return Vocabulary([texts.get(token, "") for token in range(max(texts, default=-1) + 1)])
