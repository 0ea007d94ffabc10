"""Prompts as messages of a conversation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from components.errors import InputError
from components.model.intervention import Places
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.steering.answers import ENDING, Asked
from components.steering.config import SteerConfig
from components.steering.contract import MethodServices, methods
from components.steering.conversation import ChatConfig, Conversation, opened
from components.steering.methods.prompt import Prefix
from components.steering.steer import STEER
from components.steering.writer import Job, Prompt, Writer, intervention_of
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


def test_the_method_prompt_begins_the_users_message(model: LanguageModel) -> None:
    conversation = Conversation("the king")
    services = MethodServices(world.CPU, 0, model, conversation)
    kind = methods["prompt"]
    of = world.evidence(token=np.arange(200) % 20)
    found = list(kind(kind.config(n_tokens=3), services).candidates(of))
    assert found and all(candidate.steering for candidate in found)
    for steering in (candidate.steering for candidate in found):
        assert isinstance(steering, Prefix)
        saved = Prefix.restored(steering.tensors(), {})
        for each in (steering, saved):
            spoken = Prompt.of(model, 0, "it was big", conversation).tokens
            (row,) = intervention_of([each], [1.0]).prefixed(model, [spoken])
            passage = read(model, steering.tokens)
            assert read(model, row) == (f"one the king <eos> two {passage} it was big <eos> three")
            # text that stands by itself, such as neutral text, is no message
            alone = Prompt.of(model, 0, "it was big").tokens
            (row,) = intervention_of([each], [1.0]).prefixed(model, [alone])
            assert read(model, row) == f"<bos> {passage} it was big"
    assert list(Prefix(torch.tensor([5])).tensors()) == [""], "without a conversation as before"


@pytest.mark.parametrize("name", ["mean_difference", "clamp_latent", "reconstruction_only"])
@pytest.mark.parametrize(
    ("positions", "wanted"),
    [
        ("system", "one the king <eos> two"),
        ("user", "it was big <eos> three"),
        ("prompt", "one the king <eos> two it was big <eos> three"),
        ("generated", ""),
    ],
)
def test_positions_say_whose_tokens_are_steered(
    model: LanguageModel, name: str, positions: str, wanted: str
) -> None:
    conversation = Conversation("the king")
    kind = methods[name]
    services = MethodServices(world.CPU, 0, model, conversation)
    of = world.evidence(head=len(conversation.head(model)))
    steering = next(
        c.steering
        for c in kind(kind.config(positions=positions), services).candidates(of)
        if c.steering is not None
    )
    saved = type(steering).restored(steering.tensors(), of.units)
    if getattr(saved, "dictionary", None) is None and hasattr(saved, "joined"):
        saved = saved.joined(lambda: of.dictionary)  # type: ignore[arg-type,return-value]
    spoken = Prompt.of(model, 0, "it was big", conversation).tokens
    n = len(spoken)
    # two tokens more are written
    places = Places(torch.arange(n + 2)[None], torch.tensor([n]))
    for each in (steering, saved):
        (edit,) = type(each).intervention([each], torch.ones(1)).edits
        chosen = places.chosen(edit.positions)[0, :, 0]
        assert read(model, torch.tensor(spoken)[chosen[:n]]) == wanted
        assert chosen[n:].tolist() == [positions == "generated"] * 2


def test_a_role_wants_a_conversation_and_a_template_that_has_places_for_it() -> None:
    steered = {"mean_difference": {"positions": "user"}}
    names = ["mean_difference", "random_direction"]
    assert config(methods=names, method_settings=steered)
    with pytest.raises(ValueError, match=r"positions=user says a role.*steer.chat.messages=true"):
        config(methods=names, method_settings=steered, chat={"messages": False})
    with pytest.raises(InputError, match="positions=user wants a chat template"):
        next(world.method("mean_difference", positions="user").candidates(world.evidence()))


def test_what_stands_before_a_message_is_found_whatever_the_template(model: LanguageModel) -> None:
    head = Conversation("the king").head(model)
    assert read(model, head) == "one the king <eos> two"
    tokenizer = model.tokenizer
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ messages[0]['content'] | length }} is all that is said"
        assert Conversation().head(model) == ()
    finally:
        tokenizer.chat_template = before


def test_a_conversation_has_a_part_of_the_key_where_the_method_prompt_is_listed() -> None:
    for listed, messages in ((True, True), (True, False), (False, True)):
        names = ["add_direction", "random_direction", *(["prompt"] if listed else [])]
        settings = config(methods=names, chat={"messages": messages}, method_settings={})
        assert ("prompt in a conversation" in STEER.entries(settings)) == (listed and messages)


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
