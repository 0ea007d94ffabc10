"""evaluate: what the dictionary keeps, loses and finds, each evaluation in turn, into one table of
scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from components.capture.arrays import NO_TEXT
from components.capture.running import opened
from components.concept import probe
from components.config import Config, names_of, settings_of
from components.device import Execution, resolve
from components.dictionary.contract import Dictionary
from components.dictionary.encode import EncodeConfig, Encoded, Encoding
from components.evaluation import gate
from components.evaluation.contract import (
    ABSENT,
    MEAN_FROM,
    TEST,
    Control,
    EvaluationServices,
    Score,
    Subject,
    evaluations,
)
from components.report.measure import Measures
from components.report.scores import write
from components.store.artifact import Artifact
from components.store.estimate import Estimate, Estimator, lower
from components.store.lineage import source
from components.store.shards import NOT_STORED, ActivationShards, CodeShards, is_stored
from components.store.stage import Facts, Inputs, Parent, Stage, Work

if TYPE_CHECKING:
    EvaluationName = str
    EvaluationNames = list[str]
    EvaluationSettings = Config
else:
    EvaluationName = names_of(evaluations)
    EvaluationNames = Annotated[
        list[EvaluationName], AfterValidator(lambda names: sorted(set(names)))
    ]
    EvaluationSettings = settings_of(evaluations)


FOUND, RECOVERED = "concepts_found", "loss_recovered"
READ = (FOUND, "absorption", "sparse_probing")
"""Evaluations that hold codes and activations of two splits at once, or codes of two
dictionaries."""
ENCODED = EncodeConfig().splits
PASSES = 5  # clean, ablated twice, spliced, the untrained dictionary spliced
STEPS, BATCH, EPOCHS = 300, 4096, 8  # of the probe
SHARE = 0.02  # of tokens that carry a concept, as in the embedded world
BY_LABEL, BY_READING = 1e-8, 5e-7
"""Seconds for a concept of a row in a step of the probe, and for a row of a unit in the choice, on
one core of a server."""


class EvaluateConfig(Config):
    """What is measured of a dictionary."""

    evaluations: EvaluationNames = Field(
        default=["concepts_found", "loss_recovered", "reconstruction"], min_length=1
    )
    """What to measure, in any order; a sweep has a list of its own, `sweep.evaluations`."""
    settings: EvaluationSettings = EvaluationSettings()
    """Settings of each evaluation, by its name."""
    seed: int = 0
    """Of intervals, of which contexts are spliced, and of the probe."""

    def measuring(self, names: Sequence[str]) -> EvaluateConfig:
        """The section with exactly these evaluations: settings of others, which would change
        nothing, are left out."""
        unused = {name: type(section)() for name, section in self.settings if name not in names}
        return self.model_copy(
            update={"evaluations": list(names), "settings": self.settings.model_copy(update=unused)}
        )


def make(folder: Path, config: EvaluateConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes scores.parquet, and the tables of the evaluations that have their own.

    Optional inputs: `codes` (absent: encoded here and kept in memory), `untrained` (codes of the
    control), `gate` (absent: measured here where an evaluation asks for it), `model` (absent: who
    needs it says so), `corpus` (absent: each evaluation that reads text has one row that says so).
    """
    execution = settings or Execution()
    subject = _subject(folder, inputs, execution)
    services = EvaluationServices(execution, config.seed, inputs.get("model"))
    rows = []
    able = possible(config, inputs)
    for name in config.evaluations:
        evaluation = evaluations[name](getattr(config.settings, name), services)
        reason = NO_TEXT if inputs.get("corpus") is None else NOT_STORED
        scores = [Score(evaluation.measures[0].name, ABSENT, "document", reason=reason)]
        if name in able:
            scores = yield from evaluation.measure(subject)
        rows += [score.row(name, subject) for score in scores]
    measures = measures_of(config.evaluations)
    frame = write(folder, EVALUATE.name, rows, measures)
    facts: Facts = {
        "name": subject.name,
        "hook_point": subject.hook_point,
        "n_scores": frame.height,
        "n_absent": frame["value"].null_count(),
        **measures.facts(),
    }
    return facts


def possible(config: EvaluateConfig, inputs: Inputs) -> list[str]:
    """The listed evaluations that these inputs allow: without a corpus, those that read no text;
    where activations are not stored, those that do not read them by the row."""
    has_text, stored = inputs.get("corpus") is not None, is_stored(inputs["activations"])
    return [
        name
        for name in config.evaluations
        if (has_text or not evaluations[name].reads_text)
        and (stored or not evaluations[name].reads_shards)
    ]


def measures_of(names: Iterable[str]) -> Measures:
    """What these evaluations declare."""
    return Measures.declared(
        "evaluate", (each for name in dict.fromkeys(names) for each in evaluations[name].measures)
    )


def _subject(folder: Path, inputs: Inputs, execution: Execution) -> Subject:
    trained, untrained, gated = inputs["dictionary"], inputs.get("untrained"), inputs.get("gate")
    dictionary, activations = (
        Dictionary.load(trained, resolve(execution.device)),
        opened(inputs["activations"], execution, inputs.get("model")),
    )
    return Subject(
        name=trained.facts["name"],
        n_seeds=trained.facts.get("n_seeds", 1),
        dictionary=dictionary,
        codes=_encoded(inputs.get("codes"), dictionary, activations),
        activations=activations,
        read=inputs.get("corpus"),
        untrained=None if untrained is None else _control(untrained, activations, execution),
        folder=folder,
        gate=gate.load(gated)
        if gated and gated.facts["hook_point"] == dictionary.hook_point
        else None,
    )


def _encoded(
    codes: Artifact | None, dictionary: Dictionary, activations: ActivationShards
) -> Encoded:
    """Codes from disk; where none are stored, made when they are asked for."""
    if codes is not None and is_stored(codes):
        return CodeShards(codes)
    return Encoding(dictionary, activations)


def _control(
    codes: Artifact, activations: ActivationShards, execution: Execution
) -> Control | None:
    """The control; None where neither its codes nor its dictionary are there."""
    trained = source(codes, "dictionary")
    dictionary = Dictionary.load(trained, resolve(execution.device)) if trained else None
    if is_stored(codes):
        return Control(CodeShards(codes), dictionary)
    return Control(Encoding(dictionary, activations), dictionary) if dictionary else None


def _entries(config: EvaluateConfig) -> dict[str, int]:
    entries = {f"evaluation.{name}": evaluations.version(name) for name in config.evaluations}
    return entries | {"probe": probe.VERSION}


def formula(config: EvaluateConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """The larger of the readings of one split (activations, codes by row and by latent, labels) and
    the model's logits.

    The probe of all concepts takes most of the time on a small corpus, because it makes at least
    300 steps; then the choice of a unit for each concept, and the passes of the model with the
    reconstruction spliced in. What other evaluations take is known from manifests alone, and a plan
    that has none says so.
    """
    trained, model, listed = (
        inputs["dictionary"].facts,
        inputs.get("model"),
        possible(config, inputs),
    )
    corpus = (
        inputs["corpus"].facts if inputs.get("corpus") else {"n_concepts": 0, "context_length": 0}
    )
    rows = {
        name: split["rows"]
        for name, split in inputs["activations"].facts["splits"].items()
        if name in ENCODED
    }
    d_in, d_sae, n_concepts, most = (
        trained["d_in"],
        trained["d_sae"],
        corpus["n_concepts"],
        max(rows.values()),
    )
    parts: list[dict[str, int]] = [{}]
    for name in listed:
        own = getattr(config.settings, name)
        if name in READ:
            n = min(most, own.tokens)
            labels = round(24 * SHARE * n * n_concepts) + 8 * 16_384 * n_concepts
            parts.append(
                {
                    "activations": 8 * n * d_in,
                    "codes": round(72 * n * trained["l0"]),
                    "labels": labels,
                }
            )
        elif name == RECOVERED and model:
            parts.append(
                {"model": model.n_bytes, "logits": 16 * own.batch_tokens * model.shape.vocab_size}
            )

    def probe(seconds: float) -> tuple[float, str]:
        total, told = 0.0, []
        if FOUND in listed:
            told.append(
                "the probe of concepts and the choice among units take as long as on a core "
                "elsewhere"
            )
            n = min(most, config.settings.concepts_found.tokens)
            steps = max(EPOCHS * n, STEPS * min(n, BATCH))
            total += BY_LABEL * steps * n_concepts + BY_READING * n * (2 * d_sae + d_in)
        if RECOVERED in listed and model:
            n = min(config.settings.loss_recovered.tokens, rows[TEST])
            loading, by_token, measured = model.pace(settings, corpus["context_length"], seconds)
            total += loading + PASSES * n * by_token
            told.append(measured)
            if not is_stored(inputs["activations"]):
                total += by_token * rows.get(MEAN_FROM, 0)
                told.append(f"{MEAN_FROM} passes the model once for its mean activation")
        if unknown := sorted(set(listed) - {FOUND, RECOVERED, "reconstruction"}):
            told.append(f"without {', '.join(unknown)}, which was not made here yet")
        return total, "; ".join(told)

    memory, disk = (
        max(parts, key=lambda part: sum(part.values())),
        {"tables": 60_000 + 80 * n_concepts},
    )
    alike = (listed, model and model.key, n_concepts, d_in, d_sae)
    return Estimate(memory, disk, {}, {}, (most, "rows of a split"), alike, probe)


EVALUATE = Stage(
    "evaluate",
    version=2,
    make=make,
    entries=_entries,
    inputs={
        "model": Parent("model", optional=True),
        "corpus": Parent("read", optional=True),
        "activations": Parent("capture"),
        "dictionary": Parent("train"),
        "codes": Parent("encode", optional=True),
        "untrained": Parent("encode", optional=True, control="untrained"),
        "gate": Parent("gate", optional=True),
    },
    scored=True,
    estimator=Estimator(
        formula, for_memory=lower("settings.loss_recovered.batch_tokens"), on_device=True
    ),
)
