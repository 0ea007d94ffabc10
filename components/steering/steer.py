"""The stage `steer`: text written under steering at equal KL cost, judged beside the largest of Gaussian controls.

In order, and nothing later reaches back: the select split gives directions; the gate (probe on validate, judges on
validate passages) keeps concepts; neutral text sets strengths; validate prompts choose among a method's candidates;
then, once, test prompts are written and scored.

The untrained dictionary, where it is given, goes through every method that reads a dictionary, by the same choice: what
it reaches is what the dictionary's training did not bring.

Rows of `scores.parquet`: `steer.<method>.kl_<budget>.composite` (of gain and fluency, the headline), and on each concept
`.composite.concept.<concept>`; `steer.<method>.kl_<budget>` (uplift), `.fluency`, `.over_untrained` (of the composite),
`.share_above_random`, `.cost` (KL on neutral text other than that on which strengths were set), `.cost_whole` (over whole
contexts), `.cost_written` and `.cost_written_reverse` (on the steered text); `steer.gate.passed`. The method `untrained` is
the untrained dictionary. `steered.parquet` has what each method reaches on each concept.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
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
from components.steering.by_concept import UNSTEERED, Comparison, by_concept
from components.steering.choice import Steered, choose, contested
from components.steering.contract import Candidate, Concept, Evidence, Judge, Material, SteeringMethod, judges, methods
from components.steering.gate import Split, evidence, probe_refusals
from components.steering.ledger import Ledger
from components.steering.material import read_material, read_prompts
from components.steering.meter import Meter
from components.steering.protocol import Job, Neutral, Writer, calibrate, costs
from components.steering.scores import absent_row, score_rows
from components.store import tables
from components.store.artifact import Artifact, Inputs, Parent, Progress, Stage, Work
from components.store.lineage import inputs, source
from components.store.shards import ActivationShards, CodeShards

UNTRAINED = "untrained"
NO_NEUTRAL = "the neutral split has no token to measure a KL on; raise read.splits.neutral"

if TYPE_CHECKING:
    MethodName = JudgeName = str
else:
    MethodName, JudgeName = names_of(methods), names_of(judges)


class SteerConfig(Config):
    """Steering methods, their strengths, and who judges."""

    methods: list[MethodName] = Field(default=["add_direction", "mean_difference", "random_direction"], min_length=1)
    """What is steered with; random_direction is the control that the others are compared with."""
    judges: list[JudgeName] = Field(default=["concept", "fluency"], min_length=1)
    """Who judges the text; the composite needs both concept and fluency."""
    method_settings: dict[str, dict[str, Any]] = {}
    """Settings of methods by name, where they are not the defaults."""
    judge_settings: dict[str, dict[str, Any]] = {}
    """Settings of judges by name, where they are not the defaults."""
    kl_budgets: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default=[0.1], min_length=1)
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
        if taken := [name for name in self.methods if name == UNSTEERED or name.startswith(UNTRAINED)]:
            raise ConfigError(
                f"a steering method may not be called {taken[0]!r}: tables call a control so; rename its file"
            )
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
    """Writes strengths, generations, steered, scores and directions.safetensors.

    A corpus without any concept, and a model that does not generate, leave empty tables and a score that is absent with
    the reason: the rest of an experiment has its report.

    Args:
        folder: where to.
        config: the section `steer`.
        inputs: model, corpus (read), activations (capture), dictionary (train), codes (encode); optional `untrained`
            (codes of the untrained dictionary): absent, its rows are absent with the reason.
        settings: where to run.

    Raises:
        InputError: a corpus without prompts, without a split or without the concepts that are needed, or activations
            that were not captured where the dictionary writes, or codes of other activations.
        DictionaryError: activations of another width.
    """
    corpus, trained, shards = inputs["corpus"], inputs["dictionary"], ActivationShards(inputs["activations"])
    dictionary = Dictionary.load(trained)
    hook_point = dictionary.writes[0]
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
    prompts = {split: read_prompts(corpus, model, split, config) for split in ("validate", "test")}
    writer = Writer(model, config.max_new_tokens, config.temperature, config.seed, config.batch_size)
    entries = dict(zip(config.methods, entries_of(config), strict=True))
    meter = Meter(config, list(entries.values()), prompts, inputs.get("untrained") is not None)
    yield meter.progress(meter.plan(len(concepts)))

    # Who judges, and which concepts can be judged and decoded.
    n_plain = max(config.n_samples, -(-config.band_texts // len(prompts["validate"])))
    band = [Job(prompt, sample) for sample in range(n_plain) for prompt in prompts["validate"]]
    plain = yield from meter.run(writer.write(band), "unsteered text", meter.continuation)
    material = read_material(corpus, concepts, writer, prompts["validate"], plain, config)
    panel = {name: _entry(judges, name, config.judge_settings, material) for name in config.judges}
    select, validate = (Split(corpus, shards, split, hook_point, concepts) for split in ("select", "validate"))
    refused = probe_refusals(select, validate, config.gate)
    for name, judge in panel.items():
        refused = {concept: f"{name} judge: {why}" for concept, why in judge.refusals().items()} | refused
    kept = [column for column, concept in enumerate(concepts) if concept.name not in refused]
    yield meter.progress(f"{len(kept)} of {len(concepts)} concepts pass the gate; {meter.plan(len(kept))}")

    # What each method proposes, and how strong it may be.
    known = evidence(select, kept, hook_point, unit, dictionary, CodeShards(inputs["codes"]), config.seed)
    known = dataclasses.replace(known, stand_ins=meter.stand_ins)
    control = _untrained_of(entries)
    bare, why_absent = _bare(known, inputs.get("untrained"), hook_point)
    controls = [name for name, method in entries.items() if method.control]
    proposed = [(name, candidate) for name, method in entries.items() if kept for candidate in method.candidates(known)]
    if bare is not None and kept:
        proposed += [(name, candidate) for own, name in control.items() for candidate in entries[own].candidates(bare)]
    neutral, elsewhere = Neutral.read(corpus, config.neutral_tokens, config.neutral_length)
    whole = Neutral.whole(corpus, config.neutral_tokens, config.neutral_length)
    steerings = {id(c.steering): c.steering for _, c in proposed if c.steering}  # one may serve several concepts
    work = calibrate(model, list(steerings.values()), neutral, config.kl_budgets)
    found = yield from meter.run(work, "strengths", meter.calibration)
    measured = dict(zip(steerings, found.tolist(), strict=True))
    steered = _at_strengths(proposed, measured, config.kl_budgets, neutral)

    # Validate prompts choose; after that test prompts are written, once.
    column_of = {concept.name: column for column, concept in enumerate(concepts)}
    ledger = Ledger(list(panel.values()), column_of, [concepts[column].name for column in kept])
    recorded = [(job, text) for job, text in zip(band, plain, strict=True) if job.sample < config.n_samples]
    ledger.add_plain("validate", [job for job, _ in recorded], [text for _, text in recorded])
    rivals = contested(steered, controls)
    dealt = [s for s in steered if s.method in controls] if rivals else []  # chance chooses among these as methods do
    jobs = [(s, job) for s in (*rivals, *dealt) for job in s.jobs(prompts["validate"], config.n_samples)]
    texts = yield from meter.run(writer.write([job for _, job in jobs]), "validate prompts", meter.continuation)
    ledger.add_steered("validate", jobs, texts)
    final = choose(ledger.frame(), steered, controls)
    given = [(s.candidate.steering, s.strength) for s in final if s.candidate.steering and s.strength is not None]
    measured_at: dict[str, dict[int, float]] = {}
    for column, text in (("kl_elsewhere", elsewhere), ("kl_whole", whole)):
        cost = yield from meter.run(costs(model, given, text), "costs on other text", text.tokens.numel())
        measured_at[column] = {id(s): float(kl) for s, kl in zip(final, cost, strict=True) if math.isfinite(kl)}
    steered = [
        dataclasses.replace(s, **{column: found.get(id(s)) for column, found in measured_at.items()}) for s in steered
    ]
    unsteered = [Job(prompt, sample) for prompt in prompts["test"] for sample in range(config.n_samples)]
    texts = yield from meter.run(writer.write(unsteered), "unsteered text", meter.continuation)
    ledger.add_plain("test", unsteered, texts)
    jobs = [(s, job) for s in final for job in s.jobs(prompts["test"], config.n_samples)]
    work = writer.write([job for _, job in jobs], side_effects=True)
    texts = yield from meter.run(work, "test prompts", meter.tested)
    ledger.add_steered("test", jobs, texts)

    generations = tables.GENERATIONS.write(folder, ledger.frame())
    own = [name for name in entries if name not in controls]
    rows = [*(s.row() for s in steered), *_refused_rows(refused, own, config.kl_budgets)]
    strengths = tables.STRENGTHS.write(folder, rows)
    _save_directions(folder, proposed)
    facts = {"dictionary": trained.facts["name"], "hook_point": hook_point}
    comparison = Comparison(
        concepts=concepts,
        refused=refused,
        methods=[*own, *control.values()],
        controls=controls,
        budgets=config.kl_budgets,
        silent=_silent(panel),
        untrained=control,
        absent={name: why_absent for name in control.values() if why_absent},
        stand_ins=frozenset((name, candidate.replicate) for name, candidate in proposed if candidate.stand_in),
        unsteered={(s.candidate.concept, s.method, s.budget): s.reason for s in steered if s.reason},
        limit="; ".join(told for told in (_too_short(material), _limit(config, inventory, concepts)) if told) or None,
        seed=config.seed,
        columns=facts | {"n_seeds": trained.facts.get("n_seeds", 1)},
    )
    reached = tables.STEERED.write(folder, by_concept(generations, strengths, comparison))
    tables.SCORES.write(folder, list(score_rows(generations, reached, comparison)))
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
    tables.STEERED.write(folder, [])
    _save_directions(folder, [])
    facts = {"dictionary": trained.facts["name"], "hook_point": hook_point}
    tables.SCORES.write(folder, [absent_row(facts | {"n_seeds": trained.facts.get("n_seeds", 1)}, reason)])
    return facts | {"concepts": 0, "passed": 0, "prompts": {}, "directions": 0, "generations": 0, "tokens": 0}


def _too_short(material: Material) -> str | None:
    """That no judge has text to learn from, where that is so."""
    if material.judge.texts and material.calibrate.texts and material.validate.texts:
        return None
    return (
        "no document goes on for half a continuation behind its opening, so there is no real text to judge by; lower "
        "steer.max_new_tokens"
    )


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


STEER = Stage(
    "steer",
    version=4,
    make=make,
    entries=_entries,
    inputs={
        "model": Parent("model"),
        "corpus": Parent("read"),
        "activations": Parent("capture"),
        "dictionary": Parent("train"),
        "codes": Parent("encode"),
        "untrained": Parent("encode", optional=True, untrained=True),
    },
    scored=True,
)


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


def _at_strengths(
    proposed: Sequence[tuple[str, Candidate]],
    measured: Mapping[int, Sequence[Sequence[float]]],
    budgets: Sequence[float],
    neutral: Neutral,
) -> list[Steered]:
    """Every candidate at every budget, by what was measured of its steering (by identity): strength and KL."""
    no_text = None if neutral.mask.any() else NO_NEUTRAL
    found = []
    for method, candidate in proposed:
        row = measured.get(id(candidate.steering), [[math.nan, math.nan]] * len(budgets))
        for budget, (strength, kl) in zip(budgets, row, strict=True):
            if math.isfinite(strength):
                found.append(Steered(method, candidate, budget, strength, kl))
            else:
                reason = candidate.reason or no_text or f"no strength that was tried costs {budget:g} nats a token"
                found.append(Steered(method, candidate, budget, reason=reason))
    return found


def _untrained_of(entries: Mapping[str, SteeringMethod]) -> dict[str, str]:
    """Methods that read a dictionary, each with the name under which the untrained one goes through it."""
    own = [name for name, method in entries.items() if method.reads_dictionary and not method.control]
    return {name: UNTRAINED if name == own[0] else f"{UNTRAINED}_{name}" for name in own}


def _bare(known: Evidence, codes: Artifact | None, hook_point: str) -> tuple[Evidence | None, str | None]:
    """The evidence with the untrained dictionary in the place of the trained one, or why there is none.

    Codes name the dictionary that made them; it lies in the same store, unless only they were copied.
    """
    if codes is None:
        return None, "no codes of an untrained dictionary were given (the input untrained)"
    key, untrained = inputs(codes.manifest)["dictionary"][1], source(codes, "dictionary")
    if untrained is None:
        return None, f"the untrained dictionary {key} is not in the store of its codes {codes.key}"
    dictionary, shards = Dictionary.load(untrained), CodeShards(codes)
    if hook_point not in dictionary.writes or shards.n_rows("select") != len(known.document):
        return None, f"the untrained dictionary {key} is of other activations"
    decoder = dictionary.decoder_directions(hook_point).detach().cpu()
    return dataclasses.replace(known, codes=shards.codes("select").matrix(), decoder=decoder), None


def _silent(panel: Mapping[str, Judge]) -> dict[str, str]:
    """Measures that no text has, with the reason: fluency, and with it the composite."""
    why = panel["fluency"].silence() if "fluency" in panel else "steer.judges does not list fluency"
    return {"fluency": why, "composite": why} if why else {}


def _refused_rows(refused: Mapping[str, str], own: Sequence[str], budgets: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Rows of the strengths table for concepts that the gate kept out."""
    for (concept, reason), name, budget in itertools.product(refused.items(), own, budgets):
        yield {"concept": concept, "method": name, "replicate": 0, "kl_budget": budget, "reason": f"gate, {reason}"}


def _save_directions(folder: Path, proposed: Sequence[tuple[str, Candidate]]) -> None:
    """Every steering as `<method>/<concept>/<replicate>`; a control as `<method>/<replicate>`."""
    found = {}
    for method, candidate in proposed:
        for part, tensor in (candidate.steering.tensors() if candidate.steering else {}).items():
            names = [method, candidate.concept, str(candidate.replicate), part]
            # one may serve several concepts, and a file of tensors refuses shared bytes
            found["/".join(name for name in names if name)] = tensor.detach().clone().contiguous()
    save_file(found, folder / ".directions.safetensors")
    (folder / ".directions.safetensors").rename(folder / "directions.safetensors")
