"""The stage `steer`: text written under steering at equal KL cost, judged beside Gaussian controls
that went through the same choice.

In order, and nothing later reaches back: targets are found; the select split gives steerings; the
gate (probe on validate, judges on validate passages) keeps targets; text after validate prompts sets
strengths and chooses among a method's candidates, in a sweep its hook point first
(`components.steering.hook_points`); then, once, test prompts are written and scored.
Plain text under another seed goes beside, as what steering with nothing reaches.

The untrained dictionary, where it is given, goes through every method that reads a dictionary, by
the same choice: what it reaches is what the dictionary's training did not bring.

What is measured stands in `components.steering.measures.MEASURES`; the composite of gain and
fluency is the headline, and has a row for each concept too. `steered.parquet` has what each method
reaches on each concept.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from components.capture.arrays import NO_TEXT
from components.client.forecast import refuse_without_leave
from components.concept import classifier, probe
from components.device import Execution
from components.model.language_model import LanguageModel
from components.report.measure import Measures
from components.report.scores import write
from components.steering import answers, asked, hook_points, questions
from components.steering.answers import Answers
from components.steering.battery import Outcome, drawn_cells, not_run, obstacle, run_battery
from components.steering.battery import rows as battery_rows
from components.steering.battery import score as battery_score
from components.steering.by_concept import by_concept, by_judge
from components.steering.choice import Steered, choose, contested, entered
from components.steering.comparison import Comparison
from components.steering.config import SteerConfig, embeds
from components.steering.contract import Concept, JudgeServices, Material, MethodServices
from components.steering.contrasts import contrasts
from components.steering.dose import with_doses
from components.steering.hook_points import Decision, Sweep
from components.steering.journal import Journal
from components.steering.ledger import Ledger
from components.steering.material import read_material, read_prompts, too_short
from components.steering.meanings import Meanings
from components.steering.measures import declared
from components.steering.meter import BRACKET_SHARE, Meter
from components.steering.neutral import Neutral
from components.steering.panel import Panel
from components.steering.proposals import Proposals, propose
from components.steering.questions import Questions
from components.steering.saved import save
from components.steering.scores import absent_row, score_rows
from components.steering.strength import at_costs, calibrate, costs
from components.steering.subject import SteeredSubject
from components.steering.targeting import Ground, Targeted, targets
from components.steering.writer import LOGITS_AT_ONCE, Job, Prompt, Writer, tokens_before
from components.store import tables
from components.store.artifact import Artifact, content_number
from components.store.estimate import Estimate, Estimator, lower
from components.store.judgements import off_target
from components.store.shards import NOT_STORED, is_stored
from components.store.stage import Inputs, Parent, Progress, Stage, Work

PROMPT = 8  # tokens of an opening, where the corpus is not read yet
GENERATION = 120  # bytes a continuation on disk
TABLES = 15_000  # bytes on disk of tables without rows
JUDGED = 40  # bytes on disk of what all judges say of one text for one concept
ROW = 400  # and in memory, while it is put together and written


def make(folder: Path, config: SteerConfig, inputs: Inputs, settings: Execution) -> Work:
    """Writes strengths, generations, judgements, steered, contrasts, battery, scores and
    directions.safetensors.

    A corpus without any concept, a model that does not generate, activations without model and
    corpus, and activations that are not stored leave empty tables and a score that is absent with
    the reason: the rest of an experiment has its report.

    Args:
        folder: where to.
        config: the section `steer`.
        inputs: activations (capture), dictionary (train), codes (encode); optional model and corpus
            (read), without which nothing is steered, and `untrained` (codes of the untrained
            dictionary): absent, its rows are absent with the reason.
        settings: where to run.

    Raises:
        InputError: a corpus without prompts, without a split or without the concepts that are
            needed, or activations that were not captured where the dictionary writes or the sweep
            steers, or codes of other activations.
        DictionaryError: activations of another width.
    """
    has_text = inputs.get("model") and inputs.get("corpus")
    if not (has_text and is_stored(inputs["activations"])):
        trained: Artifact = inputs["dictionary"]
        named = {"dictionary": trained.facts["name"], "hook_point": trained.facts["hook_point"]}
        n_seeds, reason = trained.facts.get("n_seeds", 1), NOT_STORED if has_text else NO_TEXT
        return (yield from _nothing(folder, config, named, n_seeds, reason))
    subject = SteeredSubject.read(inputs)
    sweep = Sweep.of(config)
    sweep.refuse_absent(subject.units)
    nothing = functools.partial(_nothing, folder, config, subject.facts, subject.n_seeds)
    corpus = subject.corpus
    if why := config.targeted.obstacle(corpus, config):
        return (yield from nothing(why))
    client = asked.client_of(config, settings)
    model: LanguageModel = inputs["model"].load(settings)
    if "generation" not in model.capabilities:
        return (yield from nothing("the model does not generate text"))
    prompts = {split: read_prompts(corpus, model, split, config) for split in ("validate", "test")}
    if config.targeted.asks:  # before anybody is asked which targets there are
        most = Meter(config, prompts, inputs.get("untrained") is not None)
        most.plan(config.targeted.at_most(tables.CONCEPTS.read(corpus).to_dicts(), config))
        refuse_without_leave(STEER.name, asked.forecast(config, most, settings), settings)
    given = inputs.get("interpreted"), inputs.get("text_encoder"), client
    targeted = config.targeted.find(
        Ground(subject, model, inputs["codes"], config, settings, *given)
    )
    concepts = targeted.concepts
    writer = Writer(
        model,
        config.max_new_tokens,
        config.temperature,
        config.seed,
        config.batch_size,
        journal=Journal.within(folder),
        conversation=config.chat.conversation(model),
    )
    meter = Meter(config, prompts, inputs.get("untrained") is not None)
    plan = meter.plan(len(concepts))
    refuse_without_leave(STEER.name, asked.forecast(config, meter, settings), settings)
    yield meter.progress(plan)
    learnt, conversation = targeted.texts(), writer.conversation
    items = Answers.read(config.answers, concepts, learnt, model, config.seed, conversation)
    asked_too = Questions.read(config.questions, learnt, model, config.seed, conversation)

    # Who judges, and which concepts can be judged and decoded.
    n_plain = max(config.n_samples, -(-config.band_texts // len(prompts["validate"])))
    band = [Job(prompt, sample) for sample in range(n_plain) for prompt in prompts["validate"]]
    plain = yield from meter.run(writer.write(band), "unsteered text", meter.continuation)
    material = read_material(targeted, writer, prompts["validate"], plain, config)
    panel = Panel.fitted(
        config,
        material,
        JudgeServices(
            settings,
            config.seed,
            model,
            subject.dictionary,
            inputs.get("text_encoder"),
            client,
            writer.conversation,
        ),
    )
    refused = {**panel.refusals(), **targeted.refusals(config.gate)}
    passed = [column for column, concept in enumerate(concepts) if concept.name not in refused]
    yield meter.progress(
        f"{len(passed)} of {len(concepts)} targets pass the gate; {meter.plan(len(passed))}"
    )

    # What each method proposes, and how strong it may be.
    evidence = targeted.evidence(passed, meter.stand_ins)
    evidence = dataclasses.replace(
        evidence,
        meanings=Meanings.read(inputs, settings, config),
        longest_text=meter.longest + config.max_new_tokens,
        head=0 if conversation is None else len(conversation.head(model)),
    )
    services = MethodServices(settings, config.seed, model, writer.conversation)
    proposals = propose(config, evidence, services, inputs.get("untrained"))
    # all methods are measured on the same text, so it leaves room for the longest prefix
    room = model.context_length and model.context_length - tokens_before(proposals.steerings)
    size = config.neutral_tokens, config.neutral_length
    neutral, elsewhere = (text.cut(room) for text in Neutral.read(corpus, *size))
    whole = Neutral.whole(corpus, *size).cut(room)
    steered = yield from _at_strengths(
        proposals, neutral, writer, prompts["validate"], meter, config
    )

    # Validate prompts choose; after that test prompts are written, once.
    column_of = {concept.name: column for column, concept in enumerate(concepts)}
    judged_for = [concepts[column].name for column in passed]
    ledger = Ledger(panel, column_of, judged_for, config.lowers)
    recorded = [
        (job, text) for job, text in zip(band, plain, strict=True) if job.sample < config.n_samples
    ]
    ledger.add_plain("validate", [job for job, _ in recorded], [text for _, text in recorded])
    texts = _Texts(prompts, config.n_samples, writer, meter, ledger)
    places, final = yield from texts.choose(steered, proposals.controls, sweep)
    for columns, text in ((("kl_elsewhere", None), elsewhere), (("kl_whole", "loss_whole"), whole)):
        steered, final = yield from _with_cost(columns, text, steered, final, writer, meter)
    steered, final = with_doses(model, steered, final, elsewhere)
    answered = yield from _answers(items, asked_too, final, model, meter, config)
    yield from texts.test(final)
    yield from texts.ask(config.seed)
    tried = None  # after all else, so that it changes nothing else
    if config.battery:
        tried = yield from _battery(panel, material, passed, writer, meter)

    save(folder, proposals.candidates)
    limits = "; ".join(filter(None, (too_short(material), targeted.limit))) or None
    kept = places.kept(steered)
    comparison = _comparison(config, subject, concepts, refused, panel, proposals, kept, limits)
    refusals = _refused_rows(comparison, proposals.methods)
    strengths = [*(s.row() for s in steered), *refusals]
    _write(folder, ledger, strengths, comparison, places, answered, tried)
    tables.TARGETS.write(folder, _target_rows(targeted, refused))
    facts = _facts(config, subject, comparison, proposals, texts) | places.facts()
    if client is None:
        return facts
    tables.CALLS.write(folder, client.account.rows())
    return facts | {"asked": {"client": client.account.facts()}}


@dataclasses.dataclass(frozen=True, eq=False)
class _Texts:
    """Text after the prompts of two splits: written, judged and entered in the ledger."""

    prompts: Mapping[str, Sequence[Prompt]]
    n_samples: int
    writer: Writer
    meter: Meter
    ledger: Ledger

    def choose(
        self, steered: Sequence[Steered], controls: Sequence[str], sweep: Sweep
    ) -> Generator[Progress, None, tuple[Decision, list[Steered]]]:
        """Where methods and controls steer, and there those that validate prompts choose, and every
        control."""
        rivals = contested(steered, controls)
        # chance chooses among the controls' steerings as methods choose among theirs
        dealt = [s for s in steered if s.method in controls] if rivals else []
        judged = {id(s): s for s in (*rivals, *dealt, *sweep.entrants(steered))}.values()
        jobs = [
            (s, job) for s in judged for job in s.jobs(self.prompts["validate"], self.n_samples)
        ]
        work = self.writer.write([job for _, job in jobs])
        texts = yield from self.meter.run(work, "validate prompts", self.meter.continuation)
        self.ledger.add_steered("validate", jobs, texts)
        validated, floor = self.ledger.results(), next(iter(controls), None)
        places = sweep.decide(validated, steered, self.ledger.judged, floor)
        return places, choose(validated, places.kept(steered), controls)

    def test(self, final: Sequence[Steered]) -> Iterator[Progress]:
        """Plain and steered text after test prompts."""
        unsteered = [
            Job(prompt, sample)
            for prompt in self.prompts["test"]
            for sample in range(self.n_samples)
        ]
        work = self.writer.write(unsteered)
        texts = yield from self.meter.run(work, "unsteered text", self.meter.continuation)
        self.ledger.add_plain("test", unsteered, texts)
        # what plain text gains on plain text by luck alone: other samples of the same prompts
        again = [dataclasses.replace(job, sample=job.sample + self.n_samples) for job in unsteered]
        texts = yield from self.meter.run(
            self.writer.write(again), "unsteered text", self.meter.continuation
        )
        self.ledger.add_again("test", unsteered, texts)
        jobs = [(s, job) for s in final for job in s.jobs(self.prompts["test"], self.n_samples)]
        work = self.writer.write([job for _, job in jobs], side_effects=True)
        texts = yield from self.meter.run(work, "test prompts", self.meter.tested)
        self.ledger.add_steered("test", jobs, texts)

    def ask(self, seed: int) -> Iterator[Progress]:
        """What judges that ask a language model say of the text after test prompts."""
        for step in self.ledger.add_asked(seed):
            told = f"asking: {step.done:,} of {step.total:,} {step.unit}"
            yield dataclasses.replace(self.meter.progress(told), metrics=step.metrics)


def _battery(
    panel: Panel, material: Material, passed: Sequence[int], writer: Writer, meter: Meter
) -> Generator[Progress, None, list[Outcome]]:
    """The gaming battery on the targets that passed the gate."""
    cells = drawn_cells(material, passed, writer)
    if why := obstacle(panel, cells, len(passed)):
        return not_run(panel.has_panel, why)
    work = writer.write([Job(cell.prompt) for cell in cells])
    unsteered = yield from meter.run(work, "gaming battery", meter.cell)
    return run_battery(panel, material, cells, unsteered, writer)


def _at_strengths(
    proposals: Proposals,
    neutral: Neutral,
    writer: Writer,
    prompts: Sequence[Prompt],
    meter: Meter,
    config: SteerConfig,
) -> Generator[Progress, None, list[Steered]]:
    """Every candidate at the strength of each budget: neutral text says where to look, text after
    validate prompts what it costs."""
    steerings, budgets = proposals.steerings, config.kl_budgets
    begin = neutral.first(-(-len(neutral.tokens) // BRACKET_SHARE))  # it only says where to begin
    work = calibrate(writer.model, steerings, begin, budgets, journal=writer.journal)
    bracket = yield from meter.run(work, "where strengths lie", meter.bracket)
    search = at_costs(writer, prompts, config.n_samples, steerings, budgets, bracket[..., 0])
    found = yield from meter.run(search, "strengths", meter.tested)
    return proposals.at_strengths(dict(zip(map(id, steerings), found, strict=True)), budgets)


def _comparison(
    config: SteerConfig,
    subject: SteeredSubject,
    concepts: Sequence[Concept],
    refused: Mapping[str, str],
    panel: Panel,
    proposals: Proposals,
    steered: Sequence[Steered],
    limits: str | None,
) -> Comparison:
    """What the scores are about, once everything is written."""
    return Comparison(
        concepts=concepts,
        refused=refused,
        methods=[*proposals.methods, *proposals.entry_of],
        controls=proposals.controls,
        budgets=config.kl_budgets,
        silent=panel.silence(),
        untrained=proposals.untrained,
        spoilt=proposals.spoilt,
        absent=proposals.absent,
        stand_ins=frozenset((name, c.replicate) for name, c in proposals.candidates if c.stand_in),
        unsteered={
            (s.candidate.concept, s.method, s.budget): s.reason for s in steered if s.reason
        },
        limit=limits,
        seed=config.seed,
        competitors=frozenset(proposals.methods) - set(proposals.untrained),
        columns=subject.facts | {"n_seeds": subject.n_seeds},
        ungraded=proposals.ungraded,
        judges=config.beside,
        headline_budget=config.headline_budget,
        again=True,
        measure=config.measure,
        lowering=frozenset(name for name, c in proposals.candidates if c.lowers),
    )


def _facts(
    config: SteerConfig,
    subject: SteeredSubject,
    comparison: Comparison,
    proposals: Proposals,
    texts: _Texts,
) -> dict[str, Any]:
    """What the manifest says."""
    scales = {name: entry.steering.scale for name, (entry, _) in config.method_kinds().items()}
    return (
        subject.facts
        | _declared(config).facts()
        | {
            "units": dict(subject.units),
            "measure": config.measure,
            "scales": scales | {name: scales[entry] for name, entry in proposals.entry_of.items()},
            "judged": list(texts.ledger.judged),
            "untrained": dict(proposals.untrained),
            "spoilt": {name: list(of) for name, of in proposals.spoilt.items()},
            "concepts": len(comparison.concepts),
            "passed": len(comparison.passed()),
            "prompts": {split: len(of_split) for split, of_split in texts.prompts.items()},
            "directions": sum(
                candidate.steering is not None for _, candidate in proposals.candidates
            ),
            "generations": texts.ledger.generations().height,
            "tokens": texts.meter.done,
        }
        | ({"lowering": sorted(comparison.lowering)} if comparison.lowering else {})
    )


def _with_cost(
    columns: tuple[str, str | None],
    text: Neutral,
    steered: Sequence[Steered],
    final: Sequence[Steered],
    writer: Writer,
    meter: Meter,
) -> Iterator[Progress]:
    """All, and the chosen among them, with what the chosen cost on this text: in which column the
    KL stands, and in which the rise of the loss, if in any."""
    chosen = [
        (s.candidate.steering, s.strength)
        for s in final
        if s.candidate.steering and s.strength is not None
    ]
    measured = yield from meter.run(
        costs(writer.model, chosen, text, journal=writer.journal),
        "costs on other text",
        text.tokens.numel(),
    )
    cost = {
        id(s): {
            column: float(value)
            for column, value in zip(columns, values, strict=True)
            if column and math.isfinite(value)
        }
        for s, values in zip(final, measured, strict=True)
    }
    return entered(steered, final, cost)


def _answers(
    items: Answers | None,
    asked_too: Questions | None,
    final: Sequence[Steered],
    model: LanguageModel,
    meter: Meter,
    config: SteerConfig,
) -> Generator[Progress, None, dict[str, pl.DataFrame]]:
    """The tables ANSWERS and QUESTIONS by name; none where nothing is asked."""
    answered: dict[str, pl.DataFrame] = {}
    for table, each in ((tables.ANSWERS, items), (tables.QUESTIONS, asked_too)):
        if each is not None:
            work = each.rows(final, model, config.batch_size)
            rows = yield from meter.run(work, table.name, each.tokens)
            answered[table.name] = table.frame(rows)
    return answered


def _write(
    folder: Path,
    ledger: Ledger,
    strengths: list[dict[str, Any]],
    comparison: Comparison,
    places: Decision,
    answered: Mapping[str, pl.DataFrame],
    tried: Sequence[Outcome] | None,
) -> None:
    generations = tables.GENERATIONS.write(folder, ledger.generations())
    judgements = tables.JUDGEMENTS.write(folder, ledger.judgements())
    table = tables.STRENGTHS.write(folder, strengths)
    results = places.frozen(ledger.results())
    reached = by_concept(results, table, comparison)
    tables.STEERED.write(folder, reached.select(list(tables.STEERED.columns)))
    against = contrasts(results, reached, comparison)
    tables.CONTRASTS.write(folder, against)
    further = by_judge(reached, comparison)
    if further.height:
        tables.FURTHER_JUDGES.write(folder, further)
    of_others = off_target(generations, judgements, comparison.measure, list(ledger.judged))
    scores, measures = [*score_rows(results, reached, comparison, against, of_others)], ()
    for table, of in ((tables.ANSWERS, answers), (tables.QUESTIONS, questions)):
        if table.name in answered:
            table.write(folder, answered[table.name])
            scores += of.score_rows(answered[table.name], comparison)
            measures = (*measures, *of.MEASURES)
    if tried is not None:
        tables.BATTERY.write(folder, battery_rows(tried))
        scores.append({**comparison.columns, **battery_score(tried)})
    if places.sweep.hook_points:
        tables.HOOK_POINTS.write(folder, places.rows())
        scores += places.score_rows(comparison)
        measures = (*measures, *hook_points.MEASURES)
    write(folder, STEER.name, scores, declared(comparison.judges, measures))


def _nothing(
    folder: Path, config: SteerConfig, named: dict[str, Any], n_seeds: int, reason: str
) -> Work:
    """Empty tables, and one score that is absent for this reason."""
    yield Progress(0, 0, "tokens", f"nothing to steer: {reason}")
    for table in (
        *(tables.TARGETS, tables.GENERATIONS, tables.JUDGEMENTS, tables.STRENGTHS),
        *(tables.STEERED, tables.CONTRASTS),
    ):
        table.write(folder, [])
    if config.battery:
        tables.BATTERY.write(folder, battery_rows(not_run(config.has_panel, reason)))
    if config.hook_point_sweep:
        tables.HOOK_POINTS.write(folder, [])
    save(folder, [])
    measures = _declared(config)
    write(folder, STEER.name, [absent_row(named | {"n_seeds": n_seeds}, reason)], measures)
    empty = {
        "untrained": {},
        "spoilt": {},
        "concepts": 0,
        "passed": 0,
        "prompts": {},
        "directions": 0,
        "generations": 0,
        "tokens": 0,
    }
    return named | measures.facts() | empty


def _target_rows(targeted: Targeted, refused: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Every target with what is known of it, and whether it passed the gate."""
    for column, concept in enumerate(targeted.concepts):
        yield {
            "concept": concept.name,
            "concept_kind": concept.kind,
            "unit": concept.unit,
            "latent": concept.latent,
            "text": concept.text,
            **targeted.told(column),
            "passed": concept.name not in refused,
            "reason": refused.get(concept.name),
        }


def _refused_rows(comparison: Comparison, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of the strengths table for concepts that the gate kept out."""
    for concept, reason in comparison.refused.items():
        for name in names:
            for budget in (at for at, there in comparison.places if name in there):
                row = {"concept": concept, "method": name, "replicate": 0, "kl_budget": budget}
                yield row | {"reason": f"gate, {reason}"}


def _declared(config: SteerConfig) -> Measures:
    of_answers = answers.MEASURES if config.answers.path else ()
    of_questions = questions.MEASURES if config.questions.path else ()
    of_sweep = hook_points.MEASURES if config.hook_point_sweep else ()
    return declared(config.beside, (*of_answers, *of_questions, *of_sweep))


def _entries(config: SteerConfig) -> Mapping[str, int]:
    entries = {
        f"{table.noun}.{name}": table.version(name)
        for table, names, _ in config.tables()
        for name in names
    }
    entries[f"targets.{config.targets.kind}"] = targets.version(config.targets.kind)
    if files := config.targeted.files():
        entries["targets.files"] = content_number(files)
    for name, files in asked.prompts(config).items():
        entries[f"judge.{name}.bytes"] = content_number(files)
    entries |= asked.numbers(config)
    if config.chat.messages and "prompt" in config.methods:
        # 2: the passage begins the user's message; before, it stood before the whole template
        entries["prompt in a conversation"] = 2
    if config.hook_point_sweep:
        entries["hook points"] = hook_points.VERSION
    if config.answers.path:
        entries["answers"] = answers.VERSION
        entries["answers.files"] = content_number(config.answers.files())
    if config.questions.path:
        entries["questions"] = questions.VERSION
        entries["questions.files"] = content_number(config.questions.files())
    return entries | {"probe": probe.VERSION, "classifier": classifier.VERSION}


def formula(config: SteerConfig, inputs: Mapping[str, Any], settings: Execution) -> Estimate:
    """The largest of logits of what was written, a batch that is being written, and the evidence of
    the select split."""
    has_text = inputs.get("corpus") is not None
    if not (has_text and is_stored(inputs["activations"])):
        why = f"nothing is steered: {NOT_STORED if has_text else NO_TEXT}"
        return Estimate({}, {"tables": TABLES}, probe=lambda _: (0.0, why))
    model, codes = inputs["model"], inputs["codes"].facts
    meter, n_concepts = _work(config, inputs)
    shape, itemsize = model.shape, getattr(torch, model.config.dtype).itemsize
    length, texts = PROMPT + config.max_new_tokens, max(config.band_texts, config.batch_size)
    cache = 4 * shape.n_layers * shape.d_model * length * config.batch_size * itemsize
    logits = max(
        # those that text is drawn from, and three as large while it is measured
        4 * 4 * min(LOGITS_AT_ONCE, texts * length * shape.vocab_size),
        3 * 8 * config.batch_size * shape.vocab_size + cache,
        4 * 4 * config.neutral_tokens * shape.vocab_size + 3 * 2**25,
    )
    rows = max((codes["rows"].get(split, 0) for split in ("select", "validate")), default=0)
    entries = rows * max(codes["l0"].values()) * (1 + (inputs.get("untrained") is not None))

    def probe(seconds: float) -> tuple[float, str]:
        loading, by_token, told = model.pace(settings, config.neutral_length, seconds)
        # strengths are measured from the hook point on: half of a pass, about
        n_tokens = meter.total - meter.directions * meter.bracket / 2
        return loading + n_tokens * by_token, f"{told}; judges and probes are not counted"

    return Estimate(
        {
            "model": model.n_bytes,
            "logits": logits,
            "evidence": 2 * 4 * rows * codes["d_in"] + round(30 * entries),
            "rows": ROW * meter.rows,
        },
        {
            "directions": 4 * codes["d_in"] * meter.directions,
            "generations": GENERATION * meter.texts + JUDGED * meter.rows + 200 * n_concepts,
        },
        work=(
            meter.total,
            f"tokens, about: {meter.texts:,} texts, strengths of {meter.directions:,} directions",
        ),
        alike=(model.key, config.methods, config.judges),
        probe=probe,
        forecast=asked.forecast(config, meter, settings),
    )


def _work(config: SteerConfig, inputs: Mapping[str, Any]) -> tuple[Meter, int]:
    """What is to be done, by the stage's own account, and for how many concepts."""
    corpus = inputs["corpus"]
    is_read = isinstance(corpus, Artifact)
    read = corpus.config if is_read else corpus.facts
    inventory = tables.CONCEPTS.read(corpus).to_dicts() if is_read else corpus.facts["inventory"]
    n_concepts = config.targeted.at_most(inventory, config)
    n_prompts = {
        split: min(getattr(config, f"{split}_prompts"), read[f"prompts_{split}"])
        for split in ("validate", "test")
    }
    prompts = {
        split: [Prompt(i, (0,) * PROMPT) for i in range(max(1, n))]
        for split, n in n_prompts.items()
    }
    meter = Meter(config, prompts, inputs.get("untrained") is not None)
    meter.plan(n_concepts)
    meter.total += config.targeted.n_tokens(config)
    return meter, n_concepts


STEER = Stage(
    "steer",
    version=9,
    make=make,
    entries=_entries,
    inputs={
        "model": Parent("model", optional=True),
        "corpus": Parent("read", optional=True),
        "activations": Parent("capture"),
        "dictionary": Parent("train"),
        "codes": Parent("encode"),
        "untrained": Parent("encode", optional=True, control="untrained"),
        "interpreted": Parent(
            "interpret",
            optional=True,
            wanted=lambda config: config.reads_explanations or config.targeted.explained,
        ),
        "text_encoder": Parent(
            "text_encoder",
            optional=True,
            wanted=lambda config: (
                config.reads_explanations or embeds(config) or config.targeted.embeds
            ),
        ),
    },
    scored=True,
    estimator=Estimator(
        formula, for_memory={**lower("batch_size"), **lower("neutral_tokens")}, on_device=True
    ),
)
