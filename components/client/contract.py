"""What answering prompts promises: requests in, replies in the same order, and never an exception
out of a server.

A `Responder` (one file of `clients/`) takes requests to whoever answers. It gives a `Response` for
what came back and was or may have been paid, or a `Unanswered` for what did not. `Client`
(client.py) puts cache, budget and counting around it and makes a `Reply` of each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from components.client.price import FREE, Price
from components.config import Config, execution
from components.registry import Entry, Registry

MOST_LOGPROBS = 20
"""Alternatives of a token that OpenAI's interface gives at most."""
CHARACTERS_PER_TOKEN = 4
"""What a token of English is, roughly; wherever a number of tokens is estimated."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    text: str
    """What is said."""


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """One prompt to be answered.

    Attributes:
        messages: the conversation so far.
        max_tokens: longest answer, reasoning included.
        temperature: 0 takes the likeliest token.
        replicate: which of several answers to the same prompt; another number is another request
            and is paid again.
        schema: the answer is to be JSON of this class; one that forbids extra keys suits strict
            servers. The prompt has to say so too: a server that knows no schemas is asked without.
        logprobs: how many likeliest alternatives are wanted for each token, with log-probabilities;
            None for none.
        may_be_cut: whether an answer that ends at `max_tokens` is one, as a single token of yes or
            no is.
        label: what it is for ("explain max_activating, latent 7"); stands in the table of calls,
            changes no answer.
        is_sampled_first: whether the sample of calls takes it before others, for up to half of the
            sample; changes no answer.
    """

    messages: Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    replicate: int = 0
    schema: type[BaseModel] | None = None
    logprobs: int | None = None
    may_be_cut: bool = False
    label: str = ""
    is_sampled_first: bool = False

    def __post_init__(self) -> None:
        assert self.messages, "a request needs a message"
        assert self.max_tokens > 0, "a request needs room for an answer"
        assert self.logprobs is None or 1 <= self.logprobs <= MOST_LOGPROBS, (
            f"logprobs: 1 to {MOST_LOGPROBS}"
        )

    @property
    def text(self) -> str:
        """The whole conversation, for people."""
        return "\n\n".join(f"[{message.role}]\n{message.text}" for message in self.messages)

    @property
    def json_schema(self) -> Mapping[str, Any] | None:
        """The schema of the answer, where there is one."""
        return self.schema.model_json_schema() if self.schema else None

    @property
    def input_tokens(self) -> int:
        """Estimated tokens of the prompt."""
        return -(-sum(len(message.text) for message in self.messages) // CHARACTERS_PER_TOKEN)

    @property
    def most_input_tokens(self) -> int:
        """Tokens that the prompt has at most: a byte is at least one only in the worst case, a
        message costs a frame."""
        schema = len(json.dumps(self.json_schema)) if self.schema else 0
        return (
            schema
            + 32
            + sum(16 + len(message.text.encode("utf-8", "replace")) for message in self.messages)
        )

    def canonical(self, identity: Mapping[str, Any]) -> str:
        """Everything that decides the answer, as JSON: the request, and who is asked."""
        said = {
            "asked": dict(identity),
            "messages": [list(message) for message in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": float(self.temperature),
            "replicate": self.replicate,
            "schema": self.json_schema,
            "logprobs": self.logprobs,
        }
        return json.dumps(said, sort_keys=True, separators=(",", ":"))


def key_of(canonical: str) -> str:
    """The key of a request in the cache: 32 hexadecimal digits."""
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


class TokenLogprob(NamedTuple):
    """One token of an answer."""

    token: str
    """Its text."""
    logprob: float
    """Its log-probability, in nats."""
    likeliest: Mapping[str, float]
    """The likeliest tokens at its place, with theirs."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens of one call; no token is counted under two names.

    Attributes:
        input: of the prompt, read anew.
        cached: of the prompt, which the server still knew.
        reasoning: written before the answer.
        output: of the answer.
        estimated: the server did not say; numbers are from the lengths of the texts.
    """

    input: int = 0
    cached: int = 0
    reasoning: int = 0
    output: int = 0
    estimated: bool = False


@dataclasses.dataclass(frozen=True)
class Response:
    """What came back from a server that took the request, as the cache keeps it.

    Attributes:
        content: the text; None where there is none.
        reason: why it is no answer, of the server's making; "kind: detail".
        is_cut: whether it ended at `max_tokens`.
        logprobs: of each token, where the server gave them.
        usage: tokens.
        served_model: the model that the server says it is.
        fingerprint: of the server's configuration, where it tells one.
        left_out: settings of the request that the server does not take.
        seconds: from the request to the whole answer.
    """

    content: str | None
    usage: Usage
    served_model: str
    reason: str | None = None
    is_cut: bool = False
    logprobs: tuple[TokenLogprob, ...] | None = None
    fingerprint: str | None = None
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> str:
        """As the cache keeps it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Response:
        """From what the cache keeps."""
        kept = json.loads(text)
        tokens = kept["logprobs"]
        if tokens is not None:  # empty where the model ended at once
            kept["logprobs"] = tuple(TokenLogprob(*token) for token in tokens)
        return cls(**kept | {"usage": Usage(**kept["usage"]), "left_out": tuple(kept["left_out"])})


@dataclasses.dataclass(frozen=True)
class Unanswered:
    """Why a request came to no response; it cost nothing and may be made again.

    Attributes:
        reason: "kind: detail".
        stops: nothing more can be had from there (a key that expired, no credit left): no further
            request is made.
    """

    reason: str
    stops: bool = False


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of one request.

    Attributes:
        text: the answer; None where there is none.
        reason: why there is none, "kind: detail"; kinds are `not asked`, `no answer`, `not taken`,
            `unreadable`, `refused`, `cut`, `empty` and `not as asked`.
        value: the answer as the class that the request names as its schema.
        logprobs: of each token; None where they were not asked for or not given.
        usage: tokens, also of failures that the server has counted.
        cost: in USD; None where no price is known.
        served_model: the model that the server says it is; None where nothing came back.
        fingerprint: of the server's configuration, where it tells one.
        left_out: settings that the server does not take, so that it was asked without.
        cached: nothing was sent for it now.
        again: whether the same request may come to an answer another time; one that was paid does
            not, ask the next replicate.
        key: of the request, in the cache and in the table of calls.
    """

    text: str | None
    reason: str | None = None
    value: Any = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    usage: Usage = Usage()
    cost: float | None = 0.0
    served_model: str | None = None
    fingerprint: str | None = None
    left_out: tuple[str, ...] = ()
    cached: bool = False
    again: bool = False
    key: str = ""


class ClientSettings(Config):
    """What every kind of client has."""

    replies: str = execution("data/replies")
    """Folder of the cache of answers; every answer is written there before it is used."""
    replay: bool = execution(False)
    """Take answers from the cache only, and ask nobody."""
    sample: int = Field(100, ge=0, le=10_000)
    """Calls of a run that are kept whole: prompt, answer, tokens and cost; of those that wrote
    explanations at least half as many, as far as there are."""


class Responder(Entry):
    """Takes requests to whoever answers. A file in `clients/` holds one, registered with
    `@clients`.

    Attributes:
        batch: how many requests it takes at once.
        concurrency: how many batches it takes beside one another.
        where: the section of its settings, as errors name it.
    """

    batch: int = 1
    concurrency: int = 1
    where: str = "client"

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Who is asked: part of every key in the cache.

        Raises:
            ConfigError: the settings do not say.
        """

    @property
    def model(self) -> str:
        """The model that is asked for; empty where none is."""
        return ""

    @property
    def leaves(self) -> bool:
        """Whether prompts leave this machine."""
        return False

    @property
    def price(self) -> Price | None:
        """What a million tokens cost; None where that is not known."""
        return FREE

    @abstractmethod
    async def check(self) -> None:
        """Asks whether it can answer at all; nothing is paid.

        Raises:
            ConfigError: it cannot, in one sentence.
        """

    def refuse_too_long(self, requests: Sequence[Request]) -> None:
        """Refuses requests of which one is longer than the model takes, as far as `check` has found
        out how long that is; asks nobody.

        Raises:
            ConfigError: one does not fit.
        """
        return

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Holds what it needs while it is asked, on the event loop of now."""
        yield

    @abstractmethod
    async def respond(
        self, requests: Sequence[Request], keys: Sequence[str]
    ) -> Sequence[Response | Unanswered]:
        """What comes of at most `batch` requests, in order; `keys` are theirs in the cache, and
        seed what is drawn."""


def seed_of(key: str) -> int:
    """The seed of an answer that is drawn: another for each request and replicate, and within what
    all servers take."""
    return int(key[:8], 16) >> 1


def in_one_line(error: ValidationError) -> str:
    """The first fault of an answer that is not of the class that was asked for."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]


clients: Registry[type[Responder]] = Registry("client", "components.client.clients")
