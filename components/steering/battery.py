"""The gaming battery: texts that please a judge and are no steered text, beside real text.

A cell is a target and a real opening that goes on with text that has the target. Of each cell the
real continuation is judged, and beside it what each trick makes of the same target and opening. The
law: on the composite (`components.steering.composite`: `panel`, of three, where relevance is
judged) real text is above every trick, paired cell by cell, with the lower bound of the interval
above 0. What a single judge falls for is told beside it: no judge alone keeps the law.

The replicate is the target: cells of one target are averaged first, and the interval is Student's
over targets. Text that cannot be judged (nothing is written) counts as 0. A target that a judge
refuses is left out of that judge's own rows.

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
from components.statistics import ABSENT, Interval, t_interval
from components.steering.composite import FLUENCY, composite
from components.steering.contract import Continuation, Material, Passages
from components.steering.panel import Panel
from components.steering.writer import Prompt, Writer, continuation
from components.store.judgements import COMPOSITE, PANEL, UNSTEERED

SENTENCE = re.compile(r"[^.!?]*[.!?]+[”\"']?|[^.!?]+$")
KEYWORDS = 8
"""Words of a target that a list of keywords is made of."""
REAL = "real"
EMPTY = "empty"
PER_TARGET = 2
"""Cells of each target, where there are many targets."""
FEWEST_CELLS, MOST_CELLS = 24, 60
"""Few targets have more cells each, until there are so many; of many targets some are drawn."""


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
NAMES = (*TRICKS, UNSTEERED)
"""Every trick, in the order of the table."""
N_READ = len(TRICKS) + 1
"""Texts of a cell that are read and not written: what tricks make, and the real one."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One trick under one judge (or a composite).

    Attributes:
        trick: its name.
        judge: who judges; `panel` and `composite` are the composites.
        real: mean of the real continuations, 0 to 1; None without a cell.
        fake: mean of the trick's texts, likewise.
        difference: real minus trick, paired by cell, with the interval over targets.
        n_cells: cells.
        n_failed: texts of the trick without a value; they count as 0.
        n_unjudged: targets of which no real text has a value; they count as 0.
        reason: why there is no difference, or no interval; None where there are both.
    """

    trick: str
    judge: str
    real: float | None
    fake: float | None
    difference: Interval
    n_cells: int
    n_failed: int
    n_unjudged: int = 0
    reason: str | None = None

    @property
    def falls(self) -> bool:
        """Whether the judge falls for it: real text is not above it."""
        return self.difference.low is None or self.difference.low <= 0

    @property
    def holds(self) -> bool | None:
        """Whether the law holds: the interval is above 0; None without an interval."""
        return None if self.difference.low is None else self.difference.low > 0


def per_target(n_targets: int) -> int:
    """Cells of each target, where so many targets are tried."""
    return max(PER_TARGET, -(-FEWEST_CELLS // max(1, n_targets)))


def most_cells(n_targets: int) -> int:
    """Cells of a battery on so many targets, at most."""
    tried = min(n_targets, MOST_CELLS // PER_TARGET)
    return tried * per_target(tried)


def drawn_cells(material: Material, columns: Sequence[int], writer: Writer) -> list[Cell]:
    """Cells on the validate passages of these targets, `MOST_CELLS` at most; where there are too
    many targets, the seed draws among them."""
    n = min(len(columns), MOST_CELLS // PER_TARGET)
    drawn = numpy_generator(material.seed, "battery", "targets").permutation(len(columns))[:n]
    tried = [columns[i] for i in sorted(drawn.tolist())]
    return find_cells(material.validate, tried, writer, per_target(n))


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
            prompt = Prompt.of(writer.model, row, real.openings[row], writer.conversation)
            cells.append(Cell(column, prompt, real.texts[row]))
    return cells


def law_of(has_panel: bool) -> str:
    """The composite that the law is on: of three parts where there is one."""
    return PANEL if has_panel else COMPOSITE


def obstacle(panel: Panel, cells: Sequence[Cell], n_targets: int) -> str | None:
    """Why the battery cannot be run; None where it can.

    Args:
        panel: fitted judges.
        cells: that were found.
        n_targets: targets that passed the gate.
    """
    if why := panel.silence().get(law_of(panel.has_panel)):
        return why
    if not n_targets:
        return "no target passed the gate"
    if not cells:
        return (
            "no passage of the validate split has a target that passed the gate; raise "
            "read.splits.validate"
        )
    return None


def run_battery(
    panel: Panel,
    material: Material,
    cells: Sequence[Cell],
    unsteered: Sequence[Continuation],
    writer: Writer,
    top_contexts: Mapping[int, str] | None = None,
) -> list[Outcome]:
    """Judges the real text and every trick of each cell.

    Args:
        panel: fitted judges, with a composite.
        material: what they were fitted on: tricks are made of its judge split.
        cells: targets and openings.
        unsteered: plain continuation of each cell's opening.
        writer: measures texts.
        top_contexts: column of a target that is a latent -> the real passage in which that is most
            active; absent, the judges are asked (`Judge.top_passage`).

    Returns:
        One outcome for each trick and judge, the composite first.
    """
    law = law_of(panel.has_panel)
    assert law not in panel.silence(), "the battery is a law on a composite"
    columns = sorted({cell.column for cell in cells})
    contexts = _top_contexts(panel, columns) if top_contexts is None else top_contexts
    baits = {column: bait(material, column, contexts.get(column)) for column in columns}
    texts: dict[str, list[Continuation | None]] = {
        UNSTEERED: list(unsteered),
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
    silent, outcomes = panel.silence(), []
    for judge in (law, *(name for name in panel.judges if name not in panel.asking)):
        refused = panel.judges[judge].refusals() if judge in panel.judges else {}
        asked = [i for i, cell in enumerate(cells) if material.concepts[cell.column] not in refused]
        for trick in NAMES:
            there = [i for i in asked if texts[trick][i] is not None]
            if why := silent.get(judge) or _no_cell(asked, there, refused):
                outcomes.append(_absent(trick, judge, why))
            else:
                outcomes.append(_outcome(trick, judge, values, cells, there))
    return outcomes


def _no_cell(asked: Sequence[int], there: Sequence[int], refused: Mapping[str, str]) -> str | None:
    """Why a trick has no cell under a judge; None where it has one."""
    if not asked:
        return next(iter(refused.values()), "no target")
    return None if there else "no target has a latent that is active in a real passage"


def _absent(trick: str, judge: str, why: str) -> Outcome:
    return Outcome(trick, judge, None, None, ABSENT, 0, 0, reason=why)


def not_run(has_panel: bool, why: str) -> list[Outcome]:
    """Every trick on the composite without a value, for this reason."""
    return [_absent(trick, law_of(has_panel), why) for trick in NAMES]


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


def _top_contexts(panel: Panel, columns: Sequence[int]) -> dict[int, str]:
    """Column -> the real passage that a judge knows as the one which pleases it most."""
    found: dict[int, str] = {}
    for column in columns:
        told = (judge.top_passage(column) for judge in panel.judges.values())
        if text := next(filter(None, told), None):
            found[column] = text
    return found


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
        if panel.has_panel:
            values[kind, PANEL] = panel.of_three(own, plain)
        else:
            measure = panel.measure
            values[kind, COMPOSITE] = composite(own[measure], plain[measure], own[FLUENCY])
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
    judged = {cells[i].column for i, gone in zip(there, np.isnan(real), strict=True) if not gone}
    unjudged = {cells[i].column for i in there} - judged
    fake, real = np.nan_to_num(fake), np.nan_to_num(real)
    of_target: dict[int, list[float]] = {}
    for i, difference in zip(there, real - fake, strict=True):
        of_target.setdefault(cells[i].column, []).append(float(difference))
    interval = t_interval(np.array([np.mean(each) for each in of_target.values()]))
    few = "one target gives no interval" if interval.low is None else None
    means = float(real.mean()), float(fake.mean())
    return Outcome(trick, judge, *means, interval, len(there), n_failed, len(unjudged), few)


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes as rows of the BATTERY table."""
    return [
        {
            "trick": each.trick,
            "judge": each.judge,
            "real": each.real,
            "fake": each.fake,
            "value": each.difference.value,
            "low": each.difference.low,
            "high": each.difference.high,
            "n": each.difference.n,
            "n_cells": each.n_cells,
            "n_failed": each.n_failed,
            "n_unjudged": each.n_unjudged,
            "holds": each.holds,
            "reason": each.reason,
        }
        for each in outcomes
    ]


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The battery as one row of scores: the trick that comes nearest to real text on the composite,
    and in words how many the law holds against.

    Args:
        outcomes: as `run_battery` and `not_run` return them.
    """
    law = outcomes[0].judge
    of_law = [each for each in outcomes if each.judge == law]
    known = [each for each in of_law if each.difference.low is not None]
    about = {
        "measure": "battery",
        "role": "control",
        "concept_kind": "all",
        "split": "validate",
        "unit_of_replication": "concept",
        "baseline": 0.0,
        "baseline_name": "as good as real text",
    }
    if not known:
        why = next((each.reason for each in of_law if each.reason), "no trick was tried")
        return {**about, **dataclasses.asdict(ABSENT), "n_failed": 0, "reason": why}
    nearest = min(known, key=lambda each: each.difference.low or 0.0)
    held = sum(bool(each.holds) for each in known)
    told = (
        f"the law holds against {held} of {len(known)} tricks, smallest lower bound "
        f"{nearest.difference.low:.2g} ({nearest.trick}); {nearest.judge}, {nearest.n_cells} cells "
        f"of {nearest.difference.n} targets"
    )
    if nearest.n_cells < FEWEST_CELLS:
        told += f", wanted at least {FEWEST_CELLS} (raise read.splits.validate)"
    if lacking := [each.trick for each in of_law if each.difference.low is None]:
        told += f"; not tried: {', '.join(lacking)}"
    if held < len(known) and law == COMPOSITE:
        told += "; with relevance in steer.judges the composite is of three, and harder to game"
    return {
        **about,
        **dataclasses.asdict(nearest.difference),
        "n_failed": nearest.n_unjudged,
        "reason": told,
    }
