"""The stage `steer`: text written under steering at equal KL cost, judged beside the largest of Gaussian controls.

In order, and nothing later reaches back: the select split gives directions; the gate (probe on validate, judges on
validate passages) keeps concepts; neutral text sets strengths; validate prompts choose among a method's candidates;
then, once, test prompts are written and scored.

Rows of `scores.parquet`: `steer.<method>.kl_<budget>` (uplift), `.share_above_random`, `.fluency`, `.cost` (KL on
neutral text other than that on which strengths were set), and `steer.<method>.kl_<budget>.<concept>` for each concept;
`steer.gate.passed`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import math
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from safetensors.torch import save_file

from components.concept import classifier, probe
from components.concept.gate import ProbeGate
from components.config import Config, execution, load, names_of
from components.device import Execution
from components.dictionary.contract import Dictionary
from components.errors import ConfigError, DictionaryError, InputError
from components.model.language_model import LanguageModel
from components.registry import Registry, nearest
from components.seeds import derive
from components.steering.choice import Steered, choose, contested
from components.steering.contract import (
    Candidate,
    Concept,
    Continuation,
    Material,
    Passages,
    SteeringMethod,
    judges,
    methods,
)
from components.steering.gate import Split, evidence, probe_refusals
from components.steering.ledger import Ledger
from components.steering.passages import cut
from components.steering.protocol import Job, Neutral, Prompt, Writer, calibrate, costs
from components.steering.scores import Comparison, absent_row, score_rows
from components.store import tables
from components.store.artifact import Artifact, Inputs, Progress, Stage, Work
from components.store.shards import ActivationShards, CodeShards

Result = TypeVar("Result")


if TYPE_CHECKING:
    MethodName = JudgeName = str
else:
    MethodName, JudgeName = names_of(methods), names_of(judges)


class SteerConfig(Config):
    """Steering methods, their strengths, and who judges."""

    methods: list[MethodName] = Field(default=["add_direction", "mean_difference", "random_direction"], min_length=1)
    """What is steered with; random_direction is the control that the others are compared with."""
    judges: list[JudgeName] = Field(default=["concept", "fluency"], min_length=1)
    """Who judges the text; uplift is the concept judge's."""
    method_settings: dict[str, dict[str, Any]] = {}
    """Settings of methods by name, where they are not the defaults."""
    judge_settings: dict[str, dict[str, Any]] = {}
    """Settings of judges by name, where they are not the defaults."""
    kl_budgets: list[PositiveFloat] = Field(default=[0.1], min_length=1)
    """What steering may cost on neutral text, nats a token; methods are compared at equal cost."""
    concepts: list[str] = Field(default=["*"], min_length=1)
    """Patterns of the names of concepts to steer towards, such as topic.*."""
    max_concepts_per_family: NonNegativeInt = 4
    """Concepts of tokens taken from each family, drawn by the seed; concepts of documents are all taken."""
    gate: ProbeGate = ProbeGate()
    """When a probe decodes a concept, so that it is steered towards."""
    validate_prompts: PositiveInt = 24
    """Prompts, at most, that choose among the candidates of a method."""
    test_prompts: PositiveInt = 48
    """Prompts, at most, that are reported."""
    n_samples: PositiveInt = 1
    """Continuations of each prompt."""
    max_new_tokens: PositiveInt = 32
    """Longest continuation."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling; 0 takes the likeliest token."""
    neutral_tokens: PositiveInt = 2048
    """Tokens of neutral text on which strengths are set; what they cost is then measured on other neutral text."""
    neutral_length: PositiveInt = 64
    """Tokens taken from the beginning of each neutral context."""
    band_texts: PositiveInt = 256
    """Unsteered continuations of validate prompts, and real passages, whose loss sets the fluency band."""
    seed: int = 0
    """Draws the concepts, the text, the control directions and the resamples."""
    batch_size: PositiveInt = execution(256)
    """Continuations written at a time."""

    @model_validator(mode="after")
    def _fits(self) -> SteerConfig:
        for registry, names, settings in _tables(self):
            if len(set(names)) < len(names):
                raise ConfigError(f"a {registry.noun} is listed twice: {', '.join(names)}")
            if unused := sorted(set(settings) - set(names)):
                raise ConfigError(f"settings for {', '.join(unused)}; {registry.noun}s listed: {', '.join(names)}")
            for name in names:
                load(registry[name].config, {"kind": name, **settings.get(name, {})})
        if len(set(self.kl_budgets)) < len(self.kl_budgets):
            raise ConfigError(f"a KL budget is listed twice: {self.kl_budgets}")
        if "concept" not in self.judges:
            raise ConfigError(f"uplift is what the judge 'concept' says; judges listed: {', '.join(self.judges)}")
        return self


def make(folder: Path, config: SteerConfig, inputs: Inputs, settings: Execution) -> Work:
    """Writes strengths, generations, scores and directions.safetensors.

    A corpus without any concept, and a model that does not generate, leave empty tables and a score that is absent with
    the reason: the rest of an experiment has its report.

    Args:
        folder: where to.
        config: the section `steer`.
        inputs: model, corpus (read), activations (capture), dictionary (train), codes (encode).
        settings: where to run.

    Raises:
        InputError: a corpus without prompts, without a split or without the concepts that are needed, or activations
            that were not captured where the dictionary writes, or codes of other activations.
        DictionaryError: activations of another width.
    """
    corpus, trained, shards = inputs["corpus"], inputs["dictionary"], ActivationShards(inputs["activations"])
    dictionary = Dictionary.load(trained)
    hook_point = dictionary.reconstructs[0]
    if dictionary.widths[hook_point] != shards.d_in(hook_point):
        raise DictionaryError(
            f"dictionary {dictionary.name} writes {dictionary.widths[hook_point]} coordinates at {hook_point}, and the "
            f"activations have {shards.d_in(hook_point)}; use activations of the model it was trained on"
        )
    unit = shards.mean_norm(hook_point)
    inventory = tables.CONCEPTS.read(corpus)
    if inventory.is_empty():
        return (yield from _nothing(folder, trained, hook_point, "the corpus labels no concept, so none can be judged"))
    concepts = pick_concepts(inventory, config)
    model: LanguageModel = inputs["model"].load(settings)
    if "generation" not in model.capabilities:
        return (yield from _nothing(folder, trained, hook_point, "the model does not generate text"))
    prompts = {split: _prompts(corpus, model, split, config) for split in ("validate", "test")}
    writer = Writer(model, config.max_new_tokens, config.temperature, config.seed, config.batch_size)
    entries = dict(zip(config.methods, entries_of(config), strict=True))
    meter = Meter(config, list(entries.values()), prompts)
    yield meter.progress(meter.plan(len(concepts)))

    # Who judges, and which concepts can be judged and decoded.
    n_plain = max(config.n_samples, -(-config.band_texts // len(prompts["validate"])))
    band = [Job(prompt, sample) for sample in range(n_plain) for prompt in prompts["validate"]]
    plain = yield from meter.run(writer.write(band), "unsteered text", meter.continuation)
    material = _material(corpus, concepts, writer, prompts["validate"], plain, config)
    panel = {name: _entry(judges, name, config.judge_settings, material) for name in config.judges}
    select, validate = (Split(corpus, shards, split, hook_point, concepts) for split in ("select", "validate"))
    refused = probe_refusals(select, validate, config.gate)
    for name, judge in panel.items():
        refused = {concept: f"{name} judge: {why}" for concept, why in judge.refusals().items()} | refused
    kept = [column for column, concept in enumerate(concepts) if concept.name not in refused]
    yield meter.progress(f"{len(kept)} of {len(concepts)} concepts pass the gate; {meter.plan(len(kept))}")

    # What each method proposes, and how strong it may be.
    known = evidence(select, kept, hook_point, unit, dictionary, CodeShards(inputs["codes"]), config.seed)
    controls = [name for name, method in entries.items() if method.control]
    proposed = [(name, candidate) for name, method in entries.items() if kept for candidate in method.candidates(known)]
    neutral, elsewhere = Neutral.read(corpus, config.neutral_tokens, config.neutral_length)
    work = calibrate(model, [c.steering for _, c in proposed if c.steering], neutral, config.kl_budgets)
    measured = yield from meter.run(work, "strengths", meter.calibration)
    steered = _at_strengths(proposed, measured, config.kl_budgets)

    # Validate prompts choose; after that test prompts are written, once.
    column_of = {concept.name: column for column, concept in enumerate(concepts)}
    ledger = Ledger(list(panel.values()), column_of, [concepts[column].name for column in kept])
    recorded = [(job, text) for job, text in zip(band, plain, strict=True) if job.sample < config.n_samples]
    ledger.add_plain("validate", [job for job, _ in recorded], [text for _, text in recorded])
    jobs = [(s, job) for s in contested(steered, controls) for job in s.jobs(prompts["validate"], config.n_samples)]
    texts = yield from meter.run(writer.write([job for _, job in jobs]), "validate prompts", meter.continuation)
    ledger.add_steered("validate", jobs, texts)
    final = choose(ledger.frame(), steered, controls)
    given = [(s.candidate.steering, s.strength) for s in final if s.candidate.steering and s.strength is not None]
    cost = yield from meter.run(costs(model, given, elsewhere), "costs on other text", elsewhere.tokens.numel())
    measured_at = {id(s): float(kl) for s, kl in zip(final, cost, strict=True) if math.isfinite(kl)}
    steered = [dataclasses.replace(s, kl_elsewhere=measured_at.get(id(s))) for s in steered]
    unsteered = [Job(prompt, sample) for prompt in prompts["test"] for sample in range(config.n_samples)]
    texts = yield from meter.run(writer.write(unsteered), "unsteered text", meter.continuation)
    ledger.add_plain("test", unsteered, texts)
    jobs = [(s, job) for s in final for job in s.jobs(prompts["test"], config.n_samples)]
    texts = yield from meter.run(writer.write([job for _, job in jobs]), "test prompts", meter.continuation)
    ledger.add_steered("test", jobs, texts)

    generations = tables.GENERATIONS.write(folder, ledger.frame())
    strengths = tables.STRENGTHS.write(folder, [*(s.row() for s in steered), *_refused_rows(refused, entries, config)])
    _save_directions(folder, proposed)
    facts = {"dictionary": trained.facts["name"], "hook_point": hook_point}
    comparison = Comparison(
        concepts=concepts,
        refused=refused,
        methods=[name for name in entries if name not in controls],
        controls=controls,
        budgets=config.kl_budgets,
        judges=config.judges,
        unsteered={(s.candidate.concept, s.method, s.budget): s.reason for s in steered if s.reason},
        limit=_limit(config, inventory, concepts),
        seed=config.seed,
        columns=facts | {"n_seeds": trained.facts.get("n_seeds", 1)},
    )
    tables.SCORES.write(folder, list(score_rows(generations, strengths, comparison)))
    return facts | {
        "concepts": len(concepts),
        "passed": len(kept),
        "prompts": {split: len(found) for split, found in prompts.items()},
        "unit": unit,
        "directions": sum(candidate.steering is not None for _, candidate in proposed),
        "generations": meter.written,
        "tokens": meter.done,
    }


def _nothing(folder: Path, trained: Artifact, hook_point: str, reason: str) -> Work:
    """Empty tables, and one score that is absent for this reason."""
    yield Progress(0, 0, "tokens", f"nothing to steer: {reason}")
    tables.GENERATIONS.write(folder, [])
    tables.STRENGTHS.write(folder, [])
    _save_directions(folder, [])
    facts = {"dictionary": trained.facts["name"], "hook_point": hook_point}
    tables.SCORES.write(folder, [absent_row(facts | {"n_seeds": trained.facts.get("n_seeds", 1)}, reason)])
    return facts | {"concepts": 0, "passed": 0, "prompts": {}, "directions": 0, "generations": 0, "tokens": 0}


def _limit(config: SteerConfig, inventory: pl.DataFrame, concepts: Sequence[Concept]) -> str | None:
    """That not every concept was tried, where that is so."""
    if len(concepts) == inventory.height:
        return None
    return (
        f"{len(concepts)} of {inventory.height} concepts were tried: all of documents that match, and of each family at "
        f"most {config.max_concepts_per_family} others, drawn (steer.max_concepts_per_family)"
    )


def _entries(config: SteerConfig) -> Mapping[str, int]:
    entries = {f"{table.noun}.{name}": table.version(name) for table, names, _ in _tables(config) for name in names}
    return entries | {"probe": probe.VERSION, "classifier": classifier.VERSION}


STEER = Stage("steer", version=3, make=make, entries=_entries)


def pick_concepts(inventory: pl.DataFrame, config: SteerConfig) -> list[Concept]:
    """All matching concepts of documents, and of each family a bounded number of others, in the inventory's order.

    Which ones is settled by a hash of seed and name: a concept that is added displaces at most one of its family.

    Raises:
        InputError: no concept of the corpus matches.
    """
    matching = [
        row
        for row in inventory.to_dicts()
        if any(fnmatch.fnmatchcase(row["concept"], pattern) for pattern in config.concepts)
    ]
    if not matching:
        wanted = ", ".join(config.concepts)
        raise InputError(
            f"steer.concepts wants {wanted}, and of {inventory.height} labelled concepts of the corpus none matches; "
            f"{nearest(config.concepts[0], inventory['concept'].head(20).to_list())}"
        )
    ranked = sorted(matching, key=lambda row: derive(config.seed, "concept", row["concept"]))
    seen: Counter[str] = Counter()
    picked = set()
    for row in ranked:
        seen[row["family"]] += row["unit"] != "document"
        if row["unit"] == "document" or seen[row["family"]] <= config.max_concepts_per_family:
            picked.add(row["concept"])
    return [Concept(row["concept"], row["concept_kind"], row["unit"]) for row in matching if row["concept"] in picked]


def _tables(config: SteerConfig) -> list[tuple[Registry[Any], list[str], Mapping[str, Any]]]:
    return [(methods, config.methods, config.method_settings), (judges, config.judges, config.judge_settings)]


def entries_of(config: SteerConfig) -> list[SteeringMethod]:
    """The methods that are listed, with their settings."""
    return [_entry(methods, name, config.method_settings) for name in config.methods]


def _entry(registry: Registry[Any], name: str, settings: Mapping[str, Any], *given: Any) -> Any:
    kind = registry[name]
    return kind(load(kind.config, {"kind": name, **settings.get(name, {})}), *given)


def _prompts(corpus: Artifact, model: LanguageModel, split: str, config: SteerConfig) -> list[Prompt]:
    table = tables.PROMPTS.read(corpus).filter(pl.col("split") == split).sort("prompt")
    if table.is_empty():
        raise InputError(
            f"steering needs prompts of the split {split!r}, and artifact {corpus.stage}/{corpus.key} has none; "
            f"set read.prompts_{split} above 0"
        )
    n = config.validate_prompts if split == "validate" else config.test_prompts
    return [Prompt.of(model, row["prompt"], row["text"]) for row in table.head(n).to_dicts()]


def _material(
    corpus: Artifact,
    concepts: Sequence[Concept],
    writer: Writer,
    prompts: Sequence[Prompt],
    unsteered: Sequence[Continuation],
    config: SteerConfig,
) -> Material:
    """Real passages of three splits, and the loss of as many of them as set the fluency band."""
    tokenizer = writer.model.tokenizer
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    opening = int(np.median([len(prompt.tokens) for prompt in prompts])) - len(head)
    found = {}
    for split in ("judge", "calibrate", "validate"):
        pieces = cut(corpus, split, concepts, opening, config.max_new_tokens)
        nll = np.full(len(pieces.tokens), np.nan)
        measured = list(pieces.openings)[: config.band_texts] if split == "judge" else []
        if measured:
            openings = [[*head, *pieces.openings[i]] for i in measured]
            nll[measured] = writer.losses(openings, [pieces.tokens[i] for i in measured])
        texts = tokenizer.batch_decode(pieces.tokens, skip_special_tokens=True)
        found[split] = Passages(texts, pieces.labels, nll)
    return Material([c.name for c in concepts], **found, unsteered=unsteered, seed=config.seed)


def _at_strengths(
    proposed: Sequence[tuple[str, Candidate]],
    measured: Float[np.ndarray, "steering budget 2"],
    budgets: Sequence[float],
) -> list[Steered]:
    rows, found = iter(measured.tolist()), []
    for method, candidate in proposed:
        row = next(rows) if candidate.steering else [[math.nan, math.nan]] * len(budgets)
        for budget, (strength, kl) in zip(budgets, row, strict=True):
            if math.isfinite(strength):
                found.append(Steered(method, candidate, budget, strength, kl))
            else:
                reason = candidate.reason or f"no strength that was tried costs {budget:g} nats a token"
                found.append(Steered(method, candidate, budget, reason=reason))
    return found


def _refused_rows(
    refused: Mapping[str, str], entries: Mapping[str, SteeringMethod], config: SteerConfig
) -> Iterator[dict[str, Any]]:
    """Rows of the strengths table for concepts that the gate kept out."""
    own = [name for name, method in entries.items() if not method.control]
    for (concept, reason), name, budget in itertools.product(refused.items(), own, config.kl_budgets):
        yield {"concept": concept, "method": name, "replicate": 0, "kl_budget": budget, "reason": f"gate, {reason}"}


def _save_directions(folder: Path, proposed: Sequence[tuple[str, Candidate]]) -> None:
    """Every steering as `<method>/<concept>/<replicate>`; a control as `<method>/<replicate>`."""
    found = {}
    for method, candidate in proposed:
        for part, tensor in (candidate.steering.tensors() if candidate.steering else {}).items():
            names = [method, candidate.concept, str(candidate.replicate), part]
            found["/".join(name for name in names if name)] = tensor.contiguous()
    save_file(found, folder / ".directions.safetensors")
    (folder / ".directions.safetensors").rename(folder / "directions.safetensors")


class Meter:
    """Counts tokens that the model reads or writes, done and to be done.

    Attributes:
        done: tokens so far.
        written: continuations so far.
        texts, directions: continuations and directions in all, at most, once `plan` has counted them.
        continuation: tokens for one continuation, read once more to measure its loss.
        calibration: tokens for one steering: about four measurements on neutral text for each budget.
    """

    def __init__(
        self, config: SteerConfig, entries: Sequence[SteeringMethod], prompts: Mapping[str, Sequence[Prompt]]
    ) -> None:
        self.done, self.written, self._started = 0, 0, time.monotonic()
        self._config, self._entries = config, entries
        self._n = {split: len(found) * config.n_samples for split, found in prompts.items()}
        longest = max(len(prompt.tokens) for found in prompts.values() for prompt in found)
        self.continuation = 2 * (longest + config.max_new_tokens)
        self.calibration = 4 * config.neutral_tokens * len(config.kl_budgets)

    def plan(self, n_concepts: int) -> str:
        """Counts what so many concepts will take, at most, and says it."""
        texts = max(self._config.band_texts, self._n["validate"]) + self._n["test"]
        directions, n_budgets = 0, len(self._config.kl_budgets)
        for method in self._entries:
            n = 1 if method.control else n_concepts
            directions += n * method.at_most
            tested = method.at_most if method.control else 1
            validated = method.at_most if method.at_most > 1 and not method.control else 0
            texts += n * n_budgets * (tested * self._n["test"] + validated * self._n["validate"])
        self.texts, self.directions = texts, directions
        self.total = directions * self.calibration + texts * self.continuation
        return (
            f"at most {self.total:,} tokens for {n_concepts} concepts: strengths of {directions:,} directions, "
            f"{texts:,} continuations"
        )

    def progress(self, message: str) -> Progress:
        """Where the work stands."""
        speed = self.done / max(time.monotonic() - self._started, 1e-9)
        return Progress(self.done, max(self.total, self.done), "tokens", message, {"tokens_per_second": speed})

    def run(self, work: Generator[int, None, Result], message: str, each: int) -> Generator[Progress, None, Result]:
        """Runs work that yields how many units it did, of `each` tokens."""
        while True:
            try:
                n = next(work)
            except StopIteration as end:
                return end.value
            self.done += n * each
            self.written += n * (each == self.continuation)
            yield self.progress(message)
