"""Feature absorption: a concept is there and the probe sees it, its main latents are silent, and a
more special latent carries it.

For every token concept that the gate passes, with d the unit vector from the mean activation
without it to that with it:

    main       on select: the latent whose activity has the best F1 for the concept; of the ten best further ones those
               that, each added to the set in turn, raise the F1 of "any of them active" by more
               than 0.03
    counted    tokens of test with the concept on which the probe says yes
    silent     none of the main latents is active there
    carried    silent, and some other active latent with cos(d, w_j) >= 0.025 gives at least 0.4 of the token's own
               length along d:  a_j (w_j . d) >= 0.4 (x - mean without) . d
    absorbed   carried by a special latent: of the tokens of select on which it is active, at least half have the concept
    broad      carried by another latent only

The rates are absorbed and broad over counted, for each concept, averaged over concepts. They say
nothing where no latent stands for a concept, so the F1 of the main latents on test stands beside
them: a dictionary whose latents are always active absorbs nothing and finds nothing.

Source: Chanin et al. 2024 (arXiv:2409.14507), and SAEBench's constants and full absorption
(arXiv:2503.09532). Deviations: labels of any concept in place of first letters, so "probe true
positives" are tokens of the world; the main latents are chosen by the F1 of their activity instead
of a chain of sparse probes; d is the difference of means, since a probe fitted in whitened
coordinates points where variance is small and not where dictionaries write. The sources count
whatever carries. In small dictionaries that is nearly always a latent far broader than the concept
(measured on 512 latents: active on 17% of all tokens in topk, on 26% in matryoshka, whose first
latents are made to carry much by themselves), and a concept that its parent carries was not
absorbed; so the two are told apart here, and their sum is the sources' rate.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from pydantic import PositiveInt

from components.concept.gate import ProbeGate
from components.config import Config
from components.evaluation.contract import (
    ABSENT,
    TEST,
    Evaluation,
    Measuring,
    Score,
    Subject,
    evaluations,
)
from components.evaluation.gate import SELECT, gate_of, passed
from components.evaluation.units import LATENT, readings
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import bootstrap_mean
from components.store.stage import Progress
from components.store.tables import ABSORPTION

CANDIDATES = 10
GROWTH = 0.03
LEAST_COSINE = 0.025
LEAST_SHARE = 0.4
LEAST_PRECISION = 0.5
COLUMNS = {
    "absorption": "rate",
    "absorption.broad": "broad",
    "absorption.silent": "silent",
    "absorption.main_f1": "f1",
}
"""Of the table, by measure."""
MEASURES = (
    Measure(
        "absorption", "Absorption", "share",
        "Tokens with a concept on which a more special latent carries it while its own latents are silent.", "lower",
        rank=6, kinds=30, least=0, most=1, short="absorption",
    ),
    Measure(
        "absorption.broad", "Carried by a broader latent", "share",
        "Tokens with a concept on which only a broader latent carries it while its own latents are silent.", "lower",
        rank=21, least=0, most=1, short="carried by a broader latent",
    ),
    Measure(
        "absorption.silent", "Main latents silent", "share",
        "Tokens with a concept on which none of its main latents is active.", "lower",
        rank=22, least=0, most=1, short="main latents silent",
    ),
    Measure(
        "absorption.main_f1", "F1 of the main latents", "F1", "Any main latent active against the concept's labels.",
        rank=23, least=0, most=1, short="main latents F1",
    ),
)  # fmt: skip


class AbsorptionConfig(Config):
    """Concepts that another latent carries while their own is silent."""

    gate: ProbeGate = ProbeGate()
    """When a probe decodes a concept, so that it is asked for."""
    tokens: PositiveInt = 200_000
    """Tokens of each split that are read; all when it has fewer."""


@dataclasses.dataclass(frozen=True, eq=False)
class MainLatents:
    """What select says of one concept.

    Attributes:
        main: its main latents.
        origin: the mean activation without it.
        direction: unit vector from there to the mean with it.
    """

    main: np.ndarray
    origin: np.ndarray
    direction: np.ndarray


@evaluations
class Absorption(Evaluation):
    """Rate of absorption, share of silent main latents, and how well the main latents tell the
    concept."""

    version = 3  # a latent broader than the concept no longer counts as one that absorbs it
    config = AbsorptionConfig
    measures = MEASURES

    def measure(self, subject: Subject) -> Measuring:
        """Writes a row for each gated token concept; select chooses main latents and directions,
        test is counted."""
        gate = yield from gate_of(subject, self.settings.tokens, self.services.execution)
        rows: list[dict[str, Any]] = []
        if "token" in gate.probes:
            probe, gated = gate.probes["token"], passed(gate, self.settings.gate, "token")
            names = list(probe.concepts)
            given, test = (
                readings(subject, split, "token", names, self.settings.tokens)
                for split in (SELECT, TEST)
            )
            x = {
                split: subject.activations.rows(split, subject.hook_point, torch.arange(n))
                .float()
                .numpy()
                for split, n in ((SELECT, given.n), (TEST, test.n))
            }
            activity = sp.csc_matrix(given.codes[LATENT] > 0)
            f1, n_active = activity_f1(activity, given.labels), np.diff(activity.indptr)
            inside = np.asarray(given.labels.T.astype(np.float32) @ x[SELECT])
            total, by_row = x[SELECT].sum(0, dtype=np.float64), test.codes[LATENT].tocsr()
            written = subject.dictionary.decoder_directions().cpu().double().numpy()
            for number, row in enumerate(gated.iter_rows(named=True), 1):
                column = names.index(row["concept"])
                n_positive = given.n_positive[column]
                origin = (total - inside[column]) / (given.n - n_positive)
                difference = inside[column] / n_positive - origin
                concept = MainLatents(
                    main_latents(activity, given.positive(column), f1[:, column]),
                    origin,
                    difference / np.linalg.norm(difference),
                )
                positive = test.positive(column)
                seen = (
                    x[TEST][positive] @ probe.weight[column].cpu().numpy()
                    + float(probe.bias[column])
                    > 0
                )
                counted = positive[seen]
                with_concept = f1[:, column] * (n_active + n_positive) / 2
                special = with_concept >= LEAST_PRECISION * np.maximum(1, n_active)
                silent, carried = absorbed_rows(concept, counted, x[TEST], by_row, written)
                _, absorbed = absorbed_rows(concept, counted, x[TEST], by_row, written, special)
                n = len(counted)
                rows.append(
                    {
                        "concept": row["concept"],
                        "concept_kind": row["concept_kind"],
                        "main": concept.main.tolist(),
                        "main_f1": _f1(test.codes[LATENT][:, concept.main], positive),
                        "n": n,
                        "n_silent": int(silent.sum()),
                        "n_absorbed": int(absorbed.sum()),
                        "n_broad": int((carried & ~absorbed).sum()),
                        "rate": float(absorbed.mean()) if n else None,
                        "reason": None
                        if n
                        else f"the probe recognises none of the {len(positive)} tokens of {TEST}",
                    }
                )
                yield Progress(number, gated.height, "concepts", "absorption")
        return _scores(self.services.seed, ABSORPTION.write(subject.folder, rows))


def activity_f1(activity: sp.csc_matrix, labels: sp.csc_matrix) -> np.ndarray:
    """[latent, concept]: F1 of "this latent is active" for "this token has the concept"."""
    true = np.asarray((activity.T.astype(np.float32) @ labels.astype(np.float32)).todense())
    active, positive = np.diff(activity.indptr)[:, None], np.diff(labels.indptr)[None]
    return 2 * true / np.maximum(1, active + positive)


def main_latents(activity: sp.csc_matrix, positive: np.ndarray, f1: np.ndarray) -> np.ndarray:
    """The latents that together stand for one concept, the best first."""
    ranked = np.argsort(-f1, kind="stable")[: CANDIDATES + 1]
    has = np.zeros(activity.shape[0], bool)
    has[positive] = True
    any_active, main, reached = np.zeros(len(has), bool), [], 0.0
    for latent in ranked:
        joined = any_active.copy()
        joined[activity.indices[activity.indptr[latent] : activity.indptr[latent + 1]]] = True
        together = 2 * (joined & has).sum() / max(1, joined.sum() + has.sum())
        if not main or together > reached + GROWTH:
            any_active, reached = joined, together
            main.append(latent)
    return np.array(main)


def absorbed_rows(
    concept: MainLatents,
    rows: np.ndarray,
    x: np.ndarray,
    codes: sp.csr_matrix,
    written: np.ndarray,
    special: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """For each of the rows, whether the main latents are silent, and whether another latent carries
    the concept then.

    Args:
        concept: what was chosen on select.
        rows: tokens that have the concept and on which the probe says so.
        x: activations of all tokens.
        codes: codes of all tokens.
        written: decoder directions, [d_sae, d_in].
        special: which latents may carry it; all of them where absent.
    """
    silent = (
        np.asarray(codes[rows][:, concept.main].sum(1)).ravel() == 0
        if len(rows)
        else np.zeros(0, bool)
    )
    along = written @ concept.direction
    along[along < LEAST_COSINE * np.linalg.norm(written, axis=1)] = 0
    along[concept.main] = 0
    if special is not None:
        along[~special] = 0
    length = (x[rows[silent]] - concept.origin) @ concept.direction
    given = codes[rows[silent]]
    carried = np.asarray(given.multiply(along[None]).tocsr().max(axis=1).todense()).ravel()
    absorbed = silent.copy()
    absorbed[silent] = (length > 0) & (carried >= LEAST_SHARE * length) & (carried > 0)
    return silent, absorbed


def _f1(codes: sp.csc_matrix, positive: np.ndarray) -> float:
    active = np.asarray(codes.sum(1)).ravel() > 0
    return float(2 * active[positive].sum() / max(1, active.sum() + len(positive)))


def _scores(seed: int, table: pl.DataFrame) -> list[Score]:
    counted = pl.when(pl.col("n") > 0)
    shares = table.with_columns(
        silent=counted.then(pl.col("n_silent") / pl.col("n")),
        broad=counted.then(pl.col("n_broad") / pl.col("n")),
        f1=pl.col("main_f1"),
    )
    scores = []
    for name, column in COLUMNS.items():
        for kind in ("all", *table["concept_kind"].unique(maintain_order=True)):
            part = shares.filter(pl.lit(kind == "all") | (pl.col("concept_kind") == kind))
            values = part[column].drop_nulls()
            draw = numpy_generator(seed, name, kind)
            interval = bootstrap_mean(values.to_numpy(), draw) if len(values) else ABSENT
            reason = None if len(values) else "no token concept passed the gate"
            failed = part[column].null_count() if len(values) else 0
            scores.append(
                Score(name, interval, "concept", concept_kind=kind, n_failed=failed, reason=reason)
            )
    return scores
