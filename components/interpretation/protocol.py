"""How explanations are asked for and scored: everybody answers about every latent, and nobody drops
out.

A latent that was skipped, an explanation that could not be written and an answer that could not be
read stand at chance, with their reason, and count in n and n_failed. Means and paired differences
rest on all sampled latents but those of which a scorer says that there is no score at all, whoever
answers, and those about which nobody was asked (a budget that is spent): these are missing, and
since whoever asks a client is asked about latents in random order, the others are a sample
(`score_in_blocks`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import numpy as np

from components.interpretation import natural_density, strata
from components.interpretation.contract import (
    Explainer,
    LatentEvidence,
    LatentRecord,
    Predictor,
    Scorer,
)
from components.interpretation.explanation import Explanation, too_long
from components.interpretation.probe import NgramProbe
from components.interpretation.trials import Answer, LatentScore, Question, Trials, Unit
from components.interpretation.windows import Pool
from components.seeds import numpy_generator
from components.store.stage import Progress

BLOCK = 8
"""Latents about which a client is asked everything before the next ones. With the floor that is 16
questions together, some hundred requests, which keep an endpoint busy."""


def explain(
    name: str,
    explainer: Explainer,
    records: Sequence[LatentRecord],
    evidence: Iterable[LatentEvidence],
) -> Generator[Progress, None, list[Explanation]]:
    """One explanation for each record, in order; `evidence` is of those that were not skipped.

    A text that is longer than the explainer may write becomes a null with the reason.
    """
    explanations = []
    written = explainer.explain(evidence)
    for record in records:
        each = Explanation(None, record.reason) if record.reason else next(written)
        if each.text is not None and len(each.text) > explainer.longest:
            each = Explanation(None, too_long(len(each.text), explainer.longest))
        explanations.append(each)
        yield Progress(len(explanations), len(records), "latents", f"explained by {name}")
    return explanations


def order_of(records: Sequence[LatentRecord], asks: bool, seed: int) -> list[int]:
    """The order in which somebody is asked about these latents: one random order for whoever asks a
    client, their own for everybody else."""
    order = np.arange(len(records))
    return (numpy_generator(seed, "asked").permutation(order) if asks else order).tolist()


def shown_to(
    predictor: Predictor, records: Sequence[LatentRecord], said: Sequence[Explanation], seed: int
) -> Sequence[Explanation]:
    """What a predictor reads of these explanations: all, or where it reads some latents only, those
    of a random sample, the same for every explainer and scorer; the others are missing."""
    n = predictor.at_most
    if n is None or n >= len(records):
        return said
    nobody = Explanation(
        None, f"{predictor.kind} reads {n} of {len(records)} latents, drawn at random", True
    )
    drawn = set(order_of(records, True, seed)[:n])
    return [each if number in drawn else nobody for number, each in enumerate(said)]


def draw(scorer: Scorer, records: Sequence[LatentRecord], seed: int) -> list[Trials]:
    """The trials of each record, in order: drawn once, for whoever answers."""
    drawn = [
        scorer.trials(record, numpy_generator(seed, "trials", scorer.kind, record.latent))
        for record in records
    ]
    return strata.common(drawn, [record.reason is None for record in records])


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What one predictor is asked for one scorer.

    Attributes:
        scorer: says what is asked, and what an answer scores.
        predictor: answers.
        trials: of each record.
        read: an explanation of each record; several lists of them, each by what it is called in
            messages and in the names of draws.
    """

    scorer: Scorer
    predictor: Predictor
    trials: Sequence[Trials]
    read: Mapping[str, Sequence[Explanation]]

    def pools(self, records: Sequence[LatentRecord], seed: int) -> list[Pool | None]:
        """The windows of the pool that are asked about, of each record."""
        whole, at_most = self.predictor.reads_pool, self.predictor.at_most
        return natural_density.pools(records, self.trials, whole, seed, at_most)

    def progress(self, name: str, done: int, of: int, unit: str) -> Progress:
        """How far it is."""
        message = f"{name}: {self.scorer.kind} by {self.predictor.kind}"
        return Progress(done, of, unit, message)


def score(
    name: str,
    records: Sequence[LatentRecord],
    trials: Sequence[Trials],
    explanations: Sequence[Explanation],
    scorer: Scorer,
    predictor: Predictor,
    seed: int,
) -> Generator[Progress, None, list[LatentScore]]:
    """One score for each record, in order, of a predictor that reads these explanations."""
    reading = Reading(scorer, predictor, trials, {name: explanations})
    order, pools = order_of(records, predictor.asks, seed), reading.pools(records, seed)
    scores: dict[int, LatentScore] = {}
    for number, _, scored in _scores(reading, records, pools, order, seed):
        scores[number] = scored
        yield reading.progress(name, len(scores), len(records), "latents")
    return [scores[number] for number in range(len(records))]


def score_in_blocks(
    readings: Sequence[Reading], records: Sequence[LatentRecord], seed: int
) -> Generator[Progress, None, list[dict[str, list[LatentScore]]]]:
    """The scores of predictors that ask a client: of each reading, by what was read, one for each
    record, in order.

    Latents go in blocks of `BLOCK`, in random order. Everything is asked about a block before the
    next, and within a reading about a latent before the next. So a budget that ends leaves a sample
    of latents of which everything is known: at most one latent has a score without its floor, and
    at most a block has the scores of some scorers and not of others.
    """
    order = order_of(records, True, seed)
    pools = [reading.pools(records, seed) for reading in readings]
    found: list[dict[str, dict[int, LatentScore]]]
    found = [{name: {} for name in reading.read} for reading in readings]
    done, of = 0, len(records) * sum(len(reading.read) for reading in readings)
    for first in range(0, len(order), BLOCK):
        block = order[first : first + BLOCK]
        for reading, shown, scores in zip(readings, pools, found, strict=True):
            for number, name, scored in _scores(reading, records, shown, block, seed):
                scores[name][number] = scored
                done += 1
                yield reading.progress(name, done, of, "scores")
    return [
        {name: [by[number] for number in range(len(records))] for name, by in scores.items()}
        for scores in found
    ]


def _scores(
    reading: Reading,
    records: Sequence[LatentRecord],
    pools: Sequence[Pool | None],
    numbers: Sequence[int],
    seed: int,
) -> Iterator[tuple[int, str, LatentScore]]:
    """The scores of some of the records: the number of the record and what was read, latent by
    latent, in this order."""
    scorer, predictor = reading.scorer, reading.predictor
    rows = [
        (number, name, records[number], reading.trials[number], read[number], pools[number])
        for number in numbers
        for name, read in reading.read.items()
    ]
    why = [
        (said.is_missing and said.reason)
        or asked.null
        or record.reason
        or asked.reason
        or said.reason
        for _, _, record, asked, said, _ in rows
    ]
    told = [row for row, reason in zip(rows, why, strict=True) if reason is None]
    questions = (asked.question(said.text or "") for _, _, _, asked, said, _ in told)
    answers = _answers(predictor, questions, scorer.needs)
    of_pools = predictor.predict(
        (Question(said.text or "", pool.texts) for *_, said, pool in told if pool), "windows"
    )
    for (number, name, record, asked, said, pool), reason in zip(rows, why, strict=True):
        answer = Answer(None, reason, said.is_missing) if reason else next(answers)
        scored = _score(name, record, asked, answer, scorer, seed)
        if pool and scorer.natural:
            of_pool = Answer(None, reason) if reason else next(of_pools)
            if not scored.is_missing:
                whole = predictor.reads_pool
                scored = natural_density.told(scored, scorer.natural, pool, of_pool, whole)
        yield number, name, scored


def score_probe(
    records: Sequence[LatentRecord],
    trials: Sequence[Trials],
    probes: Sequence[NgramProbe | None],
    scorer: Scorer,
    seed: int,
) -> Generator[Progress, None, list[LatentScore]]:
    """One score for each record, in order, of the probe fitted to it; None where the record was
    skipped."""
    scores = []
    pools = natural_density.pools(records, trials, True, seed)
    for record, asked, probe, pool in zip(records, trials, probes, pools, strict=True):
        nobody = Answer(None, asked.null or record.reason or asked.reason)
        asks = probe is not None and nobody.reason is None
        answer = probe.answer(asked.question(""), scorer.needs) if probe and asks else nobody
        scored = _score("probe", record, asked, answer, scorer, seed)
        if pool and scorer.natural:
            shown = Question("", pool.texts)
            of_pool = probe.answer(shown, "windows") if probe and asks else nobody
            scored = natural_density.told(scored, scorer.natural, pool, of_pool, True)
        scores.append(scored)
        yield Progress(len(scores), len(records), "latents", f"probe: {scorer.kind}")
    return scores


def _answers(predictor: Predictor, questions: Iterator[Question], unit: Unit) -> Iterator[Answer]:
    """What the predictor answers; marks are made from its tokens where it gives no marks of its
    own."""
    if unit in predictor.gives:
        yield from predictor.predict(questions, unit)
        return
    asked, shown = itertools.tee(questions)
    for question, answer in zip(asked, predictor.predict(shown, "tokens"), strict=True):
        yield (
            answer
            if answer.values is None
            else Answer(question.marked(answer.values), answer.reason)
        )


def _score(
    name: str, record: LatentRecord, trials: Trials, answer: Answer, scorer: Scorer, seed: int
) -> LatentScore:
    if answer.is_missing:
        return LatentScore(math.nan, None, None, 0, 0, answer.reason, is_missing=True)
    if trials.null is not None:
        return LatentScore(None, None, None, len(trials), 0, trials.null)
    if answer.values is None:
        whole = LatentScore(scorer.chance, None, None, len(trials), len(trials), answer.reason)
    else:
        whole = scorer.score(
            answer, trials, numpy_generator(seed, "interval", name, scorer.kind, record.latent)
        )
    return strata.told(whole, answer, trials, scorer)
