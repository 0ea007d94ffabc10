"""Which descriptions fit what is wanted, as a language model says: the second look at explanations
that are near in meaning, which may be of the opposite, or of something beside it.

One question for each thing that is wanted, with all descriptions in it; the answer is the numbers of
those that fit, as JSON and nothing else. An answer that cannot be read, a refusal and a budget that
has ended are reasons, never exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.client.client import Client
from components.client.contract import Reply, Request
from components.client.forecast import Most
from components.client.prompt import Prompt, path_in
from components.steering.asking import FOLDER, TARGET_TOKENS

VALUES = ("wanted", "descriptions")


class Fitting(BaseModel):
    """The numbers of descriptions that fit."""

    model_config = ConfigDict(extra="forbid")
    fitting: list[int]


def prompt_file(folder: str = "") -> Path:
    """The prompt; `fitting.txt` of another folder where one is given."""
    return path_in(FOLDER, "fitting", f"{folder}/fitting.txt" if folder else "")


def most_asked(prompt: Path, n_wanted: int, n_shown: int, reasoning: int) -> Most:
    """What is asked at most, one question for each thing that is wanted.

    Raises:
        InputError: a prompt that cannot be read or filled.
    """
    own = Prompt.read(prompt, VALUES, VALUES).tokens
    each = Most(1, own + (n_shown + 1) * TARGET_TOKENS, _room(n_shown, reasoning))
    return each.times(n_wanted)


def fitting(
    client: Client,
    prompt: Path,
    wanted: Sequence[str],
    descriptions: Sequence[Sequence[str]],
    reasoning: int,
) -> list[list[int] | str]:
    """For each thing that is wanted the places of its descriptions that fit, in their order, or why
    that is not known.

    Args:
        client: who answers.
        prompt: file of the prompt.
        wanted: what a text shall do, in words.
        descriptions: those that are shown for each.
        reasoning: tokens that a model which thinks before it answers may take for that.

    Raises:
        InputError: a prompt that cannot be read or filled.
        ConfigError: a setting of the client that turns out not to work.
    """
    read = Prompt.read(prompt, VALUES, VALUES)
    requests = [
        Request(
            read.messages(
                wanted=each,
                # a description of several lines stays one item of the list
                descriptions="\n".join(
                    f"{i}. {' '.join(text.split())}" for i, text in enumerate(shown, 1)
                ),
            ),
            _room(len(shown), reasoning),
            schema=Fitting,
            label="targets fitting",
        )
        for each, shown in zip(wanted, descriptions, strict=True)
    ]
    replies = client.ask(requests)
    return [
        places_of(reply, len(shown)) for reply, shown in zip(replies, descriptions, strict=True)
    ]


def places_of(reply: Reply, n: int) -> list[int] | str:
    """The places, from 0, that an answer about `n` descriptions names, in their order, or why it is
    no answer."""
    if reply.value is None:
        return reply.reason or "no answer"
    numbers = reply.value.fitting
    if odd := [number for number in numbers if not 1 <= number <= n]:
        return f"not as asked: wanted numbers from 1 to {n}, got {odd[0]}"
    if len(set(numbers)) < len(numbers):
        return f"not as asked: wanted each number once, got {numbers}"
    return sorted(number - 1 for number in numbers)


def _room(n_shown: int, reasoning: int) -> int:
    """Tokens of an answer that names all of them."""
    return 24 + 4 * n_shown + reasoning
