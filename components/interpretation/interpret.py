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

import itertools
from collections.abc import Sequence
from pathlib import Path

from components.capture.arrays import NO_TEXT
from components.device import Execution
from components.errors import InputError, MissingArtifactError
from components.interpretation import interpreted, summary
from components.interpretation.asked import Clients, forecast, refuse_without_leave
from components.interpretation.config import InterpretConfig, able, embeds, entries
from components.interpretation.contexts import SPLITS, cut_splits
from components.interpretation.contract import scorers
from components.interpretation.controls import CONTROLS
from components.interpretation.estimate import formula
from components.interpretation.interpreted import Interpreted
from components.interpretation.run import Run, interpret_dictionary
from components.interpretation.summary import Key
from components.interpretation.windows import Vocabulary
from components.report.scores import write
from components.store import tables
from components.store.artifact import Artifact
from components.store.estimate import Estimator
from components.store.shards import ActivationShards, CodeShards
from components.store.stage import Facts, Inputs, Parent, Progress, Stage, Work

TABLES = (
    tables.CONTEXTS,
    tables.EXPLANATIONS,
    tables.EXPLANATION_SCORES,
    tables.CONTROL_SCORES,
    tables.EXPLANATION_STRATA,
)
"""What is written beside the scores."""


def make(folder: Path, config: InterpretConfig, inputs: Inputs, settings: Execution | None) -> Work:
    """Writes contexts, explanations, explanation_scores, explanation_strata, control_scores and
    scores; writers and calls, where a language model is asked.

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
    execution, n_controls = (
        settings or Execution(),
        sum(inputs.get(r) is not None for r in CONTROLS),
    )
    refuse_without_leave(forecast(config, execution, n_controls), execution)
    activations, corpus = ActivationShards(inputs["activations"]), inputs["corpus"]
    _refuse_missing_splits("activations", activations.splits, "capture.splits and encode.splits")
    _refuse_missing_splits("codes", CodeShards(encoded).splits, "encode.splits")
    cut = cut_splits(activations, _vocabulary(corpus), config.contexts)
    run = Run(
        config,
        execution,
        corpus,
        inputs.get("model"),
        inputs.get("text_encoder"),
        cut,
        Clients.of(config, execution),
    )
    trained = yield from interpret_dictionary(run, "", encoded, folder)
    controls: dict[str, Interpreted] = {}
    for role in CONTROLS:
        if inputs.get(role) is not None:
            controls[role] = yield from interpret_dictionary(run, role, inputs[role], None)
    explained = {
        name: sum(each.text is not None for each in texts)
        for name, texts in trained.written.items()
    }
    tables.EXPLANATIONS.write(folder, interpreted.explanation_rows(trained))
    tables.EXPLANATION_SCORES.write(folder, interpreted.score_rows(trained))
    by_control = (interpreted.control_rows(role, control) for role, control in controls.items())
    tables.CONTROL_SCORES.write(folder, itertools.chain.from_iterable(by_control))
    tables.EXPLANATION_STRATA.write(folder, interpreted.strata_rows({None: trained} | controls))

    encoder = inputs.get("text_encoder")
    asked: Facts = {"text_encoder": encoder.name} if encoder is not None else {}
    if run.clients:
        tables.WRITERS.write(folder, interpreted.writer_rows(trained))
        tables.CALLS.write(folder, run.clients.calls())
        asked["asked"] = run.clients.facts()

    theirs = {role: controls[role].scored if role in controls else None for role in CONTROLS}
    sample, n_latents = trained.sample, len(trained.sample.latents)
    counted = {
        "dead": sample.n_dead,
        "split": sample.split,
        "skipped": trained.n_skipped,
        "n": n_latents,
    }
    rows = [
        *summary.rows(trained.scored, theirs, run.clients.is_one_model),
        *summary.shares(d_sae=encoded.facts["d_sae"], **counted),
    ]
    return _scores(folder, config, encoded, rows) | {
        "latents": n_latents,
        "skipped": trained.n_skipped,
        "dead": sample.n_dead,
        "explained": explained,
        "windows": trained.n_windows,
        "controls": {role: len(control.sample.latents) for role, control in controls.items()},
        **asked,
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
    keys = [Key("entry", explainer, name, able(config, name)[0]) for name in config.scorers]
    facts = _scores(folder, config, encoded, [key.row() | {"reason": NO_TEXT} for key in keys])
    counts = dict.fromkeys(("latents", "skipped", "dead", "windows"), 0)
    return facts | counts | {"explained": {}, "controls": {}}


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


INTERPRET = Stage(
    "interpret",
    version=3,
    make=make,
    entries=entries,
    inputs={
        "corpus": Parent("read", optional=True),
        "activations": Parent("capture"),
        "codes": Parent("encode"),
        "untrained": Parent("encode", optional=True, untrained=True),
        "model": Parent("model", optional=True),
        "text_encoder": Parent("text_encoder", wanted=embeds),
    },
    scored=True,
    estimator=Estimator(formula),
)
