"""Targets from what the model itself writes under contrasting instructions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from components.corpus.contract import text_digest
from components.errors import InputError
from components.experiment import parents
from components.steering.config import SteerConfig
from components.steering.steer import STEER
from components.steering.targets.sets import DEALT
from components.steering.targets.system_prompts import Answered, instructed
from components.store import tables
from components.store.artifact import key_of
from tests import toys
from tests.steering import world
from tests.steering.conftest import Bench

ANIMALS = "the cat ran ."
ROYALTY = "the king ran ."
OPENING = 4
SHOWN = {"expressions": {"*": r"\b(cat|dog)\b"}}
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] == 'system' and 'one' or 'two' }} "
    "{{ message['content'] }} {% endfor %}{% if add_generation_prompt %}three{% endif %}"
)


def pairs(folder: Path, positive: str = ANIMALS, negative: str = ROYALTY) -> Path:
    path = folder / "pairs.jsonl"
    pl.DataFrame([{"concept": "animals", "positive": positive, "negative": negative}]).write_ndjson(
        path
    )
    return path


def config(targets: Mapping[str, Any], **changes: Any) -> SteerConfig:
    settings: dict[str, Any] = {
        "judges": ["concept", "fluency"],
        "judge_settings": {"concept": {"min_auroc": 0.5}}
        | ({"pattern": SHOWN} if "pattern" in targets.get("filters", []) else {}),
        "methods": ["mean_difference", "random_direction"],
        "method_settings": {"random_direction": {"n_directions": 3}},
        "max_new_tokens": 10,
        "kl_budgets": [0.5],
        "headline_budget": 0.5,
        "neutral_tokens": 300,
        "neutral_length": 25,
        "band_texts": 48,
        "validate_prompts": 6,
        "test_prompts": 4,
    }
    given = {"kind": "system_prompts", "opening_tokens": OPENING, "fewest": 4}
    return SteerConfig.model_validate(settings | {"targets": {**given, **targets}} | changes)


def found(bench: Bench, targets: Mapping[str, Any], **changes: Any) -> Answered:
    answered = bench.targeted(config(targets, **changes))
    assert isinstance(answered, Answered)
    return answered


def test_the_models_own_answers_are_the_two_sides(bench: Bench, tmp_path: Path) -> None:
    answered = found(bench, {"path": str(pairs(tmp_path)), "n_questions": 90})
    assert [concept.name for concept in answered.concepts] == ["animals"]
    assert not answered.refusals(SteerConfig().gate)
    evidence = answered.evidence([0], 0).alone(0)
    inside = evidence.labels.toarray().ravel()
    animals = np.isin(evidence.token, [toys.WORDS.index(word) for word in ("cat", "dog")])
    royal = np.isin(evidence.token, [toys.WORDS.index(word) for word in ("king", "queen")])
    assert animals[inside].mean() > 3 * animals[~inside].mean()
    assert royal[~inside].mean() > 3 * royal[inside].mean()
    texts = answered.texts()
    assert not any(text.startswith((ANIMALS, ROYALTY)) for text in texts), "none is an instruction"


def test_both_answers_to_a_question_fall_into_one_split(bench: Bench, tmp_path: Path) -> None:
    questions = tmp_path / "asked.jsonl"
    asked = [f"{opening} {size}" for opening in world.OPENINGS for size in ("big", "small", "red")]
    pl.DataFrame({"text": asked}).write_ndjson(questions)
    answered = found(bench, {"path": str(pairs(tmp_path)), "questions": str(questions)})
    splits = {split: answered.cut(split, 0, 4) for split in set(DEALT)}
    beginnings = {
        split: [pieces.tokens[first] for first in pieces.openings]
        for split, pieces in splits.items()
    }
    n_answers = 0
    for question in asked:  # none begins with another
        ids = [toys.WORDS.index(word) for word in question.split()]
        where = [
            split
            for split, of_split in beginnings.items()
            for beginning in of_split
            if beginning[: len(ids)] == ids
        ]
        assert set(where) <= {DEALT[text_digest(question) % len(DEALT)]}
        n_answers += len(where)
    assert n_answers > len(asked), "of most questions both answers are there"


def test_answers_that_do_not_show_the_target_are_dropped(bench: Bench, tmp_path: Path) -> None:
    given = {"path": str(pairs(tmp_path)), "n_questions": 90, "longest": 64}
    every, kept = (
        found(bench, given | {"filters": filters}).evidence([0], 0).alone(0)
        for filters in ([], ["pattern"])
    )
    animals = [toys.WORDS.index(word) for word in ("cat", "dog")]

    def has(evidence: Any) -> tuple[np.ndarray, np.ndarray]:
        inside = evidence.labels.toarray().ravel()
        documents = np.unique(evidence.document)
        answers = [evidence.token[evidence.document == d][OPENING:] for d in documents]
        shows = [np.isin(answer, animals).any() for answer in answers]
        return np.array(shows), np.array([inside[evidence.document == d].any() for d in documents])

    shows, inside = has(kept)
    assert (shows == inside).all()
    shows, inside = has(every)
    assert (shows != inside).any(), "without the judge some answers do not show it"


def test_a_target_that_the_model_does_not_show_is_none_and_says_so(
    bench: Bench, tmp_path: Path
) -> None:
    given = {"path": str(pairs(tmp_path, negative=ANIMALS, positive=ROYALTY)), "n_questions": 20}
    expressions = {"pattern": {"expressions": {"*": "nowhere"}}}
    answered = found(bench, given | {"filters": ["pattern"]}, judge_settings=expressions)
    refused = answered.refusals(SteerConfig().gate)
    told = r"^text: .* 36 answers, \d+ of them empty, \d+ kept by pattern$"
    assert re.search(told, refused["animals"])
    assert "texts with the concept" in refused["animals"]


def test_steering_towards_answers_goes_through_the_whole_protocol(
    bench: Bench, tmp_path: Path
) -> None:
    given = config({"path": str(pairs(tmp_path)), "n_questions": 90})
    made, _ = bench.store.ensure(STEER, given, bench.inputs, world.CPU)
    assert tables.TARGETS.read(made)["passed"].to_list() == [True]
    reached = tables.STEERED.read(made).filter(method="mean_difference")
    assert reached["composite"].null_count() == 0
    other = config({"path": str(pairs(tmp_path, positive=ROYALTY)), "n_questions": 90})
    assert key_of(STEER, other, bench.inputs) != made.key, "the file's bytes are in the key"


def test_a_chat_template_makes_messages_of_them(bench: Bench) -> None:
    tokenizer = bench.model.tokenizer
    assert tokenizer.chat_template is None
    plain = instructed(bench.model, "the cat", "he saw")
    assert tokenizer.decode(plain[-4:]) == "the cat he saw"
    tokenizer.chat_template = TEMPLATE
    try:
        chat = instructed(bench.model, "the cat", "he saw")
    finally:
        tokenizer.chat_template = None
    assert tokenizer.decode(chat) == "one the cat two he saw three"


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ({}, "names no file"),
        ({"path": "pairs", "with_column": "yes"}, "no column 'yes'"),
        ({"path": "nowhere"}, "no pair of instructions"),
        ({"path": "pairs", "questions": "nowhere.jsonl"}, "no question"),
        ({"path": "pairs", "opening_tokens": 200}, "lower steer.targets.opening_tokens"),
        ({"path": "pairs", "filters": ["meaning"]}, "meaning cannot read the answers"),
    ],
)
def test_what_is_missing_is_named(
    bench: Bench, tmp_path: Path, targets: dict[str, Any], told: str
) -> None:
    if targets.get("path") == "pairs":
        targets = targets | {"path": str(pairs(tmp_path))}
    elif "path" in targets:
        targets = targets | {"path": str(tmp_path / targets["path"])}
    with pytest.raises(InputError, match=told):
        bench.targeted(config(targets))


def test_a_judge_that_chose_the_texts_does_not_score(tmp_path: Path) -> None:
    given = {"path": str(pairs(tmp_path))}
    with pytest.raises(ValueError, match="cannot score what is learnt"):
        config(given | {"filters": ["concept"]})
    with pytest.raises(ValueError, match="asks a language model"):
        config(given | {"filters": ["yes_no"]})


def test_a_filter_that_compares_meanings_gets_the_text_encoder(tmp_path: Path) -> None:
    parent, given = parents("steer")["text_encoder"], {"path": str(pairs(tmp_path))}
    assert not parent.wanted(config(given | {"filters": ["pattern"]}))
    assert parent.wanted(config(given | {"filters": ["meaning"]}))


def test_the_answers_are_foretold(bench: Bench, tmp_path: Path) -> None:
    few, many = (config({"path": str(pairs(tmp_path)), "n_questions": n}) for n in (10, 1000))
    more = many.targeted.n_tokens(many) - few.targeted.n_tokens(few)
    assert more == 2 * 990 * (4 + 10)


def test_rows_that_lack_an_instruction_are_counted(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = pairs(tmp_path)
    rows = [pl.read_ndjson(path).row(0), ("animals", ANIMALS, None), (None, ANIMALS, ROYALTY)]
    columns = ["concept", "positive", "negative"]
    pl.DataFrame(rows, schema=columns, orient="row").write_ndjson(path)
    answered = found(bench, {"path": str(path), "n_questions": 8})
    assert [concept.name for concept in answered.concepts] == ["animals"]
    assert f"2 rows of {path} lack the target or an instruction and are left out" in caplog.text
