"""Accuracy on questions about other things: read, letters balanced, checked by hand, and through the
whole stage."""

from __future__ import annotations

import collections
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
from components.statistics import t_interval
from components.steering import questions
from components.steering.choice import Steered
from components.steering.config import SteerConfig
from components.steering.contract import Candidate
from components.steering.questions import Item, Questions, QuestionsConfig
from components.steering.steer import STEER
from components.steering.vector import AddVector
from components.store import tables
from components.store.artifact import Artifact, Store, key_of
from tests import toys
from tests.steering import test_steer
from tests.steering.conftest import Bench
from tests.steering.world import CPU, finish

SKY = {"question": "What colour is the sky?", "choices": ["red", "blue", "green"], "answer": 1}


def file_of(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "mc") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def read(path: Path, model: Any, learnt: Sequence[str] = (), seed: int = 0, **more: Any) -> Any:
    found = Questions.read(QuestionsConfig(path=str(path), **more), learnt, model, seed)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest) -> LanguageModel:
    folder = request.getfixturevalue("shared") / "models/stories260k"
    return ModelReference(ModelConfig(path=str(folder))).load(Execution(device="cpu"))


def test_the_choices_are_turned_until_the_right_one_stands_at_its_place() -> None:
    item = Item(0, "What colour is the sky?", ("red", "blue", "green"), 1)
    assert item.prompt(0) == (
        "What colour is the sky?\n\nChoices:\n (A) blue\n (B) green\n (C) red\n\nAnswer: ("
    )
    assert " (C) blue" in item.prompt(2) and " (A) green" in item.prompt(2)


@pytest.mark.parametrize("answer", [1, "1", "B", "(b)", "blue", " blue "])
def test_the_right_choice_is_a_number_a_letter_or_its_text(answer: Any, tmp_path: Path) -> None:
    found = read(file_of(tmp_path, [SKY | {"answer": answer}]), toys.tiny_model())
    assert [item.right for item in found.items] == [1]


def test_rows_that_are_no_question_are_passed_over(tmp_path: Path) -> None:
    odd = [
        SKY | {"answer": 3},
        SKY | {"answer": "Z"},
        SKY | {"answer": ""},
        SKY | {"choices": ["blue"], "answer": 0},
        SKY | {"question": ""},
        SKY,
    ]
    found = read(file_of(tmp_path, odd), toys.tiny_model())
    assert [item.number for item in found.items] == [5]
    with pytest.raises(InputError, match=r"no row of .* steer.questions.question_column"):
        read(file_of(tmp_path, odd[:5]), toys.tiny_model())


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        # one text among them does not turn the numbers into texts
        ([(["3", "4", "1", "2"], 1), (["a", "b"], "B"), (["x", "y"], 0)], [1, 0]),
        ([(["B", "A", "C"], "A"), (["x", "y"], "B")], [0, 1]),
        ([([True, False], True), ([True, False], False)], [0, 1]),
        ([(["a", "b"], 1.0), (["a", "b"], None), (["a", "b"], 0.0)], [1, 0]),
        ([(["caf\u00e9", "tea"], "cafe\u0301")], [0]),
        ([(["a", None, "b"], 1)], [1]),
        ([(["a", "b"], "²"), (["a", "b"], "b")], [1]),
        ([({"text": ["a", "b"], "label": ["1", "2"]}, "2")], [1]),
    ],
)
def test_one_reading_holds_for_a_file(
    rows: Sequence[tuple[Any, Any]], places: Sequence[int], tmp_path: Path
) -> None:
    listed = [
        {"question": f"Question {i}?", "choices": choices, "answer": answer}
        for i, (choices, answer) in enumerate(rows)
    ]
    found = read(file_of(tmp_path, listed), toys.tiny_model())
    assert [item.right for item in found.items] == places


def test_two_readings_that_differ_are_refused_until_one_is_said(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "choices": ["1", "2", "3"], "answer": 2}]
    path, model = file_of(tmp_path, rows), toys.tiny_model()
    with pytest.raises(InputError, match=r"as number or as text.*steer.questions.answers_are"):
        read(path, model)
    assert read(path, model, answers_are="number").items[0].right == 2
    assert read(path, model, answers_are="text").items[0].right == 1


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        SKY,
        SKY | {"choices": ["a", "a"], "answer": 0},
        SKY | {"choices": ["a", " "], "answer": 0},
        SKY | {"question": "  "},
        SKY | {"choices": [str(i) for i in range(11)]},
    ]
    path = file_of(tmp_path, rows)
    assert len(read(path, toys.tiny_model()).items) == 1
    assert f"4 of 5 rows of {path} are left out" in caplog.text


def test_every_letter_is_right_equally_often(tmp_path: Path) -> None:
    rows = [SKY | {"question": f"Question {i}?"} for i in range(40)]
    rows += [SKY | {"question": f"Other {i}?", "choices": ["red", "blue"]} for i in range(21)]
    found = read(file_of(tmp_path, rows), toys.tiny_model(), items=61)
    placed = collections.Counter(
        (len(item.choices), place) for item, place in zip(found.items, found.places, strict=True)
    )
    assert sorted(placed.values()) == [10, 11, 13, 13, 14]
    other = read(file_of(tmp_path, rows), toys.tiny_model(), items=61, seed=1)
    assert other.places != found.places
    assert len(read(file_of(tmp_path, rows), toys.tiny_model(), items=7).items) == 7


def test_an_answer_is_right_where_its_letter_is_the_most_probable_checked_by_hand(
    stories: LanguageModel, tmp_path: Path
) -> None:
    rows = [SKY, {"question": "Is the dog big?", "choices": ["No", "Yes"], "answer": 1}]
    found = read(file_of(tmp_path, rows), stories)
    vector = torch.nn.functional.normalize(torch.arange(64.0) - 20, dim=0)
    steering = AddVector("resid_post.2", vector, 5.0)
    s = Steered("ours", Candidate("sea", 0, steering), 0.5, 1.5)
    told, yielded = finish(found.rows([s], stories, 3))
    assert sum(yielded) == 4 and len(told) == 4
    applied = {
        "unsteered": Intervention(),
        "ours": AddVector.intervention([steering], torch.tensor([1.5])),
    }
    for row in told:
        i = [item.number for item in found.items].index(row["item"])
        item, place = found.items[i], found.places[i]
        text = item.prompt(place)
        ids = [1, *stories.tokenizer(text, add_special_tokens=False)["input_ids"]]
        p = logits_under(stories, torch.tensor([ids]), applied[row["method"]])[0, -1]
        p = p.double().softmax(0)
        letters = [
            stories.tokenizer(text + x, add_special_tokens=False)["input_ids"][-1]
            for x in "ABC"[: len(item.choices)]
        ]
        own = [float(p[letter]) for letter in letters]
        assert row["right"] == (max(range(len(own)), key=own.__getitem__) == place)
        assert row["probability"] == pytest.approx(own[place] / sum(own), abs=1e-5)
        assert row["mass"] == pytest.approx(sum(own), abs=1e-6)


def test_a_model_that_always_says_one_letter_is_right_as_often_as_chance(
    stories: LanguageModel, tmp_path: Path
) -> None:
    rows = [SKY | {"question": f"Question {i}?"} for i in range(30)]
    found = read(file_of(tmp_path, rows), stories)
    a = found.asked[0].letters[0]

    class Always(AddVector):
        @classmethod
        def intervention(cls, rows: Any, strengths: Any) -> Intervention:
            def only_a(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
                logits = logits.clone()
                logits[..., a] += 50
                return logits

            return Intervention(logits=only_a)

    s = Steered("ours", Candidate("sea", 0, Always("resid_post.2", torch.ones(64), 1.0)), 0.5, 1.0)
    told, _ = finish(found.rows([s], stories, 16))
    assert sum(row["right"] for row in told if row["method"] == "ours") == 10


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    model, path = toys.tiny_model(), file_of(tmp_path, [SKY])
    with pytest.raises(InputError, match="has no column 'ask'.*steer.questions.question_column"):
        read(path, model, question_column="ask")
    with pytest.raises(InputError, match="no JSONL or parquet file at .*steer.questions.path"):
        read(tmp_path / "none.jsonl", model)
    (tmp_path / "list.jsonl").write_text("[1, 2", encoding="utf-8")
    with pytest.raises(InputError, match=r"list.jsonl: wanted one JSON object a line"):
        read(tmp_path / "list.jsonl", model)
    with pytest.raises(InputError, match="no JSONL or parquet file at"):
        STEER.entries(SteerConfig(questions=QuestionsConfig(path=str(tmp_path / "none.jsonl"))))
    why = file_of(tmp_path, [SKY | {"question": "Why"}], "why")
    assert read(why, model, learnt=["That is why the sky is blue."]).items
    with pytest.raises(InputError, match="an item of steer.questions shares its text"):
        read(path, model, learnt=["Tell me, what colour is the sky? It is blue."])


def config_of(path: Path | None, **changes: Any) -> SteerConfig:
    base = test_steer.CONFIG.model_dump(mode="json", exclude={"method_settings"})
    given = {
        "methods": ["mean_difference", "random_direction"],
        "method_settings": {"random_direction": {"n_directions": 3}},
        "concepts": ["topic.*"],
        "questions": {"path": str(path)} if path else {},
    }
    return load(SteerConfig, base | given | changes)


def made(config: SteerConfig, bench: Bench, folder: Path) -> Artifact:
    return Store(folder / "store").ensure(STEER, config, bench.inputs, CPU)[0]


def test_the_stage_asks_under_what_was_chosen_and_nothing_else_changes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the small world has no letters: words of it stand for them
    monkeypatch.setattr(questions, "LETTERS", (" cat", " king", " tree"))
    rows = [
        {"question": f"the {w} {n} saw", "choices": ["dog", "queen", "river"], "answer": i % 3}
        for i, (w, n) in enumerate((w, n) for w in ("big", "small") for n in ("bird", "house"))
    ]
    path = file_of(tmp_path, rows)
    config = config_of(path)
    artifact = made(config, bench, tmp_path)
    table = tables.QUESTIONS.read(artifact)
    plain = table.filter(method="unsteered")
    assert (plain.height, plain["concept"].null_count(), plain["right"].null_count()) == (4, 4, 0)
    own = table.filter(method="mean_difference")
    assert set(own["item"]) == {0, 1, 2, 3} and own["right"].null_count() == 0
    scores = SCORES.read(artifact)
    (score,) = scores.filter(name="steer.mean_difference.kl_0.5.accuracy").to_dicts()
    by_target = own.group_by("concept").agg(pl.col("right").mean())["right"]
    assert score["value"] == pytest.approx(by_target.mean())
    assert score["baseline_name"] == "unsteered"
    assert score["baseline"] == pytest.approx(plain["right"].mean())
    assert "not surely more than by chance (0.33)" in score["reason"]
    (change,) = scores.filter(name="steer.mean_difference.kl_0.5.accuracy_change").to_dicts()
    assert change["value"] == pytest.approx(score["value"] - score["baseline"])
    without = made(config_of(None), bench, tmp_path)
    assert without.key != artifact.key and tables.QUESTIONS.file not in without.files
    assert tables.STEERED.read(without).equals(tables.STEERED.read(artifact))
    assert "accuracy" not in set(SCORES.read(without)["measure"])
    key = key_of(STEER, config, bench.inputs)
    file_of(tmp_path, rows[:-1])
    assert key_of(STEER, config, bench.inputs) != key


def test_a_question_that_has_no_answer_under_a_steering_counts_on_neither_side(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "LETTERS", (" cat", " king", " tree"))
    asked = questions.probabilities

    def without_the_last(model: Any, prompts: Any, steering: Any, *more: Any) -> Any:
        found = yield from asked(model, prompts, steering, *more)
        # as where what steers leaves no room for it; without steering the others are wrong
        found[:] = [[0.1, 0.2, 0.1]] * 3 + [[0.3, 0.1, 0.1]]
        if steering is not None:
            found[-1] = np.nan
        return found

    monkeypatch.setattr(questions, "probabilities", without_the_last)
    rows = [{"question": f"the {w} bird saw", "choices": ["dog", "queen", "river"], "answer": 0}
            for w in ("big", "small", "red", "blue")]  # fmt: skip
    artifact = made(config_of(file_of(tmp_path, rows)), bench, tmp_path)
    plain = tables.QUESTIONS.read(artifact).filter(method="unsteered")["right"].to_list()
    scores = SCORES.read(artifact)
    (score,) = scores.filter(name="steer.mean_difference.kl_0.5.accuracy").to_dicts()
    assert score["value"] == score["baseline"] == pytest.approx(sum(plain[:3]) / 3)
    assert sum(plain) / 4 != pytest.approx(score["baseline"])
    assert "up to 1 of 4 questions of a target have no answer under it" in score["reason"]
    (change,) = scores.filter(name="steer.mean_difference.kl_0.5.accuracy_change").to_dicts()
    assert change["value"] == 0


def test_luck_with_the_questions_is_no_sure_loss() -> None:
    """Targets agree because they are asked the same questions; which questions were drawn is what
    makes the loss."""
    row = {"measure": "accuracy_change", "value": -0.1, "low": -0.12, "high": -0.08, "n": 12}
    by_item = np.array([-1.0] * 3 + [0.0] * 15 + [0.5] * 2)
    told = questions._wider(row, by_item)
    half = (t_interval(by_item).high - t_interval(by_item).low) / 2  # type: ignore[operator]
    assert (told["low"], told["high"]) == pytest.approx((-0.1 - half, -0.1 + half))
    assert told["low"] < 0 < told["high"] and told["n"] == 20
    assert told["unit_of_replication"] == "question"
    wide = row | {"low": -0.9, "high": 0.7}
    assert questions._wider(wide, by_item) == wide
    assert questions._wider(row, np.zeros(20)) == row
    share = row | {"measure": "accuracy", "value": 0.01, "low": 0.0, "high": 0.02}
    assert questions._wider(share, np.array([0.2] + [0.0] * 19))["low"] == 0


def test_without_letters_the_score_is_absent_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    artifact = made(config_of(file_of(tmp_path, [SKY])), bench, tmp_path)
    (score,) = SCORES.read(artifact).filter(name="steer.mean_difference.kl_0.5.accuracy").to_dicts()
    assert (score["value"], score["n"]) == (None, 0)
    assert "does not write the letters A, B and C as one token each" in score["reason"]
