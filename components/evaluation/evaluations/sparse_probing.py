"""How well a probe does that may read only the k best latents: k-sparse probing, at natural
density.

For every concept that the gate passes, the k latents of largest |mean where present - mean where
absent| on select, a logistic regression on them fitted on select, and its average precision on
test. With k = 1 nothing is fitted: the latent is read with the sign of that difference. For speed,
tokens on which all k are silent are one row with a weight, which changes nothing, and of more than
5,000 active tokens without the concept every m-th stands for m, an approximation (the same for
every dictionary; what it does to a score was not measured). The baseline is the probe that reads
every coordinate.

Source: Gurnee et al. 2023 (arXiv:2305.01610); SAEBench (arXiv:2503.09532) for k = 1, 2, 5 and the
choice by mean difference. Deviations: average precision at natural density in place of accuracy on
balanced classes (a rare concept is not made common), concepts of tokens beside those of documents.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import scipy.sparse as sp
from pydantic import Field, PositiveInt

from components.concept.gate import ProbeGate
from components.concept.ranking import ranking
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
from components.evaluation.units import LATENT, Readings, readings
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import bootstrap_mean
from components.store.stage import Progress

INVERSE_PENALTY = 1.0
MOST_NEGATIVES = 5_000


class SparseProbingConfig(Config):
    """Probes on the few best latents."""

    k: tuple[PositiveInt, ...] = Field(default=(1, 2, 5), min_length=1)
    """Numbers of latents that a probe may read."""
    gate: ProbeGate = ProbeGate()
    """When a probe decodes a concept, so that it is asked for."""
    tokens: PositiveInt = 200_000
    """Tokens of each split that are read; all when it has fewer."""


@evaluations
class SparseProbing(Evaluation):
    """Average precision of k-sparse probes, by kind of concept."""

    version = 2
    config = SparseProbingConfig
    measures = (
        Measure(
            "sparse_probing", "Sparse probing", "AP", "Average precision of a probe of k latents, gated concepts.",
            rank=15, least=0, most=1, short="sparse probing",
        ),
    )  # fmt: skip

    def measure(self, subject: Subject) -> Measuring:
        """Concepts of tokens, then of documents; k latents chosen and weighed on select, scored
        once on test."""
        gate = yield from gate_of(subject, self.settings.tokens, self.services.execution)
        found: list[dict[str, object]] = []
        for unit in gate.probes:
            gated = passed(gate, self.settings.gate, unit)
            names = list(gate.probes[unit].concepts)
            given, test = (
                readings(subject, split, unit, names, self.settings.tokens)
                for split in (SELECT, TEST)
            )
            ranked = _by_mean_difference(given, max(self.settings.k))
            for number, row in enumerate(gated.iter_rows(named=True), 1):
                column = names.index(row["concept"])
                best, signs = ranked[column]
                has, had = _marked(given, column), _marked(test, column)
                for k in self.settings.k:
                    sets = (
                        (given.codes[LATENT][:, best[:k]], has),
                        (test.codes[LATENT][:, best[:k]], had),
                    )
                    ap = precision(*sets, int(signs[0]))
                    found.append(
                        {"k": k, "kind": row["concept_kind"], "ap": ap, "probe": row["ap"]}
                    )
                yield Progress(
                    number, gated.height, "concepts", f"sparse probes of {unit} concepts"
                )
        return self._scores(pl.DataFrame(found, schema=_SCHEMA))

    def _scores(self, found: pl.DataFrame) -> list[Score]:
        kinds = ["all", *found["kind"].unique(maintain_order=True)]
        scores = []
        for k in self.settings.k:
            for kind in kinds:
                part = found.filter(
                    pl.col("k") == k, pl.lit(kind == "all") | (pl.col("kind") == kind)
                )
                values = part["ap"].drop_nulls()
                draw = numpy_generator(self.services.seed, "sparse_probing", k, kind)
                interval = bootstrap_mean(values.to_numpy(), draw) if len(values) else ABSENT
                reason = None if len(values) else "no concept passed the gate"
                ceiling: float | None = part["probe"].mean()  # type: ignore[assignment]
                scores.append(
                    Score(
                        "sparse_probing", interval, "concept", ceiling if len(values) else None, "linear probe", k=k,
                        concept_kind=kind, n_failed=part["ap"].null_count() if len(values) else 0, reason=reason,
                    )
                )  # fmt: skip
        return scores


_SCHEMA = {"k": pl.Int64, "kind": pl.String, "ap": pl.Float64, "probe": pl.Float64}


def _marked(given: Readings, concept: int) -> np.ndarray:
    marked = np.zeros(given.n, bool)
    marked[given.positive(concept)] = True
    return marked


def _by_mean_difference(given: Readings, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each concept the k latents of largest absolute difference of means, and the signs of
    those."""
    codes = given.codes[LATENT]
    total = np.asarray(codes.sum(0)).ravel()
    inside = np.asarray((given.labels.T.astype(np.float32) @ codes).todense())
    positives = given.n_positive[:, None]
    difference = inside / np.maximum(1, positives) - (total - inside) / np.maximum(
        1, given.n - positives
    )
    best = np.argsort(-np.abs(difference), axis=1, kind="stable")[:, :k]
    return [(row, np.where(difference[i, row] < 0, -1, 1)) for i, row in enumerate(best)]


def precision(
    fitted_on: tuple[sp.csc_matrix, np.ndarray],
    scored_on: tuple[sp.csc_matrix, np.ndarray],
    sign: int,
) -> float | None:
    """Average precision of a logistic regression on a few latents; of one latent, read with `sign`,
    without a fit.

    Args:
        fitted_on: codes of those latents [row, k], and whether each row has the concept.
        scored_on: the same of the rows that are scored.
        sign: of the difference of means, where there is one latent.
    """
    x, has = fitted_on
    weight = np.array([float(sign)]) if x.shape[1] == 1 else coefficients(x, has)
    if weight is None:
        return None
    on, had = scored_on
    rows, dense = _active(on)
    scores = np.zeros(len(had), np.float32)
    scores[rows] = dense @ weight
    return ranking(scores, np.flatnonzero(had)).ap


def coefficients(x: sp.csc_matrix, has: np.ndarray) -> np.ndarray | None:
    """Of a logistic regression in which rows that are alike or too many stand in with weights; None
    with a single class."""
    if not has.any() or has.all():
        return None
    active, dense = _active(x)
    silent = np.ones(len(has), bool)
    silent[active] = False
    from sklearn.linear_model import (
        LogisticRegression,  # here: describing the flows need not wait for it
    )

    positive, negative = int((silent & has).sum()), int((silent & ~has).sum())
    rows = np.vstack([dense, np.zeros((2, x.shape[1]))])
    labels = np.concatenate([has[active], [True, False]])
    others = np.flatnonzero(~has[active])
    step = max(1, -(-len(others) // MOST_NEGATIVES))
    weights = np.concatenate([has[active].astype(float), [positive, negative]])
    weights[others[::step]] = len(others) / len(others[::step]) if len(others) else 0
    kept = weights > 0
    rows = rows[kept]
    scale = rows.std(0) + 1e-12  # one penalty for latents of every size
    fit = LogisticRegression(C=INVERSE_PENALTY, solver="newton-cholesky", max_iter=50)
    return fit.fit(rows / scale, labels[kept], weights[kept]).coef_[0] / scale


def _active(x: sp.csc_matrix) -> tuple[np.ndarray, np.ndarray]:
    """The rows on which any of the few latents is active, and those rows dense."""
    active = np.zeros(x.shape[0], bool)
    active[x.indices] = True
    rows = np.flatnonzero(active)
    place = np.cumsum(active) - 1
    dense = np.zeros((len(rows), x.shape[1]))
    dense[place[x.indices], np.repeat(np.arange(x.shape[1]), np.diff(x.indptr))] = x.data
    return rows, dense
