"""Steering methods that add a direction or a passage: each against what it is by definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse
import torch

from components.steering.contract import Candidate, Evidence
from components.steering.methods.prompt import Prefix
from components.steering.vector import AddVector
from components.store import tables
from tests import toys
from tests.steering.world import HOOK, WIDTH, evidence, method


def by_concept(name: str, given: Evidence, **settings: object) -> dict[str | None, Candidate]:
    return {c.concept: c for c in method(name, **settings).candidates(given)}


def direction(candidate: Candidate) -> torch.Tensor:
    assert isinstance(candidate.steering, AddVector), candidate.reason
    return candidate.steering.vector


def test_the_whitened_difference_is_fishers_discriminant() -> None:
    given = evidence()
    x = torch.cat([block for _, block in given.batches(HOOK)]).numpy()
    inside = given.labels[:, 0].toarray().ravel()
    centred = np.concatenate([x[part] - x[part].mean(0) for part in (inside, ~inside)])
    covariance = centred.T @ centred / len(x)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / WIDTH * np.eye(WIDTH)
    wanted = np.linalg.solve(shrunk, x[inside].mean(0) - x[~inside].mean(0))
    found = direction(by_concept("whitened_mean_difference", given, shrinkage=0.3)["mark"])
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_at_full_shrinkage_nothing_is_whitened() -> None:
    given = evidence()
    for concept, plain in by_concept("mean_difference", given).items():
        whitened = by_concept("whitened_mean_difference", given, shrinkage=1.0)[concept]
        torch.testing.assert_close(direction(whitened), direction(plain), atol=1e-5, rtol=0)


def test_whitening_turns_down_what_varies_for_other_reasons() -> None:
    """A coordinate that goes with the concept a little, and varies much for itself."""
    given = evidence()
    x = torch.cat([block for _, block in given.batches(HOOK)])
    inside = torch.from_numpy(given.labels[:, 0].toarray().ravel())
    generator = torch.Generator().manual_seed(0)
    x[:, 0] = 40 * torch.randn(len(x), generator=generator, dtype=x.dtype) + 8 * inside
    noisy = dataclasses.replace(given, batches=lambda hook_point: iter([(0, x)]))
    plain = direction(by_concept("mean_difference", noisy)["mark"])
    whitened = direction(by_concept("whitened_mean_difference", noisy, shrinkage=0.01)["mark"])
    assert abs(float(whitened[2])) > 0.9 > abs(float(plain[2]))


def test_a_probe_points_along_the_coordinate_that_tells_the_concept() -> None:
    found = by_concept("linear_probe", evidence())
    assert int(direction(found["mark"]).argmax()) == 2
    assert int(direction(found["doc"]).argmax()) == 4


def test_several_latents_are_weighed_by_the_difference_of_their_mean_codes() -> None:
    given = evidence()
    assert given.codes is not None and given.dictionary is not None
    inside = given.labels[:, 0].toarray().ravel()
    codes = given.codes.toarray()
    difference = codes[inside].mean(0) - codes[~inside].mean(0)
    strongest = np.argsort(-np.abs(difference))[:2]
    decoder = given.dictionary.decoder_directions(HOOK).detach().numpy()
    wanted = difference[strongest] @ decoder[strongest]
    found = direction(by_concept("several_latents", given, n_latents=2)["mark"])
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)


@pytest.mark.parametrize("position", ["last", "mean"])
def test_the_paired_difference_is_that_of_the_two_texts(position: str) -> None:
    model, given = toys.tiny_model(), evidence()
    tokenizer = toys.tokenizer()

    def read(text: str) -> torch.Tensor:
        ids = torch.tensor([[1, *tokenizer(text)["input_ids"]]])
        x = model.read(ids, [HOOK])[HOOK][0].double()
        return x[-1] if position == "last" else x[1:].mean(0)

    rows = [row for row in given.pairs.iter_rows(named=True) if row["concept"] == "mark"]
    wanted = torch.stack([read(row["positive"]) - read(row["negative"]) for row in rows]).mean(0)
    found = direction(by_concept("paired_difference", given, position=position)["mark"])
    torch.testing.assert_close(found.double(), wanted / wanted.norm(), atol=1e-5, rtol=0)


def test_texts_of_unequal_length_are_read_to_their_own_end() -> None:
    pairs = [
        {"concept": "mark", "pair": 0, "split": "select", "positive": "the cat", "negative": "a"},
        {
            "concept": "mark",
            "pair": 1,
            "split": "select",
            "positive": "the dog ran and saw the cat",
            "negative": "the king",
        },
    ]
    alone = [
        direction(by_concept("paired_difference", evidence(pairs=tables.PAIRS.frame([p])))["mark"])
        for p in pairs
    ]
    assert not torch.allclose(*alone)
    both = direction(
        by_concept("paired_difference", evidence(pairs=tables.PAIRS.frame(pairs)))["mark"]
    )
    assert torch.isfinite(both).all()


def test_a_concept_without_pairs_says_which_table_would_have_them() -> None:
    found = by_concept("paired_difference", evidence(pairs=tables.PAIRS.frame([])))
    assert all(c.steering is None and "`pairs`" in (c.reason or "") for c in found.values())


def test_passages_hold_a_labelled_token_and_stay_inside_their_document() -> None:
    given = evidence(token=np.arange(200))
    inside = set(np.flatnonzero(given.labels[:, 0].toarray().ravel()).tolist())
    for candidate in method("prompt", n_tokens=6).candidates(given):
        assert isinstance(candidate.steering, Prefix)
        rows = candidate.steering.tokens.tolist()
        assert 0 < len(rows) <= 6
        assert len(set(given.document[rows].tolist())) == 1
        if candidate.concept == "mark":
            assert inside & set(rows)
        else:
            assert rows[0] % 10 == 0, "the beginning of a document"


def test_a_concept_without_tokens_has_no_passage() -> None:
    labels = scipy.sparse.csc_matrix((200, 2), dtype=bool)
    found = by_concept("prompt", evidence(labels=labels))
    assert {c.reason for c in found.values()} == {"no token of the select split has the concept"}


def test_a_passage_that_does_not_fit_beside_a_prompt_is_none_and_the_reason_names_the_settings() -> (
    None
):
    crowded = evidence(longest_text=120)  # the model reads 128
    found = by_concept("prompt", crowded)
    for candidate in found.values():
        assert candidate.steering is None
        assert "steer.method_settings.prompt.n_tokens" in (candidate.reason or "")
        assert "steer.max_new_tokens" in (candidate.reason or "")
    short, free = (
        [c.steering for c in method("prompt", n_tokens=8).candidates(given)]
        for given in (crowded, evidence())
    )
    assert [s.tokens.tolist() for s in short] == [s.tokens.tolist() for s in free]  # type: ignore[union-attr]


def about_cats() -> Evidence:
    given = evidence()
    concepts = [dataclasses.replace(each, text="cat") for each in given.concepts]
    return dataclasses.replace(given, concepts=concepts)


def test_an_instruction_says_the_targets_words_and_is_tried_beside_the_passages() -> None:
    said = ("the {target} ran ", "a {target} ")
    given = about_cats()
    tokenizer = method("prompt").services.model.tokenizer
    both = list(method("prompt", n_candidates=2, instructions=said).candidates(given))
    alone = list(method("prompt", n_candidates=0, instructions=said).candidates(given))
    for concept in given.concepts:
        tried = [c.steering.tokens.tolist() for c in both if c.concept == concept.name]  # type: ignore[union-attr]
        written = [c.steering.tokens.tolist() for c in alone if c.concept == concept.name]  # type: ignore[union-attr]
        assert written == [
            tokenizer("the cat ran ", add_special_tokens=False)["input_ids"],
            tokenizer("a cat ", add_special_tokens=False)["input_ids"],
        ]
        assert len(tried) == 4 and tried[2:] == written


def test_marks_in_a_targets_words_do_not_end_the_users_turn() -> None:
    given = about_cats()
    concepts = [dataclasses.replace(each, text="cat <eos> dog") for each in given.concepts]
    marked = dataclasses.replace(given, concepts=concepts)
    tokenizer = method("prompt").services.model.tokenizer
    for candidate in method("prompt", n_candidates=0, instructions=("a {target} ",)).candidates(
        marked
    ):
        assert isinstance(candidate.steering, Prefix)
        assert tokenizer.decode(candidate.steering.tokens) == "a cat dog"


def test_an_instruction_in_unknown_words_or_too_long_is_none_with_the_reason() -> None:
    strange = by_concept("prompt", about_cats(), n_candidates=0, instructions=("zyx {target}",))
    crowded = dataclasses.replace(about_cats(), longest_text=127)
    long = by_concept("prompt", crowded, n_candidates=0, instructions=("the cat ran {target}",))
    for found, reason in ((strange, "vocabulary lacks words"), (long, "no instruction fits")):
        for candidate in found.values():
            assert candidate.steering is None and reason in (candidate.reason or "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_candidates": 0}, "nothing to try"),
        ({"instructions": ("Write about the sea.",)}, "would be the same for every target"),
    ],
)
def test_instructions_that_say_nothing_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        method("prompt", **settings)
