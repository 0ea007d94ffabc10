"""Prompts as the model meets them: behind its first token, or as the user's message of a
conversation.

In a conversation the tokenizer's own chat template makes one text of the system message, the user's
message and the beginning of the assistant's answer; what is written is the answer. Tokens that were
given are then the system's and the user's, and tokens that the model makes are the assistant's:
`positions` of methods says which of them are steered (`system`, `user`, `prompt`, `generated`,
`all`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from components.config import Config
from components.corpus.encoding import Encoded, Encoder
from components.errors import InputError
from components.model.language_model import LanguageModel

MARK = "messagestandshere"
"""A user's message that no template holds itself: it tells what stands before one."""


class ChatConfig(Config):
    """Whether prompts are messages."""

    messages: bool = False
    """Whether a prompt is the user's message, put by the tokenizer's chat template, and what is
    written the assistant's answer."""
    system: str = ""
    """The system message; empty: none."""

    def conversation(self, model: LanguageModel) -> Conversation | None:
        """What prompts are put into; None where they stand by themselves.

        Raises:
            InputError: the model's tokenizer has no chat template.
        """
        if not self.messages:
            return None
        if not has_template(model):
            raise InputError(
                "steer.chat.messages wants a tokenizer with a chat template, and the model's has "
                "none: it was not made for conversations; set steer.chat.messages=false, or choose "
                "a model that was"
            )
        return Conversation(self.system)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """What a prompt is put into.

    Attributes:
        system: the system message; empty for none.
    """

    system: str = ""

    def tokens(self, model: LanguageModel, encoded: Encoded, text: str) -> list[int]:
        """Token ids up to where the assistant's answer begins.

        Args:
            model: its tokenizer has a chat template.
            encoded: the user's message as tokens.
            text: the user's message.
        """
        # marks of the template that stand in the text as words would end the user's turn
        said = model.tokenizer.decode(encoded.ids) if encoded.n_special else text
        return _ids(model, self._whole(model, said))

    def head(self, model: LanguageModel) -> tuple[int, ...]:
        """Token ids that stand before the user's message, whatever it says; none where the template
        does not put the message as it is.

        Args:
            model: its tokenizer has a chat template.
        """
        before, mark, _ = self._whole(model, MARK).partition(MARK)
        if not mark:
            return ()
        # a space at the end of the head may be one token with the message's first word
        alone, followed = _ids(model, before), _ids(model, before + MARK)
        both = zip(alone, followed, strict=False)
        return tuple(own for own, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))

    def _whole(self, model: LanguageModel, said: str) -> str:
        """The conversation as one text, up to where the assistant's answer begins."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": said})
        return model.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )


def _ids(model: LanguageModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def has_template(model: LanguageModel) -> bool:
    """Whether the model's tokenizer can put messages into one text."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def opened(
    model: LanguageModel, texts: Sequence[str], conversation: Conversation | None = None
) -> list[list[int]]:
    """Token ids of each prompt, as the model meets it."""
    encoded = Encoder.of(model).encode(list(texts), offsets=False)
    return [
        placed(model, each, text, conversation) for each, text in zip(encoded, texts, strict=True)
    ]


def placed(
    model: LanguageModel, encoded: Encoded, text: str, conversation: Conversation | None
) -> list[int]:
    """The same of one prompt that is tokens already."""
    if conversation is not None:
        return conversation.tokens(model, encoded, text)
    first = Encoder.of(model).bos
    return [*([] if first is None else [first]), *encoded.ids]
