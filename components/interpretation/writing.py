"""Explanations by a language model: what all explainers that ask have in common.

A prompt, one answer, read as it is: an answer longer than `interpret.longest` is given back once,
as the next replicate, with the wish that it be shorter; it is never cut. A refusal, an answer that
cannot be read and none at all are nulls with their reason. Where nobody was asked (a budget that is
spent, a server that went away) the explanation is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from components.client.contract import CHARACTERS_PER_TOKEN, Message, Reply, Request
from components.client.forecast import Most
from components.client.prompt import Prompt
from components.client.reading import was_not_asked
from components.config import Config, execution
from components.interpretation.contract import Explainer, LatentEvidence
from components.interpretation.explanation import Explanation
from components.interpretation.prompt import path_of
from components.interpretation.showing import TOKENS_OF_A_TOKEN
from components.interpretation.tiling import ContextsConfig

TOGETHER = 256
"""Latents that are asked about together."""
SHORTER = "That has $n characters, and at most $longest are allowed. Say the same in fewer words."
_REFUSED = re.compile(
    r"\s*(?:i['’]?m sorry\b|i am sorry\b|sorry, (?:but )?i\b|as an ai\b|"
    r"i (?:can['’]?t|cannot|won['’]t|am (?:not able|unable))\b|i['’]m (?:not able|unable)\b)",
    re.IGNORECASE,
)


class WriterConfig(Config):
    """What every explainer that asks has."""

    prompt: str = execution("")
    """Another prompt, a text file with the parts [system] and [user]; its bytes are in the key."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 takes the likeliest answer."""
    max_tokens: int = Field(default=400, ge=16, le=32_768)
    """Longest answer, reasoning included."""


class AskingExplainer(Explainer):
    """Asks a language model for one explanation of each latent."""

    asks: ClassVar[bool] = True
    values: ClassVar[tuple[str, ...]] = ("windows", "longest")
    """Names that may stand in its prompt."""
    needed: ClassVar[tuple[str, ...]] = ("windows",)
    """Those of them that must."""

    @classmethod
    def files(cls, settings: Any) -> Sequence[Path]:
        """The prompt."""
        return [path_of(cls.kind, settings.prompt)]

    @classmethod
    @abstractmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> int:
        """Estimated tokens of what stands in its prompt, at most."""

    @classmethod
    def most_asked(cls, settings: Any, contexts: ContextsConfig, longest: int) -> Most:
        """One call, and another where the first answer was too long."""
        shown = cls._prompt_of(settings).tokens + cls.most_shown(settings, contexts)
        return Most(2, 2 * shown + settings.max_tokens, 2 * settings.max_tokens)

    @classmethod
    def _prompt_of(cls, settings: Any) -> Prompt:
        return Prompt.read(*cls.files(settings), cls.values, cls.needed)

    @functools.cached_property
    def prompt(self) -> Prompt:
        """Its prompt."""
        return self._prompt_of(self.settings)

    @abstractmethod
    def shown(self, evidence: LatentEvidence) -> Mapping[str, str] | str:
        """The values of its prompt; or the reason why this latent cannot be asked about."""

    def explain(self, evidence: Iterable[LatentEvidence]) -> Iterator[Explanation]:
        """What the model answers about each latent."""
        stream = iter(evidence)
        while part := list(itertools.islice(stream, TOGETHER)):
            drafts = [self.draft(each) for each in part]
            asked = [draft for draft in drafts if isinstance(draft, Request)]
            written = iter(self.written(asked))
            for draft in drafts:
                yield next(written) if isinstance(draft, Request) else Explanation(None, draft)

    def draft(self, evidence: LatentEvidence) -> Request | str:
        """The request about a latent, or why there is none."""
        values = self.shown(evidence)
        if isinstance(values, str):
            return values
        messages = self.prompt.messages(longest=str(self.longest), **values)
        return self.request(messages, evidence.latent)

    def request(self, messages: Sequence[Message], latent: int, replicate: int = 0) -> Request:
        """A request with these settings."""
        settings = self.settings
        label = f"explain {self.kind}, latent {latent}"
        return Request(
            messages,
            settings.max_tokens,
            settings.temperature,
            replicate=replicate,
            label=label,
            is_sampled_first=True,
        )

    def written(self, requests: Sequence[Request]) -> list[Explanation]:
        """The explanations that are answered; those that are too long are asked again once.

        Raises:
            ConfigError: the first requests of the run do not fit the model's context.
        """
        assert self.services.client is not None, "an entry that asks says so: asks = True"
        self.services.client.refuse_too_long(requests, f"explain {self.kind}")
        replies = self.services.client.ask(requests)
        again = {
            number: _shorter(request, reply.text, self.longest)
            for number, (request, reply) in enumerate(zip(requests, replies, strict=True))
            if reply.text and _length(reply.text) > self.longest and not _REFUSED.match(reply.text)
        }
        second = self.services.client.ask(list(again.values())) if again else []
        replies = list(replies)
        for number, reply in zip(again, second, strict=True):
            replies[number] = reply
        return [explanation_of(reply, self.longest) for reply in replies]


def explanation_of(reply: Reply, longest: int) -> Explanation:
    """What a reply says of a latent; null with the reason where it says nothing that can stand."""
    if reply.text is None:
        said = Explanation(None, reply.reason, is_missing=was_not_asked(reply))
    elif _REFUSED.match(reply.text):
        said = Explanation(None, f"refused: {reply.text.strip()[:100]}")
    else:
        said = Explanation.of(reply.text, longest)
    model = reply.served_model
    served = f"{model} ({reply.fingerprint})" if model and reply.fingerprint else model
    return dataclasses.replace(said, call=reply.key or None, served=served)


def tokens_of_windows(n: int, contexts: ContextsConfig, by_token: int = TOKENS_OF_A_TOKEN) -> int:
    """Estimated tokens of so many windows in a prompt, at most."""
    return n * (CHARACTERS_PER_TOKEN + by_token * contexts.width)


def _shorter(request: Request, answer: str, longest: int) -> Request:
    """The same request, gone on with: shorter, please."""
    wish = SHORTER.replace("$n", f"{_length(answer):,}").replace("$longest", f"{longest}")
    more = (Message("assistant", answer), Message("user", wish))
    messages = (*request.messages, *more)
    return dataclasses.replace(request, messages=messages, replicate=request.replicate + 1)


def _length(text: str) -> int:
    return len(" ".join(text.split()))
