"""The pages' way to the live worker: questions over loopback HTTP, asked at once and followed by their id.

Nothing here waits long: the worker answers a page within milliseconds whatever it computes, and one that is down, busy or
gone is a `LiveError`, whose text is a sentence for the page. The address is LATENTFLOW_LIVE_URL.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, Literal

import httpx

from components.errors import ServiceError

Kind = Literal["read", "steer"]


class LiveError(ServiceError):
    """The live worker gives no answer.

    Attributes:
        kind: what kind of fault: `down`, or one of the worker's own.
    """

    def __init__(self, sentence: str, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Question:
    """A question where it stands.

    Attributes:
        id: names it at the worker.
        state: waiting, running, done, failed or cancelled.
        position: questions before it.
        message: what is being done.
        share: of the part of the work that is being done, from 0 to 1; None when unknown.
        answer: what came out, once done.
        problem: a sentence on why there is no answer, once failed or cancelled.
        kind: what kind of problem.
    """

    id: str
    state: str
    position: int = 0
    message: str = ""
    share: float | None = None
    answer: Mapping[str, Any] | None = None
    problem: str | None = None
    kind: str | None = None

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.state not in ("waiting", "running")


def url() -> str:
    """Where the live worker is."""
    return os.environ.get("LATENTFLOW_LIVE_URL") or "http://127.0.0.1:8600"


def ask(kind: Kind, experiment: str, **question: Any) -> Question:
    """Puts a question into the worker's queue.

    Raises:
        LiveError: it was refused, or the worker is down.
    """
    return _question(_call("POST", f"/{kind}", json={"experiment": experiment, **question}))


def look(number: str, wait: float = 0.0) -> Question:
    """Where the question stands, waiting up to `wait` seconds for its end.

    Raises:
        LiveError: the worker does not know it, or is down.
    """
    return _question(_call("GET", f"/questions/{number}", params={"wait": wait}))


def cancel(number: str) -> Question:
    """Cancels a question.

    Raises:
        LiveError: the worker does not know it, or is down.
    """
    return _question(_call("DELETE", f"/questions/{number}"))


def health() -> Mapping[str, Any]:
    """What the worker has loaded.

    Raises:
        LiveError: it is down.
    """
    return _call("GET", "/health")


@functools.lru_cache(4)
def _client(address: str) -> httpx.Client:
    # a proxy of the environment has no business between two programs of one machine
    return httpx.Client(base_url=address, timeout=httpx.Timeout(5, connect=1), trust_env=False)


def _call(method: str, path: str, **given: Any) -> Mapping[str, Any]:
    try:
        answer = _client(url()).request(method, path, **given)
        body = answer.json()
    except httpx.TimeoutException:
        raise LiveError(f"The live worker at {url()} does not answer in time; try again in a moment.", "down") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise LiveError(f"No live worker answers at {url()}. `latentflow up` starts it.", "down") from None
    if answer.is_success:
        return body
    if not isinstance(body, Mapping) or "error" not in body:
        raise LiveError(f"What answers at {url()} is no live worker. `latentflow up` starts it.", "down")
    raise LiveError(_sentence(body["error"]), body["kind"])


def _question(body: Mapping[str, Any]) -> Question:
    problem = body.get("problem") or {}
    return Question(
        id=body["id"],
        state=body["state"],
        position=body["position"],
        message=body["message"],
        share=body["done"] / body["total"] if body["total"] else None,
        answer=body.get(body["kind"]),
        problem=_sentence(problem["error"]) if problem else None,
        kind=problem.get("kind"),
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}"
