"""A planted concept is found by its own unit, chosen before test is read; what cannot be judged
says why."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
import torch

from components.evaluation.contract import Gate
from components.evaluation.evaluations.concepts_found import ConceptsFound, ConceptsFoundConfig
from components.store.shards import Codes
from components.store.tables import CONCEPTS_FOUND
from tests.evaluation import bench

EVALUATION = ConceptsFound(ConceptsFoundConfig(), bench.services())
GRID = bench.plain(40, 7)
D_IN, D_SAE, SPREAD, AXIS, TOPIC = 8, 6, 3, 2, 4
CONCEPTS = [
    ("spread", "contextual", "token"),
    ("axis", "surface", "token"),
    ("noise", "contextual", "token"),
    ("topic", "document", "document"),
]
LABELS = {
    "spread": lambda split, token, document: (token == 3) & (document % 2 == 0),
    "axis": lambda split, token, document: token == 5,
    "noise": lambda split, token, document: (token * 5 + document * 3) % 11 == 0,
    "topic": lambda split, token, document: document % 3 == 0,
}


def grids(splits=bench.SPLITS):
    return {
        split: {**GRID, "document": GRID["document"] + 1000 * number}
        for number, split in enumerate(splits)
    }


def planted(split, grid):
    """Activations and codes: `spread` lies along all coordinates, `axis` against one; a latent
    each, and one of topic."""
    generator = torch.Generator().manual_seed(len(split))
    token, document = grid["token"].flatten(), grid["document"].flatten()
    has = {name: mark(split, token, document) for name, mark in LABELS.items()}
    alternating = torch.tensor([1.0, -1]).repeat(D_IN // 2)
    shared = torch.randn(len(token), 1, generator=generator) * 10  # drowns every single coordinate
    x = shared + 0.1 * torch.randn(len(token), D_IN, generator=generator)
    x += 3 * has["spread"][:, None] * alternating
    x[:, AXIS] -= 200 * has["axis"]
    x += 2 * has["topic"][:, None] * alternating.roll(1).repeat_interleave(2)[:D_IN]
    dense = torch.zeros(len(token), D_SAE)
    dense[:, SPREAD] = has["spread"] * (1 + torch.rand(len(token), generator=generator))
    dense[:, AXIS] = has["axis"].float()
    dense[:, TOPIC] = (
        has["topic"] & (token == 0)
    ).float()  # one token of each document: the mean tells
    dense[:, 0] = torch.rand(len(token), generator=generator)
    return x, Codes.from_dense(dense)


def subject(
    store, tmp_path, *, labels=LABELS, concepts=CONCEPTS, splits=bench.SPLITS, seed=0, **kwargs
):
    made = {split: planted(split, grid) for split, grid in grids(splits).items()}
    x, found = ({split: pair[i] for split, pair in made.items()} for i in (0, 1))
    generator = torch.Generator().manual_seed(9)
    random = {
        s: Codes.from_dense(torch.rand(len(r), D_SAE, generator=generator)) for s, r in x.items()
    }
    return bench.subject(
        store, tmp_path, bench.linear(torch.ones(D_IN)), grids=grids(splits), x=x, found=found,
        untrained=(None, random), concepts=concepts, labels=labels, seed=seed, **kwargs,
    )  # fmt: skip


def table(given):
    scores, _ = bench.measure(EVALUATION, given)
    frame = pl.read_parquet(given.folder / CONCEPTS_FOUND.file)
    return scores, {(row["concept"], row["unit_kind"]): row for row in frame.to_dicts()}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    from components.store.artifact import Store

    folder = tmp_path_factory.mktemp("planted")
    return table(subject(Store(folder / "artifacts"), folder))


def test_a_gate_of_other_tokens_is_measured_anew(measured, store, tmp_path):
    nothing = Gate(7, CONCEPTS_FOUND.frame([]), {})
    given = dataclasses.replace(subject(store, tmp_path), gate=nothing)
    scores, _ = measured
    assert {
        name: score.interval for name, score in bench.measure(EVALUATION, given)[0].items()
    } == {name: score.interval for name, score in scores.items()}


def test_a_planted_concept_is_found_by_its_own_latent(measured):
    _, rows = measured
    for concept, latent in (("spread", SPREAD), ("axis", AXIS), ("topic", TOPIC)):
        row = rows[concept, "latent"]
        assert (row["unit"], row["sign"], row["found"], row["gate"]) == (latent, 1, True, True)
        assert row["ap"] == row["auroc"] == row["select_ap"] == row["validate_ap"] == 1
    assert rows["topic", "latent"]["n"] == 40 and rows["topic", "latent"]["n_positive"] == 13
    assert rows["axis", "latent"]["n"] == 280 and rows["axis", "latent"]["n_positive"] == 40


def test_coordinates_are_read_with_either_sign_and_miss_what_is_spread_over_them(measured):
    _, rows = measured
    row = rows["axis", "neuron"]
    assert (row["unit"], row["sign"], row["found"]) == (AXIS, -1, True)
    assert rows["spread", "neuron"]["found"] is False and rows["spread", "neuron"]["ap"] < 0.5
    assert rows["spread", "untrained"]["found"] is False


def test_the_probe_gates_and_ungated_concepts_stay_in_the_table_but_not_in_the_share(measured):
    scores, rows = measured
    assert rows["spread", "probe"]["found"] and rows["spread", "probe"]["unit"] is None
    assert rows["spread", "probe"]["reason"] == "fitted on select, so not scored there"
    for unit in ("latent", "neuron", "untrained", "probe"):
        assert rows["noise", unit]["gate"] is False and rows["noise", unit]["found"] is False
        assert rows["noise", unit]["ap"] is not None
    gated = scores["concepts_gated", "all"]
    assert (gated.interval.value, gated.interval.n) == (3 / 4, 4)
    assert (scores["concepts_gated", "contextual"].interval.value, gated.n_failed) == (1 / 2, 0)
    latent = scores["concepts_found.latent", "all"]
    assert (latent.interval.value, latent.interval.n, latent.n_failed) == (1.0, 3, 0)
    assert latent.baseline == scores["concepts_found.untrained", "all"].interval.value < 1
    assert latent.baseline_name == "untrained dictionary"
    assert scores["concepts_found.neuron", "all"].baseline_name == "linear probe"
    assert scores["concepts_found.probe", "all"].baseline is None
    assert scores["concepts_ap.latent", "document"].interval.value == 1
    kinds = {kind for name, kind in scores if name == "concepts_auroc.latent"}
    assert kinds == {"all", "token", "surface", "contextual", "document"}


def test_the_unit_is_fixed_before_test_is_read(store, tmp_path, measured):
    """With the labels of test turned round, nothing that was chosen moves; only what test says
    does."""
    turned = {
        name: lambda split, token, document, mark=mark: (
            mark(split, token, document) ^ (split == "test")
        )
        for name, mark in LABELS.items()
    }
    _, before = measured
    _, after = table(subject(store, tmp_path, labels=turned))
    for key, row in after.items():
        for column in ("unit", "sign", "gate", "select_ap", "validate_ap"):
            assert row[column] == before[key][column], (key, column)
    assert after["spread", "latent"]["ap"] < 1 and not after["topic", "latent"]["found"]


def test_a_concept_that_a_split_lacks_is_a_null_with_its_reason_and_counts_as_failed(
    store, tmp_path
):
    lacking = {
        **LABELS,
        "spread": lambda split, token, document: (
            LABELS["spread"](split, token, document) & (split != "test")
        ),
        "axis": lambda split, token, document: (
            LABELS["axis"](split, token, document) & (split != "select")
        ),
    }
    scores, rows = table(subject(store, tmp_path, labels=lacking))
    untested, unfitted = rows["spread", "latent"], rows["axis", "latent"]
    assert untested["gate"] is True and untested["ap"] is None and untested["found"] is None
    assert untested["reason"] == "no token of test has it" and untested["n_positive"] == 0
    assert unfitted["unit"] is None and unfitted["gate"] is None and unfitted["found"] is None
    assert unfitted["reason"] == "no token of select has it"
    share = scores["concepts_found.latent", "all"]
    assert (share.interval.value, share.interval.n, share.n_failed) == (1 / 2, 2, 1)
    assert (
        scores["concepts_gated", "all"].interval.n,
        scores["concepts_gated", "all"].n_failed,
    ) == (4, 1)
    assert (
        "concepts_found.latent",
        "surface",
    ) not in scores  # none of its kind is decoded, see concepts_gated
    assert scores["concepts_gated", "surface"].interval.value == 0
    assert scores["concepts_ap.latent", "contextual"].reason == "none of 1 concepts has a value"


def test_without_labels_or_without_a_split_there_is_a_reason(store, tmp_path):
    scores, rows = table(subject(store, tmp_path, concepts=[]))
    assert (
        scores["concepts_found.latent", "all"].reason.startswith(
            "the corpus labels no concept; give read.word_lists"
        )
        and not rows
    )
    scores, rows = table(subject(store, tmp_path, splits=("select", "test"), seed=1))
    assert (
        scores["concepts_found.latent", "all"].reason.startswith(
            "the capture has no validate split; add it to"
        )
        and not rows
    )


def test_progress_is_reported_while_units_are_chosen(store, tmp_path):
    _, reported = bench.measure(EVALUATION, subject(store, tmp_path))
    assert {progress.unit for progress in reported} == {"units", "splits"}
    assert all(0 < progress.done <= progress.total for progress in reported)


def test_the_share_is_measured_above_the_base_rate_and_against_the_probe(measured):
    _, rows = measured
    row, probe = rows["axis", "untrained"], rows["axis", "probe"]
    base = row["n_positive"] / row["n"]
    wanted = (row["ap"] - base) / (probe["ap"] - base)
    assert (
        row["share"] == pytest.approx(min(1.0, max(0.0, wanted)))
        and row["share"] < 0.8
        and row["found"] is False
    )
    assert rows["axis", "latent"]["share"] == pytest.approx(1.0)
    assert (
        rows["noise", "latent"]["decodable"] is False and rows["noise", "latent"]["share"] is None
    )


def test_the_normalised_share_puts_the_untrained_dictionary_at_0_and_the_probe_at_1(measured):
    scores, rows = measured
    concepts = [name for name in LABELS if rows[name, "probe"]["decodable"]]
    latent, random = (
        sum(rows[name, unit]["share"] for name in concepts) for unit in ("latent", "untrained")
    )
    wanted = (latent - random) / (len(concepts) - random)
    found = scores["concepts_found_normalised.latent", "all"]
    assert (
        found.interval.value == pytest.approx(wanted)
        and found.baseline == 0.0
        and found.interval.n == len(concepts)
    )
