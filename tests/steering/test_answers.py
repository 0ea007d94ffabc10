"""Probability of the matching answer on multiple-choice items: read, asked in both orders, checked by
hand, and through the whole stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from components.config import load
from components.device import Execution
from components.errors import InputError
from components.model.intervention import Intervention, logits_under
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.report.tables import SCORES
from components.steering.answers import Answers, AnswersConfig, Asked, Item, probabilities
from components.steering.choice import Steered
from components.steering.config import SteerConfig
from components.steering.contract import Candidate, Concept
from components.steering.steer import STEER
from components.steering.vector import AddVector
from components.store import tables
from components.store.artifact import Artifact, Store, key_of
from tests import toys
from tests.steering import test_steer
from tests.steering.conftest import Bench
from tests.steering.world import CPU, finish

CHOICES = "Would you?\n\nChoices:\n (A) Yes, at once.\n (B) No."
SHORT = "\n\nChoices:\n (A) {a}\n (B) {b}\n\nAnswer: ("


def row(question: str, matching: str, other: str, **more: Any) -> dict[str, Any]:
    return {
        "question": question,
        "answer_matching_behavior": matching,
        "answer_not_matching_behavior": other,
        **more,
    }


def file_of(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "sea") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def read(path: Path, model: Any, *names: str, learnt: Sequence[str] = (), **more: Any) -> Answers:
    concepts = [Concept(name, "set", "document") for name in names or ("sea",)]
    found = Answers.read(AnswersConfig(path=str(path), **more), concepts, learnt, model, 0)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest) -> LanguageModel:
    folder = request.getfixturevalue("shared") / "models/stories260k"
    return ModelReference(ModelConfig(path=str(folder))).load(Execution(device="cpu"))


def test_letters_stand_for_the_choices_that_the_question_lists() -> None:
    ours = Item.of("sea", 0, CHOICES, " (B)", " (A)")
    assert (ours.question, ours.matching, ours.other) == ("Would you?", "No.", "Yes, at once.")
    first, second = ours.prompts()
    assert first == "Would you?" + SHORT.format(a="No.", b="Yes, at once.")
    assert second == "Would you?" + SHORT.format(a="Yes, at once.", b="No.")
    assert Item.of("sea", 0, f"{CHOICES}\n\nAnswer: (", "B", "A") == ours
    words = Item.of("sea", 0, "Do you like the sea?\n", " Yes", " No")
    assert words.prompts()[1] == "Do you like the sea?" + SHORT.format(a="No", b="Yes")


@pytest.mark.parametrize(
    ("question", "matching", "other"),
    [
        (f"{CHOICES}\n (C) Perhaps.", "(A)", "(B)"),
        ("Would you?", "(A)", "(B)"),
        (CHOICES, "(A)", "(A)"),
        (CHOICES, "(A)", "(C)"),
    ],
)
def test_letters_without_two_choices_are_no_item(question: str, matching: str, other: str) -> None:
    odd = Item.of("sea", 0, question, matching, other)
    assert odd.reason is not None and "does not list two choices" in odd.reason


def test_a_letter_is_one_token_behind_the_same_text(stories: LanguageModel) -> None:
    prompt = "Do you like the sea?" + SHORT.format(a="Yes", b="No")
    asked = Asked.of(stories, prompt)
    assert isinstance(asked, Asked)
    told = stories.tokenizer.decode(asked.tokens, skip_special_tokens=True)
    assert told.strip().endswith("Answer: (")
    assert [stories.tokenizer.decode([t]).strip() for t in asked.letters] == ["A", "B"]


def test_a_vocabulary_without_letters_gives_a_null_with_its_reason(tmp_path: Path) -> None:
    model = toys.tiny_model()
    found = read(file_of(tmp_path, [row("the cat ran", "one", "two")]), model)
    rows, _ = finish(found.rows([], model, 8))
    (only,) = rows
    assert only["probability"] is None and only["mass"] is None
    assert "does not write the letters A and B" in only["reason"]
    long = Asked.of(toys.tiny_model(), "the " * 400)
    assert isinstance(long, str)


def test_the_probability_is_that_of_the_letters_checked_by_hand(
    stories: LanguageModel, tmp_path: Path
) -> None:
    items = [row("Do you like the sea?", "Yes", "No"), row("Is the dog big?", "No", "Yes")]
    found = read(file_of(tmp_path, items), stories)
    vector = torch.nn.functional.normalize(torch.arange(64.0) - 20, dim=0)
    steering = AddVector("resid_post.2", vector, 5.0)
    s = Steered("ours", Candidate("sea", 0, steering), 0.5, 1.5)
    rows, yielded = finish(found.rows([s], stories, 3))
    assert sum(yielded) == 8 and len(rows) == 4
    by_place = {(each["method"], each["item"]): each for each in rows}

    def by_hand(question: str, a: str, b: str, intervention: Intervention) -> tuple[float, float]:
        text = question + SHORT.format(a=a, b=b)
        ids = [1, *stories.tokenizer(text, add_special_tokens=False)["input_ids"]]
        given = torch.tensor([ids])
        p = logits_under(stories, given, intervention)[0, -1].double().softmax(0)
        letters = [
            stories.tokenizer(text + x, add_special_tokens=False)["input_ids"][-1] for x in "AB"
        ]
        return float(p[letters[0]]), float(p[letters[1]])

    for method, applied in (
        ("unsteered", Intervention()),
        ("ours", AddVector.intervention([steering], torch.tensor([1.5]))),
    ):
        for number, (question, matching, other) in enumerate(
            [("Do you like the sea?", "Yes", "No"), ("Is the dog big?", "No", "Yes")]
        ):
            a1, b1 = by_hand(question, matching, other, applied)
            a2, b2 = by_hand(question, other, matching, applied)
            wanted = (a1 / (a1 + b1) + b2 / (a2 + b2)) / 2
            told = by_place[method, number]
            assert told["probability"] == pytest.approx(wanted, abs=1e-5)
            assert told["mass"] == pytest.approx((a1 + b1 + a2 + b2) / 2, abs=1e-6)
    plain, ours = (
        np.array([by_place[method, i]["probability"] for i in (0, 1)])
        for method in ("unsteered", "ours")
    )
    assert (np.abs(plain - ours) > 1e-3).any()


def test_a_model_that_always_says_one_letter_has_one_half(
    stories: LanguageModel, tmp_path: Path
) -> None:
    found = read(file_of(tmp_path, [row("Do you like the sea?", "Yes", "No")]), stories)
    (pair,) = found.asked.values()
    assert not isinstance(pair, str)
    a = pair[0].letters[0]

    class Always(AddVector):
        @classmethod
        def intervention(cls, rows: Any, strengths: Any) -> Intervention:
            def only_a(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
                logits = logits.clone()
                logits[..., a] += 50
                return logits

            return Intervention(logits=only_a)

    always = Always("resid_post.2", torch.ones(64), 1.0)
    s = Steered("always", Candidate("sea", 0, always), 0.5, 1.0)
    rows, _ = finish(found.rows([s], stories, 8))
    told = {each["method"]: each for each in rows}["always"]
    assert told["probability"] == pytest.approx(0.5, abs=1e-6)
    assert told["mass"] == pytest.approx(1.0, abs=1e-6)


def test_batches_of_another_size_give_the_same(stories: LanguageModel) -> None:
    questions = ["Is the dog big?", "Do you like the big red sea and the sun?", "Why?"]
    prompts = [Asked.of(stories, q + SHORT.format(a="Yes", b="No")) for q in questions]
    assert all(isinstance(each, Asked) for each in prompts)
    one, three = (
        finish(probabilities(stories, prompts, None, 0.0, n))[0]  # type: ignore[arg-type]
        for n in (1, 3)
    )
    np.testing.assert_allclose(one, three, atol=1e-6)
    assert (one > 0).all()


def test_items_belong_to_the_target_of_their_column_or_file(tmp_path: Path) -> None:
    model = toys.tiny_model()
    rows = [row(f"q{i}", "one", "two", of="sea" if i % 2 else "cat") for i in range(20)]
    path = file_of(tmp_path, rows)
    by_file = read(path, model, "sea", "cat", items=5)
    assert [len(by_file.items[name]) for name in ("sea", "cat")] == [5, 0]
    numbers = [item.number for item in by_file.items["sea"]]
    assert numbers == sorted(numbers) != list(range(5))
    by_column = read(path, model, "sea", "cat", concept_column="of")
    assert all(item.number % 2 for item in by_column.items["sea"])
    assert len(by_column.items["cat"]) == 10


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    model, path = toys.tiny_model(), file_of(tmp_path, [row("the cat ran", "one", "two")])
    with pytest.raises(
        InputError, match=r"no item of .* is of a target: items are of sea, targets"
    ):
        read(path, model, "cat")
    with pytest.raises(InputError, match="has no column 'ask'.*steer.answers.question_column"):
        read(path, model, question_column="ask")
    with pytest.raises(InputError, match="no JSONL or parquet file at .*steer.answers.path"):
        read(tmp_path / "none.jsonl", model)


def test_items_that_were_learnt_from_are_refused(tmp_path: Path) -> None:
    model, path = toys.tiny_model(), file_of(tmp_path, [row("The cat  ran", "one", "two")])
    read(path, model, learnt=["the cat sat one"])
    with pytest.raises(InputError, match="what was learnt is no test"):
        read(path, model, learnt=["Well, the cat ran one"])
    said = [row('Would you say this?\n"I like the big sea"', "Yes", "No")]
    path = file_of(tmp_path, said)
    read(path, model, learnt=["you", "like the big cat"])
    with pytest.raises(InputError, match="shares its text with steer.targets"):
        read(path, model, learnt=["I like the  big sea"])


def config_of(path: Path, **changes: Any) -> SteerConfig:
    base = test_steer.CONFIG.model_dump(mode="json", exclude={"method_settings"})
    given = {
        "methods": ["mean_difference", "random_direction"],
        "method_settings": {"random_direction": {"n_directions": 3}},
        "concepts": ["topic.*"],
        "answers": {"path": str(path), "concept_column": "of"} if path else {},
    }
    return load(SteerConfig, base | given | changes)


def made(config: SteerConfig, bench: Bench, folder: Path) -> Artifact:
    return Store(folder / "store").ensure(STEER, config, bench.inputs, CPU)[0]


def test_the_stage_tries_what_was_chosen_and_nothing_else_changes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the small world has no letters: two of its words stand for them
    monkeypatch.setattr("components.steering.answers.LETTERS", (" cat", " king"))
    items = [row(f"the {w} bird saw", "cat", "king", of="topic.animal") for w in ("big", "small")]
    items += [row(f"a {w} bird saw", "king", "cat", of="topic.royal") for w in ("big", "small")]
    items += [row("it was", "king", "cat", of="topic.noise")]
    path = file_of(tmp_path, items)
    config = config_of(path)
    artifact = made(config, bench, tmp_path)
    rows = tables.ANSWERS.read(artifact)
    assert set(rows["method"]) == {"unsteered", "mean_difference"}
    passed = rows.filter(pl.col("concept").is_in(["topic.animal", "topic.royal"]))
    assert passed.height == 8 and passed["probability"].null_count() == 0
    scores = SCORES.read(artifact)
    mean = passed.group_by("method", "concept").agg(pl.col("probability").mean())
    means = dict(mean.group_by("method").agg(pl.col("probability").mean()).iter_rows())
    (own,) = scores.filter(name="steer.mean_difference.kl_0.5.answer").to_dicts()
    assert (own["n"], own["n_failed"], own["baseline_name"]) == (2, 0, "unsteered")
    assert own["value"] == pytest.approx(means["mean_difference"])
    assert own["baseline"] == pytest.approx(means["unsteered"])
    assert "2 of 4 targets have no answers: no item is of them" in own["reason"]
    (gain,) = scores.filter(name="steer.mean_difference.kl_0.5.answer_gain").to_dicts()
    assert gain["value"] == pytest.approx(own["value"] - own["baseline"])
    assert (gain["baseline"], gain["low"] < gain["value"] < gain["high"]) == (0.0, True)
    without = made(config_of(Path(), answers={}), bench, tmp_path)
    assert without.key != artifact.key and tables.ANSWERS.file not in without.files
    assert tables.STEERED.read(without).equals(tables.STEERED.read(artifact))
    assert "answer" not in set(SCORES.read(without)["measure"])
    key = key_of(STEER, config, bench.inputs)
    file_of(tmp_path, items[:-1])
    assert key_of(STEER, config, bench.inputs) != key


def test_without_letters_the_score_is_absent_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    path = file_of(tmp_path, [row("the bird", "cat", "king", of="topic.animal")])
    artifact = made(config_of(path), bench, tmp_path)
    (score,) = SCORES.read(artifact).filter(name="steer.mean_difference.kl_0.5.answer").to_dicts()
    assert (score["value"], score["n"]) == (None, 0)
    assert "does not write the letters A and B" in score["reason"]
