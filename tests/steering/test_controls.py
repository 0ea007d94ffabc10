"""Controls: what methods know is spoilt, and nothing else; directions and splices that belong to no
concept."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from components.device import Execution
from components.steering.choice import Steered
from components.steering.config import SteerConfig
from components.steering.contract import (
    Candidate,
    Concept,
    Evidence,
    MethodServices,
    SteeringControl,
    controls,
)
from components.steering.dose import measured, with_doses
from components.steering.methods.logit_bias import RaiseWords
from components.steering.neutral import Neutral
from components.steering.saved import restored
from components.steering.steer import STEER
from components.steering.vector import AddVector, Vectors
from components.store import tables
from tests import toys
from tests.steering.conftest import Bench
from tests.steering.test_latents import meant
from tests.steering.test_steer import CONFIG, score
from tests.steering.world import HOOK, evidence, method

CPU = Execution(device="cpu")


def control(name: str, seed: int = 0, **settings: Any) -> SteeringControl:
    kind = controls[name]
    return kind(kind.config(**settings), MethodServices(CPU, seed, toys.tiny_model()))


def spoilt(name: str, **changes: object) -> Evidence:
    found = control(name).spoilt(evidence(**changes))
    assert isinstance(found, Evidence)
    return found


@pytest.mark.parametrize("name", controls.names())
def test_a_control_keeps_concepts_and_counts_and_draws_the_same_again(name: str) -> None:
    both = [evidence().concepts[0], Concept("other", "surface", "token")]
    given = evidence(concepts=both)
    found, again = spoilt(name, concepts=both), spoilt(name, concepts=both)
    assert [c.name for c in found.concepts] == [c.name for c in given.concepts]
    assert found.labels.shape == given.labels.shape
    assert (found.labels != again.labels).nnz == 0 and (found.codes != again.codes).nnz == 0
    assert found.hook_point == given.hook_point and found.units == given.units
    assert controls[name].kind == name and controls[name].config().methods is not None


def test_shuffled_labels_are_as_many_and_fall_elsewhere() -> None:
    given, found = evidence(), spoilt("shuffled_labels")
    assert found.labels.sum(0).tolist() == given.labels.sum(0).tolist()
    assert found.document_labels.sum() == given.document_labels.sum()
    overlap = found.labels[:, 0].multiply(given.labels[:, 0]).sum()
    assert overlap < 0.6 * given.labels[:, 0].sum()
    by_document = found.labels[:, 1].toarray().ravel().reshape(20, 10)
    assert (by_document == by_document[:, :1]).all(), "a document has it as a whole"
    assert (by_document[:, 0] == found.document_labels[:, 1].toarray().ravel()).all()


def test_where_only_some_tokens_are_known_to_be_without_labels_stay_among_the_known() -> None:
    given = evidence()
    marked = given.labels.toarray()
    rest = ~marked & (np.arange(200) % 3 == 0)[:, None]
    rest[:, 1] = np.repeat(np.arange(20) % 4 == 1, 10)
    some = evidence(without=scipy.sparse.csc_matrix(rest))
    found = control("shuffled_labels").spoilt(some)
    assert isinstance(found, Evidence) and found.without is not None
    inside, outside = found.labels.toarray(), found.without.toarray()
    assert ((inside | outside) == (marked | rest)).all() and not (inside & outside).any()
    assert (inside != marked).any(0).all() and (outside != rest).any(0).all()
    both = [given.concepts[0], Concept("other", "surface", "token")]
    wrong = control("wrong_concept").spoilt(
        evidence(concepts=both, without=scipy.sparse.csc_matrix(rest))
    )
    assert isinstance(wrong, Evidence) and wrong.without is not None
    assert (wrong.without.toarray() == rest[:, ::-1]).all()


def test_the_direction_under_shuffled_labels_is_another() -> None:
    for name in ("mean_difference", "linear_probe"):
        (own, *_), (other, *_) = (
            list(method(name).candidates(given))
            for given in (evidence(), spoilt("shuffled_labels"))
        )
        assert abs(float(own.steering.vector @ other.steering.vector)) < 0.9  # type: ignore[union-attr]


def test_concepts_of_a_kind_take_each_others_labels() -> None:
    given = evidence()
    both = [given.concepts[0], Concept("other", "surface", "token")]
    found = spoilt("wrong_concept", concepts=both)
    assert (found.labels[:, 0] != given.labels[:, 1]).nnz == 0
    assert (found.labels[:, 1] != given.labels[:, 0]).nnz == 0
    assert [c.name for c in found.concepts] == ["mark", "other"]
    alone = control("wrong_concept").spoilt(given)
    assert isinstance(alone, str) and "two or more" in alone


TOPICS = [
    Concept("topic.sea", "document", "document"),
    Concept("topic.king", "document", "document"),
]
TOLD = {0: "a king", 3: "the sea", 5: "a tree"}


def by_explanation(given: Evidence) -> dict[str | None, Candidate]:
    """The best latent of each concept, by what was said of it."""
    found: dict[str | None, Candidate] = {}
    for candidate in method("add_direction", rank_by="explanation").candidates(given):
        found.setdefault(candidate.concept, candidate)
    return found


@pytest.mark.parametrize("name", ["shuffled_labels", "density_matched"])
def test_under_a_control_no_explanation_tells_the_concept(name: str) -> None:
    given = evidence(concepts=TOPICS, meanings=meant(TOLD))
    assert by_explanation(given)["topic.sea"].latent == 3
    for candidate in by_explanation(spoilt(name, concepts=TOPICS, meanings=meant(TOLD))).values():
        assert candidate.steering is None and name in (candidate.reason or "")
        assert "interpret" not in (candidate.reason or ""), "that stage would not help"


def test_the_wrong_concepts_words_rank_too() -> None:
    worded = [TOPICS[0], dataclasses.replace(TOPICS[1], text="the tree")]
    for concepts, others in ((TOPICS, 0), (worded, 5)):
        found = by_explanation(spoilt("wrong_concept", concepts=concepts, meanings=meant(TOLD)))
        assert (found["topic.sea"].latent, found["topic.king"].latent) == (others, 3)


def test_each_latent_is_told_the_codes_of_another_of_its_density() -> None:
    rng = np.random.default_rng(0)
    dense = (rng.random((400, 60)) < np.linspace(0.02, 0.6, 60)) * rng.random((400, 60))
    dense[:, 7] = 0
    found = spoilt("density_matched", codes=scipy.sparse.csr_matrix(dense)).codes.toarray()  # type: ignore[union-attr]
    giver = [int(np.flatnonzero((dense == found[:, [i]]).all(0))[0]) for i in range(60)]
    assert sorted(giver) == list(range(60))
    assert [i for i in range(60) if giver[i] == i] == [7]
    rank = np.argsort(np.argsort((dense > 0).sum(0)))
    assert all(abs(rank[i] - rank[giver[i]]) <= 6 for i in range(60))


def test_which_methods_go_through_a_control() -> None:
    listed = ["add_direction", "mean_difference", "prompt", "random_direction"]
    config = SteerConfig(
        methods=listed,
        controls=["shuffled_labels", "density_matched", "wrong_concept"],
        control_settings={"wrong_concept": {"methods": ["mean_difference", "several_latents"]}},
    )
    assert config.spoilt() == {
        "shuffled_labels_add_direction": ("add_direction", "shuffled_labels"),
        "shuffled_labels_mean_difference": ("mean_difference", "shuffled_labels"),
        "density_matched_add_direction": ("add_direction", "density_matched"),
        "wrong_concept_mean_difference": ("mean_difference", "wrong_concept"),
    }
    with pytest.raises(ValueError, match="settings for wrong_concept"):
        SteerConfig(control_settings={"wrong_concept": {"methods": ["prompt"]}})


def test_matched_directions_have_the_covariance_of_the_activations() -> None:
    given = evidence()
    x = torch.cat([block for _, block in given.batches(HOOK)])
    x[:, 0] *= 30
    given = evidence(batches=lambda place: iter([(0, x)]))
    found = list(method("covariance_matched", n_directions=400).candidates(given))
    vectors = torch.stack([c.steering.vector for c in found])  # type: ignore[union-attr]
    assert vectors[:, 0].abs().mean() > 0.9, "nearly all variance lies there"
    assert 0.3 < (vectors[:, 0] > 0).float().mean() < 0.7
    assert {c.concept for c in found} == {None}


def test_controls_go_through_the_stage_and_their_steerings_are_restored(bench: Bench) -> None:
    config = CONFIG.model_copy(
        update={
            "methods": [
                "mean_difference",
                "clamp_latent",
                "random_direction",
                "reconstruction_only",
            ],
            "controls": ["shuffled_labels", "density_matched"],
            "concepts": ["topic.*"],
            "validate_prompts": 6,
            "test_prompts": 6,
            "method_settings": type(CONFIG.method_settings)(
                clamp_latent={"n_candidates": 2}, random_direction={"n_directions": 4}
            ),
        }
    )
    made = bench.store.ensure(STEER, config, bench.inputs, CPU)[0]
    reached = tables.STEERED.read(made)
    names = {"shuffled_labels_mean_difference", "density_matched_clamp_latent"}
    assert names <= set(reached["method"])
    assert "random_direction" in reached["method"] and "reconstruction_only" in reached["method"]
    real, chance = (
        score(made, f"steer.{name}.kl_0.5.composite")
        for name in ("mean_difference", "shuffled_labels")
    )
    assert real["value"] > chance["value"] + 0.1
    assert (chance["entry"], chance["subject"], chance["role"]) == (
        "mean_difference", "shuffled_labels", "control",
    )  # fmt: skip
    strengths = tables.STRENGTHS.read(made)
    chosen = strengths.drop_nulls("kl_elsewhere")
    assert chosen["dose"].min() > 0 and (chosen["kl_95"] > chosen["kl_elsewhere"]).mean() > 0.9  # type: ignore[operator]
    assert reached.filter(method="mean_difference")["dose"].null_count() == 0
    concept = strengths.filter(method="density_matched_clamp_latent")["concept"][0]
    again = restored(made, "density_matched_clamp_latent", concept)
    assert again.dictionary is not None and again.dictionary.d_sae == 24  # type: ignore[attr-defined]


def test_the_dose_is_the_length_of_the_edit_over_that_of_the_activation() -> None:
    model = toys.tiny_model()
    tokens = torch.arange(4, 34).reshape(3, 10)
    text = Neutral(tokens, torch.ones_like(tokens) > 0)
    plain = model.logits(tokens).log_softmax(-1)
    vector = torch.nn.functional.normalize(torch.ones(model.d_model), dim=0)
    lengths = model.read(tokens, [HOOK])[HOOK].norm(dim=2)
    dose, quantile = measured(model, AddVector(HOOK, vector, 2.0), 1.5, text, plain)
    assert dose == pytest.approx(float((3.0 / lengths).mean()), rel=1e-4) and quantile > 0  # type: ignore[operator]
    only = Vectors({HOOK: vector}, {HOOK: 2.0}, "add", [2])
    dose, _ = measured(model, only, 1.5, text, plain)
    assert dose == pytest.approx(float((3.0 / lengths[:, 2]).mean()), rel=1e-4)
    dose, quantile = measured(model, RaiseWords.of([[4]]), 2.0, text, plain)
    assert dose is None and quantile is not None
    never = Vectors({HOOK: vector}, {HOOK: 2.0}, "add", "generated")
    assert measured(model, never, 1.5, text, plain) == (None, pytest.approx(0, abs=1e-6))
    chosen = Steered("m", Candidate("cat", 0, only), 0.1, 1.5)
    absent = Steered("m", Candidate("dog", 0, None, reason="none"), 0.1, reason="none")
    steered, final = with_doses(model, [chosen, absent], [chosen], text)
    assert final == [steered[0]] and steered[0].dose is not None and steered[1].dose is None
