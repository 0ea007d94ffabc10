"""Laws for every registered evaluation: honest scores, the same again, reasons where nothing can be
measured."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from components.concept.gate import ProbeGate
from components.config import Config
from components.evaluation.contract import Evaluation, evaluations
from components.evaluation.evaluate import measures_of
from components.report.scores import table
from components.store.artifact import Store
from components.store.stage import Progress
from tests import toys
from tests.evaluation import bench

CONCEPTS = [
    ("most", "surface", "token"),
    ("late", "contextual", "token"),
    ("even", "document", "document"),
]
LABELS = {
    "most": lambda split, token, document: token > 9,  # so many that the gate is passed
    "late": lambda split, token, document: torch.arange(token.shape[1]) > 11,
    "even": lambda split, token, document: document % 2 == 0,
}
# at the version of each entry: when a number moves on purpose, raise the version and write it down
# here
GOLDEN = {
    ("reconstruction", 1): {"fvu": 0.584906, "l0": 12.0, "dead_share": 0.25},
    ("loss_recovered", 1): {
        "loss_recovered.zero_ablation": 0.580583,
        "loss_recovered.mean_ablation": 0.332411,
        "cross_entropy_rise": 0.602626,
        "cross_entropy.clean": 2.273614,
    },
    ("concepts_found", 2): {
        "concepts_gated.all": 1.0,
        "concepts_found.latent.all": 2 / 3,
        "concepts_found_absolute.latent.all": 0.0,
        "concepts_share.untrained.all": 0.756410,
        "concepts_share.neuron.all": 0.802198,
        "concepts_ap.latent.all": 0.557408,
        "concepts_auroc.latent.all": 0.430978,
        "concepts_found_normalised.latent.all": 0.327586,
    },
    ("absorption", 3): {
        "absorption.all": 0.0,
        "absorption.broad.all": 0.0,
        "absorption.silent.all": 0.086813,
        "absorption.main_f1.all": 0.674532,
    },
    ("first_letter", 1): {
        "first_letter.probe_f1": 0.328605,
        "first_letter.absorption": 0.0,
        "first_letter.main_f1": 2 / 3,
        "first_letter.main_latents": 3.0,
    },
    ("description_length", 2): {"description_length": 62.569580},
    ("sparse_probing", 2): {
        "sparse_probing.k1.all": 0.536147,
        "sparse_probing.k2.all": 0.552403,
        "sparse_probing.k5.all": 0.529167,
    },
}

EASY = ProbeGate(min_auroc=0.0, min_lift=0.0)
SETTINGS = {
    "first_letter": {"words": 1, "probe_f1": 0.2},
    "absorption": {"gate": EASY},
    "concepts_found": {"gate": EASY, "min_decodable": 0.05},
    "sparse_probing": {"gate": EASY},
}
"""For entries that by themselves ask for more text than there is here, and for probes that are
better than its."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """A dictionary that keeps three quarters of the coordinates, beside a control that keeps a
    quarter."""
    folder = tmp_path_factory.mktemp("evaluations")
    dictionary = bench.linear((torch.arange(bench.D_IN) % 4 > 0).float())
    control = bench.linear((torch.arange(bench.D_IN) % 4 == 0).float())
    model = toys.tiny_model()
    x = {
        split: bench.kept(model, bench.contexts(model, number))
        for number, split in enumerate(bench.SPLITS)
    }
    untrained = (control, {split: control.encode(rows) for split, rows in x.items()})
    store = Store(folder / "artifacts")
    return bench.of_model(
        store,
        folder,
        dictionary,
        model=model,
        untrained=untrained,
        concepts=CONCEPTS,
        labels=LABELS,
    )


@pytest.fixture(params=evaluations.names())
def evaluation(request) -> Evaluation:
    entry = evaluations[request.param]
    return entry(entry.config(**SETTINGS.get(request.param, {})), bench.services())


def test_an_entry_states_its_settings_and_its_version(evaluation):
    assert issubclass(evaluation.config, Config) and evaluation.config.__doc__
    assert all(field.description for field in evaluation.config.model_fields.values())
    assert isinstance(evaluation.version, int) and evaluations[evaluation.kind] is type(evaluation)


def test_scores_are_honest_and_progress_is_told(evaluation, subject):
    scores, reported = bench.measure(evaluation, subject)
    assert scores and reported and all(isinstance(report, Progress) for report in reported)
    rows = [score.row(evaluation.kind, subject) for score in scores.values()]
    for row in table("evaluate", rows, measures_of([evaluation.kind])).iter_rows(named=True):
        assert row["better"] in ("higher", "lower", "neither") and row["split"] == "test"
        measure = measures_of([evaluation.kind]).of(row)
        if row["value"] is not None:
            assert measure.least is None or row["value"] >= measure.least
            assert measure.most is None or row["value"] <= measure.most
        assert row["n"] >= 0 and 0 <= row["n_failed"] <= row["n"] and row["unit_of_replication"]
        assert (row["baseline"] is None) == (row["baseline_name"] is None)
        if row["value"] is None:
            assert row["reason"]
        elif row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"] and math.isfinite(row["high"])


def test_the_same_subject_gets_the_same_scores(evaluation, subject):
    assert bench.measure(evaluation, subject)[0] == bench.measure(evaluation, subject)[0]


def test_who_reads_no_text_scores_the_same_without_any(evaluation, subject):
    if evaluation.reads_text:
        pytest.skip("reads text")
    without = dataclasses.replace(subject, read=None)
    assert bench.measure(evaluation, without)[0] == bench.measure(evaluation, subject)[0]


def test_a_subject_without_data_gets_reasons_and_no_values(evaluation, store, tmp_path):
    grids = {"train": bench.plain(2, 3)}
    empty = bench.subject(
        store, tmp_path, bench.linear(torch.ones(2)), grids=grids, x={"train": torch.randn(6, 2)}
    )
    scores, _ = bench.measure(evaluation, empty)
    assert scores and all(
        score.interval.value is None and score.reason for score in scores.values()
    )


def test_numbers_move_only_with_the_version(evaluation, subject):
    wanted = GOLDEN[evaluation.kind, evaluation.version]
    found = {
        name: score.interval.value for name, score in bench.measure(evaluation, subject)[0].items()
    }
    found = {".".join(filter(None, name)): value for name, value in found.items()}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-5)
