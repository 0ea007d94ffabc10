"""evaluate: what the dictionary keeps, loses and finds, each evaluation in turn, into one table of scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, create_model

from components.concept import probe
from components.config import Config, names_of
from components.device import Execution, resolve
from components.dictionary.contract import Dictionary
from components.dictionary.encode import Encoding
from components.evaluation import gate
from components.evaluation.contract import Control, Subject, evaluations
from components.store.artifact import Artifact, Facts, Inputs, Parent, Stage, Work
from components.store.lineage import source
from components.store.shards import ActivationShards, CodeShards
from components.store.tables import SCORES

if TYPE_CHECKING:
    EvaluationName = str
    EvaluationSettings = Config
else:
    EvaluationName = names_of(evaluations)
    EvaluationSettings = create_model(
        "EvaluationSettings",
        __base__=Config,
        __doc__="Settings of each evaluation, by its name.",
        **{
            name: (entry.config, Field(entry.config(), description=(entry.config.__doc__ or name).splitlines()[0]))
            for name, entry in evaluations.items()
        },
    )


class EvaluateConfig(Config):
    """What is measured of a dictionary."""

    evaluations: list[EvaluationName] = Field(
        default=["concepts_found", "loss_recovered", "reconstruction"], min_length=1
    )
    """What to measure; a sweep has a list of its own, `sweep.evaluations`."""
    settings: EvaluationSettings = EvaluationSettings()
    """Settings of each evaluation, by its name."""
    seed: int = 0
    """Of intervals, of which contexts are spliced, and of the probe."""


def make(folder: Path, config: EvaluateConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes scores.parquet, and the tables of the evaluations that have their own.

    Optional inputs: `codes` (absent: encoded here and kept in memory), `untrained` (codes of the control), `gate` (absent:
    measured here where an evaluation asks for it).
    """
    subject = _subject(folder, config, inputs, settings or Execution())
    rows = []
    for name in dict.fromkeys(config.evaluations):
        evaluation = evaluations[name](getattr(config.settings, name))
        scores = yield from evaluation.measure(subject)
        rows += [score.row(subject) for score in scores]
    frame = SCORES.write(folder, rows)
    facts: Facts = {
        "name": subject.name,
        "hook_point": subject.hook_point,
        "n_scores": frame.height,
        "n_absent": frame["value"].null_count(),
    }
    return facts


def _subject(folder: Path, config: EvaluateConfig, inputs: Inputs, execution: Execution) -> Subject:
    trained, untrained, gated = inputs["dictionary"], inputs.get("untrained"), inputs.get("gate")
    dictionary, activations = (
        Dictionary.load(trained, resolve(execution.device)),
        ActivationShards(inputs["activations"]),
    )
    return Subject(
        name=trained.facts["name"],
        n_seeds=trained.facts.get("n_seeds", 1),
        dictionary=dictionary,
        codes=CodeShards(codes) if (codes := inputs.get("codes")) else Encoding(dictionary, activations),
        activations=activations,
        corpus=inputs["corpus"],
        model=inputs["model"],
        untrained=None if untrained is None else _control(untrained, execution),
        folder=folder,
        seed=config.seed,
        execution=execution,
        gate=None if gated is None else gate.load(gated),
    )


def _control(codes: Artifact, execution: Execution) -> Control:
    """The codes name the dictionary that made them; it lies in the same store, unless only they were copied."""
    artifact = source(codes, "dictionary")
    return Control(CodeShards(codes), Dictionary.load(artifact, resolve(execution.device)) if artifact else None)


def _entries(config: EvaluateConfig) -> dict[str, int]:
    entries = {f"evaluation.{name}": evaluations.version(name) for name in config.evaluations}
    return entries | {"probe": probe.VERSION}


EVALUATE = Stage(
    "evaluate",
    version=1,
    make=make,
    entries=_entries,
    inputs={
        "model": Parent("model"),
        "corpus": Parent("read"),
        "activations": Parent("capture"),
        "dictionary": Parent("train"),
        "codes": Parent("encode", optional=True),
        "untrained": Parent("encode", optional=True, untrained=True),
        "gate": Parent("gate", optional=True),
    },
    scored=True,
)
