"""Laws that every steering method and every judge keeps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from components.dictionary.architectures.topk import TopK, TopKConfig
from components.model.generation import generate
from components.model.intervention import logits_under
from components.model.language_model import LanguageModel
from components.steering.contract import (
    Candidate,
    Concept,
    Continuation,
    Evidence,
    Judge,
    Material,
    Passages,
    Steering,
    judges,
    methods,
)
from components.store.judgements import TAKEN
from tests import toys
from tests.steering.world import HOOK, WIDTH, evidence, fitted, method

WITH = [
    "the cat ran .",
    "a dog sat .",
    "the cat sat .",
    "a cat saw .",
    "the dog ate .",
    "a dog ran .",
]
WITHOUT = [
    "the king ran .",
    "a queen sat .",
    "the king saw .",
    "a king ate .",
    "the queen ran .",
    "a king sat .",
]


@pytest.mark.parametrize("table", [methods, judges], ids=lambda table: table.noun)
def test_an_entry_has_its_files_name_a_version_and_a_config_that_says_its_kind(table: Any) -> None:
    for name, entry in table.items():
        assert entry.kind == name == entry.__module__.rpartition(".")[2]
        assert entry.version >= 1
        assert "kind" not in entry.config.model_fields, "the section is called by its name already"
        assert entry.config().model_dump() is not None, "every setting has a default"


def evidence_of(model: LanguageModel) -> Evidence:
    """The evidence with activations and a dictionary as wide as the model's."""
    given = evidence()
    wide = TopK(TopKConfig(d_sae=WIDTH, k=WIDTH), (HOOK,), (HOOK,), {HOOK: model.d_model})
    with torch.no_grad():
        wide.W_dec.copy_(
            torch.randn(WIDTH, model.d_model, generator=torch.Generator().manual_seed(1))
        )
        wide.W_enc.copy_(wide.W_dec)
        wide.b_dec.copy_(
            -torch.linalg.pinv(wide.W_dec) @ torch.full((WIDTH,), 30.0)
        )  # all are active

    def batches(hook_point: str) -> Iterator[tuple[int, torch.Tensor]]:
        for start, x in given.batches(hook_point):
            yield start, torch.nn.functional.pad(x, (0, model.d_model - WIDTH))

    return dataclasses.replace(given, d_in=model.d_model, dictionary=wide, batches=batches)


def proposed(name: str) -> list[Candidate]:
    return list(method(name).candidates(evidence()))


@pytest.mark.parametrize("name", methods.names())
def test_a_method_proposes_for_every_concept_and_a_control_for_none(name: str) -> None:
    found = Counter(candidate.concept for candidate in proposed(name))
    wanted = {None} if methods[name].control else {concept.name for concept in evidence().concepts}
    assert set(found) == wanted
    assert max(found.values()) <= methods[name].at_most(methods[name].config())
    assert len({(c.concept, c.replicate) for c in proposed(name)}) == found.total()


@pytest.mark.parametrize("name", methods.names())
def test_a_candidate_is_a_steering_or_a_reason(name: str) -> None:
    for given in (evidence(), evidence(codes=None), evidence(labels=evidence().labels * 0)):
        for candidate in method(name).candidates(given):
            assert (candidate.steering is None) == (candidate.reason is not None)
            assert candidate.steering is None or type(candidate.steering) is methods[name].steering
            assert candidate.sign in (-1, 1)


@pytest.mark.parametrize("name", [name for name, kind in methods.items() if kind.any_hook_point])
def test_a_method_of_any_hook_point_steers_where_it_is_told_and_needs_no_dictionary(
    name: str,
) -> None:
    assert not methods[name].reads_dictionary
    given = evidence_of(toys.tiny_model())
    given = dataclasses.replace(
        given, units={**given.units, "mlp_out.1": 3.0}, codes=None, dictionary=None
    )
    for place in ("mlp_out.1", HOOK):
        found = list(method(name, hook_points=[place]).candidates(given))
        assert found and all(c.steering is not None for c in found)
        for candidate in found:
            kind = type(candidate.steering)
            done = kind.intervention([candidate.steering], torch.ones(1))
            assert [edit.hook_point for edit in done.edits] == [place]


@pytest.mark.parametrize("name", methods.names())
def test_a_method_proposes_the_same_again(name: str) -> None:
    for first, again in zip(proposed(name), proposed(name), strict=True):
        assert isinstance(first.steering, Steering) and isinstance(again.steering, Steering)
        for part, tensor in first.steering.tensors().items():
            assert torch.equal(tensor, again.steering.tensors()[part])
            assert tensor.isfinite().all() and "/" not in part


def steerings(name: str) -> list[Steering]:
    """What the method proposes, brought to the tiny model."""
    model = toys.tiny_model()
    found = [c.steering for c in method(name).candidates(evidence_of(model)) if c.steering]
    assert found
    return found[:6]


TOKENS = torch.tensor([[1, 4, 6, 12, 15, 4], [1, 5, 8, 13, 16, 20]])


@pytest.mark.parametrize("name", methods.names())
def test_strength_zero_leaves_logits_and_text_as_they_are_and_rows_are_independent(
    name: str,
) -> None:
    model, rows = toys.tiny_model(), steerings(name)
    kind, n = type(rows[0]), len(rows)
    tokens = TOKENS[:1].repeat(n, 1)
    plain, strengths = model.logits(tokens), torch.linspace(0.5, 2, n)
    if kind.graded:
        nothing = kind.intervention(rows, torch.zeros(n))
        assert torch.equal(logits_under(model, tokens, nothing), plain), (
            "bitwise, in one batch layout"
        )
        settings = {"max_new_tokens": 6, "temperature": 1.0, "seeds": list(range(n)), "stop": []}
        prompts = tokens.tolist()
        assert generate(model, prompts, intervention=nothing, **settings) == generate(
            model, prompts, **settings
        )
    together = logits_under(model, tokens, kind.intervention(rows, strengths))
    for i, steering in enumerate(rows):
        alone = logits_under(model, tokens[:1], kind.intervention([steering], strengths[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(alone, plain[:1], atol=1e-4)
    assert torch.equal(model.logits(tokens), plain), "nothing stays behind"


@pytest.mark.parametrize("name", methods.names())
def test_a_steering_is_restored_from_what_it_saved(name: str) -> None:
    model, units = toys.tiny_model(), evidence_of(toys.tiny_model()).units
    dictionary = evidence_of(model).dictionary
    assert dictionary is not None
    for steering in steerings(name)[:2]:
        tensors = {part: tensor.clone() for part, tensor in steering.tensors().items()}
        again = methods[name].steering.restored(tensors, units).joined(lambda: dictionary)
        strength = torch.tensor([1.5, 0.5])
        ours = logits_under(model, TOKENS, type(steering).intervention([steering] * 2, strength))
        assert torch.equal(
            logits_under(model, TOKENS, type(again).intervention([again] * 2, strength)), ours
        )


def judge(name: str) -> Judge:
    """Fitted on passages of which the first half has the first concept, and none the second."""
    texts = WITH * 2 + WITHOUT * 2
    labels = np.zeros((len(texts), 2), bool)
    labels[: len(texts) // 2, 0] = True
    passages = Passages(texts, labels, np.linspace(1, 2, len(texts)))
    plain = [
        Continuation(text, 4, nll)
        for text, nll in zip(texts, np.linspace(1, 2, len(texts)), strict=True)
    ]
    return fitted(
        name,
        Material(
            [Concept("one", "surface", "token"), Concept("none", "surface", "token")],
            passages,
            passages,
            passages,
            plain,
            0,
        ),
    )


TEXTS = [
    Continuation("the cat ran .", 4, 1.5, prompt="then"),
    Continuation("a king .", 3, 9.0, prompt="it was"),
]


@pytest.mark.parametrize("name", judges.names())
def test_a_judge_gives_each_text_and_concept_a_value_from_0_to_1_or_a_reason(name: str) -> None:
    verdicts = judge(name).judge(TEXTS)
    assert verdicts.values.shape == (2, 2)
    missing = np.isnan(verdicts.values)
    assert {i for i in range(2) if missing[i].all()} <= set(verdicts.reasons)
    assert ((verdicts.values >= 0) & (verdicts.values <= 1))[~missing].all()


@pytest.mark.parametrize("name", judges.names())
def test_a_judge_reads_each_text_by_itself_and_says_the_same_again(name: str) -> None:
    together, again = judge(name).judge(TEXTS).values, judge(name).judge(TEXTS).values
    np.testing.assert_array_equal(together, again)
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(judge(name).judge([text]).values[0], together[i], atol=1e-6)
    assert judge(name).judge([]).values.shape == (0, 2)


@pytest.mark.parametrize("name", judges.names())
def test_a_judge_has_a_name_that_no_column_has_and_refuses_only_known_concepts(name: str) -> None:
    assert name not in TAKEN
    assert (judges[name].measure.name, judges[name].measure.least, judges[name].measure.most) == (
        name,
        0,
        1,
    )
    assert set(judge(name).refusals()) <= {"one", "none"}
