"""Feature absorption by the first-letter task: the latents of a letter are silent on a word, and
another latent carries it.

A model spells where a linear probe of a first letter, fitted on some words, knows the letter of
words it has never seen. So words are divided, not only documents: half of each letter's words
belong to select, a quarter to validate, a quarter to test (dealt by a hash of the word), and each
is read in the documents of its own split alone. A word counts once, however often it is read. What
is a word: `components/concept/words.py`.

    probe      on select: logistic regression of the letter, classes balanced; d its unit direction
    spelt      its F1 on the words of validate reaches 0.6; a letter below that is named and left out
    main       of the ten latents with the largest difference of means on select those that, each added in turn to a probe
               of the main latents, raise its F1 on the words of validate by more than 0.03 (the
               first: from 0)
    counted    tokens of the letter's words of test on which the probe says yes
    A, M, q_j  (x - mean without) . d;  sum of q_j over main latents;  a_j (w_j . d)
    B          sum of the three largest q_j > 0 of other latents with cos(d, w_j) >= 0.1
    fraction   0 if M >= A or B < 0.4 A;  1 if M <= 0;  else b / (b + M) with b = min(B, A - M)
    full       no main latent above 1e-8, and the other latent of largest q_j has cos(d, w_j) >= 0.025 and q_j >= 0.4 A

Each is a mean over a word's counted tokens, over the letter's words, then over letters, which are
the replicates. Where no letter is spelt there is no score: the model does not spell, and nothing
follows for the dictionary.

Source: Chanin et al. 2024 (arXiv:2409.14507); definitions and constants of SAEBench
(arXiv:2503.09532). Deviations: words in running text instead of prompts that ask for the letter;
candidates by difference of means instead of an L1 probe over all latents, and a candidate that adds
nothing is passed over, not the end; F1 of main latents on words that no probe has seen, since a
latent of one word tells that word and no other; lengths along d from the mean of the other letters'
words instead of from 0, because what all words share is carried by no latent of a letter; every
gated letter counts, and fewer than twenty are no reason to refuse: their number is n.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt

from components.concept.words import beginnings
from components.config import Config
from components.dictionary.contract import Dictionary
from components.dictionary.encode import Encoded
from components.evaluation.contract import (
    ABSENT,
    TEST,
    Evaluation,
    Measuring,
    Score,
    Subject,
    evaluations,
)
from components.evaluation.gate import SELECT, VALIDATE, missing
from components.report.measure import Measure
from components.seeds import derive, numpy_generator
from components.statistics import Interval, bootstrap_mean
from components.store.stage import Progress
from components.store.tables import FIRST_LETTER

PARTS = (SELECT, VALIDATE, TEST)
DEALT = (SELECT, VALIDATE, SELECT, TEST)
"""Whose the words of a letter are, in turn."""
CANDIDATES = 10
GROWTH = 0.03
SILENT = 1e-8
ALIGNED, MOST_ALIGNED = 0.1, 3
LEAST_COSINE = 0.025
LEAST_SHARE = 0.4
INVERSE_PENALTY = 1.0
COLUMNS = {
    "first_letter.absorption": "fraction",
    "first_letter.full_absorption": "full",
    "first_letter.silent": "silent",
    "first_letter.main_f1": "main_f1",
    "first_letter.main_latents": "n_main",
}
"""Of the table, by measure, for letters that the model spells."""
MEASURES = (
    Measure(
        "first_letter.absorption", "First letters absorbed", "share",
        "Mean fraction of a first letter that another latent carries while the letter's own are silent.", "lower",
        rank=17, least=0, most=1,
    ),
    Measure(
        "first_letter.full_absorption", "First letters absorbed in full", "share",
        "Words whose first letter one other latent carries alone.", "lower", rank=17, least=0, most=1,
    ),
    Measure(
        "first_letter.silent", "First letters, main latents silent", "share",
        "Words on which none of their letter's main latents is active.", "lower", rank=18, least=0, most=1,
    ),
    Measure(
        "first_letter.main_f1", "First letters, F1 of the main latents", "F1",
        "A probe of the main latents on words that it has not seen.", rank=18, least=0, most=1,
    ),
    Measure(
        "first_letter.main_latents", "First letters, main latents", "latents", "How many latents a letter has.",
        "neither", rank=24, least=0,
    ),
    Measure(
        "first_letter.probe_f1", "First letters, F1 of the probe", "F1", "A probe of all coordinates on new words.",
        "neither", rank=19, least=0, most=1,
    ),
    Measure(
        "first_letter.spelt", "First letters that the model spells", "share", "The gate of these scores.", "neither",
        rank=19, least=0, most=1,
    ),
)  # fmt: skip


class FirstLetterConfig(Config):
    """First letters of words that another latent carries; for models that spell, so a sweep
    measures it only when asked."""

    probe_f1: float = Field(default=0.6, gt=0, le=1)
    """F1 of a letter's probe on words of validate, which it has not seen, from which the letter
    counts as spelt."""
    words: PositiveInt = 5
    """Words with a letter, and words without it, that select, validate and test must each hold for
    it to be tested."""
    occurrences: PositiveInt = 5
    """Tokens of each word that are read in its split, at most; a word counts once all the same."""
    tokens: PositiveInt = 200_000
    """Tokens of each split among which words are looked for; all when it has fewer."""


@dataclasses.dataclass(frozen=True, eq=False)
class SplitWords:
    """The words that belong to one split, as read there.

    Attributes:
        row: which rows of the split are read.
        word: the word that each begins.
        weight: 1 / rows of that word, so that a word counts once.
    """

    row: Int[np.ndarray, " token"]
    word: np.ndarray
    weight: Float[np.ndarray, " token"]

    def has(self, letter: str) -> Bool[np.ndarray, " token"]:
        """Which of them begin with it."""
        return np.char.startswith(self.word, letter)

    def n_words(self, letter: str) -> tuple[int, int]:
        """Words with the letter and without it."""
        words = np.unique(self.word)
        n = int(np.char.startswith(words, letter).sum())
        return n, len(words) - n


@dataclasses.dataclass(frozen=True, eq=False)
class Direction:
    """What select says of one letter along which direction.

    Attributes:
        origin: mean activation of the words without it.
        direction: unit vector of its probe.
        said: validate and test -> whether the probe says yes, token by token.
    """

    origin: Float[np.ndarray, " d_in"]
    direction: Float[np.ndarray, " d_in"]
    said: Mapping[str, Bool[np.ndarray, " token"]]


@evaluations
class FirstLetter(Evaluation):
    """Which letters are spelt, how much of them is absorbed, and how well their main latents tell
    them."""

    config = FirstLetterConfig
    measures = MEASURES
    in_sweeps = False

    def measure(self, subject: Subject) -> Measuring:
        """Writes a row for each letter; probes are fitted on select, gated on validate, and words
        of test are counted."""
        if lacking := missing(subject.activations):
            FIRST_LETTER.write(subject.folder, [])
            return _scores(
                self.services.seed,
                FIRST_LETTER.frame([]),
                None,
                f"the capture holds no {', '.join(lacking)} split",
            )
        parts = self.parts(subject)
        x = {
            split: subject.activations.rows(split, subject.hook_point, torch.from_numpy(part.row))
            .float()
            .numpy()
            for split, part in parts.items()
        }
        letters = sorted(
            {word[0] for part in parts.values() for word in np.unique(part.word).tolist()}
        )
        rows: dict[str, dict[str, Any]] = {}
        directions: dict[str, Direction] = {}
        for number, letter in enumerate(letters, 1):
            rows[letter], found = self._gated(letter, parts, x)
            if found and rows[letter]["spelt"]:
                directions[letter] = found
            yield Progress(number, len(letters), "letters", "probing first letters")
        trained = _Latents(subject.codes, subject.dictionary, parts, x) if directions else None
        for number, (letter, found) in enumerate(directions.items(), 1):
            assert trained
            rows[letter] |= trained.measured(letter, found)
            yield Progress(number, len(directions), "letters", "first-letter absorption")
        untrained = None
        if directions and subject.untrained and subject.untrained.dictionary:
            control = _Latents(subject.untrained.codes, subject.untrained.dictionary, parts, x)
            untrained = FIRST_LETTER.frame(
                {"letter": letter, **control.measured(letter, found)}
                for letter, found in directions.items()
            )
        reason = self._why_none(rows, subject.hook_point)
        return _scores(
            self.services.seed, FIRST_LETTER.write(subject.folder, rows.values()), untrained, reason
        )

    def parts(self, subject: Subject) -> dict[str, SplitWords]:
        """The words of each split that belong to it, at most so many tokens of each, evenly over
        the split."""
        found = {}
        for split in PARTS:
            n = min(self.settings.tokens, subject.n_rows(split))
            provenance = {
                name: column[:n] for name, column in subject.activations.provenance(split).items()
            }
            found[split] = beginnings(subject.corpus, provenance)
        owner = dealt(np.unique(np.concatenate(list(found.values()))).tolist())
        return {
            split: _part(words, split, owner, self.settings.occurrences)
            for split, words in found.items()
        }

    def _gated(
        self, letter: str, parts: Mapping[str, SplitWords], x: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], Direction | None]:
        """Columns of one letter, and its direction where the letter could be tested."""
        counts = {split: part.n_words(letter) for split, part in parts.items()}
        row: dict[str, Any] = {"letter": letter} | {
            f"words_{split}": n for split, (n, _) in counts.items()
        }
        if min(map(min, counts.values())) < self.settings.words:
            held = ", ".join(f"{n} of {split}" for split, (n, _) in counts.items())
            row["reason"] = (
                f"words with it: {held}; {self.settings.words} of each, and as many without, are "
                "needed"
            )
            return row, None
        has = {split: part.has(letter) for split, part in parts.items()}
        found = _direction(x, has[SELECT], parts[SELECT].weight)
        gate, test = (
            f1(found.said[split], has[split], parts[split].weight) for split in (VALIDATE, TEST)
        )
        row |= {"probe_f1": gate, "probe_f1_test": test, "spelt": gate >= self.settings.probe_f1}
        if not row["spelt"]:
            row["reason"] = (
                f"not spelt: F1 {gate:.2f} on words of {VALIDATE}, wanted "
                f"{self.settings.probe_f1:g}"
            )
        return row, found

    def _why_none(self, rows: Mapping[str, Mapping[str, Any]], hook_point: str) -> str:
        """What to say where there is no score."""
        reached = {letter: row["probe_f1"] for letter, row in rows.items() if "probe_f1" in row}
        if not reached:
            return (
                f"no letter begins {self.settings.words} words of each of {', '.join(PARTS)}: "
                "give more text, or lower evaluate.settings.first_letter.words"
            )
        best = max(reached, key=lambda letter: reached[letter])
        return (
            f"the model does not spell: at {hook_point} the probes of {len(reached)} letters were "
            "read on words that they had not seen, and none reaches an F1 of "
            f"{self.settings.probe_f1:g} (best: {best}, {reached[best]:.2f})"
        )


class _Latents:
    """The codes of one dictionary on the words of every split, and what its latents write."""

    def __init__(
        self,
        codes: Encoded,
        dictionary: Dictionary,
        parts: Mapping[str, SplitWords],
        x: Mapping[str, np.ndarray],
    ) -> None:
        self.parts, self.x = parts, x
        self.codes = {
            split: sp.csc_matrix(codes.codes(split).take(torch.from_numpy(part.row)).matrix())
            for split, part in parts.items()
        }
        self.by_row = self.codes[TEST].tocsr()
        self.written = dictionary.decoder_directions().cpu().double().numpy()
        self.norm = np.linalg.norm(self.written, axis=1)

    def measured(self, letter: str, found: Direction) -> dict[str, Any]:
        """Columns of one letter that is spelt."""
        has = {split: part.has(letter) for split, part in self.parts.items()}
        weight = {split: part.weight for split, part in self.parts.items()}
        main, said = main_latents(self.codes, has, weight)
        if not len(main):
            return {
                "main": [],
                "reason": f"no latent tells it on words of {VALIDATE} (F1 at most {GROWTH})",
            }
        part = self.parts[TEST]
        columns = {
            "main": main.tolist(),
            "n_main": len(main),
            "main_f1": f1(said, has[TEST], part.weight),
        }
        counted = np.flatnonzero(has[TEST] & found.said[TEST])
        if not len(counted):
            n = part.n_words(letter)[0]
            return columns | {
                "n": 0,
                "reason": f"the probe recognises none of its {n} words of {TEST}",
            }
        along = self.written @ found.direction
        length = (self.x[TEST][counted] - found.origin) @ found.direction
        given = self.by_row[counted]
        each = absorbed(given, main, along, along / np.maximum(self.norm, 1e-30), length)
        _, word = np.unique(part.word[counted], return_inverse=True)
        shares = {
            name: float((np.bincount(word, values) / np.bincount(word)).mean())
            for name, values in each.items()
        }
        return columns | {"n": int(word.max()) + 1, **shares, "reason": None}


def dealt(words: Sequence[str]) -> dict[str, str]:
    """Word -> the split that it belongs to: each letter's words in the order of a hash, dealt out
    two, one and one."""
    turn: dict[str, int] = {}
    owner = {}
    for word in sorted(
        filter(None, words), key=lambda word: (derive(0, "first_letter", word), word)
    ):
        turn[word[0]] = turn.get(word[0], -1) + 1
        owner[word] = DEALT[turn[word[0]] % len(DEALT)]
    return owner


def main_latents(
    codes: Mapping[str, sp.csc_matrix],
    has: Mapping[str, np.ndarray],
    weight: Mapping[str, np.ndarray],
) -> tuple[Int[np.ndarray, " main"], Bool[np.ndarray, " token"]]:
    """The latents that together stand for one letter, and whether a probe of them says yes on test,
    token by token.

    Args:
        codes: of the words of each split, [token, d_sae].
        has: split -> whether the token's word has the letter.
        weight: split -> of each token.
    """
    over = {side: weight[SELECT] * (has[SELECT] == side) for side in (True, False)}
    mean = {
        side: np.asarray(codes[SELECT].T @ (given / given.sum())).ravel()
        for side, given in over.items()
    }
    difference = mean[True] - mean[False]
    main: list[int] = []
    reached, told = 0.0, np.zeros(len(has[TEST]), bool)
    for latent in np.argsort(-difference, kind="stable")[:CANDIDATES].tolist():
        if difference[latent] <= 0:
            break
        few = {split: found[:, [*main, latent]].toarray() for split, found in codes.items()}
        scale = few[SELECT].std(0) + 1e-12  # one penalty for latents of every size
        slope, bias = logistic(few[SELECT] / scale, has[SELECT], weight[SELECT])
        said = {split: few[split] / scale @ slope + bias > 0 for split in (VALIDATE, TEST)}
        together = f1(said[VALIDATE], has[VALIDATE], weight[VALIDATE])
        if together > reached + GROWTH:
            main, reached, told = [*main, latent], together, said[TEST]
    return np.array(main, np.int64), told


def absorbed(
    codes: sp.csr_matrix,
    main: Int[np.ndarray, " main"],
    along: Float[np.ndarray, " d_sae"],
    cosine: Float[np.ndarray, " d_sae"],
    length: Float[np.ndarray, " token"],
) -> dict[str, Float[np.ndarray, " token"]]:
    """For each token whether the main latents are silent, the fraction absorbed, and whether
    absorption is full (0 or 1).

    Args:
        codes: of these tokens.
        main: the main latents.
        along: decoder direction . d of each latent.
        cosine: the same over the norm of the decoder direction.
        length: of each token's activation along d.
    """
    found = {name: np.zeros(len(length)) for name in ("silent", "fraction", "full")}
    for number, whole in enumerate(length.tolist()):
        here = slice(codes.indptr[number], codes.indptr[number + 1])
        latent, value = codes.indices[here], codes.data[here].astype(np.float64)
        carried, own = value * along[latent], np.isin(latent, main)
        silent = bool((value[own] < SILENT).all())
        by_main, others, cosines = float(carried[own].sum()), carried[~own], cosine[latent[~own]]
        aligned = float(np.sort(others[(cosines >= ALIGNED) & (others > 0)])[-MOST_ALIGNED:].sum())
        found["silent"][number] = silent
        if whole <= 0 or not len(others):
            continue
        if by_main < whole and aligned >= LEAST_SHARE * whole:
            part = min(aligned, whole - by_main)
            found["fraction"][number] = 1.0 if by_main <= 0 else part / (part + by_main)
        top = int(others.argmax())
        found["full"][number] = (
            silent and cosines[top] >= LEAST_COSINE and others[top] >= LEAST_SHARE * whole
        )
    return found


def f1(said: np.ndarray, has: np.ndarray, weight: np.ndarray) -> float:
    """F1 of "the letter is there" over words, each weighing 1; 0 where it is neither said nor
    there."""
    both = weight[said].sum() + weight[has].sum()
    return float(2 * weight[said & has].sum() / both) if both else 0.0


def logistic(x: np.ndarray, has: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Slope and bias of a logistic regression in which both classes weigh the same."""
    from sklearn.linear_model import (
        LogisticRegression,  # here: describing the flows need not wait for it
    )

    balanced = weight * weight.sum() / 2 / np.where(has, weight[has].sum(), weight[~has].sum())
    fit = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000).fit(x, has, balanced)
    return fit.coef_[0], float(fit.intercept_[0])


def _part(words: np.ndarray, split: str, owner: Mapping[str, str], occurrences: int) -> SplitWords:
    known, kind = np.unique(words, return_inverse=True)
    mine = np.array([owner.get(word) == split for word in known.tolist()], bool)
    taken, weight = [np.zeros(0, np.int64)], [np.zeros(0)]
    order = np.argsort(kind, kind="stable")
    bounds = np.searchsorted(kind[order], np.arange(len(known) + 1))
    for number in np.flatnonzero(mine).tolist():
        rows = order[bounds[number] : bounds[number + 1]]
        n = min(occurrences, len(rows))
        taken.append(rows[np.arange(n) * len(rows) // n])
        weight.append(np.full(n, 1 / n))
    row = np.concatenate(taken)
    return SplitWords(row, words[row], np.concatenate(weight))


def _direction(x: Mapping[str, np.ndarray], has: np.ndarray, weight: np.ndarray) -> Direction:
    """The probe of one letter, fitted on select where activations have mean 0 and coordinates
    variance 1 on average."""
    mean = np.average(x[SELECT], axis=0, weights=weight).astype(np.float32)
    scale = float(np.sqrt(np.square(x[SELECT] - mean).mean())) or 1.0
    slope, bias = logistic((x[SELECT] - mean) / scale, has, weight)
    said = {split: (x[split] - mean) @ slope / scale + bias > 0 for split in (VALIDATE, TEST)}
    origin = np.average(x[SELECT][~has].astype(np.float64), axis=0, weights=weight[~has])
    return Direction(origin, slope / max(float(np.linalg.norm(slope)), 1e-30), said)


def _scores(
    seed: int, table: pl.DataFrame, untrained: pl.DataFrame | None, reason: str
) -> list[Score]:
    tested = table.filter(pl.col("probe_f1").is_not_null())
    scores = [
        _score(seed, "first_letter.probe_f1", tested["probe_f1"], reason),
        _score(seed, "first_letter.spelt", tested["spelt"].cast(pl.Float64), reason),
    ]
    spelt = tested.filter("spelt")
    for name, column in COLUMNS.items():
        given, baseline_name = (
            (spelt, "linear probe") if column == "main_f1" else (untrained, "untrained dictionary")
        )
        floor: Any = (
            given["probe_f1_test" if column == "main_f1" else column].mean()
            if given is not None
            else None
        )
        lost = spelt.filter(pl.col(column).is_null()).select("letter", "reason").rows()
        why = "; ".join(f"{letter}: {because}" for letter, because in lost) or reason
        scores.append(_score(seed, name, spelt[column].cast(pl.Float64), why, floor, baseline_name))
    return scores


def _score(
    seed: int,
    name: str,
    letters: pl.Series,
    reason: str,
    baseline: float | None = None,
    baseline_name: str | None = None,
) -> Score:
    """The mean over letters; those without a value are counted as failed."""
    values = letters.drop_nulls()
    failed = len(letters) - len(values)
    found = (
        bootstrap_mean(values.to_numpy(), numpy_generator(seed, name)) if len(values) else ABSENT
    )
    interval = Interval(found.value, found.low, found.high, len(letters))
    why = reason if failed or not len(values) else None
    return Score(name, interval, "letter", baseline, baseline_name, n_failed=failed, reason=why)
