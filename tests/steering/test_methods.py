from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse
import torch

from components.statistics import average_precision
from components.steering.methods.logit_bias import RaiseWords, log_odds
from components.steering.vector import AddVector
from tests.steering.world import HOOK, WIDTH, evidence, method


def test_add_direction_takes_the_latent_that_ranks_the_concept_best_first() -> None:
    found = list(method("add_direction", n_candidates=2).candidates(evidence()))
    assert [(c.concept, c.replicate) for c in found] == [
        ("mark", 0),
        ("mark", 1),
        ("doc", 0),
        ("doc", 1),
    ]
    assert found[0].latent == 2
    assert found[2].latent == 4
    assert found[0].select_score > found[1].select_score
    assert all(c.sign == 1 for c in found)
    assert isinstance(found[0].steering, AddVector)
    torch.testing.assert_close(found[0].steering.vector, torch.eye(WIDTH)[2])


def test_document_concepts_are_ranked_over_documents() -> None:
    given = evidence()
    best = next(c for c in method("add_direction").candidates(given) if c.concept == "doc")
    mean = np.array([given.codes[given.document == d].mean(0) for d in range(20)])[:, 0, 4]
    assert best.select_score == pytest.approx(average_precision(mean, np.arange(20) % 2 == 0))


def test_a_latent_without_a_direction_and_a_concept_without_tokens_say_so() -> None:
    given = evidence()
    with torch.no_grad():
        given.dictionary.W_dec.zero_()
    bare = dataclasses.replace(given, labels=scipy.sparse.csc_matrix((200, 2), dtype=bool))
    found = {c.concept: c for c in method("add_direction", n_candidates=1).candidates(bare)}
    assert found["mark"].reason == "no token of the select split has the concept"
    assert found["doc"].reason == "the decoder direction of latent 4 has no length"
    assert found["mark"].steering is None and found["doc"].steering is None


def test_add_direction_without_a_dictionary_gives_a_reason_for_each_concept() -> None:
    found = list(method("add_direction").candidates(evidence(codes=None)))
    assert [c.reason for c in found] == ["no dictionary at this hook point"] * 2


def test_mean_difference_is_the_difference_of_the_two_means() -> None:
    given = evidence()
    found = {c.concept: c for c in method("mean_difference").candidates(given)}
    x = torch.cat([block for _, block in given.batches(HOOK)])
    for column, concept in enumerate(("mark", "doc")):
        inside = torch.from_numpy(given.labels[:, column].toarray().ravel())
        wanted = torch.nn.functional.normalize(
            x[inside].mean(0) - x[~inside].mean(0), dim=0
        ).float()
        torch.testing.assert_close(found[concept].steering.vector, wanted)


@pytest.mark.parametrize("value, which", [(False, "no"), (True, "every")])
def test_mean_difference_needs_tokens_on_both_sides(value: bool, which: str) -> None:
    labels = scipy.sparse.csc_matrix(np.full((200, 2), value))
    found = list(method("mean_difference").candidates(evidence(labels=labels)))
    assert [c.reason for c in found] == [f"{which} token of the select split has the concept"] * 2


def test_equal_means_have_no_direction() -> None:
    flat = evidence(batches=lambda hook_point: iter([(0, torch.ones(200, WIDTH))]))
    assert {c.reason for c in method("mean_difference").candidates(flat)} == {
        "the two means are equal"
    }


def test_random_directions_are_the_same_for_every_run_and_belong_to_no_concept() -> None:
    four = method("random_direction", n_directions=4)
    first, again = list(four.candidates(evidence())), list(four.candidates(evidence(seed=1)))
    assert [c.concept for c in first] == [None] * 4
    assert [c.replicate for c in first] == [0, 1, 2, 3]
    vectors = torch.stack([c.steering.vector for c in first])
    torch.testing.assert_close(vectors, torch.stack([c.steering.vector for c in again]))
    assert (vectors @ vectors.T).fill_diagonal_(0).abs().max() < 0.999
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    longer = method("random_direction", n_directions=6).candidates(evidence())
    torch.testing.assert_close(torch.stack([c.steering.vector for c in longer])[:4], vectors)


def test_logit_bias_raises_the_tokens_that_are_commoner_where_the_concept_is() -> None:
    rng = np.random.default_rng(0)
    inside = rng.random(200) < 0.3
    common = rng.integers(20, 25, 200)
    token = np.where(inside & (rng.random(200) < 0.8), rng.choice([5, 9], 200), common)
    labels = scipy.sparse.csc_matrix(np.stack([inside, np.zeros(200, bool)], axis=1))
    found = list(method("logit_bias", n_words=2).candidates(evidence(token=token, labels=labels)))
    assert isinstance(found[0].steering, RaiseWords)
    assert found[0].steering.words[:, 0].tolist() in ([5, 9], [9, 5])
    assert found[-1].reason == "no token of the select split has the concept"


def test_logit_bias_adds_the_strength_to_the_logits_of_its_words_and_to_no_other() -> None:
    rows = [RaiseWords.of([[2], [3]]), RaiseWords.of([[0]])]
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    function = RaiseWords.intervention(rows, torch.tensor([1.5, -2.0])).logits
    assert function is not None
    change = function(logits, torch.zeros(2, 4, dtype=torch.long)) - logits
    wanted = torch.tensor([[0, 0, 1.5, 1.5, 0, 0], [-2.0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(change, wanted[:, None].expand(2, 4, 6), atol=1e-6, rtol=0)


def test_the_log_odds_of_a_token_are_those_of_its_table_of_four() -> None:
    token, inside = np.array([0, 0, 0, 1, 1, 3]), np.array([True, True, False, True, False, False])
    z = log_odds(token, inside)
    by_hand = np.log(2.5 / 1.5) - np.log(1.5 / 2.5)
    assert z[0] == pytest.approx(by_hand / np.sqrt(1 / 2.5 + 1 / 1.5 + 1 / 1.5 + 1 / 2.5))
    assert z[2] == 0
