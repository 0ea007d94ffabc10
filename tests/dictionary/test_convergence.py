"""Training that goes on is better, and a run says whether half of it would have done."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from components.device import Execution
from components.dictionary import convergence, rates
from components.dictionary.architectures.pca import PcaConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary, untrained
from components.dictionary.convergence import Convergence
from components.dictionary.fit import evaluate
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.dictionary.train import make, make_many
from components.store.artifact import Store
from tests import toys
from tests.planted import HOOK, directions, rows

PLANTED = directions(48, d=24)
X, HELD_OUT = rows(6000, PLANTED), rows(800, PLANTED, seed=9)


def learnt(tokens, k=3, **changes):
    config = TrainConfig(
        dictionary=TopKConfig(d_sae=64, k=k), tokens=tokens, batch_size=100, **changes
    )
    dictionary = untrained(
        config.dictionary, HOOK, {HOOK: 24}, {HOOK: X}, torch.Generator().manual_seed(0)
    )
    learner = Learner(dictionary, config)
    for step in range(learner.steps):
        learner.learn({HOOK: X[torch.arange(step * 100, step * 100 + 100) % len(X)]})
    learner.finish()
    return learner


def fvu(learner):
    return evaluate(learner.dictionary, [{HOOK: HELD_OUT}])["fvu"]


def test_fvu_falls_with_tokens_and_with_k_and_rows_leave_their_first_values():
    by_tokens = [learnt(tokens) for tokens in (4_000, 20_000, 100_000)]
    errors, turned = [fvu(one) for one in by_tokens], [one.turned for one in by_tokens]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.7 * errors[0]
    assert turned == sorted(turned, reverse=True) and turned[2] < 0.8
    by_k = [fvu(learnt(50_000, k=k)) for k in (1, 2, 4)]
    assert by_k == sorted(by_k, reverse=True)


def test_the_estimate_is_that_of_a_power_law():
    learner = learnt(20_000)
    learner.curve = [(step, 0, "fvu", 0.3 * step**-0.25) for step in range(10, 201, 5)]
    ratio, reason = convergence.estimated(learner)
    assert ratio == pytest.approx(2**0.25) and reason is None
    learner.curve = learner.curve[:3]
    ratio, reason = convergence.estimated(learner)
    assert ratio is None and reason is not None and "train.convergence=measured" in reason


@pytest.mark.parametrize(
    ("ratio", "cosine", "verdict"),
    [
        (1.05, 0.2, True),
        (1.2, 0.2, False),
        (1.05, 0.8, False),
        (1.05, None, True),
        (None, 0.2, None),
        (None, 0.9, False),
    ],
)
def test_it_takes_both_to_have_converged(ratio, cosine, verdict):
    found = Convergence(ratio, "measured", cosine, None if ratio else "no half")
    assert found.converged is verdict
    opening = {
        True: "training had converged",
        False: "training had not converged",
        None: "whether training had",
    }
    assert found.sentence.startswith(opening[verdict])
    assert ("raise train.tokens" in found.sentence) == (verdict is False)


def test_the_rate_is_searched_by_factors_and_once_beyond_an_end():
    trials = []
    for objective in (0.5, 0.4, 0.3):
        factor = rates.next_factor(trials)
        trials.append(rates.ShortRun(factor, factor, objective))
    assert [trial.factor for trial in trials] == [1 / 3, 1.0, 3.0] and rates.next_factor(
        trials
    ) == 9.0
    inside = [
        rates.ShortRun(factor, factor, objective)
        for factor, objective in zip(rates.FACTORS, (2, 1, 2), strict=True)
    ]
    assert rates.next_factor(inside) is None
    config = TrainConfig(tokens=4_000_000, lr="search")
    assert rates.best(inside) == 1.0
    leaning = [
        rates.ShortRun(rate, rate, objective) for rate, objective in ((1 / 3, 2), (1, 1), (3, 1.5))
    ]
    # the lowest point of the parabola through the three
    assert rates.best(leaning) == pytest.approx(3 ** (1 / 6))
    assert (
        rates.best(leaning[1:]) == 1.0
        and rates.best([*leaning[:2], rates.ShortRun(3, 3, math.inf)]) == 1.0
    )
    assert config.relative_cost == 1.5


SPLITS = {"train": {HOOK: X[:3000]}, "validate": {HOOK: HELD_OUT}}
CONFIG = TrainConfig(
    dictionary=TopKConfig(d_sae=48, k=3),
    tokens=24_000,
    batch_size=100,
    log_every=5,
    dead_after=5000,
    checkpoint_every=20,
)


@pytest.fixture(scope="module")
def activations(tmp_path_factory):
    return toys.activations(
        Store(tmp_path_factory.mktemp("rows") / "artifacts"), SPLITS, rows_per_shard=1000
    )


def facts_of(activations, folder, stop_at=None, **changes):
    """The stage's facts; with `stop_at`, None after so many reports of progress, as a kill would
    leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    work = make(
        folder,
        CONFIG.model_copy(update=changes),
        {"activations": activations},
        Execution(device="cpu"),
    )
    for number in itertools.count():
        try:
            next(work)
        except StopIteration as end:
            return end.value
        if number == stop_at:
            work.close()
            return None


def test_a_second_dictionary_on_half_the_tokens_measures_it_and_changes_nothing(
    activations, tmp_path
):
    alone = facts_of(activations, tmp_path / "alone", convergence="off")
    beside = facts_of(activations, tmp_path / "beside", convergence="measured")
    half = facts_of(activations, tmp_path / "half", convergence="off", tokens=12_000)
    assert alone["converged"] is None and "train.convergence is off" in alone["convergence"]
    assert beside["fvu"] == alone["fvu"] and beside["half_fvu_ratio"] == pytest.approx(
        half["fvu"] / alone["fvu"]
    )
    assert beside["converged"] is (
        half["fvu"] / alone["fvu"] <= 1.1 and beside["rows_turned_cosine"] < 0.5
    )
    assert not list((tmp_path / "beside" / ".checkpoint").glob("half-*"))


def test_the_search_takes_a_rate_on_held_out_rows_and_a_kill_in_its_midst_changes_nothing(
    activations, tmp_path
):
    whole = facts_of(activations, tmp_path / "whole", lr="search")
    tried = whole["rates_tried"]
    short = rates.candidate(CONFIG.model_copy(update={"lr": "search"}), 1.0, 1e-3)
    carried = (short.updates / 240) ** 0.25
    assert len(tried) in (3, 4) and carried < 1
    assert whole["lr"] == pytest.approx(
        rates.best([rates.ShortRun(**trial) for trial in tried]) * carried
    )
    for stop_at in (8, 40):
        assert facts_of(activations, tmp_path / f"cut{stop_at}", stop_at, lr="search") is None
        again = facts_of(activations, tmp_path / f"cut{stop_at}", lr="search")
        for name in ("fvu", "lr", "rates_tried", "converged"):
            assert again[name] == whole[name], name


def test_a_candidate_that_diverges_spoils_no_other_and_no_next_one(
    activations, tmp_path, monkeypatch
):
    """Of two that search side by side one diverges at the middle rate: the other finds what it
    finds alone."""
    configs = {
        "a": CONFIG.model_copy(update={"lr": "search"}),
        "b": CONFIG.model_copy(update={"lr": "search", "clip": 7.0}),
    }
    alone = facts_of(activations, tmp_path / "alone", lr="search")
    plain = Learner.metrics

    def metrics(self):
        bad = (
            self.config.clip == 7.0
            and self.step > 10
            and abs(self.peak - alone["rates_tried"][1]["lr"]) < 1e-9
        )
        return plain(self) | ({"loss": float("nan")} if bad else {})

    monkeypatch.setattr(Learner, "metrics", metrics)
    work = make_many(
        {
            label: (tmp_path / label, config, {"activations": activations})
            for label, config in configs.items()
        },
        Execution(device="cpu"),
    )
    for label in configs:
        (tmp_path / label).mkdir()
    while True:
        try:
            next(work)
        except StopIteration as end:
            together = end.value
            break
    assert (
        together["a"]["rates_tried"] == alone["rates_tried"]
        and together["a"]["fvu"] == alone["fvu"]
    )
    tried = together["b"]["rates_tried"]
    assert tried[1]["objective"] is None and all(
        trial["objective"] for trial in (tried[0], tried[2])
    )


def test_whitening_in_the_stage_saves_a_dictionary_of_activations(activations, tmp_path):
    facts = facts_of(activations, tmp_path / "white", normalise="whiten")
    dictionary = Dictionary.load(tmp_path / "white")
    assert evaluate(dictionary, [{HOOK: HELD_OUT}])["fvu"] == pytest.approx(facts["fvu"], rel=1e-4)
    assert (
        json.loads((tmp_path / "white" / "dictionary.json").read_text())["architecture"] == "topk"
    )


def test_what_learns_nothing_by_gradients_says_so(activations, tmp_path):
    facts = facts_of(activations, tmp_path / "pca", dictionary=PcaConfig(), lr="search")
    assert facts["converged"] is None and "pca learns nothing by gradients" in facts["convergence"]
