"""A language model on this machine, in this process: any folder or hub id that `model.path` takes.

Prompts go through the tokenizer's chat template; a tokenizer without one gets the messages as they
are, a blank line between them. What a prompt is answered does not depend on the batch it is in
(`components/model/generation.py`), and the model's key, the digest of its files, is part of the key
in the cache.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from components.client.contract import (
    ClientSettings,
    Request,
    Responder,
    Response,
    TokenLogprob,
    Unanswered,
    Usage,
    clients,
    seed_of,
)
from components.client.served import refuse_too_long
from components.config import execution
from components.errors import CapabilityError, ConfigError
from components.model.generation import generate
from components.model.intervention import Intervention
from components.model.language_model import LanguageModel
from components.model.reference import ModelConfig, ModelReference
from components.registry import Services


class LocalConfig(ClientSettings):
    """A language model on this machine."""

    kind: Literal["local"] = "local"
    """A model."""
    model: ModelConfig = ModelConfig()
    """Which one; it should read prose and have been taught to follow instructions."""
    batch: int = execution(16, ge=1, le=4096)
    """Prompts that are answered together."""


@clients
class Local(Responder):
    """Answers with a model in this process."""

    config = LocalConfig

    def __init__(self, config: LocalConfig, services: Services) -> None:
        super().__init__(config, services)
        self.batch = config.batch
        self._reference = ModelReference(config.model)

    @property
    def model(self) -> str:
        """Where it lies."""
        return self.settings.model.path

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's key.

        Raises:
            ModelError: there is no such model.
        """
        return {"kind": "local", "model": self._reference.key}

    @functools.cached_property
    def _loaded(self) -> LanguageModel:
        model = self._reference.load(self.services.execution)
        try:
            model.require("generation")
        except CapabilityError as error:
            raise ConfigError(f"{self.where}.model cannot answer prompts: {error}") from error
        if model.tokenizer is None:
            raise ConfigError(
                f"{self.where}.model ({self.model}) has no tokenizer, so it reads no prompt"
            )
        return model

    async def check(self) -> None:
        """Loads the model.

        Raises:
            ConfigError: it cannot answer prompts.
            ModelError: there is no such model.
        """
        _ = self._loaded

    def refuse_too_long(self, requests: Sequence[Request]) -> None:
        """Counts the tokens of all of them.

        Raises:
            ConfigError: one does not fit the model's context.
        """
        if (length := self._loaded.context_length) is not None:
            counted = {request: len(self._tokens(request)) for request in requests}
            refuse_too_long(counted, length, f"{self.where}.model ({self.model}) takes")

    async def respond(
        self, requests: Sequence[Request], keys: Sequence[str]
    ) -> Sequence[Response | Unanswered]:
        """Answers a batch; requests of one temperature and length share a pass."""
        outcomes: dict[int, Response | Unanswered] = {}
        shared: dict[tuple[int, float], list[int]] = {}
        tokens = [self._tokens(request) for request in requests]
        length = self._loaded.context_length
        for number, request in enumerate(requests):
            if length is not None and len(tokens[number]) + request.max_tokens > length:
                outcomes[number] = Unanswered(
                    f"not taken: the prompt has {len(tokens[number]):,} tokens and the answer up "
                    f"to {request.max_tokens:,}, longer than the {length:,} that the model takes; "
                    "show fewer or shorter windows"
                )
                continue
            shared.setdefault((request.max_tokens, request.temperature), []).append(number)
        for numbers in shared.values():
            answers = self._answers(
                [requests[n] for n in numbers],
                [tokens[n] for n in numbers],
                [keys[n] for n in numbers],
            )
            outcomes.update(zip(numbers, answers, strict=True))
        return [outcomes[number] for number in range(len(requests))]

    def _answers(
        self, requests: Sequence[Request], tokens: Sequence[list[int]], keys: Sequence[str]
    ) -> Sequence[Response]:
        started, first = time.monotonic(), requests[0]
        most = max((request.logprobs or 0 for request in requests), default=0)
        watched = _Watched(most) if most else None
        rows = generate(
            self._loaded,
            tokens,
            max_new_tokens=first.max_tokens,
            temperature=first.temperature,
            seeds=[seed_of(key) for key in keys],
            intervention=Intervention(logits=watched) if watched else Intervention(),
        )
        decode = self._loaded.tokenizer.decode
        seconds = (time.monotonic() - started) / len(requests)
        return [
            Response(
                decode(row, skip_special_tokens=True),
                Usage(input=len(tokens[number]), output=len(row)),
                self.model,
                is_cut=len(row) == request.max_tokens,
                logprobs=watched.of(number, row, request.logprobs, decode)
                if watched and request.logprobs
                else None,
                fingerprint=self._reference.key,
                seconds=seconds,
            )
            for number, (request, row) in enumerate(zip(requests, rows, strict=True))
        ]

    def _tokens(self, request: Request) -> list[int]:
        tokenizer = self._loaded.tokenizer
        if getattr(tokenizer, "chat_template", None):
            messages = [
                {"role": message.role, "content": message.text} for message in request.messages
            ]
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer("\n\n".join(message.text for message in request.messages))["input_ids"]
        return list(ids) or sorted(self._loaded.eos)[:1]


class _Watched:
    """Reads the log-probabilities of every step while a batch is written, and changes nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._chosen: list[Tensor] = []
        self._last: Tensor | None = None

    def __call__(
        self, logits: Float[Tensor, "row 1 V"], tokens: Tensor
    ) -> Float[Tensor, "row 1 V"]:
        if self._last is not None:  # what was chosen behind the step before is known now
            self._chosen.append(self._last.gather(1, tokens[:, -1:].clamp(min=0))[:, 0].cpu())
        self._last = logits[:, 0].log_softmax(dim=1)
        values, ids = self._last.topk(min(self._most, self._last.shape[1]))
        self._steps.append((values.cpu(), ids.cpu()))
        return logits

    def of(
        self, number: int, row: Sequence[int], most: int, decode: Any
    ) -> tuple[TokenLogprob, ...]:
        """The tokens of one row of the batch."""
        assert self._last is not None
        found = []
        for step, token in enumerate(row):
            values, ids = (part[number][:most].tolist() for part in self._steps[step])
            own = (
                self._chosen[step][number]
                if step < len(self._chosen)
                else self._last[number, token]
            )
            likeliest: dict[str, float] = {}
            for value, id_ in zip(values, ids, strict=True):
                likeliest.setdefault(decode([id_]), value)
            found.append(TokenLogprob(decode([token]), float(own), likeliest))
        return tuple(found)
