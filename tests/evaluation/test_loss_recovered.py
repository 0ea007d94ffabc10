"""Loss recovered: exact splices change nothing, the mean recovers nothing of mean ablation, special
tokens stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.device import Execution
from components.evaluation.contract import EvaluationServices
from components.evaluation.evaluations.loss_recovered import LossRecovered, LossRecoveredConfig
from components.model.intervention import Edit
from components.model.language_model import LanguageModel
from tests import toys
from tests.evaluation import bench

EVALUATION = LossRecovered(LossRecoveredConfig(), bench.services())
NAMES = {
    "loss_recovered.zero_ablation",
    "loss_recovered.mean_ablation",
    "cross_entropy_rise",
    "cross_entropy.clean",
}


def measured(given, evaluation=EVALUATION):
    return {name: score for (name, _), score in bench.measure(evaluation, given)[0].items()}


def test_splicing_an_exact_reconstruction_changes_nothing(store, tmp_path):
    scores = measured(bench.of_model(store, tmp_path, bench.linear(torch.ones(bench.D_IN))))
    assert set(scores) == NAMES
    assert scores["loss_recovered.zero_ablation"].interval.value == pytest.approx(1, abs=1e-5)
    assert scores["loss_recovered.mean_ablation"].interval.value == pytest.approx(1, abs=1e-5)
    assert scores["cross_entropy_rise"].interval.value == pytest.approx(0, abs=1e-5)


def test_a_dictionary_of_the_mean_alone_recovers_nothing_of_mean_ablation(store, tmp_path):
    model = toys.tiny_model()
    mean = bench.kept(model, bench.contexts(model, bench.SPLITS.index("select"))).mean(0)
    scores = measured(
        bench.of_model(
            store, tmp_path, bench.linear(torch.zeros(bench.D_IN), bias=mean), model=model
        )
    )
    assert scores["loss_recovered.mean_ablation"].interval.value == pytest.approx(0, abs=1e-4)
    nothing = bench.linear(torch.zeros(bench.D_IN))
    scores = measured(bench.of_model(store, tmp_path, nothing, model=model, seed=1))
    assert scores["loss_recovered.zero_ablation"].interval.value == pytest.approx(0, abs=1e-4)
    assert scores["cross_entropy_rise"].interval.value > 0.5


def test_sums_run_over_the_documents_next_tokens_and_are_divided_once(store, tmp_path):
    """Everything by hand: special tokens keep their activation and are not counted, contexts are
    summed, then divided."""
    model, dictionary = toys.tiny_model(), bench.linear(torch.linspace(0, 1, bench.D_IN))
    given = bench.of_model(store, tmp_path, dictionary, model=model)
    grid = bench.contexts(model, bench.SPLITS.index("test"))
    inside, tokens = grid["document"] >= 0, grid["token"].long()
    counted = inside[:, :-1] & inside[:, 1:] & (grid["position"][:, 1:] > 0)
    x = model.read(tokens, [bench.HOOK_POINT])[bench.HOOK_POINT]
    mean = bench.kept(model, bench.contexts(model, bench.SPLITS.index("select"))).mean(0)

    def per_context(replacement):
        edit = Edit(
            bench.HOOK_POINT,
            lambda activation, mask: torch.where(inside[..., None], replacement, activation),
        )
        return (model.losses(tokens, edits=[edit]) * counted).sum(1).numpy()

    clean, spliced, ablated = (
        per_context(x),
        per_context(x * torch.linspace(0, 1, bench.D_IN)),
        per_context(mean),
    )
    scores = measured(given)
    recovered = scores["loss_recovered.mean_ablation"].interval
    assert recovered.value == pytest.approx(
        (ablated - spliced).sum() / (ablated - clean).sum(), rel=1e-4
    )
    assert recovered.value != pytest.approx(
        np.mean((ablated - spliced) / (ablated - clean)), rel=1e-3
    )
    rise = scores["cross_entropy_rise"].interval
    assert rise.value == pytest.approx((spliced - clean).sum() / counted.sum().item(), rel=1e-4)
    assert scores["cross_entropy.clean"].interval.value == pytest.approx(
        clean.sum() / counted.sum().item(), rel=1e-5
    )
    assert counted.sum().item() == bench.N_CONTEXTS * (sum(bench.LENGTHS) - len(bench.LENGTHS))
    assert rise.n == bench.N_CONTEXTS and rise.low < rise.value < rise.high


@pytest.mark.parametrize(
    "hook_point", ["resid_pre.1", "mlp_out.0", "resid_post.2", "module:model.layers.1:output"]
)
def test_any_hook_point_gives_what_whole_passes_with_an_edit_give(store, tmp_path, hook_point):
    model, half = toys.tiny_model(), torch.full((bench.D_IN,), 0.5)
    grids = {split: bench.contexts(model, number) for number, split in enumerate(bench.SPLITS)}
    x = {
        s: model.read(g["token"].long(), [hook_point])[hook_point][g["document"] >= 0]
        for s, g in grids.items()
    }
    given = bench.subject(
        store,
        tmp_path,
        bench.linear(half, hook_point=hook_point),
        grids=grids,
        x=x,
        hook_point=hook_point,
    )
    rise = measured(given)["cross_entropy_rise"].interval.value
    tokens, inside = grids["test"]["token"].long(), grids["test"]["document"] >= 0
    counted = inside[:, :-1] & inside[:, 1:] & (grids["test"]["position"][:, 1:] > 0)
    edit = Edit(
        hook_point,
        lambda activation, mask: torch.where(inside[..., None], activation / 2, activation),
    )
    whole = model.losses(tokens, edits=[edit]) - model.losses(tokens)
    assert rise == pytest.approx((whole * counted).sum().item() / counted.sum().item(), rel=1e-3)
    assert rise != 0


def test_batches_do_not_change_the_result(store, tmp_path):
    given = bench.of_model(store, tmp_path, bench.linear(torch.linspace(0, 1, bench.D_IN)))
    one_by_one, whole = (
        measured(given, LossRecovered(LossRecoveredConfig(batch_tokens=size), bench.services()))
        for size in (1, 10_000)
    )
    for name in NAMES:
        assert one_by_one[name].interval.value == pytest.approx(
            whole[name].interval.value, rel=1e-5
        )


def test_a_limit_takes_whole_contexts_until_it_is_reached(store, tmp_path):
    given = bench.of_model(store, tmp_path, bench.linear(torch.ones(bench.D_IN)))
    limited = LossRecovered(LossRecoveredConfig(tokens=sum(bench.LENGTHS) + 1), bench.services())
    assert measured(given, limited)["cross_entropy.clean"].interval.n == 2


def test_the_untrained_dictionary_is_the_baseline(store, tmp_path):
    nothing = bench.linear(torch.zeros(bench.D_IN))
    exact = bench.linear(torch.ones(bench.D_IN))
    model = toys.tiny_model()
    x = {
        split: bench.kept(model, bench.contexts(model, number))
        for number, split in enumerate(bench.SPLITS)
    }
    untrained = (nothing, {split: nothing.encode(rows) for split, rows in x.items()})
    scores = measured(bench.of_model(store, tmp_path, exact, untrained=untrained, model=model))
    assert scores["loss_recovered.zero_ablation"].baseline == pytest.approx(0, abs=1e-4)
    assert scores["cross_entropy_rise"].baseline > 0.5
    assert scores["cross_entropy_rise"].baseline_name == "untrained dictionary"


def test_an_ablation_that_costs_nothing_gives_no_ratio(store, tmp_path):
    model = toys.tiny_model()
    grids = {split: bench.contexts(model, number) for number, split in enumerate(bench.SPLITS)}
    generator = torch.Generator().manual_seed(0)
    for (
        grid
    ) in grids.values():  # text that the model knows nothing of, so that knowing nothing is better
        grid["token"] = torch.randint(
            3, len(toys.WORDS), grid["token"].shape, generator=generator, dtype=torch.int32
        )
    x = {split: bench.kept(model, grid) for split, grid in grids.items()}
    given = bench.subject(
        store, tmp_path, bench.linear(torch.ones(bench.D_IN)), grids=grids, x=x, seed=1
    )
    scores = measured(given)
    absent = scores["loss_recovered.zero_ablation"]
    assert absent.interval.value is None
    assert absent.reason.startswith("zero ablation does not raise the cross-entropy (-")
    assert scores["cross_entropy_rise"].interval.value == pytest.approx(0, abs=1e-5)


def test_a_model_without_a_head_and_a_corpus_without_text_give_reasons(store, tmp_path):
    exact = bench.linear(torch.ones(bench.D_IN))
    headless = LanguageModel(toys.tiny_network().base_model)
    model = toys.tiny_model()
    grids = {split: bench.contexts(model, number) for number, split in enumerate(bench.SPLITS)}
    x = {split: bench.kept(model, grid) for split, grid in grids.items()}
    scores = measured(
        bench.subject(store, tmp_path, exact, grids=grids, x=x),
        LossRecovered(LossRecoveredConfig(), bench.services(headless)),
    )
    assert set(scores) == NAMES
    assert {score.reason for score in scores.values()} == {
        "the model predicts no next token (capability causal_loss)"
    }
    del grids["test"], x["test"]
    scores = measured(bench.subject(store, tmp_path, exact, grids=grids, x=x, seed=1))
    assert {s.reason for s in scores.values()} == {
        "the corpus holds no next token of a document in the test split"
    }


def test_activations_without_a_model_give_reasons(store, tmp_path):
    without = LossRecovered(LossRecoveredConfig(), EvaluationServices(Execution(device="cpu"), 0))
    scores = measured(
        bench.of_model(store, tmp_path, bench.linear(torch.ones(bench.D_IN))), without
    )
    assert set(scores) == NAMES
    assert {score.reason for score in scores.values()} == {"no model came with these activations"}
