"""The pages' way to the live worker: questions over loopback HTTP, asked at once and followed by
their id.

Nothing here waits long: the worker answers a page within milliseconds whatever it computes, and one
that is down, busy or gone is a `LiveError`, whose text is a sentence for the page. The address is
LATENTFLOW_LIVE_URL.
"""

from __future__ import annotations

import functools
import os
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from components.errors import ServiceError
from components.live import AskedQuestion, Health, Problem, QuestionKind, Wire

AnswerT = TypeVar("AnswerT", bound=Wire)


class LiveError(ServiceError):
    """The live worker gives no answer.

    Attributes:
        kind: what kind of fault: `down`, or one of the worker's own.
    """

    def __init__(self, sentence: str, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def url() -> str:
    """Where the live worker is."""
    return os.environ.get("LATENTFLOW_LIVE_URL") or "http://127.0.0.1:8600"


def ask(kind: QuestionKind, experiment: str, **question: Any) -> AskedQuestion:
    """Puts a question into the worker's queue.

    Raises:
        LiveError: it was refused, or the worker is down.
    """
    return _call(AskedQuestion, "POST", f"/{kind}", json={"experiment": experiment, **question})


def look(number: str, wait: float = 0.0) -> AskedQuestion:
    """Where the question stands, waiting up to `wait` seconds for its end.

    Raises:
        LiveError: the worker does not know it, or is down.
    """
    return _call(AskedQuestion, "GET", f"/questions/{number}", params={"wait": wait})


def cancel(number: str) -> AskedQuestion:
    """Cancels a question.

    Raises:
        LiveError: the worker does not know it, or is down.
    """
    return _call(AskedQuestion, "DELETE", f"/questions/{number}")


def health() -> Health:
    """What the worker has loaded.

    Raises:
        LiveError: it is down.
    """
    return _call(Health, "GET", "/health")


@functools.lru_cache(4)
def _client(address: str) -> httpx.Client:
    # a proxy of the environment has no business between two programs of one machine
    return httpx.Client(base_url=address, timeout=httpx.Timeout(5, connect=1), trust_env=False)


def _call(kind: type[AnswerT], method: str, path: str, **sent: Any) -> AnswerT:
    try:
        answer = _client(url()).request(method, path, **sent)
        body = answer.json()
        if answer.is_success:
            return kind.model_validate(body)
        problem = Problem.model_validate(body)
    except httpx.TimeoutException:
        raise LiveError(
            f"The live worker at {url()} does not answer in time; try again in a moment.", "down"
        ) from None
    except ValidationError:
        raise LiveError(
            f"What answers at {url()} is no live worker. `latentflow up` starts it.", "down"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise LiveError(
            f"No live worker answers at {url()}. `latentflow up` starts it.", "down"
        ) from None
    raise LiveError(sentence(problem), problem.kind)


def sentence(problem: Problem) -> str:
    """Why there is no answer, as a whole sentence."""
    text = problem.error
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}"
