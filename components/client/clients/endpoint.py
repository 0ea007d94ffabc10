"""Any server that speaks OpenAI's chat completions: hosted ones, OpenRouter, vLLM, llama.cpp,
Ollama, `transformers serve`.

The `openai` package carries the requests. Its own retries are off, since pauses here are of all
requests together; of its headers only those pass that a request needs (it would send the operating
system, and what OPENAI_ORG_ID and OPENAI_CUSTOM_HEADERS hold, to any address); redirects are not
followed, and on loopback no proxy is used, so that what is meant for this machine stays on it. The
key is read from the environment, once, and taken out of every byte that comes back.

Bodies are read here (completion.py) and not by the package, which raises in many ways at what is no
completion.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import ipaddress
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from components.client import completion, served
from components.client.contract import (
    ClientSettings,
    Request,
    Responder,
    Response,
    Unanswered,
    clients,
    seed_of,
)
from components.client.faults import Fault, fault_of, refused_setting
from components.client.pace import Pace, backoff
from components.client.price import FREE, Price
from components.config import execution
from components.errors import ConfigError, quoted
from components.model.hub import first_line
from components.registry import Services

log = logging.getLogger(__name__)
ADDRESS, KEY = "LATENTFLOW_CLIENT_URL", "LATENTFLOW_CLIENT_KEY"
"""Environment variables of the address and, unless another is named, of the key."""
LARGEST_BODY = 16 * 2**20
LONGEST_LIST = 60.0
"""Seconds for the list of models."""
SHORTEST_SECRET = 8
"""Characters."""
PASSED = frozenset({"host", "authorization", "accept", "accept-encoding", "connection", "user-agent", "content-type",
                    "content-length", "transfer-encoding"})  # fmt: skip
"""Headers that are sent."""


class EndpointConfig(ClientSettings):
    """A server that speaks OpenAI's chat completions."""

    kind: Literal["endpoint"] = "endpoint"
    """A server."""
    url: str = execution("")
    """Its address up to `/chat/completions`, as https://openrouter.ai/api/v1; else that in
    LATENTFLOW_CLIENT_URL."""
    model: str = ""
    """Which of its models answers."""
    extra: dict[str, Any] = {}
    """Further settings that this server takes, as {reasoning_effort: low}."""
    key_variable: str = execution(KEY)
    """The environment variable that holds the key; empty where the server wants none. A key is read
    nowhere else."""
    prices: list[Price] = execution([])
    """What models cost, a row each: [{model: gpt-4o-mini, input: 0.15, cached: 0.075, output: 0.6}]
    in USD for a million."""
    concurrency: int = execution(8, ge=1, le=1024)
    """Requests beside one another."""
    requests_per_minute: int | None = execution(None, ge=1)
    """The most that the server allows; no limit when absent."""
    tokens_per_minute: int | None = execution(None, ge=1)
    """The most that the server allows, prompts and answers together; no limit when absent."""
    seconds: float = execution(300.0, gt=0, le=86_400)
    """The longest that one answer may take."""
    attempts: int = execution(6, ge=1, le=100)
    """How often a request is sent before it counts as not answered: on 5xx, time-outs and lost
    connections."""
    wait: float = execution(1.0, ge=0, le=3600)
    """Seconds before the second attempt, doubled each time; what the server asks for (Retry-After)
    goes before."""
    longest_wait: float = execution(600.0, ge=0, le=86_400)
    """Seconds that a request waits in all for a server that says 429; one that asks for a longer
    pause is left alone."""


@clients
class Endpoint(Responder):
    """Asks a server."""

    config = EndpointConfig

    def __init__(self, config: EndpointConfig, services: Services) -> None:
        super().__init__(config, services)
        self.concurrency = config.concurrency
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._without: set[str] = set()
        self._listed: Mapping[str, Mapping[str, Any]] = {}
        self._openai: Any = None
        self._key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""

    @functools.cached_property
    def url(self) -> str:
        """The address, in one form.

        Raises:
            ConfigError: there is none, or one that holds a secret.
        """
        address = self.settings.url or os.environ.get(ADDRESS, "")
        name = f"{self.where}.url" if self.settings.url else f"the environment variable {ADDRESS}"
        if not address:
            raise ConfigError(
                f"{self.where}.url is empty, and so is the environment variable {ADDRESS}; wanted "
                "the address of a server up to /chat/completions, for example "
                "http://127.0.0.1:8000/v1"
            )
        try:
            parts = urlsplit(address)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            parts, port = urlsplit(""), ""
        if "@" in parts.netloc or parts.query or parts.fragment:  # not repeated: it may be a secret
            raise ConfigError(
                f"{name} holds a user, a query or a fragment; wanted http(s)://host[:port]/path "
                "alone, and the key in the environment variable "
                f"{self.settings.key_variable or KEY}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{name}: wanted http(s)://host[:port]/path, got {quoted(address)}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/').removesuffix('/chat/completions')}"

    @property
    def model(self) -> str:
        """Its name.

        Raises:
            ConfigError: it has none.
        """
        if not self.settings.model:
            raise ConfigError(
                f"{self.where}.model is empty; wanted the name of a model that {self.url} serves"
            )
        return self.settings.model

    @property
    def identity(self) -> Mapping[str, Any]:
        """Address, model and what else the server is told."""
        return {
            "kind": "endpoint",
            "url": self.url,
            "model": self.model,
            "extra": self.settings.extra,
        }

    @functools.cached_property
    def leaves(self) -> bool:
        """Whether the server is on another machine, as far as its address says."""
        host = urlsplit(self.url).hostname or ""
        with contextlib.suppress(ValueError):
            return not ipaddress.ip_address(host).is_loopback
        return host != "localhost" and not host.endswith(".localhost")

    @functools.cached_property
    def price(self) -> Price | None:
        """That of the model in the table of prices; nothing on this machine, where the table does
        not say."""
        named = [price for price in self.settings.prices if price.model == self.model]
        if len(named) > 1:
            raise ConfigError(
                f"{self.where}.prices has {len(named)} rows for {self.model!r}; wanted one"
            )
        return named[0] if named else None if self.leaves else FREE

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Holds connections, on the event loop of now."""
        import openai  # half a second, and only needed here

        async def strip(request: Any) -> None:
            request.extensions["unsent"] = {
                name: request.headers.pop(name) for name in set(request.headers) - PASSED
            }
            request.headers.pop("authorization", None)
            request.headers.update(
                {"user-agent": "latentflow"}
                | ({"authorization": f"Bearer {self._key}"} if self._key else {})
            )

        async def restore(
            response: Any,
        ) -> None:  # the package looks there how its caller wants the answer
            response.request.headers.update(response.request.extensions["unsent"])

        http = openai.DefaultAsyncHttpxClient(
            event_hooks={"request": [strip], "response": [restore]},
            follow_redirects=False,
            trust_env=self.leaves,
            timeout=None,
        )
        async with openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=self.url, http_client=http, max_retries=0
        ) as client:
            self._openai = client
            try:
                yield
            finally:
                self._openai = None

    async def check(self) -> None:
        """Asks what it serves.

        Raises:
            ConfigError: no key, nobody there, or another model.
        """
        model, variable = self.model, self.settings.key_variable
        if variable and not self._key and self.leaves:
            raise ConfigError(
                f"no key for {self.url}: the environment variable {variable} is empty, and a key "
                f"is read nowhere else; set it, or name another in {self.where}.key_variable "
                "(empty for a server that wants no key)"
            )
        # such a header is refused with an error that repeats it
        if not re.fullmatch("[!-~]*", self._key):
            raise ConfigError(
                f"the key in the environment variable {variable} holds blanks or signs that no "
                "key has"
            )
        if self._key and self.leaves and self.url.startswith("http:"):
            log.warning(
                "the key goes to %s without encryption; use https where the server offers it",
                self.url,
            )
        self._listed = await self._list()
        if self._listed and not served.is_among(model, self._listed) and not Path(model).is_dir():
            raise ConfigError(self._sentence(Fault("", "model")))

    def refuse_too_long(self, requests: Sequence[Request]) -> None:
        """Refuses what no tokenizer could make fit the length that the server tells.

        Raises:
            ConfigError: one of them does not fit.
        """
        length = served.context_length(self.model, self._listed)
        if length is not None:
            counted = {request: served.fewest_tokens(request) for request in requests}
            served.refuse_too_long(counted, length, f"the model {self.model} takes", "at least ")

    async def _list(self) -> Mapping[str, Mapping[str, Any]]:
        """The models that the server lists, by name; none where it has no list, or cannot give it
        now."""
        try:
            async with asyncio.timeout(min(self.settings.seconds, LONGEST_LIST)):
                async with self._openai.models.with_streaming_response.list() as answer:
                    return served.models(self._scrubbed(await _read(answer)))
        except Exception as error:  # as in _asked
            fault, _ = self._fault(error)
        if fault.status == 404 or (
            fault.status is not None and fault.kind in ("busy", "model", "other")
        ):
            # `transformers serve` fails here where it has no cache of the hub, and answers all the
            # same
            return {}
        raise ConfigError(self._sentence(fault))

    async def respond(
        self, requests: Sequence[Request], keys: Sequence[str]
    ) -> Sequence[Response | Unanswered]:
        """Asks for one answer, as often as it takes."""
        (request,), (key,) = requests, keys
        failed, waited = 0, 0.0
        while True:
            sent = self._settings(request, key)
            response, fault, text = await self._asked(request, sent)
            if response is not None:
                return [response]
            if setting := refused_setting(fault, text, sent):
                self._without.add(setting)
                continue
            sentence = self._sentence(fault)
            if not fault.again:
                kind = "no answer" if fault.stops or fault.kind == "broken" else "not taken"
                return [Unanswered(f"{kind}: {sentence}", stops=fault.stops)]
            failed += 1
            seconds = backoff(self.settings.wait, failed - 1) if fault.wait is None else fault.wait
            if seconds > self.settings.longest_wait:
                wants = (
                    f"it wants a pause of {seconds:,.0f} s, longer than {self.where}.longest_wait"
                )
                return [Unanswered(f"no answer: {sentence}; {wants}", stops=True)]
            # it is there, and others may be getting their answers meanwhile
            if fault.status == 429:
                failed, waited = (
                    failed if fault.wait is None else 0,
                    waited + max(seconds, self.settings.wait, 0.01),
                )
                if waited > self.settings.longest_wait:
                    return [Unanswered(f"no answer: {sentence} (waited {waited:,.1f} s in all)")]
            elif failed >= self.settings.attempts:
                return [Unanswered(f"no answer: {sentence} (sent {failed} times)")]
            if fault.status == 429 or fault.wait is not None:
                self._pace.pause(seconds)
            else:
                await asyncio.sleep(seconds)

    async def _asked(
        self, request: Request, sent: Mapping[str, Any]
    ) -> tuple[Response | None, Fault, str]:
        """Sends it once: the response, or the fault and what the server wrote about it."""
        model, most = self.model, request.input_tokens + request.max_tokens
        await self._pace.turn(most)
        started, is_taken = time.monotonic(), False
        no_fault = Fault("", "other")
        try:
            async with asyncio.timeout(self.settings.seconds):
                create = self._openai.chat.completions.with_streaming_response.create
                async with create(**sent, extra_body=self.settings.extra or None) as answer:
                    is_taken = True
                    body = self._scrubbed(await _read(answer))
        except TimeoutError:
            # one that had begun may be paid: it is not asked for again in this run
            kind = "broken" if is_taken else "away"
            return None, Fault(f"gave no whole answer within {self.settings.seconds:g} s", kind), ""
        except Exception as error:  # the package and what it stands on raise many kinds
            if not is_taken:
                return None, *self._fault(error)
            response = completion.unreadable(
                f"the connection ended within it ({first_line(error)})", request, model
            )
        else:
            if told := completion.error_in(body):
                status = told.get("code")
                status = status if isinstance(status, int) and status >= 300 else 502
                return (
                    None,
                    fault_of(status, body.decode(errors="replace"), {}),
                    body.decode(errors="replace"),
                )
            response = completion.response_of(body, request, model)
        used = response.usage
        self._pace.answered(most - used.input - used.cached - used.reasoning - used.output)
        # that has another name only
        left_out = sorted(self._without & set(self._wanted(request)) - {"max_tokens"})
        seconds = time.monotonic() - started
        return (
            dataclasses.replace(response, left_out=tuple(left_out), seconds=seconds),
            no_fault,
            "",
        )

    def _settings(self, request: Request, key: str) -> dict[str, Any]:
        """What is sent, without what the server does not take."""
        wanted = self._wanted(request, key)
        sent = {name: value for name, value in wanted.items() if name not in self._without}
        # under its younger name, which older servers pass over without a word, so that it is not
        # the first choice
        if "max_tokens" in self._without:
            sent["max_completion_tokens"] = request.max_tokens
        if "logprobs" in sent:
            sent["top_logprobs"] = request.logprobs
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        return {"model": self.model, "messages": messages, **sent}

    def _wanted(self, request: Request, key: str = "0" * 8) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if request.temperature > 0:
            wanted["seed"] = seed_of(key)
        if request.logprobs:
            wanted["logprobs"] = True
        if request.schema is not None:
            schema = {
                "name": request.schema.__name__,
                "schema": request.json_schema,
                "strict": True,
            }
            wanted["response_format"] = {"type": "json_schema", "json_schema": schema}
        return wanted

    def _fault(self, error: Exception) -> tuple[Fault, str]:
        """What an exception of the package means, and what the server wrote about it."""
        import openai

        if isinstance(error, openai.APIStatusError):
            text = self._scrubbed(error.response.content).decode("utf-8", "replace")
            return fault_of(error.status_code, text, error.response.headers), text
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return Fault("does not answer in time", "away"), ""
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return Fault(f"does not answer ({first_line(cause)})", "away"), ""

    def _scrubbed(self, body: bytes) -> bytes:
        """Without the key, which some servers repeat; a short one is a placeholder, and may be a
        word of an answer."""
        return (
            body.replace(self._key.encode(), b"<key>")
            if len(self._key) >= SHORTEST_SECRET
            else body
        )

    def _sentence(self, fault: Fault) -> str:
        """What happened, and what to do."""
        variable, model = self.settings.key_variable, self.model
        if fault.kind == "model":
            known = (
                f"; {served.told(model, self._listed)}"
                if self._listed
                else "; ask its keeper what it serves"
            )
            said = f" ({fault.text})" if fault.text else ""
            return f"{self.url} does not serve {self.where}.model={model!r}{said}{known}"
        advice = {
            "away": f"start the server there, or set {self.where}.url",
            "key": f"it does not take the key in the environment variable {variable}"
            if self._key
            else f"it wants a key, and {f'the environment variable {variable}' if variable else f'{self.where}.key_variable'} is empty",
            "credit": "there is no credit left with it",
            "long": "the prompt and its answer are longer than the model takes; show fewer or shorter windows",
            "broken": f"it had begun; raise {self.where}.seconds",
            "moved": f"set {self.where}.url to its address up to /chat/completions, which ends in /v1 with most servers",
        }.get(fault.kind)
        said = fault.text if fault.kind in ("away", "broken") else f"answers {fault.text}"
        return f"{self.url} {said}" + (f"; {advice}" if advice else "")


async def _read(answer: Any) -> bytes:
    """The body of an answer, up to a size that none has.

    Raises:
        ValueError: a longer one.
    """
    body = bytearray()
    async for part in answer.iter_bytes():
        body += part
        if len(body) > LARGEST_BODY:
            raise ValueError(f"an answer of more than {LARGEST_BODY:,} bytes")
    return bytes(body)
