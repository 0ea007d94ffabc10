"""Prompts as messages of a conversation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from components.errors import InputError
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.steering.answers import ENDING, Asked
from components.steering.config import SteerConfig
from components.steering.conversation import ChatConfig, Conversation, opened
from components.steering.steer import STEER
from components.steering.writer import Job, Prompt, Writer
from components.store import tables
from flows.live.bench import conversation_of
from tests import toys
from tests.steering import world
from tests.steering.conftest import Bench

# the marks are words of the toy vocabulary; a turn ends with the model's end of text
TEMPLATE = (
    "{% for message in messages %}{{ 'one' if message['role'] == 'system' else 'two' }} "
    "{{ message['content'] }} <eos> {% endfor %}{% if add_generation_prompt %}three{% endif %}"
)


@pytest.fixture(scope="module")
def chat(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> ModelReference:
    """The same model with a chat template."""
    folder: Path = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(bench.reference.config.path, folder)
    tokenizer = toys.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return ModelReference(ModelConfig(path=str(folder)))


@pytest.fixture(scope="module")
def model(chat: ModelReference) -> LanguageModel:
    return chat.load()


def read(model: LanguageModel, tokens: Any) -> str:
    return model.tokenizer.decode(list(tokens))


def config(**changes: Any) -> SteerConfig:
    settings: dict[str, Any] = {
        "chat": {"messages": True, "system": "the big king"},
        "concepts": ["topic.animal", "topic.royal"],
        "methods": ["add_direction", "prompt", "random_direction"],
        "method_settings": {"random_direction": {"n_directions": 3}, "prompt": {"n_tokens": 6}},
        "judges": ["concept", "relevance", "fluency"],
        "judge_settings": {"concept": {"min_auroc": 0.5}},
        "max_new_tokens": 10,
        "kl_budgets": [0.5],
        "headline_budget": 0.5,
        "neutral_tokens": 300,
        "neutral_length": 25,
        "band_texts": 48,
        "validate_prompts": 6,
        "test_prompts": 4,
    }
    return SteerConfig.model_validate(settings | changes)


def test_a_prompt_is_the_users_message(model: LanguageModel) -> None:
    spoken = Prompt.of(model, 0, "it was big", Conversation("the king"))
    assert read(model, spoken.tokens) == "one the king <eos> two it was big <eos> three"
    assert spoken.text == "it was big"
    bare = opened(model, ["it was big"], Conversation())[0]
    assert read(model, bare) == "two it was big <eos> three"
    alone = Prompt.of(model, 0, "it was big")
    assert read(model, alone.tokens) == "<bos> it was big"


def test_marks_in_a_text_do_not_end_the_users_turn(model: LanguageModel) -> None:
    spoken = Prompt.of(model, 0, "it was <eos> big", Conversation())
    assert read(model, spoken.tokens) == "two it was big <eos> three"
    assert spoken.n_special == 1


def test_an_item_is_asked_by_the_user_and_the_answer_has_begun(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the toy vocabulary has words in the place of letters, and unknown words in that of the ending
    monkeypatch.setattr("components.steering.answers.LETTERS", (" cat", " king"))
    asked = Asked.of(model, f"it was big{ENDING}", Conversation())
    assert isinstance(asked, Asked), asked
    told = model.tokenizer.decode(asked.tokens)
    assert told.startswith("two it was big <eos> three <unk>")
    assert read(model, asked.letters) == "cat king"


def test_text_is_written_as_the_assistants_answer(model: LanguageModel) -> None:
    conversation = Conversation("the king")
    writer = Writer(model, 8, 1.0, 0, 4, conversation=conversation)
    prompt = Prompt.of(model, 3, "it was big", conversation)
    told, alone = (
        next(iter(_written(writer, [Job(each)]))).text
        for each in (prompt, Prompt.of(model, 3, "it was big"))
    )
    assert told and alone and told != alone


def test_steering_in_a_conversation_goes_through_the_whole_protocol(
    bench: Bench, chat: ModelReference
) -> None:
    inputs = {**bench.inputs, "model": chat}
    made, _ = bench.store.ensure(STEER, config(), inputs, world.CPU)
    reached = tables.STEERED.read(made)
    assert reached.filter(method="add_direction")["composite"].null_count() == 0
    assert conversation_of(made, chat.load()) == Conversation("the big king"), "the playground's"
    relevance = tables.JUDGEMENTS.read(made)
    assert relevance.height
    without, _ = bench.store.ensure(STEER, config(chat={"messages": False}), inputs, world.CPU)
    assert conversation_of(without, chat.load()) is conversation_of(None, chat.load()) is None
    system, _ = bench.store.ensure(STEER, config(chat={"messages": True}), inputs, world.CPU)
    assert len({made.key, without.key, system.key}) == 3, "messages and system text are in the key"
    texts = [
        tables.GENERATIONS.read(each).filter(pl.col("method") == "unsteered")["text"].to_list()
        for each in (made, without, system)
    ]
    assert texts[0] != texts[1] and texts[0] != texts[2]


def test_a_model_without_template_is_refused_in_a_sentence(bench: Bench) -> None:
    with pytest.raises(InputError, match=r"chat template.*steer\.chat\.messages=false"):
        bench.store.ensure(STEER, config(), bench.inputs, world.CPU)
    assert ChatConfig().conversation(bench.model) is None


def test_what_is_off_by_default_changes_no_key() -> None:
    assert "chat" not in SteerConfig().model_dump(exclude_defaults=True)


def _written(writer: Writer, jobs: list[Job]) -> list[Any]:
    work = writer.write(jobs)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
