"""How explanations are asked for and scored: everybody answers about every latent, and nobody drops out.

A latent that was skipped, an explanation that could not be written and an answer that could not be read stand at
chance, with their reason, and count in n and n_failed. Means and paired differences rest on all sampled latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence

from components.interpretation import strata
from components.interpretation.contract import (
    Answer,
    Evidence,
    Explainer,
    Explanation,
    LatentRecord,
    Predictor,
    Question,
    Score,
    Scorer,
)
from components.interpretation.probe import Probe
from components.seeds import numpy_generator
from components.store.artifact import Progress


def explain(
    name: str, explainer: Explainer, records: Sequence[LatentRecord]
) -> Generator[Progress, None, list[Explanation]]:
    """One explanation for each record, in order; those skipped are not asked about."""
    found = []
    written = explainer.explain(Evidence(r.latent, r.explain) for r in records if r.reason is None)
    for record in records:
        found.append(Explanation(None, record.reason) if record.reason else next(written))
        yield Progress(len(found), len(records), "latents", f"explained by {name}")
    return found


def score(
    name: str,
    records: Sequence[LatentRecord],
    explanations: Sequence[Explanation],
    scorer: Scorer,
    predictor: Predictor,
    seed: int,
) -> Generator[Progress, None, list[Score]]:
    """One score for each record, in order, of a predictor that reads these explanations."""
    pairs = list(zip(records, explanations, strict=True))
    questions = (
        Question(said.text, scorer.windows(record).texts) for record, said in pairs if said.text and not record.reason
    )
    answers = predictor.predict(questions, scorer.needs)
    found = []
    for record, said in pairs:
        reason = record.reason or said.reason
        answer = Answer(None, reason) if reason else next(answers)
        found.append(_score(name, record, answer, scorer, seed))
        yield Progress(len(found), len(records), "latents", f"{name}: {scorer.kind} by {predictor.kind}")
    return found


def score_probe(
    records: Sequence[LatentRecord], probes: Sequence[Probe | None], scorer: Scorer, seed: int
) -> Generator[Progress, None, list[Score]]:
    """One score for each record, in order, of the probe fitted to it; None where the record was skipped."""
    found = []
    for record, probe in zip(records, probes, strict=True):
        answer = probe.answer(scorer.windows(record).texts, scorer.needs) if probe else Answer(None, record.reason)
        found.append(_score("probe", record, answer, scorer, seed))
        yield Progress(len(found), len(records), "latents", f"probe: {scorer.kind}")
    return found


def _score(name: str, record: LatentRecord, answer: Answer, scorer: Scorer, seed: int) -> Score:
    windows = scorer.windows(record)
    if answer.values is None:
        whole = Score(scorer.chance, None, None, len(windows), len(windows), answer.reason)
    else:
        whole = scorer.score(answer, windows, numpy_generator(seed, "interval", name, scorer.kind, record.latent))
    return dataclasses.replace(whole, strata=strata.score(answer, windows, scorer))
