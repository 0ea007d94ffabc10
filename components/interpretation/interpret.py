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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from components.capture.arrays import NO_TEXT
from components.client.forecast import refuse_without_leave
from components.device import Execution
from components.interpretation import (
    declared,
    dictionary_contract,
    interpreted,
    latent_summary,
    summary,
)
from components.interpretation.asked import forecast
from components.interpretation.config import InterpretConfig, able, beside, embeds, entries
from components.interpretation.contract import explainers, scorers
from components.interpretation.controls import CONTROLS, OF_DIRECTIONS, ControlName
from components.interpretation.dictionary_contract import dictionary_scorers
from components.interpretation.estimate import formula
from components.interpretation.gathered import passes
from components.interpretation.interpreted import Interpreted
from components.interpretation.key import Key, Row
from components.interpretation.latent_contract import latent_scorers
from components.interpretation.run import Run, interpret_latents
from components.interpretation.subject import Subject
from components.report.scores import write
from components.store import tables
from components.store.artifact import Artifact
from components.store.estimate import Estimator
from components.store.shards import NOT_STORED, is_stored
from components.store.stage import Facts, Inputs, Parent, Progress, Stage, Work

TABLES = (
    tables.CONTEXTS,
    tables.COOCCURRING,
    tables.EXPLANATIONS,
    tables.EXPLANATION_SCORES,
    tables.CONTROL_SCORES,
    tables.EXPLANATION_STRATA,
    tables.LATENT_SCORES,
)
"""What is written beside the scores."""


def make(folder: Path, config: InterpretConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes contexts, cooccurring, explanations, explanation_scores, explanation_strata,
    control_scores, latent_scores and scores; writers and calls, where a language model is asked.

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
        ConfigError: a client that cannot be asked, or leave that is missing for what it may cost.
    """
    encoded: Artifact = inputs["codes"]
    if inputs.get("corpus") is None:
        return (yield from _nothing(folder, config, encoded))
    execution = settings or Execution()
    stored = is_stored(encoded)
    there = [
        name
        for name in config.controls
        if (stored if name in OF_DIRECTIONS else inputs.get(name) is not None)
    ]
    refuse_without_leave(INTERPRET.name, forecast(config, execution, len(there)), execution)
    run = Run.of(config, inputs, execution)
    coded = {name: inputs[name] for name in there if name not in OF_DIRECTIONS}
    codes = yield from run.codes({None: encoded, **coded})
    subject = Subject.of_codes(codes[None], config)
    trained = yield from interpret_latents(run, subject, folder)
    controls: dict[ControlName, Interpreted] = {}
    for name in there:
        if name in OF_DIRECTIONS:
            place = (run.activations, encoded.facts["hook_point"])
            beside_it = Subject.of_directions(name, subject, *place, config, run.model, execution)
        else:
            beside_it = Subject.of_codes(codes[name], config, name)
        controls[name] = yield from interpret_latents(run, beside_it, None)
    explained = {
        name: sum(each.text is not None for each in texts)
        for name, texts in trained.written.items()
    }
    tables.EXPLANATIONS.write(folder, interpreted.explanation_rows(trained))
    tables.EXPLANATION_SCORES.write(folder, interpreted.score_rows(trained))
    by_control = (interpreted.control_rows(role, control) for role, control in controls.items())
    tables.CONTROL_SCORES.write(folder, itertools.chain.from_iterable(by_control))
    tables.EXPLANATION_STRATA.write(folder, interpreted.strata_rows({None: trained} | controls))
    tables.LATENT_SCORES.write(folder, interpreted.latent_score_rows({None: trained} | controls))

    encoder = inputs.get("text_encoder")
    asked: Facts = {"text_encoder": encoder.name} if encoder is not None else {}
    if run.clients:
        tables.WRITERS.write(folder, interpreted.writer_rows(trained))
        tables.CALLS.write(folder, run.clients.calls())
        asked["asked"] = run.clients.facts()

    # thresholds of directions are read off all their projections, which takes many passes
    unread = {} if stored else dict.fromkeys(OF_DIRECTIONS, NOT_STORED)
    theirs = {role: controls[role].scored if role in controls else None for role in config.controls}
    of_controls = {
        role: controls[role].of_latents if role in controls else None for role in config.controls
    }
    sample, counted = trained.sample, trained.counted
    rows = [
        *summary.rows(trained.scored, theirs, config.seed, run.clients.is_one_model, unread),
        *_absent(config, trained.absent),
        *latent_summary.rows(trained.of_latents, of_controls, unread),
        *_of_dictionary(config, trained, controls),
        *summary.shares(
            d_sae=encoded.facts["d_sae"],
            dead=sample.n_dead,
            split=sample.split,
            n=len(sample.latents),
            skipped=counted.skipped,
            rare=counted.rare,
            ubiquitous=counted.ubiquitous,
        ),
    ]
    return _scores(folder, config, encoded, rows) | {
        "latents": len(sample.latents),
        "dead": sample.n_dead,
        **dataclasses.asdict(counted),
        "pool": len(run.cut["test"].pool),
        "explained": explained,
        "controls": {role: len(control.sample.latents) for role, control in controls.items()},
        **asked,
        **passes(run.read),
    }


def _scores(folder: Path, config: InterpretConfig, encoded: Artifact, rows: Sequence[Row]) -> Facts:
    """Writes the table of scores; returns the facts that say whose they are."""
    named = {"name": encoded.facts["name"], "hook_point": encoded.facts["hook_point"]}
    common = {"dictionary": named["name"], "hook_point": named["hook_point"], "split": "test"}
    common |= {"unit_of_replication": "latent", "n_seeds": encoded.facts.get("n_seeds", 1)}
    of_latents = latent_summary.measures(latent_scorers[name] for name in config.latent_scorers)
    others = [*of_latents]
    for name in config.dictionary_scorers:
        others += dictionary_contract.measures(dictionary_scorers[name])
    of_scorers = (scorers[name] for name in config.scorers)
    measures = declared.measures(of_scorers, config.controls, others)
    write(folder, INTERPRET.name, [common | row for row in rows], measures)
    return named | measures.facts()


def _nothing(folder: Path, config: InterpretConfig, encoded: Artifact) -> Work:
    """Empty tables, and a score of each scorer that is absent: there is no text."""
    yield Progress(0, 0, "latents", f"nothing to interpret: {NO_TEXT}")
    for table in TABLES:
        table.write(folder, [])
    listed = [latent_scorers[name] for name in config.latent_scorers]
    rows = [
        *_absent(config, dict.fromkeys(config.scorers, NO_TEXT)),
        *latent_summary.absent(listed, NO_TEXT),
        *({"measure": n, "scorer": n, "reason": NO_TEXT} for n in config.dictionary_scorers),
    ]
    facts = _scores(folder, config, encoded, rows)
    names = ("latents", "dead", "windows", "skipped", "rare", "ubiquitous", "pool")
    return facts | dict.fromkeys(names, 0) | {"unfilled": {}, "explained": {}, "controls": {}}


def _absent(config: InterpretConfig, reasons: Mapping[str, str]) -> Iterator[Row]:
    """A row without a value for each scorer that could score nothing, of the first explainer and
    predictor."""
    for name, reason in reasons.items():
        key = Key("entry", config.explainers[0], name, able(config, name)[0])
        yield key.row() | {"n_failed": 0, "reason": reason}


def _of_dictionary(
    config: InterpretConfig, trained: Interpreted, controls: Mapping[str, Interpreted]
) -> Iterator[Row]:
    theirs = {
        role: controls[role].of_dictionary if role in controls else None for role in config.controls
    }
    roles = {name: explainers[name].role for name in config.explainers}
    return dictionary_contract.rows(trained.of_dictionary, theirs, roles)


INTERPRET = Stage(
    "interpret",
    version=4,
    make=make,
    entries=entries,
    inputs={
        "corpus": Parent("read", optional=True),
        "activations": Parent("capture"),
        "codes": Parent("encode"),
        **{
            name: Parent("encode", optional=True, control=name, wanted=beside(name))
            for name in CONTROLS
            if name not in OF_DIRECTIONS
        },
        "model": Parent("model", optional=True),
        "text_encoder": Parent("text_encoder", optional=True, wanted=embeds),
    },
    scored=True,
    estimator=Estimator(formula),
)
