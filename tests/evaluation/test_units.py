"""Units are chosen by exact average precision, pooled by document where the concept is of
documents."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from components.evaluation.units import (
    LATENT,
    NEURON,
    UNTRAINED,
    Choice,
    Readings,
    choose,
    read,
    readings,
    score,
)
from components.store.shards import Codes
from tests.evaluation import bench


def chosen(given: Readings) -> dict[str, Choice]:
    work = choose(given)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@given(st.integers(0, 2**30))
@settings(max_examples=30, deadline=None)
def test_the_best_unit_and_its_scores_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (60, 3)).astype(np.float32)
    codes = np.maximum(rng.integers(-2, 4, (60, 5)), 0).astype(np.float32)
    labels = rng.random((60, 4)) < 0.3
    seen = Readings(x, {LATENT: sp.csc_matrix(codes)}, sp.csc_matrix(labels))
    choices = chosen(seen)
    for concept, has in enumerate(labels.T):
        by_latent = [average_precision_score(has, unit) for unit in codes.T]
        assert choices[LATENT].ap[concept] == pytest.approx(max(by_latent))
        by_neuron = {
            (s, i): average_precision_score(has, s * unit)
            for i, unit in enumerate(x.T)
            for s in (1, -1)
        }
        assert choices[NEURON].ap[concept] == pytest.approx(max(by_neuron.values()))
        best = (int(choices[NEURON].sign[concept]), int(choices[NEURON].unit[concept]))
        assert by_neuron[best] == pytest.approx(max(by_neuron.values()))
        found = score(seen, LATENT, choices[LATENT])[concept]
        assert found.ap == pytest.approx(max(by_latent))
        assert found.auroc == pytest.approx(
            roc_auc_score(has, codes[:, choices[LATENT].unit[concept]])
        )
        assert score(seen, NEURON, choices[NEURON])[concept].ap == pytest.approx(
            max(by_neuron.values())
        )


def test_of_equal_units_the_first_is_taken_and_a_concept_without_positives_has_none():
    codes = sp.csc_matrix(np.array([[1, 1], [0, 0]], np.float32))
    seen = Readings(
        np.zeros((2, 1), np.float32),
        {LATENT: codes},
        sp.csc_matrix([[True, False], [False, False]]),
    )
    choice = chosen(seen)[LATENT]
    assert choice.unit.tolist() == [0, -1] and choice.ap[0] == 1 and np.isnan(choice.ap[1])
    assert score(seen, LATENT, choice)[1].ap is None


def test_documents_are_read_by_their_means_for_codes_and_coordinates_alike(store, tmp_path):
    grid, x = bench.plain(3, 2), torch.tensor([[1.0], [3], [0], [0], [5], [0]])
    concepts = [("late", "document", "document"), ("second", "surface", "token")]
    labels = {
        "late": lambda split, token, document: document == 2,
        "second": lambda split, token, document: token == 1,
    }
    control = (None, {"test": Codes.from_dense(x)})
    subject = bench.subject(
        store, tmp_path, bench.linear(torch.ones(1)), grids={"test": grid}, x={"test": x},
        concepts=concepts, labels=labels, untrained=control,
    )  # fmt: skip
    documents = readings(subject, "test", "document", ["late"], 100)
    raw = read(
        subject.activations, subject.corpus, subject.hook_point, "test", "document", ["late"], 100
    )
    assert (
        raw.x is not None
        and raw.x.tolist() == [[2.0], [0], [2.5]]
        and documents.x is None
        and documents.n == 3
    )
    assert documents.codes[LATENT].toarray().tolist() == [[2.0, 0], [0, 0], [2.5, 0]]
    assert documents.codes[UNTRAINED].toarray().tolist() == [[2.0], [0], [2.5]]
    assert documents.positive(0).tolist() == [2]
    tokens = readings(subject, "test", "token", ["second"], 4)
    assert (
        tokens.n == 4
        and tokens.positive(0).tolist() == [1, 3]
        and tokens.codes[LATENT].shape == (4, 2)
    )
