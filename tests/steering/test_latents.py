"""Which latents are steered with, and what the methods make of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch
from sklearn.metrics import roc_auc_score

from components.errors import InputError
from components.steering.contract import Candidate, Concept, Evidence
from components.steering.latent_edit import LatentEdit
from components.steering.latents import auroc_of_codes, mean_difference
from components.steering.meanings import Meanings
from components.steering.vector import Vectors
from tests import toys
from tests.contracts.test_steering import evidence_of
from tests.steering.world import HOOK, evidence, method

METHODS = ("add_direction", "clamp_latent", "scale_latent")


def first(name: str, given: Evidence, **settings: object) -> dict[str | None, Candidate]:
    found: dict[str | None, Candidate] = {}
    for candidate in method(name, **settings).candidates(given):
        found.setdefault(candidate.concept, candidate)
    return found


@pytest.mark.parametrize("rank_by", ["average_precision", "auroc", "mean_difference"])
@pytest.mark.parametrize("name", METHODS)
def test_every_ranking_by_labels_finds_the_planted_latent(name: str, rank_by: str) -> None:
    found = first(name, evidence(), rank_by=rank_by)
    assert (found["mark"].latent, found["doc"].latent) == (2, 4)
    assert found["mark"].select_score is not None and found["mark"].select_score > 0.5


def test_auroc_and_mean_difference_of_sparse_codes_are_those_of_dense_ones() -> None:
    rng = np.random.default_rng(0)
    dense = np.round(np.maximum(rng.normal(size=(120, 7)), 0), 1)
    labels = np.stack([rng.random(120) < 0.3, rng.random(120) < 0.6, np.zeros(120, bool)], 1)
    given = scipy.sparse.csc_matrix(dense), scipy.sparse.csr_matrix(labels)
    found, differences = auroc_of_codes(*given), mean_difference(*given)
    for latent in range(7):
        for concept in range(2):
            inside, code = labels[:, concept], dense[:, latent]
            assert found[latent, concept] == pytest.approx(roc_auc_score(inside, code))
            difference = code[inside].mean() - code[~inside].mean()
            assert differences[latent, concept] == pytest.approx(difference)
    assert np.isnan(found[:, 2]).all() and np.isnan(differences[:, 2]).all()


def test_a_latent_that_is_the_target_is_the_only_candidate() -> None:
    targets = [Concept("latent.1", "latent", "token", latent=1), evidence().concepts[1]]
    for name in METHODS:
        found = list(method(name).candidates(evidence(concepts=targets)))
        assert [c.latent for c in found if c.concept == "latent.1"] == [1]
        assert len([c for c in found if c.concept == "doc"]) > 1


def meant(texts: dict[int, str]) -> Meanings:
    """Explanations whose vectors are counts of three words."""
    rows = [{"latent": i, "explainer": "e", "explanation": text} for i, text in texts.items()]

    def embed(texts: object) -> torch.Tensor:
        words = ("sea", "king", "tree")
        return torch.tensor([[text.split().count(w) + 0.01 for w in words] for text in texts])  # type: ignore[attr-defined]

    return Meanings(pl.DataFrame(rows), embed)


def test_explanations_rank_by_meaning_and_their_absence_is_a_reason() -> None:
    concepts = [Concept("mark", "set", "token", text="the sea"), Concept("doc", "set", "token")]
    told = evidence(concepts=concepts, meanings=meant({0: "a king", 3: "sea and sea", 5: "tree"}))
    for name in METHODS:
        found = [c for c in method(name, rank_by="explanation").candidates(told)]
        assert next(c.latent for c in found if c.concept == "mark") == 3
        bare = first(name, evidence(), rank_by="explanation")
        assert "interpret" in (bare["mark"].reason or "")
        nobody = first(name, told, rank_by="explanation", explainer="other")
        assert "none by other" in (nobody["mark"].reason or "")


def test_a_latent_that_nobody_explained_is_no_candidate() -> None:
    told = evidence(meanings=meant({1: "a king", 3: "the sea"}))
    settings: dict[str, object] = {"rank_by": "explanation", "n_candidates": 4}
    for name in METHODS:
        found = [c for c in method(name, **settings).candidates(told) if c.concept == "mark"]
        assert sorted(c.latent for c in found) == [1, 3]
        assert all(c.select_score is not None and np.isfinite(c.select_score) for c in found)
    difference = first("several_latents", told, rank_by="explanation")["mark"].steering
    moved = difference.vector.abs() > 1e-6  # type: ignore[union-attr]
    assert set(moved.nonzero().ravel().tolist()) <= {1, 3}


def test_the_output_score_filters_and_ranks() -> None:
    """Three latents write hardly anything, and what they are pushed by moves no prediction."""
    model = toys.tiny_model()
    given = evidence_of(model)
    contexts = {"token": torch.arange(4, 34)[None].repeat(2, 1)}
    given = dataclasses.replace(given, contexts=contexts)
    with torch.no_grad():
        given.dictionary.W_dec[:3] *= 1e-5  # type: ignore[union-attr]
    settings = {"n_candidates": 6, "rank_by": "output_score"}
    ranked = [
        c for c in method("add_direction", **settings).candidates(given) if c.concept == "mark"
    ]
    scores = [c.select_score for c in ranked]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    least = (scores[0] + scores[-1]) / 2
    kept = [
        c
        for c in method("add_direction", n_candidates=6, least_output_score=least).candidates(given)
        if c.concept == "mark"
    ]
    wanted = {c.latent for c in ranked if c.select_score >= least}
    assert wanted == {3, 4, 5} and {c.latent for c in kept} == wanted
    with torch.no_grad():
        given.dictionary.W_dec[:] *= 1e-5  # type: ignore[union-attr]
    none = first("add_direction", given, least_output_score=1.0)
    assert "lower least_output_score" in (none["mark"].reason or "")


def test_a_silent_latent_and_a_dictionary_that_reads_elsewhere_say_so() -> None:
    given = evidence(concepts=[Concept("latent.1", "latent", "token", latent=1)])
    codes = scipy.sparse.lil_matrix(given.codes)
    codes[:, 1] = 0
    silent = dataclasses.replace(given, codes=scipy.sparse.csr_matrix(codes))
    elsewhere = evidence()
    elsewhere.dictionary.reads = ("resid_post.9",)  # type: ignore[union-attr]
    for name in ("clamp_latent", "scale_latent"):
        assert "latent 1 is silent" in (first(name, silent)["latent.1"].reason or "")
        assert "reads resid_post.9" in (first(name, elsewhere)["mark"].reason or "")


def test_the_reference_is_the_largest_code_and_suppression_has_its_sign() -> None:
    given = evidence()
    clamped = first("clamp_latent", given)["mark"]
    assert isinstance(clamped.steering, LatentEdit)
    assert float(clamped.steering.reference[0]) == pytest.approx(given.codes[:, 2].max())  # type: ignore[index]
    assert first("scale_latent", given)["mark"].sign == 1
    less = first("scale_latent", given, suppress=True)["mark"]
    assert less.sign == -1 and isinstance(less.steering, LatentEdit)
    kind, codes = type(less.steering), torch.tensor([[[2.0]]])
    assert kind.change(codes, torch.tensor([[[-1.0]]]), codes).item() == -2.0


def test_several_latents_take_the_shared_choice() -> None:
    found = first("several_latents", evidence(), n_latents=1, rank_by="auroc")
    direction = found["mark"].steering.vector  # type: ignore[union-attr]
    assert int(direction.abs().argmax()) == 2 and float(direction.abs().max()) > 0.99


def test_vectors_are_read_at_every_hook_point_and_operators_are_kept() -> None:
    given = evidence()
    x = torch.cat([block for _, block in given.batches(HOOK)])
    two = dataclasses.replace(
        given,
        units={HOOK: 2.0, "attn_out.0": 3.0},
        batches=lambda place: iter([(0, x if place == HOOK else x.flip(1))]),
    )
    for name in ("mean_difference", "whitened_mean_difference", "linear_probe"):
        settings = {"hook_points": [HOOK, "attn_out.0"], "operator": "clamp", "positions": [1]}
        steering = first(name, two, **settings)["mark"].steering
        assert isinstance(steering, Vectors)
        assert (steering.operator, steering.positions) == ("clamp", [1])
        assert steering.units == {HOOK: 2.0, "attn_out.0": 3.0}
        torch.testing.assert_close(
            steering.vectors["attn_out.0"], steering.vectors[HOOK].flip(0), atol=1e-2, rtol=0
        )
        again = Vectors.restored(steering.tensors(), {"another": 1.0})
        assert (again.operator, again.positions, again.units) == ("clamp", [1], steering.units)
    removed = first("mean_difference", given, operator="project_out")["mark"]
    assert removed.sign == -1
    with pytest.raises(InputError, match="add it to capture.hook_points"):
        first("mean_difference", given, hook_points=["resid_post.7"])
    with pytest.raises(InputError, match="the dictionary writes"):
        first("add_direction", two, hook_points=["attn_out.0"])
