"""The gaming battery: texts that please a judge and are no steered text, beside real text.

A cell is a target and a real opening that goes on with text that has the target. Of each cell the
real continuation is judged, and beside it what each trick makes of the same target and opening. The
law: on the composite of three (`components.steering.composite.panel`) real text is above every
trick, paired cell by cell, with the lower bound of the interval above 0. What a single judge falls
for is told beside it: no judge alone keeps the law.

The replicate is the target: cells of one target are averaged first, and the interval is Student's
over targets. Text that cannot be judged (nothing is written) counts as 0.

Source: ours, after the ways in which steering's scores were gamed in practice
(docs/steering.md tells them).
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from components.concept.distinctive import WORD, distinctive_words
from components.corpus.encoding import Encoder
from components.seeds import numpy_generator
from components.statistics import Interval, t_interval
from components.steering.contract import Continuation, Material, Passages
from components.steering.panel import Panel
from components.steering.writer import Job, Prompt, Writer, continuation
from components.store.judgements import PANEL

SENTENCE = re.compile(r"[^.!?]*[.!?]+[”\"']?|[^.!?]+$")
KEYWORDS = 8
"""Words of a target that a list of keywords is made of."""
REAL = "real"
UNSTEERED = "unsteered"
EMPTY = "empty"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A target and a real opening.

    Attributes:
        column: of the target.
        prompt: the opening.
        text: how the document goes on; it has the target.
    """

    column: int
    prompt: Prompt
    text: str


@dataclasses.dataclass(frozen=True)
class Bait:
    """What tricks are made of.

    Attributes:
        keywords: words that are more frequent in real text of the target than in other text, the
            strongest first.
        sentence: a sentence of the judge split that has the target.
        passage: a passage of the judge split that has the target.
        top_context: the real passage in which the target's latent is most active; None where the
            target is no latent.
        noise: words drawn from all text.
    """

    keywords: Sequence[str]
    sentence: str
    passage: str
    top_context: str | None
    noise: Sequence[str]


Trick = Callable[[Cell, Bait, np.random.Generator], str | None]
"""Makes the text of one cell; None where it cannot be made for this target."""


def _keyword_list(cell: Cell, bait: Bait, rng: np.random.Generator) -> str:
    return " ".join(rng.choice(bait.keywords, len(_words(cell.text))).tolist())


def _one_word(cell: Cell, bait: Bait, rng: np.random.Generator) -> str:
    return " ".join([bait.keywords[0]] * len(_words(cell.text)))


def _training_text(cell: Cell, bait: Bait, rng: np.random.Generator) -> str:
    return bait.passage


def _sentence_and_noise(cell: Cell, bait: Bait, rng: np.random.Generator) -> str:
    missing = max(4, len(_words(cell.text)) - len(_words(bait.sentence)))
    return f"{bait.sentence} {' '.join(rng.choice(bait.noise, missing).tolist())}"


def _prompt_and_sentence(cell: Cell, bait: Bait, rng: np.random.Generator) -> str:
    return f"{cell.prompt.text} {bait.sentence}"


def _top_context(cell: Cell, bait: Bait, rng: np.random.Generator) -> str | None:
    return bait.top_context


def _shuffled(cell: Cell, bait: Bait, rng: np.random.Generator) -> str:
    words = cell.text.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def _empty(cell: Cell, bait: Bait, rng: np.random.Generator) -> str:
    return ""


TRICKS: Mapping[str, Trick] = {
    "keyword_list": _keyword_list,
    "one_word": _one_word,
    "training_text": _training_text,
    "sentence_and_noise": _sentence_and_noise,
    "prompt_and_sentence": _prompt_and_sentence,
    "top_context": _top_context,
    "shuffled": _shuffled,
    EMPTY: _empty,
}
"""By name: keywords of the target in random order; its first keyword again and again; a passage of
the training text, verbatim; a sentence that has the target, then random words; the prompt again,
then a sentence that has the target; the passage in which the target's latent is most active; the
words of the real continuation, shuffled; nothing. Unsteered text is one more."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One trick under one judge (or the composite of three).

    Attributes:
        trick: its name.
        judge: who judges; `panel` is the composite of three.
        real: mean of the real continuations, 0 to 1.
        fake: mean of the trick's texts.
        difference: real minus trick, paired by cell, with the interval over targets.
        n_cells: cells.
        n_failed: texts of the trick without a value; they count as 0.
    """

    trick: str
    judge: str
    real: float
    fake: float
    difference: Interval
    n_cells: int
    n_failed: int

    @property
    def falls(self) -> bool:
        """Whether the judge falls for it: real text is not above it."""
        return self.difference.low is None or self.difference.low <= 0


def find_cells(
    real: Passages, columns: Sequence[int], writer: Writer, per_target: int
) -> list[Cell]:
    """Openings of real text that goes on with a target, as many as there are for each target, at
    most `per_target`; no passage serves two targets while another one is left.

    Args:
        real: passages with their openings; none that a judge was fitted on.
        columns: of the targets.
        writer: whose model reads.
        per_target: cells of each target.
    """
    cells, used = [], Counter[int]()
    for column in columns:
        having = np.flatnonzero(real.labels[:, column]).tolist()
        having.sort(key=lambda row: used[row])
        for row in having[:per_target]:
            used[row] += 1
            prompt = Prompt.of(writer.model, row, real.openings[row])
            cells.append(Cell(column, prompt, real.texts[row]))
    return cells


def run_battery(
    panel: Panel,
    material: Material,
    cells: Sequence[Cell],
    writer: Writer,
    top_contexts: Mapping[int, str] | None = None,
) -> list[Outcome]:
    """Judges the real text and every trick of each cell.

    Args:
        panel: fitted judges, with a composite of three.
        material: what they were fitted on: tricks are made of its judge split.
        cells: targets and openings.
        writer: measures texts, and writes the unsteered ones.
        top_contexts: column of a target that is a latent -> the real passage in which that is most
            active.

    Returns:
        One outcome for each trick and judge, the composite of three first.
    """
    assert panel.has_panel, "the battery is a law on the composite of three"
    baits = {
        column: bait(material, column, (top_contexts or {}).get(column))
        for column in sorted({cell.column for cell in cells})
    }
    texts: dict[str, list[Continuation | None]] = {
        UNSTEERED: list(_written(writer, cells)),
        REAL: list(_read(writer, cells, [cell.text for cell in cells])),
    }
    for name, trick in TRICKS.items():
        rng = numpy_generator(material.seed, "battery", name)
        made = [trick(cell, baits[cell.column], rng) for cell in cells]
        read = _read(writer, cells, [text or "" for text in made])
        texts[name] = [
            text if there is not None else None for text, there in zip(read, made, strict=True)
        ]
    values = _judged(panel, cells, texts)
    tricks = [*TRICKS, UNSTEERED]
    outcomes = []
    read = [name for name in panel.judges if name not in panel.asking]
    for judge in (PANEL, *read):
        for trick in tricks:
            there = [i for i, text in enumerate(texts[trick]) if text is not None]
            if there:
                outcomes.append(_outcome(trick, judge, values, cells, there))
    return outcomes


def bait(material: Material, column: int, top_context: str | None = None) -> Bait:
    """What tricks on a target are made of, from the judge split."""
    passages, has = material.judge.texts, material.judge.labels[:, column]
    inside = [text for text, there in zip(passages, has, strict=True) if there]
    outside = [text for text, there in zip(passages, has, strict=True) if not there]
    keywords = distinctive_words(inside, outside, KEYWORDS) or ["nothing"]
    rng = numpy_generator(material.seed, "bait", material.targets[column].name)
    words = sorted({word for text in passages for word in _words(text)}) or ["nothing"]
    passage = inside[int(rng.integers(len(inside)))] if inside else ""
    sentences = [part.strip() for text in inside for part in SENTENCE.findall(text)]
    known = set(keywords)
    # the sentence with most of the keywords: what a cheat would take
    sentence = max(
        sentences, key=lambda part: len(known & {word.lower() for word in _words(part)}), default=""
    )
    return Bait(keywords, sentence, passage, top_context, words)


def _words(text: str) -> list[str]:
    return WORD.findall(text)


def _written(writer: Writer, cells: Sequence[Cell]) -> list[Continuation]:
    """Plain continuations of the openings."""
    work = writer.write([Job(cell.prompt) for cell in cells])
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def _read(writer: Writer, cells: Sequence[Cell], texts: Sequence[str]) -> list[Continuation]:
    """Texts as if they had been written after the openings."""
    tokens = [each.ids for each in Encoder.of(writer.model).encode(texts, offsets=False)]
    losses = writer.losses([cell.prompt.tokens for cell in cells], tokens)
    return [
        continuation(text, len(ids), float(loss), prompt=cell.prompt.text)
        for text, ids, loss, cell in zip(texts, tokens, losses, cells, strict=True)
    ]


def _judged(
    panel: Panel, cells: Sequence[Cell], texts: Mapping[str, Sequence[Continuation | None]]
) -> dict[tuple[str, str], Float[np.ndarray, " cell"]]:
    """(kind of text, judge) -> its value in each cell; NaN for none."""
    columns = np.array([cell.column for cell in cells])
    rows = np.arange(len(cells))
    values: dict[tuple[str, str], Float[np.ndarray, " cell"]] = {}
    plain: dict[str, Float[np.ndarray, " cell"]] = {}
    nothing = Continuation(None, 0, None, "no such text for this target")
    for kind, of_kind in texts.items():  # unsteered text first: gains are over it
        verdicts = panel.verdicts([text or nothing for text in of_kind])
        own = {name: verdict.values[rows, columns] for name, verdict in verdicts.items()}
        if kind == UNSTEERED:
            plain = {name: own[name] for name in panel.deciding}
        values |= {(kind, name): of_judge for name, of_judge in own.items()}
        values[kind, PANEL] = panel.of_three(own, plain)
    return values


def _outcome(
    trick: str,
    judge: str,
    values: Mapping[tuple[str, str], Float[np.ndarray, " cell"]],
    cells: Sequence[Cell],
    there: Sequence[int],
) -> Outcome:
    fake, real = (values[kind, judge][list(there)] for kind in (trick, REAL))
    n_failed = int(np.isnan(fake).sum())
    fake, real = np.nan_to_num(fake), np.nan_to_num(real)
    of_target: dict[int, list[float]] = {}
    for i, difference in zip(there, real - fake, strict=True):
        of_target.setdefault(cells[i].column, []).append(float(difference))
    interval = t_interval(np.array([np.mean(each) for each in of_target.values()]))
    return Outcome(
        trick, judge, float(real.mean()), float(fake.mean()), interval, len(there), n_failed
    )


def table(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes as rows: trick, judge, real, fake, difference with interval, and whether the
    judge falls for it."""
    return [
        {
            "trick": each.trick,
            "judge": each.judge,
            "real": each.real,
            "fake": each.fake,
            "difference": each.difference.value,
            "low": each.difference.low,
            "high": each.difference.high,
            "n_targets": each.difference.n,
            "n_cells": each.n_cells,
            "n_failed": each.n_failed,
            "falls": each.falls,
        }
        for each in outcomes
    ]
