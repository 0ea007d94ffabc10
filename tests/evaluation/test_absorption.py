"""Absorption on a planted hierarchy: the main latent is silent exactly where a more special latent
carries the concept."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from components.dictionary.architectures.relu import Relu, ReluConfig
from components.evaluation.evaluations.absorption import (
    Absorption,
    AbsorptionConfig,
    MainLatents,
    absorbed_rows,
    activity_f1,
    main_latents,
)
from components.store.shards import Codes
from components.store.tables import ABSORPTION
from tests.evaluation import bench

GRID = bench.plain(40, 7)
MAIN, SPECIAL, OTHER = 0, 1, 2


def test_f1_of_activity_counts_tokens():
    activity = sp.csc_matrix(np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool))
    labels = sp.csc_matrix(np.array([[1], [1], [1], [0]], bool))
    assert activity_f1(activity, labels)[:, 0].tolist() == pytest.approx([4 / 5, 4 / 5])


def test_a_latent_joins_the_main_ones_only_where_it_adds_enough():
    has = np.arange(100) < 60
    half, rest, few = (np.zeros(100, bool) for _ in range(3))
    half[:40], rest[40:58], few[58:59] = True, True, True
    activity = sp.csc_matrix(np.stack([few, half, rest], 1))
    f1 = activity_f1(activity, sp.csc_matrix(has[:, None]))[:, 0]
    assert main_latents(activity, np.flatnonzero(has), f1).tolist() == [1, 2]


def test_absorbed_means_silent_and_carried_by_another_along_the_direction():
    concept = MainLatents(np.array([MAIN]), np.zeros(2), np.array([1.0, 0]))
    written = np.array([[1.0, 0], [0.6, 0.8], [0, 1]])
    x = np.array([[1.0, 0], [1, 1], [1, 1], [1, 1], [-1, 0]])
    codes = sp.csr_matrix(np.array([[1.0, 0, 0], [0, 0.7, 0], [0, 0.6, 0], [0, 0, 1], [0, 1, 0]]))
    silent, absorbed = absorbed_rows(concept, np.arange(5), x, codes, written)
    assert silent.tolist() == [False, True, True, True, True]
    # 0.7 * 0.6 = 0.42 of a length of 1 is enough, 0.36 is not; the other way or behind the origin
    # carries nothing
    assert absorbed.tolist() == [False, True, False, False, False]
    _, special = absorbed_rows(
        concept, np.arange(5), x, codes, written, np.array([True, False, True])
    )
    assert not special.any()  # the one that carries it is not special
    assert [each.tolist() for each in absorbed_rows(concept, np.arange(0), x, codes, written)] == [
        [],
        [],
    ]


def planted(split, share, broad=False):
    """Activations with a concept on tokens 3 and 4; on `share` of those of token 4 a special latent
    carries it.

    A broad one is also active on all tokens without the concept.
    """
    generator = torch.Generator().manual_seed(len(split))
    token = GRID["token"].flatten()
    has, special = (
        (token == 3) | (token == 4),
        (token == 4) & (GRID["document"].flatten() < 40 * share),
    )
    x = 0.01 * torch.randn(len(token), 4, generator=generator)
    x[:, 0] += 5 * has
    x[:, 1] += 5 * special
    dense = torch.zeros(len(token), 4)
    dense[:, MAIN] = 5.0 * (has & ~special)
    dense[:, SPECIAL] = 50**0.5 * special
    dense[:, OTHER] = 0.5
    if broad:
        dense[:, SPECIAL] += 0.1 * ~has
    return x, Codes.from_dense(dense)


@pytest.mark.parametrize(("share", "broad"), [(0.0, False), (0.1, False), (0.1, True)])
def test_the_rate_on_a_planted_hierarchy_is_the_share_that_was_absorbed(
    store, tmp_path, share, broad
):
    grids = {
        split: {**GRID, "document": GRID["document"] + 1000 * n}
        for n, split in enumerate(bench.SPLITS)
    }
    made = {split: planted(split, share, broad) for split in bench.SPLITS}
    dictionary = Relu(
        ReluConfig(d_sae=4), (bench.HOOK_POINT,), (bench.HOOK_POINT,), {bench.HOOK_POINT: 4}
    )
    with torch.no_grad():
        dictionary.W_dec.copy_(
            torch.tensor([[1.0, 0, 0, 0], [0.5**0.5, 0.5**0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        )
    subject = bench.subject(
        store, tmp_path, dictionary, grids=grids, x={s: pair[0] for s, pair in made.items()},
        found={s: pair[1] for s, pair in made.items()}, concepts=[("word", "surface", "token")],
        labels={"word": lambda split, token, document: (token == 3) | (token == 4)},
    )  # fmt: skip
    scores, _ = bench.measure(Absorption(AbsorptionConfig(), bench.services()), subject)
    row = pl.read_parquet(tmp_path / ABSORPTION.file).row(0, named=True)
    assert row["main"] == [MAIN]  # the special one would add less than 0.03 to its F1
    absorbed = 0 if broad else share
    assert row["n"] == 80 and row["n_silent"] == 40 * share == row["n_absorbed"] + row["n_broad"]
    assert row["n_absorbed"] == 40 * absorbed
    assert scores["absorption", "all"].interval.value == pytest.approx(absorbed / 2)
    assert scores["absorption.broad", "all"].interval.value == pytest.approx((share - absorbed) / 2)
    assert scores["absorption.silent", "surface"].interval.value == pytest.approx(share / 2)
