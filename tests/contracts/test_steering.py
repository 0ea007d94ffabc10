"""Laws that every steering method and every judge keeps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from components.config import load
from components.steering.contract import Candidate, Continuation, Judge, Material, Passages, Steering, judges, methods
from components.store import tables
from tests.steering.world import WIDTH, evidence

WITH = ["the cat ran .", "a dog sat .", "the cat sat .", "a cat saw .", "the dog ate .", "a dog ran ."]
WITHOUT = ["the king ran .", "a queen sat .", "the king saw .", "a king ate .", "the queen ran .", "a king sat ."]


@pytest.mark.parametrize("table", [methods, judges], ids=lambda table: table.noun)
def test_an_entry_has_its_files_name_a_version_and_a_config_that_says_its_kind(table: Any) -> None:
    for name, entry in table.items():
        assert entry.kind == name == entry.__module__.rpartition(".")[2]
        assert entry.version >= 1
        assert load(entry.config, {"kind": name}) == entry.config()


def proposed(name: str) -> list[Candidate]:
    return list(methods[name](methods[name].config()).candidates(evidence()))


@pytest.mark.parametrize("name", methods.names())
def test_a_method_proposes_for_every_concept_and_a_control_for_none(name: str) -> None:
    found = Counter(candidate.concept for candidate in proposed(name))
    wanted = {None} if methods[name].control else {concept.name for concept in evidence().concepts}
    assert set(found) == wanted
    assert max(found.values()) <= methods[name](methods[name].config()).at_most
    assert len({(c.concept, c.replicate) for c in proposed(name)}) == found.total()


@pytest.mark.parametrize("name", methods.names())
def test_a_candidate_is_a_steering_or_a_reason(name: str) -> None:
    for given in (evidence(), evidence(codes=None), evidence(labels=evidence().labels * 0)):
        for candidate in methods[name](methods[name].config()).candidates(given):
            assert (candidate.steering is None) == (candidate.reason is not None)
            assert candidate.sign in (-1, 1)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_proposes_the_same_again(name: str) -> None:
    for first, again in zip(proposed(name), proposed(name), strict=True):
        assert isinstance(first.steering, Steering) and isinstance(again.steering, Steering)
        for part, tensor in first.steering.tensors().items():
            assert torch.equal(tensor, again.steering.tensors()[part])
            assert tensor.isfinite().all()


@pytest.mark.parametrize("name", methods.names())
def test_strength_zero_is_no_edit_and_rows_of_a_batch_are_independent(name: str) -> None:
    steerings = [candidate.steering for candidate in proposed(name) if candidate.steering]
    x = torch.randn(len(steerings), 3, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(len(steerings), 3, 1, dtype=torch.bool)
    kind, strengths = type(steerings[0]), torch.linspace(0.5, 2, len(steerings))
    nothing = kind.edit(steerings, torch.zeros(len(steerings)))
    torch.testing.assert_close(nothing.function(x, mask), x)
    together = kind.edit(steerings, strengths).function(x, mask)
    for i, steering in enumerate(steerings):
        alone = kind.edit([steering], strengths[i : i + 1]).function(x[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
        assert not torch.allclose(alone, x[i : i + 1])


def judge(name: str) -> Judge:
    """Fitted on passages of which the first half has the first concept, and none the second."""
    texts = WITH * 2 + WITHOUT * 2
    labels = np.zeros((len(texts), 2), bool)
    labels[: len(texts) // 2, 0] = True
    passages = Passages(texts, labels, np.linspace(1, 2, len(texts)))
    plain = [Continuation(text, 4, nll) for text, nll in zip(texts, np.linspace(1, 2, len(texts)), strict=True)]
    return judges[name](judges[name].config(), Material(["one", "none"], passages, passages, passages, plain, 0))


TEXTS = [Continuation("the cat ran .", 4, 1.5), Continuation(None, 0, None, "ended"), Continuation("a king .", 3, 9.0)]


@pytest.mark.parametrize("name", judges.names())
def test_a_judge_scores_from_0_to_1_and_gives_nothing_for_no_text(name: str) -> None:
    scores = judge(name).scores(TEXTS)
    assert scores.shape == (3, 2)
    assert np.isnan(scores[1]).all()
    said = scores[[0, 2], 0]
    assert ((said >= 0) & (said <= 1)).all()


@pytest.mark.parametrize("name", judges.names())
def test_a_judge_reads_each_text_by_itself_and_says_the_same_again(name: str) -> None:
    together, again = judge(name).scores(TEXTS), judge(name).scores(TEXTS)
    np.testing.assert_array_equal(together, again)
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(judge(name).scores([text])[0], together[i], atol=1e-6)
    assert judge(name).scores([]).shape == (0, 2)


@pytest.mark.parametrize("name", judges.names())
def test_a_judge_has_a_column_of_its_own_and_refuses_only_known_concepts(name: str) -> None:
    assert judges[name].column in tables.GENERATIONS.columns
    assert set(judge(name).refusals()) <= {"one", "none"}
    assert len({judges[other].column for other in judges.names()}) == len(judges.names())
