"""k-sparse probes: latents chosen and weighed on select, scored once on test, exact although silent
rows are merged."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from components.evaluation.evaluations.sparse_probing import (
    SparseProbing,
    SparseProbingConfig,
    coefficients,
    precision,
)
from components.store.shards import Codes
from tests.evaluation import bench

GRID = bench.plain(60, 7)


def test_merging_silent_rows_changes_no_coefficient():
    random = np.random.default_rng(0)
    x = np.maximum(random.normal(size=(400, 3)) - 1, 0)
    has = random.random(400) < 1 / (1 + np.exp(2 - 3 * x[:, 0] + 2 * x[:, 1]))
    merged = coefficients(sp.csc_matrix(x), has)
    active = x[(x > 0).any(1)]
    scale = np.vstack([active, np.zeros((2, 3))]).std(0) + 1e-12
    whole = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x / scale, has).coef_[0] / scale
    assert merged == pytest.approx(whole, rel=1e-3)


def test_one_latent_is_read_by_its_sign_and_several_by_their_weights():
    x = np.array([[0.0], [2], [0], [1], [0]])
    has = np.array([True, False, True, False, False])
    ap = precision((sp.csc_matrix(x), has), (sp.csc_matrix(x), has), -1)
    assert ap == pytest.approx(average_precision_score(has, -x[:, 0]))
    always = sp.csc_matrix(np.ones((3, 2))), np.ones(3, bool)
    assert precision(always, always, 1) is None  # one class: nothing to fit


def test_a_concept_split_over_two_latents_needs_two(store, tmp_path):
    grids = {
        split: {**GRID, "document": GRID["document"] + 1000 * n}
        for n, split in enumerate(bench.SPLITS)
    }

    def made(split):
        generator = torch.Generator().manual_seed(len(split))
        token = GRID["token"].flatten()
        dense = torch.rand(len(token), 8, generator=generator) * 0.1
        dense[:, 2] = 3.0 * (token == 3)
        dense[:, 5] = 3.0 * (token == 4)
        x = 0.1 * torch.randn(len(token), 4, generator=generator)
        x[:, 0] += 5 * ((token == 3) | (token == 4))
        return x, Codes.from_dense(dense)

    both = {split: made(split) for split in bench.SPLITS}
    subject = bench.subject(
        store, tmp_path, bench.linear(torch.ones(4)), grids=grids, x={s: pair[0] for s, pair in both.items()},
        found={s: pair[1] for s, pair in both.items()}, concepts=[("word", "surface", "token")],
        labels={"word": lambda split, token, document: (token == 3) | (token == 4)},
    )  # fmt: skip
    scores, _ = bench.measure(
        SparseProbing(SparseProbingConfig(k=(1, 2)), bench.services()), subject
    )
    one, two = (scores[f"sparse_probing.k{k}", "all"] for k in (1, 2))
    assert one.interval.value < 0.8 and two.interval.value == pytest.approx(1)
    assert (
        two.baseline == pytest.approx(1)
        and two.baseline_name == "linear probe"
        and two.interval.n == 1
    )
